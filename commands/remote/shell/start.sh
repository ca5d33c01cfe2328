unit=/etc/systemd/system/chronovisor-agent.service
service=$agent/current/service.sh
socket=/run/chronovisor-agent.sock

case $ACTION in
  do)
    if [ ! -e "$work/service" ]; then
      if "$service" status 2>/dev/null; then touch "$work/service-was-on"; fi
      if [ -e "$unit" ]; then cp "$unit" "$work/service.new"; else : >"$work/service.new"; fi
      mv "$work/service.new" "$work/service"
    fi
    if has_systemd; then
      install -m 644 "$agent/current/chronovisor-agent.service" "$unit"
      systemctl daemon-reload
    fi
    if [ -e "$work/service-was-on" ]; then "$service" restart 9>&-; fi
    "$service" start 9>&-
    "$service" status || fail "The agent does not run."
    say "The agent runs."
    ;;
  undo)
    if [ -e "$work/service" ]; then
      "$service" stop 9>&- || true
      rm -f "$socket"
      if [ -s "$work/service" ]; then
        cp "$work/service" "$unit"
      elif has_systemd; then
        rm -f "$unit"
      fi
      if has_systemd; then systemctl daemon-reload; fi
    fi
    say "The agent is stopped."
    ;;
  remove)
    if [ -x "$service" ]; then "$service" stop 9>&- || true; fi
    rm -f "$socket"
    if has_systemd && [ -e "$unit" ]; then
      rm -f "$unit"
      systemctl daemon-reload
    fi
    say "The agent is stopped, and starts no more. VMs are not touched."
    ;;
esac
