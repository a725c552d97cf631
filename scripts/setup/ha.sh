# shellcheck shell=bash
# Sourced by the scripts that start, set up, and leave standbys: their services, their volumes, and their lines in .env.

# shellcheck disable=SC2034 # the scripts that source this use them
readonly STANDBYS=(mainpc-standby pc2-standby) DATABASE=(witness database-mainpc database-pc2)
# What repeats what the agents have; the keys of the database stay.
# shellcheck disable=SC2034
readonly STANDBY_VOLUMES=(standby-certificates mainpc-standby-state pc2-standby-state
    witness-state database-mainpc-state database-pc2-state)
# shellcheck disable=SC2034
readonly OWN_DATABASE_KEYS=database-certificates
# shellcheck disable=SC2034
readonly OWN_DATABASE="postgresql://twinhost@database-mainpc,database-pc2/twinhost?sslmode=verify-full\
&sslrootcert=/database/ca.crt&sslcert=/database/agent.crt&sslkey=/database/agent.key"

# Whether .env has the database of docker-compose.yml, and not another one.
has_own_database() { [ "$(setting TWINHOST_DATABASE_KEYS)" = "$OWN_DATABASE_KEYS" ]; }

# What is only in this shell's environment is not there for the next command.
require_ha_settings_in_file() {
    local name
    for name in TWINHOST_DATABASE TWINHOST_DATABASE_KEYS COMPOSE_PROFILES; do
        [ -z "${!name+set}" ] || die "$name is set in the environment, before which .env does not count: unset it."
    done
}

# with_profile LIST, without_profile LIST: the profiles of Compose, separated by commas, with and without `ha`.
with_profile() { printf '%s' "$(without_profile "$1"),ha" | sed 's/^,//'; }
without_profile() { tr ',' '\n' <<<"$1" | { grep -vx -e ha -e '' || true; } | paste -sd ,; }
