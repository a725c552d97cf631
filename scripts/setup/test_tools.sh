#!/usr/bin/env bash
# Installs what some tests need: a browser, a C compiler with czmq's headers, and the tools that make a network namespace
# a second machine. Where they can't be installed those tests are skipped, and pytest says so.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

packages=()
command -v chromium >/dev/null || packages+=(chromium fonts-dejavu-core)
command -v gcc >/dev/null || packages+=(gcc libc6-dev)
[ -e /usr/include/czmq.h ] || packages+=(libczmq-dev)
command -v ip >/dev/null || packages+=(iproute2)
command -v iptables >/dev/null || packages+=(iptables)
[ ${#packages[@]} -gt 0 ] || exit 0
if ! on_debian_13 || ! is_root; then
    step "Missing: ${packages[*]}; only root on Debian 13 can install them here (the tests that need them are skipped)"
    exit 0
fi
step "Installing ${packages[*]} (about a minute)"
install_packages "${packages[@]}"
