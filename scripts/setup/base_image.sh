#!/usr/bin/env bash
# Prints the name of the image to build on: the Dockerfile's where it is here or can be pulled, else one made from Debian's
# packages, of the same release, so that Python and libc are the same either way. An image of a registry is printed with
# its digest, so that the build takes these bytes and no others; `make lock` writes that digest into the Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

readonly RELEASE=trixie
OFFICIAL=$(sed -n 's/^ARG BASE_IMAGE=//p' Dockerfile)
readonly OFFICIAL
readonly FALLBACK=twinhost-base:$RELEASE
readonly PULL_TIMEOUT_S=300 # an unreachable registry fails by itself much sooner; this bounds one that stalls

image_is_here() { docker image inspect "$1" >/dev/null 2>&1; }

pull_official() {
    local limit=()
    command -v timeout >/dev/null && limit=(timeout "$PULL_TIMEOUT_S")
    step "Pulling $OFFICIAL"
    ${limit[@]+"${limit[@]}"} docker pull --quiet "$OFFICIAL" >/dev/null 2>&1
}

# digest_of NAME: the sha256 that the registry knew it by; nothing for an image that was loaded or made here.
digest_of() {
    docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" | sed -n "s|^${1%:*}@||p" | head -n 1
}

make_fallback() {
    on_debian_13 || die "$OFFICIAL could not be pulled: give this machine access to the registry, or set BASE_IMAGE in .env to a local image with Python 3.13."
    if ! command -v mmdebstrap >/dev/null; then
        is_root || die "$OFFICIAL could not be pulled, and building one needs mmdebstrap: run this once as root (sudo make setup)."
        step "Installing mmdebstrap"
        install_packages mmdebstrap
    fi
    step "No registry is reachable: making $FALLBACK from Debian's packages (about half a minute)"

    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # python3-venv is what the builder stage needs; manual pages, translations and documents are a third of the size.
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        "$RELEASE" "$work/root.tar" 2>"$work/log" || {
        tail -n 20 "$work/log" >&2
        die "mmdebstrap could not make $FALLBACK: see the lines above; it needs access to Debian's package mirror."
    }
    docker import --change 'CMD ["/bin/bash"]' "$work/root.tar" "$FALLBACK" >/dev/null
}

if [ "${1:-}" = --pin ]; then
    tag=${OFFICIAL%@*}
    docker pull --quiet "$tag" >/dev/null || die "$tag could not be pulled: the Dockerfile's digest is unchanged."
    digest=$(digest_of "$tag")
    [ -n "$digest" ] || die "The registry gave no digest for $tag: pin it by hand in the Dockerfile."
    sed -i "s|^ARG BASE_IMAGE=.*|ARG BASE_IMAGE=$tag@$digest|" Dockerfile
    exit
fi

chosen=$(setting BASE_IMAGE)
if [ -z "$chosen" ]; then
    if image_is_here "$OFFICIAL"; then
        chosen=$OFFICIAL
    elif image_is_here "$FALLBACK"; then
        chosen=$FALLBACK
    elif pull_official; then
        chosen=$OFFICIAL
    else
        make_fallback
        chosen=$FALLBACK
    fi
fi
if [ "$chosen" = "$OFFICIAL" ] && [ "$chosen" = "${chosen%@*}" ]; then
    digest=$(digest_of "$chosen")
    chosen=$chosen${digest:+@$digest}
fi
printf '%s\n' "$chosen"
