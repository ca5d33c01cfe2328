#!/bin/bash
# Makes a booted test host look like a machine that nobody has installed anything on: what is written to the folders where an
# installation writes goes to the host's own folder, and never to the machine that the tests run on. Then it starts sshd.
# bare.sh FOLDER ADDRESS PORT PASSWORD
set -euo pipefail
folder=$1 address=$2 port=$3 password=$4
layers=$folder/layers

for place in etc home opt root run usr/local var/lib; do
  mkdir -p "$layers/$place/upper" "$layers/$place/work"
  mount -t overlay overlay \
    -o "lowerdir=/$place,upperdir=$layers/$place/upper,workdir=$layers/$place/work" "/$place"
done
# What the boot put there lies below the layers now.
for place in run/libvirt var/lib/libvirt etc/libvirt; do
  mount --bind "$folder/root/$place" "/$place"
done
mkdir -p /run/sshd
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >/etc/machine-id
rm -rf /root/.ssh /opt/chronovisor-agent /var/lib/chronovisor-*

printf 'root:%s\n' "$password" | chpasswd
for user in admin keyless; do
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
  printf '%s:%s\n' "$user" "$password" | chpasswd
done
echo 'admin ALL=(ALL:ALL) ALL' >/etc/sudoers.d/admin
chmod 440 /etc/sudoers.d/admin

for kind in ed25519 rsa; do
  [ -e "$folder/ssh_$kind" ] || ssh-keygen -q -t "$kind" -N '' -f "$folder/ssh_$kind"
done
cat >"$folder/sshd_config" <<END
Port $port
ListenAddress $address
HostKey $folder/ssh_ed25519
HostKey $folder/ssh_rsa
PermitRootLogin yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
UsePAM no
PidFile none
StrictModes yes
LogLevel VERBOSE
END
