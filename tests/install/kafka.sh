#!/bin/bash
# Fetches the Kafka broker's jars into .cache/kafka/libs. Does nothing while the pom is unchanged.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${CHRONOVISOR_TEST_CACHE:-$here/../../.cache}/kafka
stamp=$cache/pom.sha256
wanted=$(sha256sum <"$here/kafka-pom.xml")
if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  exit 0
fi
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
rm -rf "$cache/libs.new"
# Maven dependency plugins fetch in one go or fail: the folder is renamed only when it is whole.
for attempt in 1 2 3; do
  if mvn -q -B -Dstyle.color=never -f "$here/kafka-pom.xml" dependency:copy-dependencies \
    -DoutputDirectory="$cache/libs.new"; then
    break
  elif [ "$attempt" = 3 ]; then
    echo "kafka.sh: Maven failed three times" >&2
    exit 1
  fi
  sleep 5
done
rm -rf "$cache/libs"
mv "$cache/libs.new" "$cache/libs"
rm -f "$cache"/*.jsa # class archives belong to the jars that they were made from
printf '%s\n' "$wanted" >"$stamp"
