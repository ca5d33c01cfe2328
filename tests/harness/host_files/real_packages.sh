#!/bin/bash
# Gives a machine in namespaces of its own a real package manager, nothing that it has installed, and one repository of files.
# What it installs, or writes down, stays in FOLDER.
# real_packages.sh FOLDER debian|el REPOSITORY PLACE...    PLACE: a folder of the machine that is not laid over yet
set -euo pipefail
folder=$1/packages family=$2 repository=$3
shift 3

for place in "$@"; do
  mkdir -p "$folder/$place/upper" "$folder/$place/work" "$folder/$place/inner"
  # What is mounted below the place would be hidden by the layer.
  inner=()
  while read -r mounted; do inner+=("$mounted"); done < <(awk -v at="/$place/" 'index($5, at) == 1 { print $5 }' /proc/self/mountinfo)
  for number in "${!inner[@]}"; do
    if [ -d "${inner[$number]}" ]; then
      mkdir -p "$folder/$place/inner/$number"
      mount --bind "${inner[$number]}" "$folder/$place/inner/$number"
    fi
  done
  mount -t overlay overlay -o "lowerdir=/$place,upperdir=$folder/$place/upper,workdir=$folder/$place/work" "/$place"
  for number in "${!inner[@]}"; do
    if [ -d "$folder/$place/inner/$number" ]; then mount --bind "$folder/$place/inner/$number" "${inner[$number]}"; fi
  done
done

# An empty folder in the place of one that knows what is installed.
empty() {
  mkdir -p "$folder/empty/$1" "/$1"
  mount --bind "$folder/empty/$1" "/$1"
}

case $family in
  debian)
    empty var/lib/dpkg
    empty var/lib/apt
    empty var/cache/apt
    mkdir /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
    touch /var/lib/dpkg/status /var/lib/dpkg/available
    rm -rf /etc/apt
    mkdir -p /etc/apt/apt.conf.d /etc/apt/preferences.d /etc/apt/sources.list.d /etc/apt/trusted.gpg.d
    echo 'APT::Sandbox::User "root";' >/etc/apt/apt.conf.d/50-test
    echo "deb [trusted=yes] file:$repository ./" >/etc/apt/sources.list
    ;;
  el)
    empty var/lib/rpm
    empty var/lib/dnf
    empty var/cache/dnf
    mkdir -p /etc/rpm /etc/dnf
    rm -rf /etc/yum.repos.d
    mkdir /etc/yum.repos.d
    # Debian's rpm keeps its list with the user; Enterprise Linux's here.
    echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
    printf '[main]\ngpgcheck=0\n' >/etc/dnf/dnf.conf
    printf '[tests]\nname=tests\nbaseurl=file://%s\n' "$repository" >/etc/yum.repos.d/tests.repo
    ;;
esac
