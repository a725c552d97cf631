"""Neither host needs the other to start, and each finds the other by itself."""

from pathlib import Path

import docker
import pytest

from tests.containers.stack import Stack
from tests.waiting import wait_until

pytestmark = pytest.mark.unified_memory_agent


def test_umra_serves_without_mainpc_and_registers_when_it_comes(engine: docker.DockerClient, tmp_path: Path) -> None:
    """pc2 alone is healthy and not ready, says why, serves, and registers within 10 s of mainpc's start."""
    stack = Stack(tmp_path, {}, services=["pc2"])
    try:
        stack.start()
        wait_until(lambda: stack.http("pc2", "/healthz")[0] == 200, 15, "pc2 is alive")
        status, document = stack.http("pc2", "/readyz")
        assert (status, document["status"], document["ready"]) == (503, "degraded", False)
        wait_until(
            lambda: "ServerUnreachable" in str(stack.http("pc2", "/readyz")[1].get("checks")),
            10,
            "the health document says that mainpc can't be reached",
        )
        with stack.client("pc2") as client:
            assert client.call("update_twin", twin_data={"alone": True})["revision"] == 1
        stack.start_service("mainpc")
        wait_until(lambda: stack.http("mainpc", "/readyz")[0] == 200, 15, "mainpc is ready")
        wait_until(lambda: stack.http("pc2", "/readyz")[0] == 200, 10, "pc2 is registered")
    finally:
        stack.stop()
