#!/usr/bin/env bash
# Writes mainpc's whole state into a file that only its owner can read; the file gets its name once it is complete, and replaces no file.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

file=${1:-}
[ -n "$file" ] || die "Name the file: make backup FILE=mainpc.backup"
[ ! -e "$file" ] && [ ! -L "$file" ] || die "$file exists already; name another: make backup FILE=NAME"
[[ $file != -* ]] || file=./$file # a name, not an option
shift

umask 077
draft=$(mktemp "$file.XXXXXX") || die "$file can't be written; name another: make backup FILE=PATH"
trap 'rm -f "$draft"' EXIT
docker compose --progress quiet run --rm -T archive backup - "$@" >"$draft" || die "No backup was written: see the line above."
sync "$draft"
ln "$draft" "$file" || die "$file has been created meanwhile; name another: make backup FILE=NAME"
step "$file is written"
