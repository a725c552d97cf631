"""What is done to memories when nobody asks: accesses are written, and idle ones fade.

To be asked for is to be accessed. That is noted in memory and written every 5 s, so that a read waits for no disk;
a crash loses 5 s of it at most, and nothing else. The rhythm of the passes follows the monotonic clock, and over a
restart the wall clock; how long a memory was idle follows the wall clock.
"""

import itertools
import time
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memory_model.memory_decay import PASS_EVERY_S, idle_since, next_pass_in_s
from twinhost.unified_memory_reasoning.memory_model.memory_rows import DecayPass, MemoryRows, Place
from twinhost.unified_memory_reasoning.memory_model.stored_memory import Kept

_WRITE_ACCESSES_EVERY_S = 5.0
_RETRY_S = 1.0  # until what could not be written is tried again
_AT_ONCE = 1_000  # memories that are written between two turns of the server: some 25 ms


class _UnderWay(NamedTuple):
    """A pass that is not through yet; `next_at`: monotonic, when the one after it is due."""

    done: DecayPass
    next_at: float
    idle_since: float
    after: Place


class MemoryUpkeep:
    """The accesses that are not on disk yet, and the decay passes."""

    def __init__(self, database: Database, rows: MemoryRows) -> None:
        self._database = database
        self._rows = rows
        self._accessed: dict[str, float] = {}  # moments by id
        self._last_pass = rows.last_pass()
        self._under_way: _UnderWay | None = None
        clock = time.monotonic()
        ran = self._last_pass.ran if self._last_pass is not None else None
        self._decay_at = clock + next_pass_in_s(ran, time.time())
        self._write_accesses_at = clock + _WRITE_ACCESSES_EVERY_S

    @property
    def last_pass(self) -> DecayPass | None:
        """What the last decay pass did; None before the first."""
        return self._last_pass

    def access(self, entries: Iterable[Kept]) -> list[Kept]:
        """Note that memories were asked for; return them as they are then."""
        now = now_ms()
        for each in entries:
            self._accessed[each.memory.id] = max(now, each.memory.last_accessed)
        return [self.fresh(each) for each in entries]

    def fresh(self, entry: Kept) -> Kept:
        """Return a row as it is with the access that is not on disk yet."""
        accessed = self._accessed.get(entry.memory.id)
        if accessed is None or entry.memory.deleted or accessed <= entry.memory.last_accessed:
            return entry
        memory = msgspec.structs.replace(entry.memory, last_accessed=accessed)
        return Kept(memory, entry.number, entry.written_by)

    def on_tick(self) -> None:
        """Write accesses and let memories fade, where that is due; on the thread that owns the database.

        Raises:
            StoreUnavailable: not on disk yet; it is tried again.
        """
        self.decay_if_due()
        if time.monotonic() >= self._write_accesses_at:
            self.write_accesses()

    def decay_if_due(self) -> None:
        """Let idle memories fade, once in 300 s: 1,000 of them at each call, so that no request waits for all.

        Raises:
            StoreUnavailable: these have not faded; it is tried again.
        """
        clock = time.monotonic()
        if clock < self._decay_at:
            return
        self._decay_at = clock + _RETRY_S
        if self._under_way is None:
            now = now_ms()
            self._under_way = _UnderWay(DecayPass(now), clock + PASS_EVERY_S, idle_since(now), (-1.0, 0))
        begun = self._under_way
        with self._database.transaction():
            part = self._rows.decay(begun.idle_since, begun.after, _AT_ONCE, self._accessed)
            done = DecayPass(begun.done.ran, begun.done.decayed + part.decayed, begun.done.forgotten + part.forgotten)
            self._rows.note_pass(done)
        self._last_pass = done
        if part.end is None:
            self._under_way, self._decay_at = None, begun.next_at
        else:
            self._under_way, self._decay_at = begun._replace(done=done, after=part.end), clock

    def write_accesses(self) -> None:
        """Write when memories were accessed last, 1,000 of them at each call.

        Raises:
            StoreUnavailable: not on disk yet; it is tried again.
        """
        self._write_accesses_at = time.monotonic() + _RETRY_S
        some = list(itertools.islice(self._accessed.items(), _AT_ONCE))
        if some:
            with self._database.transaction():
                self._rows.touch(some)
            for memory_id, _ in some:
                del self._accessed[memory_id]
        self._write_accesses_at = time.monotonic() + (0.0 if self._accessed else _WRITE_ACCESSES_EVERY_S)

    def on_stop(self) -> None:
        """Write all accesses, before the database is closed.

        Raises:
            StoreUnavailable: the rest is lost.
        """
        while self._accessed:
            self.write_accesses()


def now_ms() -> float:
    """Return seconds since the epoch in whole milliseconds, as moments stand on the wire."""
    return round(time.time(), 3)
