#!/usr/bin/env bash
# Deploys both hosts to a Docker Swarm, from its manager, and waits until each runs on the node that is labelled for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

readonly STACK=twinhost # as the Compose project is called, whose volumes, with the keys in them, are the stack's
readonly RUNNING_TIMEOUT_S=60

[ -z "$(setting TWINHOST_DATABASE)" ] ||
    die "docker-stack.yml has no standbys, and .env sets them up: run them by Compose (make up), or go back first (make leave-ha)."
[ "$(docker info --format '{{.Swarm.ControlAvailable}}' 2>/dev/null)" = true ] ||
    die "This machine is not a swarm manager: create a swarm (docker swarm init), or run this on its manager; docs/how-to/deploy-to-a-swarm.md has the steps."
for host in mainpc pc2; do
    [ -n "$(docker node ls --quiet --filter "node.label=twinhost.host=$host")" ] ||
        die "No node of the swarm is labelled for $host: docker node update --label-add twinhost.host=$host NODE."
done

# `docker stack` reads an older form of the file: without a name, and with ports and a tmpfs's size as numbers.
step "Deploying the stack $STACK"
docker compose -f docker-compose.yml -f docker-stack.yml config |
    sed -E -e '/^name:/d' -e '/^ +(published|size): "[0-9]+"$/s/"//g' |
    docker stack deploy --resolve-image never --detach=true --compose-file - "$STACK" >&2

healthy() {
    [ "$(docker stack services "$STACK" --format '{{.Replicas}}' | grep -c '^1/1')" = 2 ]
}

for ((waited = 0; waited < RUNNING_TIMEOUT_S; waited++)); do
    ! healthy || break
    [ $((waited % 10)) -ne 9 ] || step "Waiting for both hosts, $((waited + 1)) s"
    sleep 1
done
docker stack ps "$STACK" --filter desired-state=running --format 'table {{.Name}}\t{{.Node}}\t{{.CurrentState}}\t{{.Error}}'
healthy || die "The hosts do not both run after $waited s: the lines above say why; a missing path under /certificates is a machine without keys (docs/how-to/deploy-to-a-swarm.md)."
