#!/usr/bin/env bash
# Has the database of this machine, one of two without a third, take writes although the other machine is off, and the witness
# with it. Refused while that one answers, or nobody has said that it is off (`--other-machine-is-off`). Stopped on its way, it is
# to be run again. (docs/how-to/run-with-standbys.md)
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

require_ha_settings_in_file
host=$(setting TWINHOST_HOST)
[[ $host =~ ^(mainpc|pc2)$ ]] && has_own_database || die "This promotes the database of one of two machines with standbys: TWINHOST_HOST and \`make up-ha\` (docs/how-to/run-with-standbys.md). The witness of another deployment does it by itself."
docker compose exec -T "database-$host" python3 /app/database/run.py promote "$@"
if [ -z "$WITNESS_HERE" ]; then
    step "Moving the witness to this machine, and having its database take writes"
    put_setting WITNESS_IP "$(setting "${host^^}_IP")"
fi
exec scripts/setup/up_ha.sh
