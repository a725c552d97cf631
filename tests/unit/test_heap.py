"""Freed memory is given back once there is much of it, and not again before more has been freed."""

import pytest

from twinhost import heap

MIB = 2**20


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often memory was given back; `free` of it is what glibc says."""
    times: list[int] = []
    monkeypatch.setattr(heap, "_HAS_INFO", True)
    monkeypatch.setattr(heap, "give_back", lambda: times.append(1))
    return times


def test_much_that_is_freed_is_given_back_once(given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given back still counts as free, until it is used again."""
    tended = heap.Heap()
    for number, (free, times) in enumerate(((1, 0), (20, 1), (20, 1), (21, 1), (2, 1), (30, 2))):
        monkeypatch.setattr(heap, "_free_bytes", lambda free=free: free * MIB)
        tended.on_tick(10.0 * number)
        assert len(given) == times, (number, free)


def test_it_is_looked_at_every_few_seconds(given: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tended = heap.Heap()
    monkeypatch.setattr(heap, "_free_bytes", lambda: MIB)
    tended.on_tick(0.0)
    monkeypatch.setattr(heap, "_free_bytes", lambda: 100 * MIB)
    tended.on_tick(1.0)
    assert not given
    tended.on_tick(6.0)
    assert given
