family=$(cat "$work/family" 2>/dev/null || true)
log=$work/packages.log

# Names of what is installed, sorted.
installed() {
  case $family in
    debian) dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u ;;
    el) rpm -qa --qf '%{NAME}\n' | sort -u ;;
  esac
}

# What the agent needs. Python comes in the version that the agent was packed for.
wanted() {
  case $family in
    debian) echo libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils python3-libvirt ca-certificates iproute2 ;;
    el) echo libvirt-daemon-kvm libvirt-client qemu-kvm qemu-img python3-libvirt ca-certificates iproute ;;
  esac
  command -v "python$PYTHON" >/dev/null || echo "python$PYTHON"
}

# Runs the package manager; what it says goes to a file, so that it does not die with the connection, or hold the lock.
manager() {
  if ! "$@" </dev/null >>"$log" 2>&1 9>&-; then
    tail -n 15 "$log" >&2
    fail "$1 failed: $(grep -E '^(E:|Error)' "$log" | tail -n 1)"
  fi
}

added() {
  installed >"$work/now"
  comm -13 "$work/before" "$work/now"
}

case $ACTION in
  do)
    [ -e "$work/before" ] || { installed >"$work/before.new" && mv "$work/before.new" "$work/before"; }
    installed >"$work/now"
    missing=
    for package in $(wanted); do
      grep -qxF "$package" "$work/now" || missing="$missing $package"
    done
    # shellcheck disable=SC2086 # names of packages, one word each
    if [ -z "$missing" ]; then
      say "Nothing is missing: libvirt, QEMU and Python are there."
    elif [ "$family" = debian ]; then
      export DEBIAN_FRONTEND=noninteractive
      manager dpkg --configure -a
      manager apt-get -q -y -o DPkg::Lock::Timeout=300 update
      manager apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing
      say "Installed:$missing."
    else
      manager dnf -q -y --setopt=install_weak_deps=False install $missing
      say "Installed:$missing."
    fi
    ;;
  undo)
    [ -e "$work/before" ] || { say "No packages were installed." && exit 0; }
    added >"$work/added"
    names=$(tr '\n' ' ' <"$work/added")
    # shellcheck disable=SC2086
    if [ -z "$names" ]; then
      say "No packages were installed."
    elif [ "$family" = debian ]; then
      export DEBIAN_FRONTEND=noninteractive
      # What somebody installed since, and needs one of these, stays, and they stay with it.
      apt-get -s purge $names | sed -n 's/^Purg \([^ ]*\).*/\1/p' | sed 's/:.*//' | sort -u >"$work/gone"
      if [ -n "$(comm -23 "$work/gone" "$work/added")" ]; then
        say "The packages stay: others need them."
      else
        manager apt-get -q -y -o DPkg::Lock::Timeout=300 purge $names
        say "Removed: $names"
      fi
    elif rpm -e --test $names 2>/dev/null; then
      manager dnf -q -y remove --noautoremove $names
      say "Removed: $names"
    else
      say "The packages stay: others need them."
    fi
    ;;
esac
