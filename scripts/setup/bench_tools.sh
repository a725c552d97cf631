#!/usr/bin/env bash
# Installs what `make bench` compares with: the packages of requirements-bench.lock in a venv of their own, a C compiler
# with libzmq's headers, nats-server, and openssl. What can't be installed is named in the report as missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

scripts/setup/tool_venv.sh bench

mapfile -t packages < <(missing_compiler)
[ -e /usr/include/zmq.h ] || packages+=(libzmq3-dev)
command -v openssl >/dev/null || packages+=(openssl)
command -v nats-server >/dev/null || packages+=(nats-server)
[ ${#packages[@]} -gt 0 ] || exit 0
if ! on_debian_13 || ! is_root; then
    step "Missing: ${packages[*]}; only root on Debian 13 can install them here (the report names what is missing)"
    exit 0
fi
step "Installing ${packages[*]} (about a minute)"
# nats-server's package starts a server of its own; the benchmark starts one when it needs it.
had_policy=$([ -e /usr/sbin/policy-rc.d ] && printf yes || true)
if [ -z "$had_policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
install_packages "${packages[@]}"
compile_native # venv.sh has done it where there was a compiler
