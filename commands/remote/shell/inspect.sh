[ "$(id -u)" = 0 ] || fail "The commands do not run as root."
[ -r /etc/os-release ] || fail "The machine has no /etc/os-release: its system is not known."
# shellcheck source=/dev/null
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
  *" debian "* | *" ubuntu "*) family=debian ;;
  *" rhel "* | *" fedora "* | *" centos "*) family=el ;;
  *) fail "${PRETTY_NAME:-$ID} is neither like Debian nor like Enterprise Linux." ;;
esac
[ "$(uname -m)" = "$ARCHITECTURE" ] || fail "The machine is $(uname -m), the agent is for $ARCHITECTURE."
echo "$family" >"$work/family"
joined=$(sed -n 's/.*"host": *"\([^"]*\)".*/\1/p' "$state/agent.json" 2>/dev/null || true)
if has_systemd; then keeper="systemd"; else keeper="no systemd: the agent does not start at boot"; fi
if [ -e /dev/kvm ]; then kvm="KVM"; else kvm="no KVM"; fi
printf 'JOINED %s\n' "$joined"
say "It is ${PRETTY_NAME:-$ID} on $(uname -m), with $kvm, $keeper."
