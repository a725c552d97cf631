"""Times: the clock that an agent reads, and how a time is written and read.

A time is written in ISO-8601: with an offset from UTC, or in UTC without one; a date is its first moment. Inside, it is
a number of seconds since the epoch.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache


class Clock:
    """The clock of this host; an agent's parts are given one, so that a test can give them another."""

    def __init__(self) -> None:
        if type(self) is Clock:  # a request asks several times, and a function around the system's takes as long again
            self.time, self.monotonic = time.time, time.monotonic  # type: ignore[method-assign]

    def time(self) -> float:
        """Return the seconds since the epoch, by the wall clock, which can be set."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only ever grow, for durations."""
        return time.monotonic()


SYSTEM_CLOCK = Clock()


def iso_time(seconds: float) -> str:
    """Return seconds since the epoch as ISO-8601 in UTC, to the millisecond: `2026-05-01T08:00:00.000+00:00`."""
    return _iso_time(round(seconds * 1_000_000) // 1_000)


@lru_cache(maxsize=8)  # the requests of a batch are answered within one or two milliseconds
def _iso_time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="milliseconds")


def parse_time(text: str) -> datetime:
    """Return the time that a text names, with its offset; in UTC if it has none.

    Raises:
        ValueError: it names none in ISO-8601, or one outside the years 1 to 9999.
    """
    parsed = datetime.fromisoformat(text)
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    try:
        aware.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is outside the years 1 to 9999") from None
    return aware
