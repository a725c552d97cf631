#!/usr/bin/env bash
# Known vulnerabilities in what the locks pin. Fails on any, and where the vulnerability service can't be reached.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
. scripts/setup/progress.sh

scripts/setup/tool_venv.sh audit || exit 1
failed=()

# What the image ships, and what builds, tests, and checks it. --strict: a mirror that has the packages and no list of
# vulnerabilities answers 404, which pip-audit would take for a package that it may skip.
for lock in requirements*.lock; do
    step "pip-audit $lock"
    build/tools/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off --requirement "$lock" ||
        failed+=("$lock")
done
[ ${#failed[@]} -eq 0 ] || die "Findings, or not checked: ${failed[*]} (see above); pip-audit asks the Python package index for each package's vulnerabilities, and a mirror may not have them."
step "No known vulnerability in the locks"
