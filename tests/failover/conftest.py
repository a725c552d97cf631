"""One deployment for all faults, how often each is repeated, and the table of what was measured.

`make test-failover` makes each fault once, `make test-failover REPEAT=20` twenty times. Without TWINHOST_FAILOVER=all,
none is made: tests/containers/test_failover.py has what every run of the suite tries.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.conftest import engine
from tests.failover.machines import Machines

__all__ = ["engine"]

ALL = os.environ.get("TWINHOST_FAILOVER") == "all"
REPEAT = int(os.environ.get("REPEAT") or 1)
FOLDER = Path(__file__).parent
RAW: dict[str, list[float]] = {}  # of each fault, in seconds


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, not skip, what only `make test-failover` runs."""
    if ALL:
        return
    left_out = [item for item in items if item.path.parent == FOLDER]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Give every value: seconds from a fault until a change was acknowledged."""
    if RAW:
        terminalreporter.section("takeovers, in seconds")
        for fault, values in RAW.items():
            terminalreporter.line(f"{fault}: {' '.join(f'{value:.1f}' for value in values)}; max {max(values):.1f}")


@pytest.fixture(scope="package")
def machines(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with Machines.started(tmp_path_factory.mktemp("machines")) as machines:
        machines.wait_until_whole()
        yield machines
