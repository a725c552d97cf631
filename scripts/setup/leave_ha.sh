#!/usr/bin/env bash
# Goes back to one process of each agent, with its SQLite file alone: the reverse of up_ha.sh. Nothing that was stored is lost:
# the standbys end first, so that the agents have all of it. What the standbys and the database have of it is deleted. On one
# machine of two or three it does that for its part; a standby on another one becomes active no more.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

readonly ACTIVE_TIMEOUT_S=60
declare -Ar NAMES=([mainpc]=SystemDigitalTwin [pc2]=UnifiedMemoryReasoningAgent) PORTS=([mainpc]=8120 [pc2]=8230)

require_ha_settings_in_file
host=$(setting TWINHOST_HOST)
case $host in
    '') agents=(mainpc pc2) ;;
    witness) agents=() ;;
    *) agents=("$host") ;;
esac
[ -n "$(setting TWINHOST_DATABASE)" ] || die "No standby is set up here: TWINHOST_DATABASE is not in .env."
foreign=
! has_foreign_database || foreign=1

# is_active SERVICE: whether it says so; it has all that was acknowledged then.
is_active() {
    docker compose exec -T "$1" python - "http://127.0.0.1:${PORTS[${1%-standby}]}/healthz" <<'END' 2>/dev/null
import json, sys, urllib.request

with urllib.request.urlopen(sys.argv[1], timeout=2) as answer:
    sys.exit(json.load(answer).get("log", {}).get("role") != "active")
END
}

are_active() {
    local agent
    for agent in "${agents[@]}"; do
        is_active "$agent" || return
    done
}

# forget AGENT...: delete the log of each; refused while one is active. Where one machine has all and a database of its own, that
# is deleted as a whole.
forget() {
    if [ -n "$foreign" ]; then
        docker compose --progress quiet run --rm -T --no-deps "${agents[0]}" \
            python -m twinhost.store.replication.forget "$@" </dev/null
    else
        docker compose exec -T "database-$host" python3 /app/database/run.py forget "$@"
    fi
}

# stay WHY: nothing was changed; what was stopped runs again.
stay() {
    docker compose start "${agents[@]}" "${STANDBYS[@]}"
    die "$1 Nothing was changed, and all runs again: start all with make up, and run this again."
}

# On another machine than its agent's, a standby that is active is all that there is of it.
if [ -n "$host" ] && [ ${#agents[@]} -gt 0 ]; then
    for standby in "${STANDBYS[@]}"; do
        ! is_active "$standby" || die "${NAMES[${standby%-standby}]} is active here, on $standby, so nothing was changed: ./twinhost switchover ${NAMES[${standby%-standby}]}, and run this again."
    done
    [ -n "$foreign" ] || docker compose exec -T "database-$host" python3 /app/database/run.py may-leave "${NAMES[$host]}" ||
        die "This machine can't leave now (see above), so nothing was changed."
fi

if [ ${#agents[@]} -gt 0 ]; then
    step "Stopping ${STANDBYS[*]}, so that ${agents[*]} can be active"
    docker compose stop "${STANDBYS[@]}"
    for ((waited = 0; waited < ACTIVE_TIMEOUT_S; waited++)); do
        ! are_active || break
        sleep 1
    done
    [ "$waited" -lt "$ACTIVE_TIMEOUT_S" ] || stay "Not active after $ACTIVE_TIMEOUT_S s: one of ${agents[*]}."
fi
if [ ${#agents[@]} -gt 0 ] && [ -n "$host$foreign" ]; then
    names=()
    for agent in "${agents[@]}"; do
        names+=("${NAMES[$agent]}")
    done
    step "Deleting the log of ${names[*]}, without which no standby on another machine becomes active"
    docker compose stop "${agents[@]}"
    forget "${names[@]}" ||
        stay "The log of ${names[*]} was not deleted (see above); a standby on another machine has to be stopped first, as by: docker compose stop ${agents[0]}-standby."
fi

profiles=$(without_profile "$(setting COMPOSE_PROFILES)")
# A DSN of somebody's own stays, so that up_ha.sh comes back to that database, and to no other without a word.
[ -z "$foreign" ] || put_setting "$LEFT_DATABASE" "$(sed -n 's/^TWINHOST_DATABASE=//p' .env | tail -n 1)"
put_setting TWINHOST_DATABASE ""
put_setting TWINHOST_DATABASE_KEYS ""
put_setting COMPOSE_PROFILES "$profiles"
if [ ${#agents[@]} -gt 0 ]; then
    step "Starting ${agents[*]} with its file alone"
    scripts/setup/up.sh
fi

step "Removing the standbys, the database, and what they had"
docker compose rm --stop --force "${STANDBYS[@]}" database-keys "${DATABASE[@]}"
remove_volumes "${STANDBY_VOLUMES[@]}"
