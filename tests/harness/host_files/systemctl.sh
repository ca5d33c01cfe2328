#!/bin/sh
# Stands in for systemctl where no systemd runs: keeps which units are enabled, records what it was told, and runs the
# command of the one service that it can start. systemctl.sh is put on a machine by tests/harness/ssh_machine.py.
enabled=/etc/fake-systemd
pid_file=/run/fake-agent.pid
unit_file=/etc/systemd/system/chronovisor-agent.service
echo "$*" >>/etc/log-of-systemctl

units=
now=no
for word; do
  case $word in
    *.service | *.socket) units="$units $word" ;;
    --now) now=yes ;;
  esac
done

running() { [ -e "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }

start() {
  case $1 in
    chronovisor-agent.service)
      running && return
      # shellcheck disable=SC2046 # a command, word for word
      setsid $(sed -n 's/^ExecStart=//p' "$unit_file") </dev/null >/run/fake-agent.log 2>&1 9>&- &
      echo "$!" >"$pid_file"
      ;;
  esac
}

stop() {
  case $1 in
    chronovisor-agent.service)
      if running; then kill "$(cat "$pid_file")"; fi
      while running; do sleep 0.1; done
      ;;
  esac
}

case " $* " in
  *" cat "*) for unit in $units; do [ -e "$enabled/known/$unit" ] || exit 1; done ;;
  *" is-enabled "*) for unit in $units; do [ -e "$enabled/$unit" ] || exit 1; done ;;
  *" is-active "*)
    for unit in $units; do
      if [ "$unit" = chronovisor-agent.service ]; then running || exit 3; else [ -e "$enabled/$unit" ] || exit 3; fi
    done
    ;;
  *" enable "*) for unit in $units; do touch "$enabled/$unit" && { [ "$now" = no ] || start "$unit"; }; done ;;
  *" disable "*)
    for unit in $units; do
      rm -f "$enabled/$unit"
      [ "$now" = no ] || stop "$unit"
    done
    ;;
  *" restart "*) for unit in $units; do stop "$unit" && start "$unit"; done ;;
  *" start "*) for unit in $units; do start "$unit"; done ;;
  *" stop "*) for unit in $units; do stop "$unit"; done ;;
  *" daemon-reload "*) ;;
  *) exit 1 ;;
esac
