#!/bin/sh
# wheel.sh FOLDER [PYTHON]: builds the package's wheel into FOLDER, for `make wheel` and for the image.
#
# Two builds of the same files give the same bytes: the wheel has no time of its build, no mode of the checkout's umask, and
# nothing that an earlier build or run left. PYTHON has pip, and setuptools from requirements-build.lock.
set -eu
umask 022
cd "$(dirname "$0")/../.."

out=$1 python=${2:-.venv/bin/python}
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT

cp -R pyproject.toml README.md services "$source"
find "$source" \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
chmod -R u=rwX,go=rX "$source"
mkdir -p "$out"
# 1 January 1980, the first time that a ZIP archive can have.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-315532800} "$python" -m pip wheel --quiet --no-cache-dir --disable-pip-version-check \
    --no-deps --no-build-isolation --wheel-dir "$out" "$source"
