#!/usr/bin/env bash
# Makes what this version's tables have more of, in the database that runs, whose image may be older: standbys of this
# version need it. Of two nodes, the one that takes writes has it then, and the other one gets it from there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

for part in "${DATABASE[@]}"; do
    [ "$part" = witness ] ||
        docker compose exec -T "$part" python3 /app/database/run.py tables <services/twinhost/store/replication/tables.sql
done
