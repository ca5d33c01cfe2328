case $ACTION in
  do)
    for name in authorized authorized.made-file authorized.made-folder sudoers; do
      if [ -e "$work/$name" ]; then cp "$work/$name" "$kept/$name"; fi
    done
    for place in "$agent"/*; do
      if [ -d "$place" ] && [ ! -L "$place" ] && [ "$(basename "$place")" != "$(readlink "$agent/current")" ]; then
        rm -rf "$place"
      fi
    done
    rm -rf "$work"
    say "It is done."
    ;;
  undo)
    rm -rf "$work"
    rmdir "$kept" 2>/dev/null || true
    say "Nothing is left."
    ;;
  remove)
    rm -rf "$agent"
    for name in host.key host.crt trust.crt agent.json journal options.json firewall; do rm -rf "${state:?}/$name"; done
    rm -f "$state"/agent.log*
    text="Agent, key and certificate are removed."
    if [ -d "$state" ] && ! rmdir "$state/storage" "$state" 2>/dev/null && ! rmdir "$state" 2>/dev/null; then
      text="$text What lies in $state/storage stays."
    fi
    say "$text"
    ;;
esac
