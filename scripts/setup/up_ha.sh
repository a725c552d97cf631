#!/usr/bin/env bash
# Gives both agents a standby, and a database that has each change of theirs on two nodes: writes that into .env, which
# `make up`, Compose, and ./twinhost read, and starts all of it, or, on one machine of three, its part. `--with-keys` reads first
# what ha_keys.sh printed on another machine. Run again, it changes nothing that is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

require_ha_settings_in_file
left=$([ ! -f .env ] || sed -n "s/^$LEFT_DATABASE=//p" .env)
if [ -n "$left" ] && [ -z "$(setting TWINHOST_DATABASE)" ]; then
    step "Coming back to the database of somebody else that was left"
    put_setting TWINHOST_DATABASE "$left"
    put_setting "$LEFT_DATABASE" ""
    exec "$0" "$@"
fi
host=$(setting TWINHOST_HOST)
if [ -n "$host" ]; then
    [[ $host =~ ^(mainpc|pc2|witness)$ ]] || die "TWINHOST_HOST is '$host'; set it to mainpc, pc2, or witness, or leave it empty for all on this machine."
    for name in MAINPC_IP PC2_IP WITNESS_IP TWINHOST_PUBLISH_ADDRESS; do
        [ "$name" != WITNESS_IP ] || ! has_foreign_database || continue
        [[ $(setting "$name") =~ ^[0-9.]+$|: ]] || die "Standbys on real machines need $name in .env, an IP address (docs/how-to/run-with-standbys.md)."
    done
    [ "$host" != witness ] || [ -z "$WITNESS_PORT" ] || die "WITNESS_IP in .env is the address of mainpc or pc2, so no third machine has the witness."
    [ "$host" != witness ] || ! has_foreign_database || die "TWINHOST_DATABASE in .env is a database of somebody else, which needs no witness: nothing is to be started here."
else
    [ -z "$(setting WITNESS_IP)" ] || die "WITNESS_IP in .env is for three machines, and TWINHOST_HOST does not say which this is: set it, or remove both."
fi

# read_keys: the lines of ha_keys.sh; each part is taken by the program whose it is, which overwrites none.
read_keys() {
    local kind content taken=
    while read -r kind content; do
        case $kind in
            "$AGENT_SECRET") printf '%s' "$content" | base64 --decode | docker compose --progress quiet run --rm -T certs-init import-standby - ;;
            database) printf '%s' "$content" | base64 --decode | docker compose --progress quiet run --rm -T --no-deps database-keys keys take ;;
            agent*) die "One of both machines has TWINHOST_DATABASE of somebody else in .env, and the other one has not, so nothing was started: write the same line into both." ;;
            *) die "This is not what \`make ha-keys\` prints, and nothing was started." ;;
        esac
        taken=1
    done
    [ -n "$taken" ] || die "No keys were given: pipe them in from the other machine (docs/how-to/run-with-standbys.md)."
}

if [ "${1:-}" = --with-keys ]; then
    [ -n "$host" ] || die "Where all hosts are one machine, they need no keys from another: make up-ha"
    step "Taking the keys"
    TWINHOST_DATABASE=$OWN_DATABASE read_keys
fi
if [ -z "$(setting TWINHOST_DATABASE)" ]; then
    step "Writing the database into .env"
    put_setting TWINHOST_DATABASE "$OWN_DATABASE"
    put_setting TWINHOST_DATABASE_KEYS "$OWN_DATABASE_KEYS"
fi
# On a machine of its own, a standby has the agent's ports, which nothing else has there.
if [ -n "$host" ]; then
    for port in MAINPC_STANDBY_ZMQ_PORT=7120 MAINPC_STANDBY_EVENTS_PORT=7150 PC2_STANDBY_ZMQ_PORT=7230; do
        [ -n "$(setting "${port%=*}")" ] || put_setting "${port%=*}" "${port#*=}"
    done
fi
! has_own_database || put_witness
put_setting COMPOSE_PROFILES "$(with_profile "$(setting COMPOSE_PROFILES)")"
exec scripts/setup/up.sh
