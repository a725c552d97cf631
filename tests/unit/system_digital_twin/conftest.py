"""A twin on a fresh database, and the clock that its registry reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.system_digital_twin.twin import Clock, Twin, registry_module


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Real time that a test can let pass."""
    clock = Clock()
    monkeypatch.setattr(registry_module, "time", clock)
    return clock


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    """SystemDigitalTwin with an empty registry."""
    with Twin(tmp_path / "SystemDigitalTwin.sqlite3") as twin:
        yield twin
