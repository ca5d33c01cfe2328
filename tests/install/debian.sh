#!/bin/bash
# Installs the Debian packages that the tests' real components come from. Run as root.
# Quick when everything is there; installs only what is missing; starts no service.
set -euo pipefail

packages=(
  # libvirt and QEMU: the hosts that the tests build out of namespaces
  libvirt-clients libvirt-daemon libvirt-daemon-config-network libvirt-daemon-driver-qemu
  libvirt-daemon-system ovmf qemu-block-extra qemu-system-x86 qemu-utils swtpm swtpm-tools
  dnsmasq-base iproute2 iptables iputils-ping tini util-linux procps
  # the guest that they run: busybox, unpacked kernel and guest agent, a small C program
  busybox-static cpio e2fsprogs gcc kmod libc6-dev xz-utils
  # libvirt-python compiles against these
  libvirt-dev pkg-config
  # machines that become hosts over SSH
  ca-certificates nftables openssh-server python3-libvirt sudo
  # package managers and a firewall that an installation speaks to, and what makes a repository
  createrepo-c dbus dnf firewalld rpm
  # BMCs that switch the tests' hosts, and the programs that talk to them
  fence-agents ipmitool openipmi
  # an SNMP manager, certificates, a second PostgreSQL beside the wheel
  openssl postgresql snmp snmptrapd wrk
  # what reads the scripts that run on others' machines
  shellcheck
)
# Java and Maven, unless others than Debian's are there already.
command -v java >/dev/null || packages+=(openjdk-17-jre-headless)
command -v mvn >/dev/null || packages+=(maven)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "debian.sh: these packages are missing, run as root to install them: ${missing[*]}" >&2
  exit 1
fi

# Debian starts what it installs, unless this file says no: no libvirtd or snmptrapd beside the tests' own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt_options=(-q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
apt-get "${apt_options[@]}" update
apt-get "${apt_options[@]}" install --no-install-recommends "${missing[@]}"
