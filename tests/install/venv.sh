#!/bin/bash
# venv.sh [host]: makes .venv from the hash-pinned requirements, with this distribution in it as an editable install;
# `host` adds libvirt-python, which compiles. Does nothing while the pins, pyproject.toml and Python are unchanged.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=.venv
python=${PYTHON:-python3}

# digest WORD FILE...: a digest of the interpreter, the word and the files' content.
digest() {
  local word=$1
  shift
  { "$python" --version && echo "$word" && pwd -P && cat "$@"; } | sha256sum | cut -d' ' -f1
}

# done_before STAMP DIGEST
done_before() {
  [ -e "$venv/$1" ] && [ "$(cat "$venv/$1")" = "$2" ]
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "venv.sh: Python 3.11 or newer is needed; name it by PYTHON=..." >&2
  exit 1
}
mkdir -p .cache
exec 9>.cache/venv.lock
flock -w 600 9 # two makes at once would install over each other
base=$(digest base requirements.txt pyproject.toml)
if ! done_before base.stamp "$base"; then
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
  printf '%s\n' "$base" >"$venv/base.stamp"
fi
if [ "${1:-}" = host ]; then
  host=$(digest host requirements-host.txt)
  if ! done_before host.stamp "$host"; then
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes \
      -r requirements-host.txt
    printf '%s\n' "$host" >"$venv/host.stamp"
  fi
fi
