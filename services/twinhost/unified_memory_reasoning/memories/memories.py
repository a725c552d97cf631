"""The memory model: memories are stored, read, reinforced, forgotten, and merged with those of another store.

A memory belongs to its writer: others may read and reinforce it; only its writer or an operator may change or delete
it, also by a sync. `written_by` is the caller who stored the current body.
"""

import itertools
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound, NotGranted
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.model import (
    FIRST_STRENGTH,
    PASS_EVERY_S,
    Kept,
    Memory,
    deleted,
    idle_since,
    merge,
    next_pass_in_s,
    reinforced,
    same_body,
)
from twinhost.unified_memory_reasoning.memories.recall import MemoryRecall
from twinhost.unified_memory_reasoning.memories.rows import (
    MOST,
    MOST_OF_A_WRITER,
    DecayPass,
    MemoryRows,
    Place,
)
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

_WRITE_ACCESSES_EVERY_S = 5.0
_RETRY_S = 1.0  # after a failed write
_BATCH = 1_000  # memories that are written in one tick of the server: about 25 ms


class _UnderWay(NamedTuple):
    """A pass that is not finished; `next_at` (monotonic) is when the next one is due."""

    done: DecayPass
    next_at: float
    idle_since: float
    after: Place


class MemoryUpkeep:
    """The accesses that are not on disk yet, and the decay passes."""

    def __init__(self, database: Database, rows: MemoryRows) -> None:
        self._database = database
        self._rows = rows
        self._accessed: dict[str, float] = {}  # times by id
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
        """Note that memories were accessed; return them with the new time."""
        now = now_ms()
        for each in entries:
            self._accessed[each.memory.id] = max(now, each.memory.last_accessed)
        return [self.fresh(each) for each in entries]

    def fresh(self, entry: Kept) -> Kept:
        """Return a row with its access that is not on disk yet."""
        accessed = self._accessed.get(entry.memory.id)
        if accessed is None or entry.memory.deleted or accessed <= entry.memory.last_accessed:
            return entry
        memory = msgspec.structs.replace(entry.memory, last_accessed=accessed)
        return Kept(memory, entry.number, entry.written_by)

    def on_tick(self) -> None:
        """Write accesses and run a decay pass if they are due; on the thread that owns the database.

        Raises:
            StoreUnavailable: not on disk yet; the next call tries again.
        """
        self.decay_if_due()
        if time.monotonic() >= self._write_accesses_at:
            self.write_accesses()

    def decay_if_due(self) -> None:
        """Run a decay pass every 300 s: 1,000 memories in each call, so that no request waits for all.

        Raises:
            StoreUnavailable: these did not decay; the next call tries again.
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
            part = self._rows.decay(begun.idle_since, begun.after, _BATCH, self._accessed)
            done = DecayPass(begun.done.ran, begun.done.decayed + part.decayed, begun.done.forgotten + part.forgotten)
            self._rows.note_pass(done)
        self._last_pass = done
        if part.end is None:
            self._under_way, self._decay_at = None, begun.next_at
        else:
            self._under_way, self._decay_at = begun._replace(done=done, after=part.end), clock

    def write_accesses(self) -> None:
        """Write when memories were last accessed, 1,000 of them in each call.

        Raises:
            StoreUnavailable: not on disk yet; the next call tries again.
        """
        self._write_accesses_at = time.monotonic() + _RETRY_S
        some = list(itertools.islice(self._accessed.items(), _BATCH))
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
    """Return seconds since the epoch in whole milliseconds, as on the wire."""
    return round(time.time(), 3)


_ONE_MS = 0.001  # times are whole milliseconds, as on the wire


Outcome = Literal["added", "changed", "unchanged", "refused"]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a memory to store; None: unchanged, or the default if the memory is new."""

    content: str
    keywords: tuple[str, ...] | None = None
    source: str | None = None
    strength: float | None = None


class Merged(msgspec.Struct, frozen=True):
    """The outcome of one record of a sync: what is stored now, and whether it is visible."""

    kept: Kept
    outcome: Outcome
    visible: bool


class Memories:
    """Memories by id."""

    def __init__(self, database: Database, *, most: int = MOST, most_of_a_writer: int = MOST_OF_A_WRITER) -> None:
        self._quarantine = Quarantine(database)
        self._rows = MemoryRows(database, most, most_of_a_writer)
        self.upkeep = MemoryUpkeep(database, self._rows)
        self.recall = MemoryRecall(database, self._rows, self.upkeep.fresh)

    @property
    def count(self) -> int:
        """The number of memories, forgotten ones too; kept in memory, for any thread to read."""
        return self._rows.count

    def put(self, memory_id: str | None, changes: Changes, caller: Caller) -> tuple[Kept, bool]:
        """Store a memory, with a new id if none is given; return it, and whether it is new.

        Raises:
            NotGranted: the memory belongs to another caller.
            LimitReached: there are too many memories, or too many of this writer.
        """
        now = now_ms()
        before = self._find(memory_id) if memory_id is not None else None
        if before is None or before.memory.deleted:
            memory = Memory(
                id=memory_id if memory_id is not None else uuid.uuid4().hex,
                content=changes.content,
                keywords=changes.keywords or (),
                source=changes.source or "",
                strength=FIRST_STRENGTH if changes.strength is None else changes.strength,
                created=now,
                last_accessed=now,
                revised=_after(before, now),
            )
            return self._write(memory, caller, before), True
        self._require_writer(before, caller)
        was = before.memory
        kept_strength = FIRST_STRENGTH if was.forgotten else was.strength
        memory = msgspec.structs.replace(
            was,
            content=changes.content,
            keywords=was.keywords if changes.keywords is None else changes.keywords,
            source=was.source if changes.source is None else changes.source,
            strength=kept_strength if changes.strength is None else changes.strength,
            last_accessed=max(now, was.last_accessed),
            revised=_after(before, now),
        )
        return self._write(memory, caller, before), False

    def find(self, memory_id: str) -> Kept:
        """Return a memory, also a forgotten one.

        Raises:
            NotFound: there is none, or its writer is quarantined.
        """
        found = self._find(memory_id)
        if found is None or found.memory.deleted or self._hidden(found):
            raise NotFound(f"there is no memory {memory_id[:64]!r}; `store_memory` stores one")
        return found

    def reinforce(self, memory_id: str) -> tuple[Kept, bool]:
        """Make a memory stronger; return it, and whether it had been forgotten.

        Raises:
            NotFound: there is none, or its writer is quarantined.
        """
        before = self.find(memory_id)
        was = before.memory
        memory = msgspec.structs.replace(
            was, strength=reinforced(was.strength), last_accessed=max(now_ms(), was.last_accessed)
        )
        return self._rows.write(memory, before.written_by, before), was.forgotten

    def remove(self, memory_id: str, caller: Caller) -> None:
        """Delete a memory; a tombstone without its body stays.

        Raises:
            NotFound: there is none.
            NotGranted: it belongs to another caller.
        """
        before = self._find(memory_id)
        if before is None or before.memory.deleted or (self._hidden(before) and not caller.operator):
            raise NotFound(f"there is no memory {memory_id[:64]!r} to delete; `query_memory` lists them")
        self._require_writer(before, caller)
        self._write(deleted(before.memory, max(now_ms(), before.memory.revised)), caller, before)

    def merge(self, records: Sequence[Memory], caller: Caller) -> list[Merged]:
        """Merge another store's records into this one; the n-th result is for the n-th record.

        To another writer's memory, any caller may add a newer access and a greater strength; a record that would change
        more is refused, unless an operator sends it.

        Raises:
            LimitReached: there would be too many memories; nothing is merged.
        """
        return [self._merge(record, caller) for record in records]

    def _merge(self, record: Memory, caller: Caller) -> Merged:
        before = self._find(record.id)
        if before is None:
            return self._merged(self._write(record, caller, None), "added")
        was, merged = before.memory, merge(before.memory, record)
        if merged == was:
            return self._merged(before, "unchanged")
        updated = not same_body(merged, was)
        if (updated or merged.created != was.created) and not _may_change(before, caller):
            return self._merged(before, "refused")
        if updated:
            return self._merged(self._write(merged, caller, before), "changed")
        return self._merged(self._rows.write(merged, before.written_by, before), "changed")

    def _write(self, memory: Memory, caller: Caller, before: Kept | None) -> Kept:
        return self._rows.write(memory, caller.name, before, of_an_operator=caller.operator)

    def _merged(self, entry: Kept, outcome: Outcome) -> Merged:
        return Merged(entry, outcome, not self._hidden(entry))

    def _find(self, memory_id: str) -> Kept | None:
        found = self._rows.find(memory_id)
        return self.upkeep.fresh(found) if found is not None else None

    def _hidden(self, entry: Kept) -> bool:
        return self._quarantine.hides(entry.written_by)

    def _require_writer(self, entry: Kept, caller: Caller) -> None:
        if not _may_change(entry, caller):
            raise NotGranted(
                f"memory {entry.memory.id[:64]!r} belongs to another caller; ask its writer or an operator to change "
                "or delete it"
            )


def _may_change(entry: Kept, caller: Caller) -> bool:
    return entry.written_by == caller.name or caller.operator


def _after(before: Kept | None, now: float) -> float:
    """Return a time after the previous revision, also if the clock was set back since."""
    return now if before is None else max(now, round(before.memory.revised + _ONE_MS, 3))
