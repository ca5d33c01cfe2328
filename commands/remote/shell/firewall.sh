case $ACTION in
  do)
    if [ "$FIREWALL" = no ]; then
      say "The firewall was left alone, as was asked."
    else
      [ -e "$state/firewall" ] || touch "$work/firewall"
      printf '%s\n' "$PORT" >"$state/firewall"
      case $("$agent/current/firewall.sh" open "$PORT") in
        none) say "No firewall is active." ;;
        firewalld) say "firewalld lets TCP port $PORT in, on which other hosts hand over VMs." ;;
        nftables) say "nftables lets TCP port $PORT in, on which other hosts hand over VMs." ;;
      esac
    fi
    ;;
  undo)
    if [ -e "$work/firewall" ]; then
      "$agent/current/firewall.sh" close "$PORT" >/dev/null
      rm -f "$state/firewall"
    fi
    say "The firewall is as it was."
    ;;
  remove)
    if [ -e "$state/firewall" ] && [ -x "$agent/current/firewall.sh" ]; then
      "$agent/current/firewall.sh" close "$(cat "$state/firewall")" >/dev/null
    fi
    rm -f "$state/firewall"
    say "The migration port is closed."
    ;;
esac
