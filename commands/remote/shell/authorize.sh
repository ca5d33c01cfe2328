home=$(getent passwd "$SSH_USER" | cut -d : -f 6)
[ -n "$home" ] || fail "User $SSH_USER is not known."
keys=$home/.ssh/authorized_keys
sudoers=/etc/sudoers.d/chronovisor-agent

# Takes our line out of the user's keys, and what we made for it if nothing else is there.
forget() {
  record=$1
  if [ -e "$keys" ]; then
    grep -vxF "$(cat "$record")" "$keys" >"$work/keys" || true
    # Written in place: owner and mode stay what they are.
    cat "$work/keys" >"$keys"
    rm -f "$work/keys"
    if [ -e "$record.made-file" ] && [ ! -s "$keys" ]; then rm -f "$keys"; fi
    if [ -e "$record.made-folder" ]; then rmdir "$home/.ssh" 2>/dev/null || true; fi
  fi
}

case $ACTION in
  do)
    done=
    if [ -e "$keys" ] && grep -qxF "$PUBLIC_KEY" "$keys"; then
      done="The engine's SSH key was let in already, as $SSH_USER."
    else
      owner=$(stat -c %u:%g "$home")
      printf '%s\n' "$PUBLIC_KEY" >"$work/authorized"
      [ -d "$home/.ssh" ] || { touch "$work/authorized.made-folder" && mkdir -m 700 "$home/.ssh" && chown "$owner" "$home/.ssh"; }
      [ -e "$keys" ] || { touch "$work/authorized.made-file" && : >"$keys" && chmod 600 "$keys" && chown "$owner" "$keys"; }
      # A last line without an end would swallow ours.
      [ -z "$(tail -c 1 "$keys")" ] || echo >>"$keys"
      printf '%s\n' "$PUBLIC_KEY" >>"$keys"
      done="The engine's SSH key is let in, as $SSH_USER."
    fi
    # So that the agent can be restarted later without a password.
    if [ "$SSH_USER" != root ] && [ "$FREE_SUDO" = no ]; then
      printf '%s ALL=(root) NOPASSWD: %s/current/service.sh restart\n' "$SSH_USER" "$agent" >"$work/sudoers.new"
      visudo -q -c -f "$work/sudoers.new" || fail "The rule for sudo is not valid."
      [ -e "$sudoers" ] || touch "$work/sudoers"
      install -m 440 "$work/sudoers.new" "$sudoers"
    fi
    say "$done"
    ;;
  undo)
    if [ -e "$work/authorized" ]; then forget "$work/authorized"; fi
    if [ -e "$work/sudoers" ]; then rm -f "$sudoers"; fi
    say "The engine's SSH key is as it was."
    ;;
  remove)
    for place in "$kept" "$work"; do
      if [ -e "$place/authorized" ]; then forget "$place/authorized"; fi
      if [ -e "$place/sudoers" ]; then rm -f "$sudoers"; fi
    done
    rm -rf "$kept"
    say "The engine's SSH key is let in no more."
    ;;
esac
