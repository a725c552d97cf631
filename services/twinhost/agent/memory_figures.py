"""What an agent says of its memory in its heartbeats: how much there is, whose, and of which budgets; no content."""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from twinhost.secure_zmq.wire import NAME

MOST_NAMES = 20  # of writers, of quarantined ones, and in rows of use
EVERY_S = 10.0

COUNT = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
AMOUNT = Annotated[float, msgspec.Meta(ge=0)]  # a budget may be as much as SQLite can count


class WriterFigure(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes a writer has stored."""

    name: NAME
    stored_bytes: COUNT


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How much of which limit of its budget an identity uses; `share` is `used` of `most`."""

    name: NAME
    limit: NAME
    used: AMOUNT
    most: AMOUNT
    share: AMOUNT


class HiddenWriter(msgspec.Struct, frozen=True, kw_only=True):
    """A quarantined writer, since when, and by whom."""

    name: NAME
    since: NAME
    by: NAME


class MemoryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How much is in the memory, hidden and forgotten rows too; the largest writers, and the newest quarantined ones.

    `all_writers` and `all_quarantined` count also those that are not listed. `usage` has the largest parts of budgets.
    """

    memories: COUNT
    interactions: COUNT
    sessions: COUNT
    twins: COUNT
    error_patterns: COUNT
    writers: Annotated[list[WriterFigure], msgspec.Meta(max_length=MOST_NAMES)]
    all_writers: COUNT
    quarantined: Annotated[list[HiddenWriter], msgspec.Meta(max_length=MOST_NAMES)]
    all_quarantined: COUNT
    usage: Annotated[list[Use], msgspec.Meta(max_length=MOST_NAMES)] = []


def largest(stored_bytes: Mapping[str, float]) -> list[WriterFigure]:
    """Return the writers who have stored most, the largest first."""
    most = sorted(stored_bytes.items(), key=lambda item: (-item[1], item[0]))[:MOST_NAMES]
    return [WriterFigure(name=name[:256], stored_bytes=max(0, round(size))) for name, size in most if name]


class NewestFigures:
    """The figures as they were counted last: on the thread that owns the database; for any thread to read."""

    def __init__(self, count: Callable[[], MemoryFigures], monotonic: Callable[[], float]) -> None:
        self._count, self._monotonic = count, monotonic
        self._due = monotonic()
        self.newest: MemoryFigures | None = None

    def on_tick(self) -> None:
        """Count again, every EVERY_S."""
        now = self._monotonic()
        if now >= self._due:
            self._due = now + EVERY_S
            self.newest = self._count()
