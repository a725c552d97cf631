"""GPUs in containers: the request to the engine, and what an agent's image reads of two cards."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.containers.stack import IMAGE, REPOSITORY

GIB = 2**30
DRIVER = REPOSITORY / "tests" / "unit" / "agent" / "host_metrics" / "driver.c"
READ = "import msgspec; from twinhost.agent.gpus import Gpus; print(msgspec.json.encode(Gpus().read()).decode())"
HARDENED = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")


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


def test_an_agents_container_reads_two_cards(tmp_path: Path) -> None:
    """With the limits of the Compose file, and a driver's library mounted as the engine mounts it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the test builds a driver's library and needs a C compiler")
    library, table = tmp_path / "libnvidia-ml.so.1", tmp_path / "gpus"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(DRIVER)], check=True)
    table.write_text(f"NVIDIA T4|{GIB}|{16 * GIB}|10\nNVIDIA H100|{8 * GIB}|{80 * GIB}|37\n")
    mounts = [f"--volume={library}:/usr/lib/libnvidia-ml.so.1:ro", f"--volume={table}:/gpus:ro", "--env=GPUS=/gpus"]
    command = ["docker", "run", *HARDENED, *mounts, "--entrypoint=python", IMAGE, "-c", READ]
    cards = json.loads(subprocess.check_output(command))
    assert [(card["name"], card["used_mb"], card["total_mb"]) for card in cards] == [
        ("NVIDIA T4", 1_024, 16_384),
        ("NVIDIA H100", 8_192, 81_920),
    ]
