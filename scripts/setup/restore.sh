#!/usr/bin/env bash
# Replaces mainpc's state by a file that `make backup` wrote; if that fails, it reports the cause and changes nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

file=${1:-}
[ -n "$file" ] || die "Name the file: make restore FILE=mainpc.backup"
[ -r "$file" ] || die "$file can't be read: check its path and its mode."
[[ $file != -* ]] || file=./$file # a name, not an option
shift
# On a new machine the image is missing.
image=$(docker compose --profile tools config --images archive)
docker image inspect "$image" >/dev/null 2>&1 || scripts/setup/image.sh
# A container that restarts repeatedly counts as running: it would continue with the replaced folders.
if [ -n "$(docker compose ps --quiet --status running --status restarting mainpc)" ]; then
    [ -z "$(setting TWINHOST_DATABASE)" ] || die "A standby follows mainpc, which a backup would not be repeated by; run make leave-ha before this, and make up-ha after it (docs/how-to/run-with-standbys.md)."
    die "mainpc is not stopped; stop it: docker compose stop mainpc"
fi
docker compose --progress quiet run --rm -T archive restore - "$@" <"$file"
