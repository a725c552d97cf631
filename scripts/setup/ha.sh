# shellcheck shell=bash
# Sourced by the scripts that start, set up, and leave standbys: their services, their volumes, and their lines in .env.

# What of it this machine has: all, or, where TWINHOST_HOST says that it is one of three, its part.
# shellcheck disable=SC2034 # the scripts that source this use them
case $(setting TWINHOST_HOST) in
    mainpc) STANDBYS=(pc2-standby) DATABASE=(database-mainpc) PROFILE=ha-mainpc ;;
    pc2) STANDBYS=(mainpc-standby) DATABASE=(database-pc2) PROFILE=ha-pc2 ;;
    witness) STANDBYS=() DATABASE=(witness) PROFILE=ha-witness ;;
    *) STANDBYS=(mainpc-standby pc2-standby) DATABASE=(witness database-mainpc database-pc2) PROFILE=ha ;;
esac
readonly STANDBYS DATABASE PROFILE
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

# with_profile LIST, without_profile LIST: the profiles of Compose, separated by commas, with and without this machine's.
with_profile() { printf '%s' "$(without_profile "$1"),$PROFILE" | sed 's/^,//'; }
without_profile() { tr ',' '\n' <<<"$1" | { grep -vx -e "$PROFILE" -e '' || true; } | paste -sd ,; }
