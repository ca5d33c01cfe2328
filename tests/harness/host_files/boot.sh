#!/bin/bash
# Boots one test host inside namespaces that `unshare` has just made; ends as tini over the libvirtd loop.
# boot.sh FOLDER NAME ADDRESS/LENGTH    waits for a line on its input before it touches the network
set -euo pipefail
folder=$1 name=$2 address=$3
here=$(cd "$(dirname "$0")" && pwd)

mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys # the old one shows the network devices of the outer namespace
hostname "$name"
# Namespaces share the machine's boot id, but a host that was powered on again must have a new one.
mount --bind "$folder/boot_id" /proc/sys/kernel/random/boot_id

for place in run/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt etc/libvirt; do
  mkdir -p "/$place"
  mount --bind "$folder/root/$place" "/$place"
done

# A /dev of its own, without kvm: libvirt would offer it, and guests hang on it where nesting does not work.
dev=$folder/dev
mount -t tmpfs -o mode=755 tmpfs "$dev"
mkdir "$dev/net" "$dev/pts" "$dev/shm"
for device in null zero full random urandom tty net/tun; do
  cp -a "/dev/$device" "$dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$dev/shm"
ln -s pts/ptmx "$dev/ptmx"
ln -s /proc/self/fd "$dev/fd"
mount --move "$dev" /dev

read -r _ # eth0 (manager's network) and eth1 (guests' network) are here now
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up
ip link add br0 type bridge
ip link set eth1 master br0 up
ip link set br0 up

# QEMU's processes are orphans by design, and somebody must reap them: tini, as this namespace's first process.
exec tini -- "$here/libvirtd_loop.sh" </dev/null
