# shellcheck shell=bash
# Sourced by the scripts that start, set up, and leave standbys: their services, their volumes, and their lines in .env.

# shellcheck disable=SC2034
readonly OWN_DATABASE_KEYS=database-certificates
# shellcheck disable=SC2034
readonly OWN_DATABASE="postgresql://twinhost@database-mainpc,database-pc2/twinhost?sslmode=verify-full\
&sslrootcert=/database/ca.crt&sslcert=/database/agent.crt&sslkey=/database/agent.key"

# What .env calls a database of somebody else that leave_ha.sh has left.
# shellcheck disable=SC2034
readonly LEFT_DATABASE='#left: TWINHOST_DATABASE'

# Whether .env has the database of docker-compose.yml, or one of somebody else, which has no part on any machine.
has_own_database() { [ "$(setting TWINHOST_DATABASE_KEYS)" = "$OWN_DATABASE_KEYS" ]; }
has_foreign_database() { [ -n "$(setting TWINHOST_DATABASE)" ] && ! has_own_database; }

# What of it this machine has: all, or, where TWINHOST_HOST says that it is one of three, its part.
# shellcheck disable=SC2034 # the scripts that source this use them
case $(setting TWINHOST_HOST) in
    mainpc) STANDBYS=(pc2-standby) DATABASE=(database-mainpc) PROFILE=ha-mainpc ;;
    pc2) STANDBYS=(mainpc-standby) DATABASE=(database-pc2) PROFILE=ha-pc2 ;;
    witness) STANDBYS=() DATABASE=(witness) PROFILE=ha-witness ;;
    *) STANDBYS=(mainpc-standby pc2-standby) DATABASE=(witness database-mainpc database-pc2) PROFILE=ha ;;
esac
# Two machines without a third have the witness on one of both, beside a database, so under another port than that.
export WITNESS_PORT='' WITNESS_HERE=''
place_witness() {
    local host witness
    host=$(setting TWINHOST_HOST) witness=$(setting WITNESS_IP)
    ! has_foreign_database || return 0
    [[ -n $host && -n $witness && " $(setting MAINPC_IP) $(setting PC2_IP) " = *" $witness "* ]] || return 0
    WITNESS_PORT=5433
    [ "$witness" != "$(setting "${host^^}_IP")" ] || WITNESS_HERE=$host DATABASE=(witness "${DATABASE[@]}")
}
place_witness
# The word of ha_keys.sh for an agent's secret tells the other machine which kind of database this one has.
AGENT_SECRET=agent
if has_foreign_database; then
    DATABASE=() PROFILE=$(IFS=, && printf '%s' "${STANDBYS[*]}") AGENT_SECRET=agent-of-a-foreign-database
fi
readonly STANDBYS DATABASE PROFILE WITNESS_PORT WITNESS_HERE AGENT_SECRET
# What repeats what the agents have; the keys of the database stay.
# shellcheck disable=SC2034
readonly STANDBY_VOLUMES=(standby-certificates mainpc-standby-state pc2-standby-state
    witness-state database-mainpc-state database-pc2-state)

# What is only in this shell's environment is not there for the next command.
require_ha_settings_in_file() {
    local name
    for name in TWINHOST_DATABASE TWINHOST_DATABASE_KEYS COMPOSE_PROFILES; do
        [ -z "${!name+set}" ] || die "$name is set in the environment, before which .env does not count: unset it."
    done
}

# with_profile LIST, without_profile LIST: the profiles of Compose, separated by commas, with this machine's, and without
# any of these.
with_profile() { printf '%s' "$(without_profile "$1"),$PROFILE${WITNESS_HERE:+,ha-witness}" | sed 's/^,//'; }
without_profile() {
    tr ',' '\n' <<<"$1" | { grep -vxE '|ha(-mainpc|-pc2|-witness)?|(mainpc|pc2)-standby' || true; } | paste -sd ,
}

# put_witness: what .env says of the witness. One that was on this machine before ends, with all that it knew.
put_witness() {
    local before
    before=$(sed -n 's/^WITNESS_HERE=//p' .env)
    if [ -n "$before" ] && [ -z "$WITNESS_HERE" ]; then
        docker compose rm --stop --force witness
        remove_volumes witness-state
    fi
    put_setting WITNESS_PORT "$WITNESS_PORT"
    put_setting WITNESS_HERE "$WITNESS_HERE"
}

# remove_volumes NAME...: those of this project that are there.
remove_volumes() {
    local name project
    project=$(docker compose config --format json certs-init | python3 -c 'import json, sys; print(json.load(sys.stdin)["name"])')
    for name in "$@"; do
        docker volume ls --quiet --filter "label=com.docker.compose.project=$project" \
            --filter "label=com.docker.compose.volume=$name" | xargs --no-run-if-empty docker volume rm >/dev/null
    done
}
