#!/usr/bin/env bash
# Every check that runs nothing, from the quickest to the slowest. All of them run, so that one run shows everything to fix.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. scripts/setup/progress.sh

export PATH=$PWD/.venv/bin:$PATH PYTHONPATH=services
failed=()

check() {
    step "$*"
    "$@" || failed+=("$1")
}

check ruff check .
check ruff format --check .
check hadolint --failure-threshold style Dockerfile
# Partial: it can't follow the name of a service with a variable in it, and so leaves the DNS server of docker-edges.yml out.
check compose-lint check --strict-config --no-env --skip-suppressed --allow-partial-coverage --fail-on low docker-compose.yml
check lint-imports
check mypy
[ ${#failed[@]} -eq 0 ] || die "Failed: ${failed[*]} (see above)."
