#!/usr/bin/env bash
# Builds the project's image on the base that this machine can have; a second or two when nothing has changed. Arguments are
# those of `docker compose build`.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

# Where the distributions keep the certificates that this machine trusts. pip in the build needs them behind a proxy that
# inspects TLS, and loses nothing by them elsewhere.
readonly CA_BUNDLES=(/etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem)

find_ca_bundle() {
    local bundle
    for bundle in "$(setting TWINHOST_CA_BUNDLE)" "${CA_BUNDLES[@]}" /dev/null; do
        [ ! -r "$bundle" ] || break
    done
    printf '%s' "$bundle"
}

build() {
    # A terminal gets the live display; a log gets the build's output only if it fails.
    if [ -t 2 ]; then
        docker compose build "$@"
        return
    fi
    local log status=0
    log=$(mktemp)
    docker compose build "$@" >"$log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        sed -n 's/^#[0-9]* [0-9.]* note: /==> /p' "$log" >&2
    else
        tail -n 40 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

warn_of_others() {
    local image others
    image=$(docker compose config --images certs-init) || return 0
    # By the name that a container was started with: one build may have several names, and a name's earlier build has none.
    others=$({ docker ps --quiet | xargs --no-run-if-empty docker inspect --format \
        '{{.Config.Image}}{{"\t"}}{{index .Config.Labels "com.docker.compose.project.working_dir"}}' 2>/dev/null || true; } |
        awk -F '\t' -v image="$image" '$1 == image {print $2}' | sort -u | grep -vxF "$PWD" | paste -sd ' ') || return 0
    step "Containers of $others run $image too, and would run this checkout's code from its next start on; to keep both, write TWINHOST_IMAGE=NAME:TAG into .env (docs/how-to/run-several-stacks.md)"
}

warn_of_others
BASE_IMAGE=$(scripts/setup/base_image.sh)
TWINHOST_CA_BUNDLE=$(find_ca_bundle)
export BASE_IMAGE TWINHOST_CA_BUNDLE
step "Building the image on $BASE_IMAGE"
build "$@" || die "The image could not be built: see the lines above; a failed download there means no access to the Python package index, or a proxy whose certificate TWINHOST_CA_BUNDLE in .env must name."
