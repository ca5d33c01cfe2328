identity="host.key host.crt trust.crt agent.json journal"

# Puts what makes this machine a host aside: with it the journal, which is of what that host ran.
set_aside() {
  mkdir -p "$1"
  for name in $identity; do
    if [ -e "$state/$name" ]; then mv -T "$state/$name" "$1/$name"; fi
  done
}

case $ACTION in
  look)
    if [ -e "$state/agent.json" ]; then
      say "$("$agent/current/agent.sh" identity --dir "$state")"
    else
      say "{}"
    fi
    ;;
  do)
    if [ ! -d "$state" ]; then
      touch "$work/made-state"
      mkdir -m 711 "$state"
    fi
    if [ ! -e "$work/options" ]; then
      cp "$state/options.json" "$work/options.new" 2>/dev/null || : >"$work/options.new"
      mv "$work/options.new" "$work/options"
    fi
    printf '%s\n' "$OPTIONS" >"$work/options.json"
    mv "$work/options.json" "$state/options.json"
    if [ "$NEEDED" = no ]; then
      say "The machine has joined as this host before, and keeps its key."
      exit 0
    fi
    if [ ! -e "$work/joining" ]; then
      set_aside "$work/former"
      touch "$work/joining"
    fi
    trap 'rm -f "$work/token"' EXIT
    cat >"$work/token" <<'TOKEN_END'
@TOKEN@
TOKEN_END
    "$agent/current/agent.sh" join --url "$URL" --dir "$state" --token-file "$work/token" --timeout "$JOIN_S" 9>&- 2>"$work/join.log" ||
      fail "The machine could not join: $(tail -n 1 "$work/join.log")"
    say "The machine made its key, and joined with its certificate."
    ;;
  undo)
    if [ -e "$work/joining" ]; then
      for name in $identity; do rm -rf "${state:?}/$name"; done
      if [ -d "$work/former" ]; then
        for name in $identity; do
          if [ -e "$work/former/$name" ]; then mv -T "$work/former/$name" "$state/$name"; fi
        done
      fi
    fi
    if [ -s "$work/options" ]; then
      cp "$work/options" "$state/options.json"
    elif [ -e "$work/options" ]; then
      rm -f "$state/options.json"
    fi
    if [ -e "$work/made-state" ]; then
      rm -f "$state"/agent.log*
      rmdir "$state/storage" "$state" 2>/dev/null || rmdir "$state" 2>/dev/null || true
    fi
    say "Key and certificate are as they were."
    ;;
esac
