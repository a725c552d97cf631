"""Both hosts on one machine: each measures the machine, and separately its own container."""

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import docker
import psutil
import pytest

from tests.containers.stack import REPOSITORY, Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_metrics import MB
from twinhost.secure_zmq.client import Client

BUSY_S = 8
# Four processes, which get more of the CPUs than one if other programs want them too.
BUSY_LOOP = (
    f"import os, time\nos.fork()\nos.fork()\nend = time.monotonic() + {BUSY_S}\nwhile time.monotonic() < end: pass"
)
CONTAINER_MB = 512  # mem_limit of the Compose file
RISE = 20.0  # percent: a loop keeps one CPU busy, a machine may have several, and others want them too


@pytest.fixture(scope="module")
def quick(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both hosts, measuring themselves every second."""
    folder = tmp_path_factory.mktemp("metrics")
    config = folder / "config"
    shutil.copytree(REPOSITORY / "config", config)
    config.chmod(0o755)
    path = config / "network_config.yaml"
    text = path.read_text()
    assert "metrics_interval_s: 5 " in text
    path.write_text(text.replace("metrics_interval_s: 5 ", "metrics_interval_s: 1 "))
    path.chmod(0o644)
    stack = Stack(folder, {"SECURE_ZMQ": "1", "TWINHOST_CONFIG": str(config)})
    try:
        stack.start()
        stack.wait_until_ready()
        yield stack
    finally:
        stack.stop()


def hosts(client: Client) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = client.call("get_metrics")["metrics"]["hosts"]
    return found


def measured(client: Client) -> dict[str, dict[str, Any]]:
    """Wait until both hosts are measured, and return their figures."""

    def whole() -> dict[str, dict[str, Any]] | None:
        found = hosts(client)
        return found if all(each["cpu_usage"] is not None for each in found.values()) else None

    return wait_until(whole, PATIENCE_S, "both hosts are measured") or {}


def test_each_host_measures_the_machine_and_its_container(quick: Stack) -> None:
    """Memory and CPUs as outside the containers, the limit of its own container, and the round trip between them."""
    with quick.client("mainpc") as client:
        wait_until(
            lambda: hosts(client)["mainpc"]["network_latency_ms"] is not None, PATIENCE_S, "the link is measured"
        )
        for name, found in measured(client).items():
            assert (found["ram_total_mb"], found["limited"]) == (round(psutil.virtual_memory().total / MB, 2), False)
            assert found["machine"]["cpus"] == psutil.cpu_count()
            assert [disk["name"] for disk in found["machine"]["disks"]] == ["state"]
            assert found["same_machine"] == [{"mainpc": "pc2", "pc2": "mainpc"}[name]]
            container = found["container"]
            assert container["ram_limit_mb"] == CONTAINER_MB
            assert 10 < container["ram_used_mb"] < CONTAINER_MB
            assert container["network"]["received_bytes_per_s"] >= 0
            assert (found["vram_usage_mb"], found["vram_total_mb"], found["gpus"]) == (None, None, [])
            assert 0 < found["network_latency_ms"] < 1_000


def test_a_busy_pc2_is_in_its_container_and_on_the_machine(quick: Stack) -> None:
    """A loop in pc2's container raises its CPU figure, not that of mainpc's; the machine's is at least as high."""
    with quick.client("mainpc") as client:
        measured(client)

        def idle() -> dict[str, float] | None:
            found = {name: each["container"]["cpu_percent"] for name, each in hosts(client).items()}
            return found if max(found.values()) < RISE else None

        before = wait_until(idle, PATIENCE_S, "both agents have started") or {}
        loop = threading.Thread(target=quick.execute, args=("pc2", "python", "-c", BUSY_LOOP))
        loop.start()

        def busy() -> dict[str, dict[str, Any]] | None:
            found = hosts(client)
            return found if found["pc2"]["container"]["cpu_percent"] > before["pc2"] + RISE else None

        found = wait_until(busy, PATIENCE_S, "pc2 is busy") or {}
        assert found["pc2"]["cpu_usage"] > RISE
        loop.join(PATIENCE_S)
        course = client.call("get_history")["history"]["hosts"]
        during = [each for each in course["mainpc"]["container_cpu_usage"][-BUSY_S:] if each is not None]
        assert sorted(during)[len(during) // 2] < before["mainpc"] + RISE / 2
        wait_until(lambda: hosts(client)["pc2"]["container"]["cpu_percent"] < RISE, PATIENCE_S, "pc2 is idle again")


def test_the_machines_memory_is_leased_once(quick: Stack) -> None:
    """More than the limit of the container; a lease on one host counts on the other too."""
    with quick.client("mainpc") as client:
        free_mb = measured(client)["mainpc"]["ram_available_mb"] - 0.1 * psutil.virtual_memory().total / MB
        assert free_mb > CONTAINER_MB, "this machine has too little memory for the test"
        assert client.call("simulate_load", load_type="ram", value=CONTAINER_MB)["recommendation"] == "proceed"
        lease = client.call("reserve_ram", amount_mb=64, ttl_s=60)
        for host in ("mainpc", "pc2"):
            again = client.call("simulate_load", load_type="ram", value=1, host=host)
            assert again["current_state"]["ram_leased_mb"] == 64
        client.call("release_lease", lease_id=lease["lease_id"])
