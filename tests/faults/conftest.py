"""Which faults run, the seed that every choice of chance comes from, and the table of what was seen.

`make test-faults` runs all of them. Where TWINHOST_FAULTS is not `all`, only those marked `quick` are collected.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.conftest import engine
from tests.containers.stack import Stack
from tests.faults.house import House
from tests.faults.seen import HEADER, ROWS

__all__ = ["engine"]

ALL = os.environ.get("TWINHOST_FAULTS") == "all"
SEED = os.environ.get("FAULT_SEED") or str(random.SystemRandom().randrange(10**9))
FOLDER = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quick: a fault that every run of the whole suite makes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, not skip, what only `make test-faults` runs."""
    if ALL:
        return
    left_out = [item for item in items if item.path.parent == FOLDER and item.get_closest_marker("quick") is None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to make the same choices again, and what was seen."""
    terminalreporter.section("faults")
    terminalreporter.line(f"FAULT_SEED={SEED}")
    if ROWS:
        terminalreporter.line("\n".join([HEADER, *map(str, ROWS)]))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """What chooses when, which, and how often; of the seed and the test alone."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="package")
def house(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Both hosts, ready, for the faults that leave the keys and the volumes alone."""
    with House.built(Stack(tmp_path_factory.mktemp("house"), {}), ROWS) as house:
        yield house
