"""A twin, or its part in metrics and leases, on a fresh database, and the clock of its parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.metrics_bench import MetricsBench
from tests.unit.system_digital_twin.twin import Clock, Twin


@pytest.fixture
def clock() -> Clock:
    """Real time that a test can let pass."""
    return Clock()


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    """SystemDigitalTwin with an empty registry."""
    with Twin(tmp_path / "SystemDigitalTwin.sqlite3", clock) as twin:
        yield twin


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[MetricsBench]:
    """Its part in metrics and leases."""
    with MetricsBench(tmp_path / "twin.sqlite3", clock) as bench:
        yield bench
