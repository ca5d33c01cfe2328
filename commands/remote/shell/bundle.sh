name=$(printf %s "$SHA256" | cut -c 1-16)
place=$agent/$name

# The Python that the agent was packed for.
find_python() {
  for candidate in "/usr/bin/python$PYTHON" "python$PYTHON" /usr/bin/python3 python3; do
    found=$(command -v "$candidate") || continue
    if "$found" -c "import ssl, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$PYTHON')" 2>/dev/null; then
      printf '%s\n' "$found"
      return 0
    fi
  done
  fail "The machine has no Python $PYTHON, for which the agent was packed."
}

# Fetches the bundle from the engine, believing its CA alone; what has another SHA-256 is not unpacked.
fetch() {
  "$python" - "$URL" "$SHA256" "$work/trust.pem" "$work/bundle.tar.gz" <<'PYTHON_END'
import hashlib, ssl, sys, urllib.request

url, sha256, trust, target = sys.argv[1:]
BYTES_MAX = 256 * 1024 * 1024
context = ssl.create_default_context(cafile=trust)
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
)
digest, size = hashlib.sha256(), 0
try:
    with opener.open(url, timeout=60) as answer, open(target, "wb") as file:
        while block := answer.read(1 << 20):
            size += len(block)
            if size > BYTES_MAX:
                sys.exit("FAIL The engine's bundle is larger than any honest one.")
            digest.update(block)
            file.write(block)
except OSError as error:
    sys.exit(f"FAIL The agent cannot be fetched from {url}: {error}")
if digest.hexdigest() != sha256:
    sys.exit("FAIL What was fetched is not the engine's bundle: its SHA-256 differs.")
PYTHON_END
}

case $ACTION in
  do)
    python=$(find_python)
    cat >"$work/trust.pem" <<'TRUST_END'
@TRUST@
TRUST_END
    if [ ! -e "$work/previous" ]; then
      readlink "$agent/current" >"$work/previous.new" 2>/dev/null || : >"$work/previous.new"
      mv "$work/previous.new" "$work/previous"
    fi
    if [ "$(cat "$place/.sha256" 2>/dev/null)" = "$SHA256" ]; then
      how="was there already"
    else
      how="was fetched and unpacked"
      fetch
      (
        umask 022
        mkdir -p "$agent"
        rm -rf "$place" "$place.new"
        mkdir "$place.new"
        tar -xzf "$work/bundle.tar.gz" -C "$place.new" --no-same-owner
        printf '%s\n' "$python" >"$place.new/python"
        "$place.new/agent.sh" check || fail "The agent does not run on this machine."
        printf '%s\n' "$SHA256" >"$place.new/.sha256"
      )
      mv -T "$place.new" "$place"
      rm -f "$work/bundle.tar.gz"
    fi
    ln -sfn "$name" "$agent/current.new"
    mv -T "$agent/current.new" "$agent/current"
    say "The agent ($name) $how, for $("$python" --version)."
    ;;
  undo)
    [ -e "$work/previous" ] || { say "The agent was not touched." && exit 0; }
    previous=$(cat "$work/previous")
    if [ -n "$previous" ] && [ -d "$agent/$previous" ]; then
      ln -sfn "$previous" "$agent/current.new"
      mv -T "$agent/current.new" "$agent/current"
      [ "$previous" = "$name" ] || rm -rf "$place"
      rm -rf "$place.new"
      if [ -e "$work/service-was-on" ]; then "$agent/current/service.sh" start 9>&-; fi
      say "The agent is the one that was there before ($previous)."
    else
      rm -rf "$agent"
      say "The agent is removed."
    fi
    ;;
esac
