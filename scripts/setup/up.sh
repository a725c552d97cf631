#!/usr/bin/env bash
# Starts this machine's hosts, waits until they are healthy, and shows their status and the next commands.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

readonly HEALTHY_TIMEOUT_S=60
readonly REGISTERED_TIMEOUT_S=30

# Which host this is: from the environment or .env, as Compose sees it; empty for both.
host=$(docker compose config --format json certs-init |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["services"]["certs-init"]["environment"]["TWINHOST_HOST"])')
case $host in
    '') hosts=(mainpc pc2) ;;
    mainpc | pc2) hosts=("$host") ;;
    witness) hosts=() ;;
    *) die "TWINHOST_HOST is '$host'; set it to mainpc or pc2, or leave it empty for both on this machine." ;;
esac

# If the engine offers a GPU, the agents get it, unless COMPOSE_FILE is set, or TWINHOST_GPU is 0.
if [ -z "$(setting COMPOSE_FILE)" ] && [ "$(setting TWINHOST_GPU)" != 0 ]; then
    read -r driver devices < <(docker info --format '{{json .}}' | scripts/setup/gpu.sh) || true
    if [ -n "${driver:-}" ]; then
        step "Giving the agents the engine's GPUs ($driver); TWINHOST_GPU=0 in .env prevents it"
        driver_set=$(setting TWINHOST_GPU_DRIVER) devices_set=$(setting TWINHOST_GPU_DEVICES)
        export TWINHOST_GPU_DRIVER=${driver_set:-$driver} TWINHOST_GPU_DEVICES=${devices_set:-$devices}
        files=docker-compose.yml
        [ ! -f docker-compose.override.yml ] || files+=:docker-compose.override.yml
        export COMPOSE_FILE=$files:docker-compose.gpu.yml
    fi
fi

# start SERVICE...: and wait until they are healthy.
start() {
    ! docker compose up --detach --wait --wait-timeout "$HEALTHY_TIMEOUT_S" "$@" || return 0
    docker compose ps --all >&2
    docker compose --ansi never logs --tail 8 "$@" >&2
    # The containers of certs-init keep no log; where it failed, another run says why.
    docker compose --progress quiet run --rm -T certs-init >/dev/null || true
    die "They are not healthy: the lines above say why; if a port is in use, change it in .env (.env.example lists the ports)."
}

start_database() {
    step "Starting the database of a failover"
    if [ -z "$host" ]; then
        docker compose up --detach "${DATABASE[@]}"
        docker compose exec -T witness python3 /app/database/run.py formed && scripts/setup/update_tables.sh && return
    else # the other machines may be off, or not set up yet
        docker compose up --detach --wait --wait-timeout "$HEALTHY_TIMEOUT_S" "${DATABASE[@]}" &&
            scripts/setup/update_tables.sh && return
    fi
    docker compose ps --all "${DATABASE[@]}" >&2
    docker compose --ansi never logs --tail 8 "${DATABASE[@]}" >&2
    docker compose --progress quiet run --rm -T --no-deps database-keys >/dev/null || true # keeps no log, either
    die "The database is not ready: the lines above say why."
}

! has_own_database || start_database
if [ "$host" = witness ]; then
    step "The witness runs"
    exit
fi
step "Making the keys and starting ${hosts[*]}"
start "${hosts[@]}"
# With a database of somebody else, one of two machines has its standby's secret once up_ha.sh has written the profile.
joined() { [[ -z $host || ,$(setting COMPOSE_PROFILES), = *,$PROFILE,* ]]; }
if has_own_database || { has_foreign_database && joined; }; then
    step "Starting ${STANDBYS[*]}"
    start "${STANDBYS[@]}" # after the agents, which are active as long as nothing fails
fi

if [ -z "$host" ]; then
    step "Asking both agents"
    # Nothing here starts another agent, so one that is stopped is reported at once.
    ./twinhost status --wait "$REGISTERED_TIMEOUT_S" \
        --wait-for SystemDigitalTwin --wait-for UnifiedMemoryReasoningAgent
else
    # The other machine may be off, or not set up yet: that is reported, and does not fail this start.
    step "Asking both agents, from $host"
    keys=operator
    [ "$host" = mainpc ] || keys=$host
    TWINHOST_CLI_KEYS=$keys ./twinhost status || true
fi

echo
for name in "${hosts[@]}"; do
    case $name in
        mainpc) printf 'Page             http://%s/\nHTTP on mainpc   http://%s/healthz\n' \
            "$(docker compose port mainpc 8120)" "$(docker compose port mainpc 8120)" ;;
        pc2) printf 'HTTP on pc2      http://%s/healthz\n' "$(docker compose port pc2 8230)" ;;
    esac
done
cat <<TEXT
Ask an agent     ./twinhost ping
Follow the logs  make logs
Stop             make down    (keys and state stay)
TEXT
