#!/usr/bin/env bash
# Deploys both hosts to a Docker Swarm, from a manager, with standbys where .env sets them up, and waits until each part runs on the
# node that is labelled for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh
. scripts/setup/ha.sh

readonly STACK=twinhost # as the Compose project is called, whose volumes, with the keys in them, are the stack's
readonly RUNNING_TIMEOUT_S=60

services=(mainpc pc2) nodes=(mainpc pc2)
if [ -n "$(setting TWINHOST_DATABASE)" ]; then
    has_own_database || die "The standbys of a stack have the database of docker-compose.yml, and .env names another one: run them by Compose (make up)."
    [ -z "$WITNESS_PORT" ] || die "WITNESS_IP in .env is the address of mainpc or pc2, and a stack has the witness on a third node: run two machines without a third by Compose (make up-ha)."
    services+=(mainpc-standby pc2-standby witness database-mainpc database-pc2) nodes+=(witness)
fi
[ "$(docker info --format '{{.Swarm.ControlAvailable}}' 2>/dev/null)" = true ] ||
    die "This machine is not a swarm manager: create a swarm (docker swarm init), or run this on its manager; docs/how-to/deploy-to-a-swarm.md has the steps."
for node in "${nodes[@]}"; do
    labelled=(docker node ls --quiet --filter "node.label=twinhost.host=$node")
    [ -n "$("${labelled[@]}")" ] ||
        die "No node of the swarm is labelled for $node: docker node update --label-add twinhost.host=$node NODE."
    # Managers alone start a container again, as long as more than half of them run.
    [ ${#nodes[@]} -eq 2 ] || [ -n "$("${labelled[@]}" --filter role=manager)" ] ||
        die "The node of $node is a worker, and with standbys each of the three is a manager, so that two of them go on without the third: docker node promote $("${labelled[@]}")."
done

# stack_of SERVICE...: the file for `docker stack`, which reads an older form: some settings are not in it, and numbers are no texts.
stack_of() {
    # Each name is the overlay network's, and no address of another machine.
    WITNESS_IP='' docker compose -f docker-compose.yml -f docker-stack.yml config --format json "$@" | python3 -c '
import json, sys

ABSENT = ("depends_on", "mem_limit", "memswap_limit", "dns", "pids_limit", "profiles", "pull_policy", "restart", "security_opt", "tmpfs")
found = json.load(sys.stdin)
services = {}
for service_name in sys.argv[1:]:
    settings = found["services"][service_name].items()
    services[service_name] = service = {name: value for name, value in settings if value is not None and name not in ABSENT}
    for port in service.get("ports", ()):
        port["published"] = int(port["published"])
    for volume in service["volumes"]:
        if volume["type"] == "tmpfs":
            volume["tmpfs"]["size"] = int(volume["tmpfs"]["size"])
    # Compose omits a limit of 0.
    service["ulimits"] = {name: limit or 0 for name, limit in service["ulimits"].items()}
json.dump({"services": services, "networks": found["networks"], "volumes": found["volumes"]}, sys.stdout)
' "$@"
}

step "Deploying the stack $STACK"
stack_of "${services[@]}" | docker stack deploy --resolve-image never --detach=true --compose-file - "$STACK" >&2

healthy() {
    [ "$(docker stack services "$STACK" --format '{{.Replicas}}' | grep -c '^1/1')" = ${#services[@]} ]
}

for ((waited = 0; waited < RUNNING_TIMEOUT_S; waited++)); do
    ! healthy || break
    [ $((waited % 10)) -ne 9 ] || step "Waiting for ${services[*]}, $((waited + 1)) s"
    sleep 1
done
docker stack ps "$STACK" --filter desired-state=running --format 'table {{.Name}}\t{{.Node}}\t{{.CurrentState}}\t{{.Error}}'
healthy || die "They do not all run after $waited s: the lines above say why; a missing path under /certificates is a machine without keys (docs/how-to/deploy-to-a-swarm.md)."
