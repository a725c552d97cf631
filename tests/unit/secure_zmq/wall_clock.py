"""The clock by which keys begin and end, for a test to set."""

import time

import pytest

from twinhost.moments import Clock

NOW = 1_800_000_000  # some moment of 2027


class WallClock(Clock):
    """The time module as the list of keys sees it; it is fixed until a test sets it."""

    def __init__(self) -> None:
        self.now: float = NOW

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()


def set_clock(monkeypatch: pytest.MonkeyPatch, *modules: str) -> WallClock:
    """Put one clock into modules, by name."""
    clock = WallClock()
    for module in modules:
        monkeypatch.setattr(f"{module}.time", clock)
    return clock
