#!/usr/bin/env bash
# Makes sure that a container engine with Compose answers. One that answers already is used as it is; on Debian 13 a
# missing one is installed and started.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup/progress.sh

readonly START_TIMEOUT_S=60
readonly GONE_AFTER_S=10 # a dockerd that ends sooner may have found another one that is still starting
readonly ENGINE_LOG=/var/log/twinhost-dockerd.log
# The default pools have room for 31 networks; the tests' stacks, side by side, need more.
readonly ADDRESS_POOL=base=172.18.0.0/15,size=24
readonly PID_FILES=(/var/run/docker.pid /var/run/docker/containerd/containerd.pid) # dockerd's defaults
dockerd_pid=

engine_answers() { docker info >/dev/null 2>&1; }
compose_answers() { docker compose version >/dev/null 2>&1; }
buildx_answers() { docker buildx version >/dev/null 2>&1; }

refuse_what_set_up_cannot_fix() {
    if [ -n "${DOCKER_HOST:-}" ]; then
        die "DOCKER_HOST is $DOCKER_HOST and no engine answers there: start that engine, or unset DOCKER_HOST."
    fi
    if docker info 2>&1 | grep -qi 'permission denied'; then
        die "An engine is running, but $(id -un) may not use it: run this as root, or join the group of its socket (usually: docker)."
    fi
}

install_what_is_missing() {
    local packages=()
    command -v dockerd >/dev/null || engine_answers || packages+=(docker.io iptables)
    command -v docker >/dev/null || packages+=(docker-cli)
    compose_answers || packages+=(docker-compose)
    buildx_answers || packages+=(docker-buildx)
    [ ${#packages[@]} -gt 0 ] || return 0
    on_debian_13 || die "Missing here: an engine, or its Compose or Buildx plugin. Install Docker (Engine 26 and Compose 2.26, or later), start it, and run this again."
    is_root || die "Installing ${packages[*]} needs root: run this once as root (sudo make setup), or install Docker yourself."
    step "Installing ${packages[*]} (about half a minute)"
    install_packages "${packages[@]}"
    hash -r
}

# The engine does not start while a process has the pid in one of its files: after a kill that may be a zombie, after a reboot
# an unrelated process.
remove_stale_pid_files() {
    local file
    for file in "${PID_FILES[@]}"; do
        [ -f "$file" ] || continue
        grep -qasE 'dockerd|containerd' "/proc/$(cat "$file")/cmdline" || rm -f "$file"
    done
}

start_engine() {
    is_root || die "Docker is installed but not running: start it (sudo systemctl start docker), and run this again."
    if [ -d /run/systemd/system ]; then
        step "Starting the engine (systemd)"
        systemctl start docker || die "systemd could not start docker: 'journalctl -u docker' says why."
    else
        step "Starting the engine (log: $ENGINE_LOG)"
        remove_stale_pid_files
        # A session of its own, so that the engine outlives this terminal.
        nohup setsid dockerd --default-address-pool "$ADDRESS_POOL" >>"$ENGINE_LOG" 2>&1 </dev/null &
        dockerd_pid=$!
    fi
    wait_for_engine
}

wait_for_engine() {
    local waited
    for ((waited = 0; waited < START_TIMEOUT_S; waited++)); do
        engine_answers && return
        [ $((waited % 5)) -ne 4 ] || step "Waiting for the engine, $((waited + 1)) s"
        if [ "$waited" -ge "$GONE_AFTER_S" ] && [ -n "$dockerd_pid" ] && ! kill -0 "$dockerd_pid" 2>/dev/null; then
            break
        fi
        sleep 1
    done
    [ ! -f "$ENGINE_LOG" ] || tail -n 15 "$ENGINE_LOG" >&2
    die "The engine did not start within $waited s: the last lines of its log are above, and all of it is in $ENGINE_LOG, or 'journalctl -u docker' where systemd started it."
}

if engine_answers && compose_answers && buildx_answers; then
    exit 0
fi
engine_answers || refuse_what_set_up_cannot_fix
install_what_is_missing
engine_answers || start_engine
step "Engine $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"
