#!/usr/bin/env bash
# The inner loop: the linters in parallel with the unit tests, except those marked `thorough`, and with a tenth of hypothesis's
# examples. Arguments are pytest's.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. scripts/setup/progress.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT
scripts/setup/lint.sh >"$log" 2>&1 &
lint=$!
status=0
.venv/bin/python -m pytest tests/unit -n 4 -m "not thorough" --hypothesis-profile "inner loop" "$@" || status=$?
wait "$lint" || { cat "$log" >&2; die "The linters failed (see above); to run them alone: make lint"; }
exit "$status"
