listening_sockets="libvirtd-tcp.socket libvirtd-tls.socket virtproxyd-tcp.socket virtproxyd-tls.socket"

known() { systemctl cat "$1" >/dev/null 2>&1; }

on() { systemctl is-enabled --quiet "$1" 2>/dev/null || systemctl is-active --quiet "$1"; }

# Takes away what lets libvirt listen on the network, and what starts or ends VMs by itself.
close() {
  for unit in $listening_sockets; do
    if known "$unit" && on "$unit"; then
      echo "$unit" >>"$work/sockets"
      systemctl disable --quiet --now "$unit"
    fi
  done
  # Not --now: stopping it would shut the guests down that run here.
  if known libvirt-guests.service && systemctl is-enabled --quiet libvirt-guests.service; then
    touch "$work/libvirt-guests"
    systemctl disable --quiet libvirt-guests.service
  fi
}

start() {
  if known virtqemud.socket && ! systemctl is-enabled --quiet libvirtd.socket 2>/dev/null; then
    for daemon in virtqemud virtstoraged virtnodedevd virtsecretd virtnetworkd; do
      if known "$daemon.socket"; then systemctl enable --quiet --now "$daemon.socket"; fi
    done
  else
    systemctl enable --quiet --now libvirtd.socket libvirtd.service
  fi
}

case $ACTION in
  do)
    if has_systemd; then
      close
      start
    fi
    tries=0
    until version=$(virsh -q -c qemu:///system version 2>"$work/virsh.err" 9>&-); do
      tries=$((tries + 1))
      [ "$tries" -lt 30 ] || fail "libvirt does not answer: $(tail -n 1 "$work/virsh.err")"
      sleep 1
    done
    if command -v ss >/dev/null && ss -H -l -t -n -p | grep -E '"(libvirtd|virtproxyd)"' >"$work/listens"; then
      fail "libvirt listens on the network ($(awk 'NR == 1 { print $4 }' "$work/listens")): take that out of its configuration."
    fi
    say "libvirt answers, and listens on no network: $(printf '%s\n' "$version" | sed -n 's/^Running hypervisor: *//p')."
    ;;
  undo)
    if [ -e "$work/sockets" ]; then
      while read -r unit; do systemctl enable --quiet --now "$unit"; done <"$work/sockets"
    fi
    if [ -e "$work/libvirt-guests" ]; then systemctl enable --quiet libvirt-guests.service; fi
    say "libvirt is as it was."
    ;;
esac
