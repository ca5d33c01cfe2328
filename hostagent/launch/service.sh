#!/bin/sh
# Starts, stops and restarts the agent, by systemd where that runs. VMs run on, whatever becomes of the agent.
# service.sh start|stop|restart|status
set -eu
here=$(dirname "$(readlink -f "$0")")
unit=chronovisor-agent.service

if [ -d /run/systemd/system ]; then
  case ${1:-} in
    start)
      systemctl enable --quiet "$unit"
      systemctl start "$unit"
      ;;
    stop) systemctl disable --quiet --now "$unit" ;;
    restart) systemctl restart "$unit" ;;
    status) systemctl is-active --quiet "$unit" ;;
    *) exit 2 ;;
  esac
else
  case ${1:-} in
    start | stop | status) "$here/supervise.sh" "$1" ;;
    restart)
      "$here/supervise.sh" stop
      "$here/supervise.sh" start
      ;;
    *) exit 2 ;;
  esac
fi
