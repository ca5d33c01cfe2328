#!/bin/sh
# Opens or closes the port on which other hosts' agents hand over VMs, where a firewall is active. Done twice, it is done once.
# It says which firewall that is: firewalld, nftables, or none; with "active" it does no more.
# firewall.sh open|close PORT, firewall.sh active
set -eu
action=$1 port=${2-}
comment=chronovisor-migration

firewalld() {
  command -v firewall-cmd >/dev/null 2>&1 && firewall-cmd --quiet --state 2>/dev/null
}

# The base chains of type filter that look at what comes in, as "family table chain".
input_chains() {
  nft --numeric list chains 2>/dev/null | awk '
    $1 == "table" { family = $2; table = $3 }
    $1 == "chain" { chain = $2 }
    /type filter hook input/ && family ~ /^(inet|ip|ip6)$/ { print family, table, chain }'
}

# The handles of our rules in a chain.
own_rules() {
  nft --handle list chain "$1" "$2" "$3" | sed -n "s/.*comment \"$comment\".* # handle \([0-9]*\)$/\1/p"
}

if firewalld; then
  if [ "$action" != active ]; then
    if [ "$action" = open ]; then change=--add-port; else change=--remove-port; fi
    firewall-cmd --quiet --permanent "$change=$port/tcp"
    firewall-cmd --quiet "$change=$port/tcp"
  fi
  echo firewalld
elif command -v nft >/dev/null 2>&1 && [ -n "$(input_chains)" ]; then
  # An "accept" ends its own chain only, so that the rule has to stand in each one that might drop.
  [ "$action" = active ] || input_chains | while read -r family table chain; do
    for handle in $(own_rules "$family" "$table" "$chain"); do
      nft delete rule "$family" "$table" "$chain" handle "$handle"
    done
    if [ "$action" = open ]; then
      nft insert rule "$family" "$table" "$chain" tcp dport "$port" accept comment "\"$comment\""
    fi
  done
  echo nftables
else
  echo none
fi
