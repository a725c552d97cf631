#!/usr/bin/env bash
# Installs the image's locks twice, each time into a new environment and without a cache, as the image's build does, and
# compares what is there: names and versions, and every installed file except those that contain a time or a path.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# packages_of ENVIRONMENT: one line for each package; files_of ENVIRONMENT: one for each file that came with them.
packages_of() { "$folder/$1/bin/python" -m pip --disable-pip-version-check freeze --all | grep -vE '^(pip|setuptools)==' | sort; }
files_of() {
    (cd "$folder/$1" && find lib -path '*/site-packages/*' -type f ! -name '*.pyc' ! -name RECORD ! -name direct_url.json \
        ! -path '*/pip/*' ! -path '*/setuptools/*' -print0 | sort -z | xargs -0 sha256sum)
}

for build in first second; do
    step "Installing both locks, the $build time"
    .venv/bin/python -m venv "$folder/$build"
    "$folder/$build/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        --no-deps --require-hashes --only-binary :all: --requirement requirements.lock --requirement requirements-meaning.lock ||
        die "requirements.lock or requirements-meaning.lock could not be installed: see the lines above; it needs access to the Python package index."
    packages_of "$build" >"$folder/$build.packages"
    files_of "$build" >"$folder/$build.files"
done
[ -s "$folder/first.packages" ] || die "Nothing was installed, so nothing is compared; see the locks."
for what in packages files; do
    diff "$folder/first.$what" "$folder/second.$what" ||
        die "Two builds from the locks differ in their $what (see above): a package changes at its installation."
done
step "Both have the same $(wc -l <"$folder/first.packages") packages and the same $(wc -l <"$folder/first.files") files"
