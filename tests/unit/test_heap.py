"""Freed memory is given back once there is much of it, however often it was used in between."""

import subprocess
import sys
from pathlib import Path

import pytest

from twinhost import heap

MIB = 2**20
BURSTS = Path(__file__).with_name("heap_bursts.py")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often memory was given back; `free` of it is what glibc says."""
    times: list[int] = []
    monkeypatch.setattr(heap, "_HAS_INFO", True)
    monkeypatch.setattr(heap, "give_back", lambda: times.append(1))
    return times


def test_it_is_looked_at_every_few_seconds(given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tended = heap.Heap()
    monkeypatch.setattr(heap, "_free_bytes", lambda: MIB)
    tended.on_tick(0.0)
    monkeypatch.setattr(heap, "_free_bytes", lambda: 100 * MIB)
    tended.on_tick(1.0)
    assert not given
    tended.on_tick(6.0)
    assert given


@pytest.mark.skipif(not heap._HAS_INFO, reason="glibc alone can say what is free")
@pytest.mark.parametrize("burst", ["in_turn", "in_threads"])
def test_what_bursts_took_is_given_back(burst: str) -> None:
    """After each of several, as large as the one before; and what several threads took."""
    ran = subprocess.run([sys.executable, str(BURSTS), burst], capture_output=True, text=True, check=True)
    kept = [int(line) for line in ran.stdout.split()]
    assert len(kept) >= 1
    assert max(kept) < 10 * MIB, kept
