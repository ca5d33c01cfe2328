case $ACTION in
  do)
    if [ "$FIREWALL" = no ]; then
      say "The firewall was left alone, as was asked."
    elif [ "$FIREWALL" = none ]; then
      say "The firewall was left alone, as the cluster's firewall_type says."
    else
      active=$("$agent/current/firewall.sh" active)
      if [ "$FIREWALL" != auto ] && [ "$FIREWALL" != "$active" ]; then
        if [ "$active" = none ]; then active="no firewall"; fi
        fail "The cluster's firewall_type is $FIREWALL, but $active is active on the machine. Start $FIREWALL there, or choose another firewall_type for the cluster."
      fi
      [ -e "$state/firewall" ] || touch "$work/firewall"
      printf '%s\n' "$PORT" >"$state/firewall"
      opened=$("$agent/current/firewall.sh" open "$PORT") || fail "The firewall could not be told to let TCP port $PORT in."
      case $opened in
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
