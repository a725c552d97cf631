"""Both hosts on one machine: each is measured by its own container, and not by what they share."""

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.containers.stack import REPOSITORY, Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client

BUSY_S = 8
BUSY_LOOP = f"import time\nend = time.monotonic() + {BUSY_S}\nwhile time.monotonic() < end: pass"
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


def test_each_host_has_its_containers_memory(quick: Stack) -> None:
    """The limit and the usage of its own container, without a GPU no VRAM, and the measured way between them."""
    with quick.client("mainpc") as client:
        wait_until(
            lambda: hosts(client)["mainpc"]["network_latency_ms"] is not None, PATIENCE_S, "the link is measured"
        )
        for found in measured(client).values():
            assert (found["ram_total_mb"], found["limited"]) == (CONTAINER_MB, True)
            assert 10 < found["ram_usage_mb"] < CONTAINER_MB
            assert (found["vram_usage_mb"], found["vram_total_mb"], found["gpus"]) == (None, None, [])
            assert 0 < found["network_latency_ms"] < 1_000


def test_a_busy_pc2_is_seen_on_pc2_and_not_on_mainpc(quick: Stack) -> None:
    """A loop in pc2's container raises pc2's CPU figure; mainpc's, on the same machine, stays where it was."""
    with quick.client("mainpc") as client:
        before = measured(client)
        loop = threading.Thread(target=quick.execute, args=("pc2", "python", "-c", BUSY_LOOP))
        loop.start()
        wait_until(
            lambda: hosts(client)["pc2"]["cpu_usage"] > before["pc2"]["cpu_usage"] + RISE, PATIENCE_S, "pc2 is busy"
        )
        loop.join(PATIENCE_S)
        course = client.call("get_history")["history"]["hosts"]
        during = [each for each in course["mainpc"]["cpu_usage"][-BUSY_S:] if each is not None]
        assert max(course["pc2"]["cpu_usage"][-BUSY_S:]) > before["pc2"]["cpu_usage"] + RISE
        assert sorted(during)[len(during) // 2] < before["mainpc"]["cpu_usage"] + RISE / 2
        wait_until(lambda: hosts(client)["pc2"]["cpu_usage"] < RISE, PATIENCE_S, "pc2 is idle again")


def test_memory_is_leased_within_the_containers_limit(quick: Stack) -> None:
    """What the machine has beyond it is nobody's."""
    with quick.client("mainpc") as client:
        measured(client)
        reply = client.call("simulate_load", load_type="ram", value=CONTAINER_MB)
        assert reply["recommendation"] == "deny_insufficient_resources"
        lease = client.call("reserve_ram", amount_mb=64, ttl_s=60)
        assert lease["placement"]["host"] in ("mainpc", "pc2")
        again = client.call("simulate_load", load_type="ram", value=1, host=lease["host"])
        assert again["current_state"]["ram_leased_mb"] == 64
        client.call("release_lease", lease_id=lease["lease_id"])
