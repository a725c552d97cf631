#!/usr/bin/env bash
# sbom.sh FILE: writes a CycloneDX list (1.6, JSON) of the packages that the image ships, with their hashes, from its locks.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

[ -n "${1:-}" ] || die "Name the file to write: make sbom FILE=twinhost.cdx.json"
scripts/setup/tool_venv.sh audit
cat requirements.lock requirements-meaning.lock |
    build/tools/audit/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
        --spec-version 1.6 --output-format JSON --output-reproducible --validate --output-file "$1" -
step "Wrote $1: $(grep -c '"bom-ref": "requirements' "$1") packages of requirements.lock and requirements-meaning.lock"
