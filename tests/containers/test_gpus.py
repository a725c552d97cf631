"""GPUs in containers: the request to the engine, and what mainpc's agent reports of two cards."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.containers.stack import IMAGE, REPOSITORY
from tests.waiting import PATIENCE_S, wait_until

GIB = 2**30
DRIVER = REPOSITORY / "tests" / "unit" / "agent" / "host_metrics" / "driver.c"
HARDENED = ("--rm", "--init", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
STATE = "--tmpfs=/var/lib/twinhost:uid=10001"  # of the image's user
ALONE = ("--env=SECURE_ZMQ=0", "--env=MAINPC_IP=127.0.0.1")  # without keys, for a client in the same container


def of_cdi(name: str) -> dict[str, str]:
    return {"Source": "cdi", "ID": name}


def devices_of(**settings: str) -> dict[str, Any]:
    """Return the devices that each agent reserves with docker-compose.gpu.yml."""
    files = ["--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml"]
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), "docker", "compose", *files]
    document = subprocess.check_output([*command, "config", "--format", "json"], cwd=REPOSITORY)
    services = json.loads(document)["services"]
    return {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "deploy" in service
    }


@pytest.mark.parametrize(
    ("settings", "driver", "devices"),
    [
        ({}, "nvidia", "all"),
        ({"TWINHOST_GPU_DRIVER": "cdi", "TWINHOST_GPU_DEVICES": "nvidia.com/gpu=all"}, "cdi", "nvidia.com/gpu=all"),
    ],
)
def test_both_agents_get_the_cards(settings: dict[str, str], driver: str, devices: str) -> None:
    """And no other service; the agents can only measure the cards."""
    wanted = [{"driver": driver, "device_ids": [devices], "capabilities": ["gpu", "utility"]}]
    assert devices_of(**settings) == {"mainpc": wanted, "pc2": wanted}


@pytest.mark.parametrize(
    ("engine", "found"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}}, "nvidia all\n"),
        ({"Runtimes": {}, "DiscoveredDevices": [of_cdi("nvidia.com/gpu=all")]}, "cdi nvidia.com/gpu=all\n"),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [of_cdi("amd.com/gpu=all")]}, ""),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": None}, ""),
    ],
    ids=["runtime", "cdi", "another-vendor", "none"],
)
def test_an_engine_with_a_gpu_is_recognised(engine: dict[str, Any], found: str) -> None:
    """From the output of `docker info`."""
    command = [REPOSITORY / "scripts" / "setup" / "gpu.sh"]
    assert subprocess.check_output(command, input=json.dumps(engine), text=True) == found


NVIDIA: dict[str, Any] = {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI: dict[str, Any] = {"DiscoveredDevices": [of_cdi("nvidia.com/gpu=all")]}
AN_ENGINE = """#!/bin/sh
case "$*" in
    info*) cat "$ENGINE" ;;
    "compose up"*) {docker} compose config --format json >"$STARTED"; exit 1 ;;
    "compose config"*) exec {docker} "$@" ;;
esac
"""


@pytest.mark.parametrize(
    ("engine", "settings", "given"),
    [
        (NVIDIA, {}, ("nvidia", "all")),
        (CDI, {}, ("cdi", "nvidia.com/gpu=all")),
        (NVIDIA, {"TWINHOST_GPU_DEVICES": "1"}, ("nvidia", "1")),
        (NVIDIA, {"TWINHOST_GPU": "0"}, None),
        (NVIDIA, {"COMPOSE_FILE": "docker-compose.yml"}, None),
        ({"Runtimes": {"runc": {}}}, {}, None),
    ],
    ids=["runtime", "cdi", "a-card", "not-wanted", "own-files", "no-gpu"],
)
def test_make_up_adds_the_cards_by_itself(
    tmp_path: Path, engine: dict[str, Any], settings: dict[str, str], given: tuple[str, str] | None
) -> None:
    """What it starts, on an engine that says that it has a GPU; the start is left out, as there is none here."""
    docker = tmp_path / "docker"
    docker.write_text(AN_ENGINE.format(docker=shutil.which("docker")))
    docker.chmod(0o755)
    (tmp_path / "engine").write_text(json.dumps(engine))
    started = tmp_path / "started"
    unset = dict.fromkeys(("TWINHOST_GPU", "TWINHOST_GPU_DRIVER", "TWINHOST_GPU_DEVICES"), "")
    environment = os.environ | unset | settings
    environment |= {"ENGINE": str(tmp_path / "engine"), "STARTED": str(started)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    subprocess.run([REPOSITORY / "scripts" / "setup" / "up.sh"], env=environment, capture_output=True, check=False)
    services = json.loads(started.read_text())["services"]
    for host in ("mainpc", "pc2"):
        devices = services[host].get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
        asked = devices and tuple((device["driver"], ",".join(device["device_ids"])) for device in devices)
        assert asked == (given and (given,))


def test_get_metrics_has_two_cards_and_their_processes(tmp_path: Path) -> None:
    """With the limits of the Compose file, and a driver's library mounted as the engine mounts it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the test builds a driver's library and needs a C compiler")
    library, table = tmp_path / "libnvidia-ml.so.1", tmp_path / "gpus"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(DRIVER)], check=True)
    table.write_text(
        f"NVIDIA T4|{GIB}|{16 * GIB}|10|GPU-t4|51|C41:{GIB // 2}:/usr/bin/python train.py,G7:E:?\n"
        f"NVIDIA H100|{8 * GIB}|{80 * GIB}|37|GPU-h100|64|C42:{7 * GIB}:ollama serve\n"
    )
    mounts = [f"--volume={library}:/usr/lib/libnvidia-ml.so.1:ro", f"--volume={table}:/gpus:ro", "--env=GPUS=/gpus"]
    agent = ["--detach", *HARDENED, STATE, *ALONE, *mounts, IMAGE, "python", "-m", "twinhost.system_digital_twin"]
    container = subprocess.check_output(["docker", "run", *agent], text=True).strip()

    def cards() -> list[dict[str, Any]]:
        call = ["python", "-m", "twinhost.cli", "call", "SystemDigitalTwin", "get_metrics", "--json"]
        done = subprocess.run(["docker", "exec", container, *call], capture_output=True, check=False)
        return [] if done.returncode else list(json.loads(done.stdout)["metrics"]["gpus"])

    try:
        found = wait_until(cards, PATIENCE_S, "mainpc reports the cards")
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=True)
    python, hidden = {"pid": 41, "name": "python", "used_mb": 512}, {"pid": 7, "name": None, "used_mb": None}
    fields = ("index", "uuid", "name", "used_mb", "total_mb", "utilisation_percent", "temperature_c", "processes")
    assert [tuple(card[field] for field in fields) for card in found] == [
        (0, "GPU-t4", "NVIDIA T4", 1_024, 16_384, 10, 51, [python, hidden]),
        (1, "GPU-h100", "NVIDIA H100", 8_192, 81_920, 37, 64, [{"pid": 42, "name": "ollama", "used_mb": 7_168}]),
    ]
