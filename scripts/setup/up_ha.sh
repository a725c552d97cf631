#!/usr/bin/env bash
# Starts the database of a failover, two nodes and their witness, and waits until each commit is on both nodes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

step "Making the keys and starting the database of a failover"
docker compose up --detach witness database-mainpc database-pc2
if ! docker compose exec -T witness python3 /app/database/run.py formed; then
    docker compose ps --all witness database-mainpc database-pc2 >&2
    docker compose --ansi never logs --tail 8 witness database-mainpc database-pc2 >&2
    die "The database is not ready: the lines above say why."
fi
docker compose exec -T witness pg_autoctl show state
