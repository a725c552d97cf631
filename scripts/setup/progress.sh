# shellcheck shell=bash
# Sourced by the set-up scripts, so that each of them reports and fails in the same way: one line per step, on stderr
# (stdout belongs to a script's result).

step() { printf '==> %s\n' "$*" >&2; }

# The reason and the next thing to do, in one sentence.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# setting NAME: its value in the environment, or else in .env, as Compose itself would look it up.
setting() {
    if [ -n "${!1+set}" ]; then
        printf '%s' "${!1}"
    elif [ -f .env ]; then
        sed -n -e "s/^$1=[\"']\([^\"']*\).*/\1/p" -e t -e "s/^$1=//" -e 't plain' -e d -e ':plain' \
            -e 's/[[:space:]]\{1,\}#.*//' -e 's/[[:space:]]*$//p' .env | tail -n 1
    fi
}

# put_setting NAME VALUE: write its line in .env, or remove it if VALUE is empty; the other lines stay as they are.
put_setting() {
    local draft
    draft=$(mktemp .env.XXXXXX)
    [ ! -f .env ] || cp --preserve=mode .env "$draft"
    { [ ! -f .env ] || sed "/^$1=/d; \$a\\" .env; } >"$draft"
    [ -z "$2" ] || printf '%s=%s\n' "$1" "$2" >>"$draft"
    mv "$draft" .env
}

# Packages are installed without asking only where their names and versions are known to fit: Debian 13 and later.
on_debian_13() {
    [ -r /etc/os-release ] && command -v apt-get >/dev/null && (
        . /etc/os-release
        [ "${ID:-}" = debian ] && [ "${VERSION_ID:-0}" -ge 13 ]
    )
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# install_packages NAME...: the log is shown only after a failure. The index is fetched again, because an old one names versions that were removed.
install_packages() {
    local log
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "apt-get could not install $*: see the lines above; $log has the rest."
    fi
    rm -f "$log"
}

# The optional compiled part of the package (native.sh), in this checkout, for .venv's Python.
readonly NATIVE=services/twinhost/secure_zmq/framing/_messages
python_headers() { .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))'; }

# missing_compiler: the packages that it needs and this machine lacks, one a line.
missing_compiler() {
    local headers
    command -v gcc >/dev/null || printf 'gcc\nlibc6-dev\n'
    headers=$(python_headers)
    # Another Python than Debian's has its headers elsewhere, or has none.
    [ -e "$headers/Python.h" ] || [ "${headers#/usr/include/}" = "$headers" ] || printf 'libpython3-dev\n'
}

# compile_native: again only when its source is newer; without a compiler or headers, agents of this checkout use pyzmq alone.
compile_native() {
    [ "$NATIVE.c" -nt "$NATIVE.abi3.so" ] || return 0
    command -v "${CC:-cc}" >/dev/null && [ -e "$(python_headers)/Python.h" ] || return 0
    step "Compiling $NATIVE.c"
    scripts/setup/native.sh .venv/bin/python services || step "It does not compile (see above): agents of this checkout use pyzmq alone"
}
