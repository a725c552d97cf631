"""Where the writers run, how often each fault is repeated, and the table of what was measured.

`make test-failover` makes each fault once, `make test-failover REPEAT=20` twenty times. Without TWINHOST_FAILOVER=all,
nothing here is run: tests/containers/test_failover.py has what every run of the suite tries.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import engine
from tests.failover.machines import Machines

__all__ = ["engine"]

ALL = os.environ.get("TWINHOST_FAILOVER") == "all"
REPEAT = int(os.environ.get("REPEAT") or 1)
FOLDER = Path(__file__).parent
RAW_FILE = os.environ.get("TWINHOST_FAILOVER_RAW")  # gets each value at once
RAW: dict[str, list[float]] = {}  # of each fault, in seconds


def record(fault: str, limit_s: float, seconds: float) -> None:
    """Keep a value, and write it to the file that TWINHOST_FAILOVER_RAW names."""
    RAW.setdefault(fault, []).append(seconds)
    if RAW_FILE:
        with Path(RAW_FILE).open("a") as file:
            file.write(f'"{fault}",{limit_s:g},{seconds:.2f}\n')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, not skip, what only `make test-failover` runs."""
    if ALL:
        return
    left_out = [item for item in items if item.path.parent == FOLDER]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Give every value: for how many seconds an agent acknowledged nothing, at most."""
    if RAW:
        terminalreporter.section("the longest time without an acknowledged change, in seconds")
        for fault, values in RAW.items():
            terminalreporter.line(f"{fault}: {' '.join(f'{value:.1f}' for value in values)}; max {max(values):.1f}")


@pytest.fixture(scope="module")
def writing(machines: Machines) -> Iterator[str]:
    """A container that stays, of the cli: in it the writers run, on the network of both machines."""
    run = "docker compose --progress quiet run --detach --no-deps --entrypoint sleep cli infinity"
    done = machines.checkout.run(run)
    assert done.status == 0, done.err
    yield done.out.strip()
    machines.checkout.run(f"docker rm --force --volumes {done.out.strip()}")
