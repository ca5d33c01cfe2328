#!/bin/sh
# Keeps the agent running where there is no systemd. What starts at boot on such a machine must call `supervise.sh start`.
# supervise.sh start|stop|status|loop
set -u
here=$(dirname "$(readlink -f "$0")")
state=/var/lib/chronovisor-agent
pid_file=/run/chronovisor-agent.pid
log=$state/agent.log
log_bytes_max=10485760
stop_timeout_s=20

# The loop's process, if it is one of ours: a number alone may be another process by now.
running() {
  [ -r "$pid_file" ] || return 1
  pid=$(cat "$pid_file")
  [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q 'supervise.sh loop'
}

loop() {
  child=
  trap 'trap "" TERM INT; [ -n "$child" ] && kill -TERM "$child" 2>/dev/null; wait; exit 0' TERM INT
  pause_s=1
  while true; do
    if [ "$(stat -c %s "$log" 2>/dev/null || echo 0)" -gt "$log_bytes_max" ]; then
      mv -f "$log" "$log.1"
    fi
    began_s=$(date +%s)
    "$here/agent.sh" run --dir "$state" >>"$log" 2>&1 &
    child=$!
    wait "$child"
    # One that dies at once, again and again, is started ever more seldom.
    if [ $(($(date +%s) - began_s)) -gt 60 ]; then pause_s=1; fi
    sleep "$pause_s" &
    child=$!
    wait "$child"
    [ "$pause_s" -ge 30 ] || pause_s=$((pause_s * 2))
  done
}

start() {
  running && return 0
  # In a session of its own, with no input or output of who starts it: it stays when that goes.
  setsid "$here/supervise.sh" loop </dev/null >/dev/null 2>&1 9>&- &
  echo "$!" >"$pid_file"
}

stop() {
  if running; then
    pid=$(cat "$pid_file")
    kill -TERM "$pid"
    waited_s=0
    while kill -0 "$pid" 2>/dev/null; do
      if [ "$waited_s" -ge "$stop_timeout_s" ]; then
        # The group, or the agent that hangs would stay. Debian's sh refuses a "--" after "-KILL".
        kill -s KILL -- "-$pid" 2>/dev/null || kill -s KILL "$pid"
        break
      fi
      waited_s=$((waited_s + 1))
      sleep 1
    done
  fi
  rm -f "$pid_file"
}

case ${1:-} in
  loop) loop ;;
  start) start ;;
  stop) stop ;;
  status) running ;;
  *)
    echo "usage: supervise.sh start|stop|status" >&2
    exit 2
    ;;
esac
