#!/bin/bash
# Keeps libvirtd running as systemd would, so that its death is not the death of the host. No --listen: Unix sockets only.
while true; do
  libvirtd --timeout 0 --pid-file /run/libvirt/libvirtd.pid
  echo "libvirtd ended with $?"
  sleep 0.3
done
