#!/bin/sh
# The agent as it was installed: runs it with this machine's Python and with nothing but what lies beside this file.
here=$(dirname "$(readlink -f "$0")")
# Disks lie where QEMU's own user reaches them; what is secret is written with a mode of its own.
umask 022
PYTHONPATH=$here/lib PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
export PYTHONPATH PYTHONDONTWRITEBYTECODE PYTHONNOUSERSITE
exec "$(cat "$here/python")" -P -m hostagent "$@"
