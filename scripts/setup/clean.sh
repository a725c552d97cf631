#!/usr/bin/env bash
# Deletes what `make up` has made, keys and state included; a deleted key can't be restored, so it asks.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

if [ "${1:-}" != 1 ]; then
    [ -t 0 ] || die "This deletes the keys and the state of both hosts: confirm it with 'make clean YES=1'."
    read -r -p "Delete the keys and the state of both hosts? [y/N] " answer
    [ "$answer" = y ] || die "Nothing was deleted."
fi
docker compose --profile '*' down --volumes --remove-orphans
