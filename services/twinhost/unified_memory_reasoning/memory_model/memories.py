"""The memory model: memories that are told, asked for, reinforced, forgotten, and shared with another store.

A memory is its writer's: another may read and reinforce it, and only its writer or an operator changes or deletes
it, by a sync neither. `written_by` is who told the body that stands.
"""

import uuid
from collections.abc import Sequence
from typing import Literal

import msgspec

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound, NotGranted
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.keeping.quarantine import VISIBLE
from twinhost.unified_memory_reasoning.memory_model.memory_decay import FIRST_STRENGTH, reinforced
from twinhost.unified_memory_reasoning.memory_model.memory_merge import Memory, deleted, merge, same_body
from twinhost.unified_memory_reasoning.memory_model.memory_recall import MemoryRecall
from twinhost.unified_memory_reasoning.memory_model.memory_rows import MIGRATION, MOST, MOST_OF_A_WRITER, MemoryRows
from twinhost.unified_memory_reasoning.memory_model.memory_upkeep import MemoryUpkeep, now_ms
from twinhost.unified_memory_reasoning.memory_model.stored_memory import Kept

__all__ = ["MIGRATION", "Memories", "Merged", "Told"]

_ONE_MS = 0.001  # moments are whole milliseconds, as they stand on the wire


Outcome = Literal["added", "changed", "unchanged", "refused"]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller says of a memory; None: as it is, or nothing where it is new."""

    content: str
    keywords: tuple[str, ...] | None = None
    source: str | None = None
    strength: float | None = None


class Merged(msgspec.Struct, frozen=True):
    """What became of one record of a sync: what is stored now, and whether a reader may see it."""

    kept: Kept
    outcome: Outcome
    visible: bool


class Memories:
    """Memories by id."""

    def __init__(self, database: Database, *, most: int = MOST, most_of_a_writer: int = MOST_OF_A_WRITER) -> None:
        self._database = database
        self._rows = MemoryRows(database, most, most_of_a_writer)
        self.upkeep = MemoryUpkeep(database, self._rows)
        self.recall = MemoryRecall(database, self.upkeep.fresh)

    @property
    def count(self) -> int:
        """The number of memories, forgotten ones too; kept in memory, for any thread to read."""
        return self._rows.count

    def put(self, memory_id: str | None, told: Told, caller: Caller) -> tuple[Kept, bool]:
        """Store a memory, under an id of its own where none is given; return it, and whether it is new.

        Raises:
            NotGranted: the id is another's.
            LimitReached: there are as many as may be, of everybody or of this writer.
        """
        now = now_ms()
        before = self._find(memory_id) if memory_id is not None else None
        if before is None or before.memory.deleted:
            memory = Memory(
                id=memory_id if memory_id is not None else uuid.uuid4().hex,
                content=told.content,
                keywords=told.keywords or (),
                source=told.source or "",
                strength=FIRST_STRENGTH if told.strength is None else told.strength,
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
            content=told.content,
            keywords=was.keywords if told.keywords is None else told.keywords,
            source=was.source if told.source is None else told.source,
            strength=kept_strength if told.strength is None else told.strength,
            last_accessed=max(now, was.last_accessed),
            revised=_after(before, now),
        )
        return self._write(memory, caller, before), False

    def find(self, memory_id: str) -> Kept:
        """Return a memory, a forgotten one too.

        Raises:
            NotFound: there is none, or its writer is in quarantine.
        """
        found = self._find(memory_id)
        if found is None or found.memory.deleted or self._hidden(found):
            raise NotFound(f"there is no memory {memory_id[:64]!r}; `store_memory` stores one")
        return found

    def reinforce(self, memory_id: str) -> tuple[Kept, bool]:
        """Make a memory stronger; return it, and whether it had been forgotten.

        Raises:
            NotFound: there is none, or its writer is in quarantine.
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
            NotGranted: it is another's.
        """
        before = self._find(memory_id)
        if before is None or before.memory.deleted or (self._hidden(before) and not caller.operator):
            raise NotFound(f"there is no memory {memory_id[:64]!r} to delete; `query_memory` tells which there are")
        self._require_writer(before, caller)
        self._write(deleted(before.memory, max(now_ms(), before.memory.revised)), caller, before)

    def merge(self, records: Sequence[Memory], caller: Caller) -> list[Merged]:
        """Merge another store's records into this one's; the n-th result is of the n-th record.

        Of a memory of another writer, the newer access and the greater strength are taken from anybody; a record
        that would change more of it is refused, unless an operator tells it.

        Raises:
            LimitReached: there would be more than may be; nothing is merged.
        """
        return [self._merge(record, caller) for record in records]

    def _merge(self, record: Memory, caller: Caller) -> Merged:
        before = self._find(record.id)
        if before is None:
            return self._merged(self._write(record, caller, None), "added")
        was, merged = before.memory, merge(before.memory, record)
        if merged == was:
            return self._merged(before, "unchanged")
        told_anew = not same_body(merged, was)
        if (told_anew or merged.created != was.created) and not _may_change(before, caller):
            return self._merged(before, "refused")
        if told_anew:
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
        sql = f"SELECT {VISIBLE} FROM (SELECT ? AS written_by)"  # noqa: S608 - a constant
        return not self._database.execute(sql, (entry.written_by,)).fetchone()[0]

    def _require_writer(self, entry: Kept, caller: Caller) -> None:
        if not _may_change(entry, caller):
            raise NotGranted(
                f"memory {entry.memory.id[:64]!r} is another's; only its writer or an operator may change or delete it"
            )


def _may_change(entry: Kept, caller: Caller) -> bool:
    return entry.written_by == caller.name or caller.operator


def _after(before: Kept | None, now: float) -> float:
    """Return a moment that stands above what was told before, also where the clock was set back since."""
    return now if before is None else max(now, round(before.memory.revised + _ONE_MS, 3))
