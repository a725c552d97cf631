#!/usr/bin/env bash
# Resolves pyproject.toml again into the locks: with hashes for every platform and Python, and without an index.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

command -v uv >/dev/null || die "Locking needs uv: install it (pip install uv), and run this again."

# lock FILE WHAT...: written beside and renamed, so that a failure leaves the old lock.
lock() {
    local file=$1
    shift
    step "Locking $file"
    uv pip compile --quiet --upgrade --universal --python-version 3.11 \
        --generate-hashes --no-annotate --no-header "$@" --output-file "$file.new" >/dev/null
    mv "$file.new" "$file"
}

# The base image too, where a registry is reachable: the Dockerfile's line then has its digest, and every build pulls that.
step "Pinning the base image"
scripts/setup/base_image.sh --pin || step "The base image's digest is unchanged"

lock requirements.lock pyproject.toml --extra agent --extra cli
# Of one extra alone, which an image installs beside requirements.lock.
for extra in meaning postgresql; do
    python3 -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$extra" |
        lock "requirements-$extra.lock" -
done
lock requirements-build.lock --group build
lock requirements-dev.lock pyproject.toml --all-extras --group dev
lock requirements-assets.lock --group assets
lock requirements-audit.lock --group audit
lock requirements-fuzz.lock --group fuzz
lock requirements-bench.lock pyproject.toml --extra agent --extra cli --group bench
