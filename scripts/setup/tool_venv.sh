#!/usr/bin/env bash
# tool_venv.sh GROUP: makes build/tools/GROUP from requirements-GROUP.lock, again only when the lock has changed. The tools
# of such a group are used on the project and never with it, so their packages stay out of .venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

readonly LOCK=requirements-$1.lock VENV=build/tools/$1
wanted=$(sha256sum "$LOCK")
if [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/made-from" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
step "Making $VENV from $LOCK"
.venv/bin/python -m venv --clear "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --require-hashes --only-binary :all: --requirement "$LOCK" ||
    die "The packages of $LOCK could not be installed: see the lines above; it needs access to the Python package index."
printf '%s\n' "$wanted" >"$VENV/made-from"
