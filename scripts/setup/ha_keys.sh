#!/usr/bin/env bash
# ha_keys.sh HOST: prints, for up_ha.sh there, what the machine of HOST needs of this one to be a part of a failover: the secret of
# the agent that is at home here, for its standby, and, from mainpc's machine, the keys of the database, if that is not somebody
# else's. One line each.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

[ ! -t 1 ] || die "These are secrets, which are not shown on a terminal; pipe them: make -s ha-keys FOR=pc2 | ssh pc2 make -C twinhost/ join-ha"
agent= database=
case "$(setting TWINHOST_HOST)-${1:-}" in
    mainpc-witness) database=1 ;;
    mainpc-pc2) agent=SystemDigitalTwin database=1 ;;
    pc2-mainpc) agent=UnifiedMemoryReasoningAgent ;;
    *) die "Name another machine, as FOR=pc2 or FOR=witness on mainpc's machine, and FOR=mainpc on pc2's; TWINHOST_HOST in .env says which this is." ;;
esac
if has_foreign_database; then
    [ -n "$agent" ] || die "TWINHOST_DATABASE in .env is a database of somebody else, which needs no witness."
    database=
fi

# Both are read before a line is printed, so that the other machine gets all or nothing.
lines=()
if [ -n "$agent" ]; then
    # An agent has a standby only where it has a log, which it may get after this.
    content=$(TWINHOST_DATABASE=$OWN_DATABASE docker compose --progress quiet run --rm -T certs-init export-standby "$agent" </dev/null | base64 --wrap=0)
    lines+=("$AGENT_SECRET $content")
fi
if [ -n "$database" ]; then
    content=$(docker compose --progress quiet run --rm -T --no-deps database-keys keys for "$1" </dev/null | base64 --wrap=0)
    lines+=("database $content")
fi
printf '%s\n' "${lines[@]}"
