#!/usr/bin/env bash
# Installs what some tests look from the outside with: a browser, a C compiler with czmq's headers, and what makes a second
# machine out of a network namespace. Where they can't be installed those tests are skipped, and pytest says so.
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
    step "Not here, and not to be installed by this user on this system: ${packages[*]}; the tests that need them are skipped"
    exit 0
fi
step "Installing ${packages[*]} (about a minute)"
install_packages "${packages[@]}"
