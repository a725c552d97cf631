#!/usr/bin/env bash
# venv.sh [package]: makes .venv with this checkout installed in it, and with everything that tests and linters need, or with
# what the package alone needs; again only when a lock, pyproject.toml, or the Python has changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

readonly BUILD_LOCK=requirements-build.lock
readonly STAMP=.venv/made-from

# A Python that can make a venv: Debian's python3 alone cannot, and a version manager's may be a shim without an interpreter.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s' "$name"
            return
        fi
    done
    return 1
}

python=$(find_python) || {
    on_debian_13 || die "No Python 3.11 or later with a venv module is here: install one (on Debian and Ubuntu: python3-venv), and run this again."
    is_root || die "Python's venv module is missing: run this once as root (sudo make setup), or install python3-venv."
    step "Installing python3-venv"
    install_packages python3-venv
    python=$(find_python) || die "python3-venv is installed, but no Python 3.11 or later can make a venv: 'python3 -m venv /tmp/try' says why."
}

# made_from LOCK: what a .venv of this lock is made from.
made_from() {
    "$python" -c 'import hashlib, sys; print(sys.executable, sys.version.split()[0], hashlib.sha256(b"".join(open(path, "rb").read() for path in sys.argv[1:])).hexdigest())' "$1" "$BUILD_LOCK" pyproject.toml
}

development=$(made_from requirements-dev.lock)
if [ "${1-}" = package ]; then
    lock=requirements.lock wanted=$(made_from requirements.lock) taking='a few seconds'
else
    lock=requirements-dev.lock wanted=$development taking='about half a minute'
fi
present=$([ ! -x .venv/bin/python ] || cat "$STAMP" 2>/dev/null || true)
case $present in
    "$development")
        compile_native
        exit 0
        ;;
    "$wanted") exit 0 ;;
esac

step "Making .venv from $lock with $("$python" --version) ($taking)"
"$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --no-deps --require-hashes --only-binary :all: --requirement "$lock" --requirement "$BUILD_LOCK" ||
    die "The packages of $lock could not be installed: see the lines above; it needs access to the Python package index."
# The checkout itself: programs that .venv runs, and the commands in .venv/bin, find the package without PYTHONPATH.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation --editable . ||
    die "The package itself could not be installed into .venv: see the lines above."
# Last, so that an interrupted run starts over.
printf '%s\n' "$wanted" >"$STAMP"
[ "$wanted" = "$development" ] || exit 0
compile_native
# Python's bytecode of the package and the tests: each process of the tests would make it again, all at one time.
.venv/bin/python -m pytest --collect-only --quiet >/dev/null 2>&1 || true
