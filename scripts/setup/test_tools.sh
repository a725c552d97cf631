#!/usr/bin/env bash
# Installs what some tests need: two browsers, shells, a C compiler with czmq's headers, the tools that make a network
# namespace a second machine, Prometheus with promtool, PostgreSQL, and what the examples in other languages
# (tests/loopback/test_examples.py) are built with. Where they can't be installed those tests are skipped, and pytest says
# so; those of PostgreSQL fail.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

# zeromq.js, with the addon that its file has; the other dependency builds addons.
install_node_packages() {
    scripts/setup/node_packages.sh build/tools/node <<'END'
d0b069c1928d9f87ba619443b8756fcd7b121e50b1ea74e4d81d0ef4a590daf51ede56aeecf60f7269c5a497cec0451335c2a7dfdc781a0cd553e750c8826736  zeromq@6.8.0
e65fbe24713b33116ec95fcec097f77a4ed964dd5a18f14f339a14cfa0272b98a74003dee1315744ccf9b00daa836151801c8f59da8efa049f20fa3c1b3a0a35  cmake-ts@1.0.2
END
}

# The rules of accessibility that the page is held to.
install_axe() {
    scripts/setup/node_packages.sh build/tools/axe <<'END'
1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5  axe-core@4.14.1
END
}

scripts/setup/chart_library.sh build/assets || step "Missing: uPlot, which could not be fetched (pages are tested without charts)"
install_axe || step "Missing: axe-core, which could not be fetched (the tests that need it are skipped)"
install_node_packages || step "Missing: zeromq.js, which could not be fetched (the tests that need it are skipped)"

mapfile -t packages < <(missing_compiler)
command -v chromium >/dev/null || packages+=(chromium fonts-dejavu-core)
command -v firefox-esr >/dev/null || packages+=(firefox-esr)
[ -e /usr/include/czmq.h ] || packages+=(libczmq-dev)
[ -e /usr/include/json-c/json.h ] || packages+=(libjson-c-dev)
# Debian's crates, where there is a compiler for them already: they are 3 MB, and a compiler is 400.
if command -v cargo >/dev/null && [ ! -d /usr/share/cargo/registry/zmq-0.9.2 ]; then
    packages+=(librust-zmq-dev librust-serde-json-dev pkg-config)
fi
command -v fish >/dev/null || packages+=(fish)
command -v zsh >/dev/null || packages+=(zsh)
command -v prometheus >/dev/null || packages+=(prometheus)
[ -x /usr/lib/postgresql/17/bin/initdb ] || packages+=(postgresql-17)
command -v ip >/dev/null || packages+=(iproute2)
command -v iptables >/dev/null || packages+=(iptables)
[ ${#packages[@]} -gt 0 ] || exit 0
if ! on_debian_13 || ! is_root; then
    step "Missing: ${packages[*]}; only root on Debian 13 can install them here (the tests that need them are skipped)"
    exit 0
fi
step "Installing ${packages[*]} (about a minute)"
# Else its package starts a server of its own, on the usual port. The tests start theirs.
if [[ " ${packages[*]} " == *" postgresql-17 "* && ! -e /etc/postgresql-common ]]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi
install_packages "${packages[@]}"
compile_native # venv.sh has done it where there was a compiler
