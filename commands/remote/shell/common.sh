# What every step begins with. The worker puts the variables (ORDER, NUMBER, ...) before it, and the step's own lines after.
set -eu
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
agent=/opt/chronovisor-agent
state=/var/lib/chronovisor-agent
kept=/var/lib/chronovisor-install # what was changed, so that it can be taken back
work=$kept/order-$ORDER           # the same, of this order alone, until it has succeeded

# The sentence that people see.
say() { printf 'TEXT %s\n' "$*"; }

fail() {
  printf 'FAIL %s\n' "$*" >&2
  exit 1
}

has_systemd() { [ -d /run/systemd/system ]; }

# One worker at a time: a script of one that died may still be running.
exec 9>/run/chronovisor-install.lock
flock -w "$LIMIT_S" 9 || fail "Another installation is under way on the machine."
if [ "$FIRST" = yes ] && [ ! -d "$work" ]; then
  mkdir -p "$kept"
  # What an order of this host left behind that could not be undone, the next one takes over, to undo it with its own.
  for former in "$kept"/order-*; do
    if [ "$(cat "$former/host" 2>/dev/null)" = "$HOST" ]; then mv -T "$former" "$work" && break; fi
  done
  mkdir -p "$work"
  echo "$HOST" >"$work/host"
fi
[ -d "$work" ] || fail "The order is over."
# A worker that was superseded has a smaller number than the one that took its place.
if [ "$(cat "$work/number" 2>/dev/null || echo 0)" -gt "$NUMBER" ]; then fail "Another engine has taken the order over."; fi
echo "$NUMBER" >"$work/number"
