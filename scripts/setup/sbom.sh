#!/usr/bin/env bash
# sbom.sh FILE: writes a CycloneDX list (1.6, JSON) of the packages that the image ships, with their hashes, from its lock.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

[ -n "${1:-}" ] || die "Name the file to write: make sbom FILE=twinhost.cdx.json"
scripts/setup/tool_venv.sh audit
build/tools/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
    --spec-version 1.6 --output-format JSON --output-reproducible --validate --output-file "$1" requirements.lock
step "Wrote $1: $(grep -c '"bom-ref": "requirements' "$1") packages of requirements.lock"
