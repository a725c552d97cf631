"""Both hosts on one machine: each measures the machine, and separately its own container."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import docker
import psutil
import pytest

from tests.containers.stack import REPOSITORY, Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_metrics import MB
from twinhost.secure_zmq.client import Client

BUSY_S = 8
BUSY_LOOP = (
    f"import time\nend = time.monotonic() + {BUSY_S}\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
)
CONTAINER_MB = 512  # mem_limit of the Compose file
IDLE = 20.0  # percent: less than that, unless it starts


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
    """The CPU time of a loop is in the figures of pc2's container and of the machine, not of mainpc's container."""

    def used_s(client: Client, host: str, figure: str, cpus: float) -> float:
        """Return how much CPU time the samples since the loop's start show."""
        course = client.call("get_history")["history"]["hosts"][host]
        spans = pairwise(map(datetime.fromisoformat, course["timestamps"]))
        samples = zip(spans, course[figure][1:], strict=True)
        return sum(
            (end - begin).total_seconds() * cpus * (percent or 0) / 100
            for (begin, end), percent in samples
            if end > began
        )

    with quick.client("mainpc") as client:
        measured(client)
        wait_until(
            lambda: all(host["container"]["cpu_percent"] < IDLE for host in hosts(client).values()),
            PATIENCE_S,
            "both agents have started",
        )
        began = datetime.now(UTC)
        loop_s = float(quick.execute("pc2", "python", "-c", BUSY_LOOP).out)
        cpus = {host: each["container"]["cpus"] for host, each in hosts(client).items()}
        wait_until(
            lambda: used_s(client, "pc2", "container_cpu_usage", cpus["pc2"]) > 0.8 * loop_s,
            PATIENCE_S,
            "the loop's CPU time is in the figures of pc2's container",
        )
        assert used_s(client, "pc2", "cpu_usage", psutil.cpu_count() or 1) > 0.8 * loop_s
        assert used_s(client, "mainpc", "container_cpu_usage", cpus["mainpc"]) < loop_s / 2
