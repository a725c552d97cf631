#!/usr/bin/env bash
# Gives both agents a standby, and a database that has each change of theirs on two nodes: writes that into .env, which
# `make up`, Compose, and ./twinhost read, and starts all of it. Run again, it changes nothing that is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

require_ha_settings_in_file
[ -z "$(setting TWINHOST_HOST)" ] ||
    die "This simulates both machines and a witness on one; TWINHOST_HOST in .env says that this is one of two."
if [ -z "$(setting TWINHOST_DATABASE)" ]; then
    step "Writing the database and the profile \`ha\` into .env"
    put_setting TWINHOST_DATABASE "$OWN_DATABASE"
    put_setting TWINHOST_DATABASE_KEYS "$OWN_DATABASE_KEYS"
    put_setting COMPOSE_PROFILES "$(with_profile "$(setting COMPOSE_PROFILES)")"
fi
exec scripts/setup/up.sh
