#!/usr/bin/env bash
# Writes mainpc's whole state into a file that only its owner can read; it has its name once it is whole, and never another's.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

file=${1:-}
[ -n "$file" ] || die "Name the file: make backup FILE=mainpc.backup"
[ ! -e "$file" ] && [ ! -L "$file" ] || die "$file is there already; name another."
[[ $file != -* ]] || file=./$file # a name, and no option
shift

umask 077
draft=$(mktemp "$file.XXXXXX") || die "$file can't be written; name another place."
trap 'rm -f "$draft"' EXIT
docker compose --progress quiet run --rm -T archive backup - "$@" >"$draft" || die "There is no backup: see the line above."
sync "$draft"
ln "$draft" "$file" || die "$file is there by now; name another."
step "$file is written"
