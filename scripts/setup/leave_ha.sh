#!/usr/bin/env bash
# Goes back to one process of each agent, with its SQLite file alone: the reverse of up_ha.sh. Nothing that was stored is lost:
# the standbys end first, so that the agents have all of it. What the standbys and the database have of it is deleted.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

readonly ACTIVE_TIMEOUT_S=60

require_ha_settings_in_file
[ -z "$(setting TWINHOST_HOST)" ] || die "This is for one machine that has all. Once one of several had left, its agent's standby on another one would become active too, so nothing was changed."
[ -n "$(setting TWINHOST_DATABASE)" ] || die "No standby is set up here: TWINHOST_DATABASE is not in .env."

# is_active SERVICE PORT: whether it says so; it has all that was acknowledged then.
is_active() {
    local address
    address=$(docker compose port "$1" "$2" 2>/dev/null) || return 1
    python3 - "http://$address/healthz" <<'END' 2>/dev/null
import json, sys, urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=2) as answer:
    sys.exit(json.load(answer).get("log", {}).get("role") != "active")
END
}

step "Stopping the standbys, so that mainpc and pc2 are active"
docker compose stop "${STANDBYS[@]}"
for ((waited = 0; waited < ACTIVE_TIMEOUT_S; waited++)); do
    ! { is_active mainpc 8120 && is_active pc2 8230; } || break
    sleep 1
done
if [ "$waited" = "$ACTIVE_TIMEOUT_S" ]; then
    docker compose start "${STANDBYS[@]}"
    die "mainpc and pc2 are not both active after $ACTIVE_TIMEOUT_S s, so nothing was changed, and the standbys run again: start all with make up, and run this again."
fi

step "Starting mainpc and pc2 with their files alone"
profiles=$(without_profile "$(setting COMPOSE_PROFILES)")
put_setting TWINHOST_DATABASE ""
put_setting TWINHOST_DATABASE_KEYS ""
put_setting COMPOSE_PROFILES "$profiles"
scripts/setup/up.sh

step "Removing the standbys, the database, and what they had"
docker compose rm --stop --force "${STANDBYS[@]}" database-keys "${DATABASE[@]}"
remove_volumes "${STANDBY_VOLUMES[@]}"
