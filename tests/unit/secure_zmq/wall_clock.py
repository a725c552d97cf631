"""Clocks for a test to set: the one by which keys begin and end, and monotonic ones."""

import time

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


class StandingClock(Clock):
    """A monotonic clock that stands until a test moves it."""

    elapsed = 1_000.0

    def monotonic(self) -> float:
        return self.elapsed


class LeapingClock(StandingClock):
    """A monotonic clock by which a second passes between two looks at it."""

    def monotonic(self) -> float:
        self.elapsed += 1.0
        return self.elapsed
