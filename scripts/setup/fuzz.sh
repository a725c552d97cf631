#!/usr/bin/env bash
# fuzz.sh INPUTS [OPTION...]: feeds the decoders, the key loader, and the port; see tests/fuzzing. atheris is installed beside
# .venv, and where it can't be, the decoders get mutations without coverage guidance, and the report says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

readonly LOCK=requirements-fuzz.lock FOLDER=build/tools/fuzz
wanted=$(sha256sum "$LOCK")
if [ "$(cat "$FOLDER/made-from" 2>/dev/null)" != "$wanted" ]; then
    step "Installing atheris from $LOCK"
    rm -rf "$FOLDER"
    if .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$FOLDER" \
        --no-deps --require-hashes --only-binary :all: --requirement "$LOCK"; then
        printf '%s\n' "$wanted" >"$FOLDER/made-from"
    else
        step "atheris can't be installed here: the inputs have no coverage guidance"
    fi
fi
inputs=$1
shift
PYTHONPATH="services:.:$FOLDER" exec .venv/bin/python -m tests.fuzzing --inputs "$inputs" "$@"
