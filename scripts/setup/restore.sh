#!/usr/bin/env bash
# Puts what `make backup` wrote in the place of mainpc's state, or says why not and leaves all as it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

file=${1:-}
[ -n "$file" ] || die "Name the file: make restore FILE=mainpc.backup"
[ -r "$file" ] || die "$file can't be read: see its path and its mode."
[[ $file != -* ]] || file=./$file # a name, and no option
shift
# On a machine that never ran anything of this, the image is what is missing first.
image=$(docker compose --profile tools config --images archive)
docker image inspect "$image" >/dev/null 2>&1 || scripts/setup/image.sh
# One that ends and starts again and again is between two starts at some moment: it would go on with the folders of before.
[ -z "$(docker compose ps --quiet --status running --status restarting mainpc)" ] ||
    die "mainpc is not stopped: docker compose stop mainpc"
docker compose --progress quiet run --rm -T archive restore - "$@" <"$file"
