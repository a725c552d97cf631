"""The memory model: memories are stored, read, reinforced, forgotten, and merged with those of another store.

A memory belongs to its writer: others may read and reinforce it; only its writer or an operator may change or delete
it, also by a sync. `written_by` is the caller who stored the current body.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotFound, NotGranted
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.audit import BriefMemory, MemoryAudit
from twinhost.unified_memory_reasoning.memories.details import NONE, Details
from twinhost.unified_memory_reasoning.memories.model import (
    BY_DAYS,
    FIRST_STRENGTH,
    Fading,
    Kept,
    Memory,
    deleted,
    folded_key,
    merge,
    reinforced,
    same_body,
)
from twinhost.unified_memory_reasoning.memories.recall import MemoryRecall
from twinhost.unified_memory_reasoning.memories.rows import MOST, MOST_OF_A_WRITER, MemoryRows
from twinhost.unified_memory_reasoning.memories.upkeep import MemoryUpkeep, now_ms
from twinhost.unified_memory_reasoning.memories.validity import Validity
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

_ONE_MS = 0.001  # times are whole milliseconds, as on the wire

Outcome = Literal["added", "changed", "unchanged", "refused"]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a memory to store; None: unchanged, or the default if the memory is new."""

    content: str
    keywords: tuple[str, ...] | None = None
    source: str | None = None
    strength: float | None = None
    details: dict[str, Any] = {}  # by name; only those that were given


class Put(NamedTuple):
    """A stored memory, whether it is new, and the memories that it contradicts."""

    entry: Kept
    new: bool
    conflicts: list[BriefMemory]


class Merged(msgspec.Struct, frozen=True):
    """The outcome of one record of a sync: what is stored now, and whether it is visible."""

    kept: Kept
    outcome: Outcome
    visible: bool


class Memories:
    """Memories by id."""

    def __init__(
        self,
        database: Database,
        fading: Fading = BY_DAYS,
        *,
        most: int = MOST,
        most_of_a_writer: int = MOST_OF_A_WRITER,
    ) -> None:
        self.fading = fading
        self.validity = Validity(database)
        self.validity.fold_keys()
        self.audit = MemoryAudit(database, self.validity)
        self._quarantine = Quarantine(database)
        self._rows = MemoryRows(database, most, most_of_a_writer, lambda memory: fading.forgotten(memory, now_ms()))
        self.upkeep = MemoryUpkeep(database, self._rows, fading, self.audit)
        self.recall = MemoryRecall(database, self._rows, self.upkeep.fresh, fading)
        self.upkeep.recover_by_rule()

    @property
    def count(self) -> int:
        """The number of memories, forgotten ones too; kept in memory, for any thread to read."""
        return self._rows.count

    def put(self, memory_id: str | None, changes: Changes, caller: Caller) -> Put:
        """Store a memory, with a new id if none is given.

        Raises:
            MalformedRequest: it would end before it begins, or supersede itself, also through others.
            NotFound: a memory that it newly supersedes doesn't exist, or its writer is quarantined.
            NotGranted: the memory belongs to another caller.
            LimitReached: there are too many memories, or too many of this writer.
        """
        now = now_ms()
        before = self._find(memory_id) if memory_id is not None else None
        if before is None or before.memory.deleted:
            details = self._details(NONE, changes.details, now)
            memory = _new(memory_id, changes, details, now, _after(before, now))
            return self._put(memory, caller, before, new=True)
        self._require_writer(before, caller)
        was = before.memory
        kept_strength = FIRST_STRENGTH if self.fading.forgotten(was, now) else was.strength
        memory = msgspec.structs.replace(
            was,
            content=changes.content,
            keywords=was.keywords if changes.keywords is None else changes.keywords,
            source=was.source if changes.source is None else changes.source,
            strength=kept_strength if changes.strength is None else changes.strength,
            last_accessed=max(now, was.last_accessed),
            revised=_after(before, now),
            details=self._details(was.details, changes.details, now),
        )
        return self._put(memory, caller, before, new=False)

    def add(self, several: Sequence[Changes], caller: Caller) -> list[str]:
        """Store memories, each with a new id, and return their ids.

        Raises:
            LimitReached: there would be too many memories, or too many of this writer; none is stored.
        """
        now = now_ms()
        starts: dict[str | None, float] = {}  # of the last value of each key
        memories: list[Memory] = []
        for changes in several:
            details = self._details(NONE, changes.details, now)
            if (key := folded_key(details.key)) is not None and details.valid_from is not None:
                start = max(details.valid_from, round(starts.get(key, 0.0) + _ONE_MS, 3))
                starts[key] = start
                details = msgspec.structs.replace(details, valid_from=start) if start != details.valid_from else details
            memories.append(_new(None, changes, details, now, now))
        numbers = self._rows.insert(memories, caller.name, of_an_operator=caller.operator)
        self.audit.mark_new(
            (number, each.details.key, each.content) for number, each in zip(numbers, memories, strict=True)
        )
        return [each.id for each in memories]

    def find(self, memory_id: str) -> Kept:
        """Return a memory, also a forgotten one.

        Raises:
            NotFound: there is none, or its writer is quarantined.
        """
        if (found := self._visible(memory_id)) is None:
            raise NotFound(f"there is no memory {memory_id[:64]!r}; `store_memory` stores one")
        return found

    def valid_at(self, key: str | None, memory_id: str, moment: float) -> Kept:
        """Return the value of a key, or of a memory's history, that was valid at a time; also a forgotten one.

        Raises:
            NotFound: there was none.
        """
        found = self._rows.read(self.validity.valid_at(key, memory_id, moment))
        if found is None:
            raise NotFound("the memory was deleted; `memory_history` lists what is left")
        return self.upkeep.fresh(found)

    def history(self, key: str | None, memory_id: str | None, limit: int, skip: int) -> list[Kept]:
        """Return the values of a key, or the memories that supersede each other, in the order of their validity.

        Raises:
            NotFound: there are none.
        """
        if key is None:
            key = self.find(memory_id or "").memory.details.key
        numbers = self.validity.history(key, memory_id or "", limit, skip)
        if not numbers and not skip:
            raise NotFound(f"no value of the key {(key or '')[:64]!r} is stored; `store_memory` stores one")
        return [self.upkeep.fresh(each) for each in map(self._rows.read, numbers) if each is not None]

    def reinforce(self, memory_id: str, caller: Caller, pin: bool | None = None) -> tuple[Kept, bool]:
        """Make a memory stronger, and pin or unpin it; return it, and whether it had been forgotten.

        Raises:
            NotFound: there is none, or its writer is quarantined.
            NotGranted: it would be pinned or unpinned, and belongs to another caller.
        """
        before = self.find(memory_id)
        was, now = before.memory, now_ms()
        memory = msgspec.structs.replace(
            was, strength=reinforced(was.strength), last_accessed=max(now, was.last_accessed)
        )
        if pin is not None and pin != was.details.pinned:
            self._require_writer(before, caller)
            details = msgspec.structs.replace(was.details, pinned=pin)
            memory = msgspec.structs.replace(memory, details=details, revised=_after(before, now))
        return self._rows.write(memory, before.written_by, before), self.fading.forgotten(was, now)

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

    def _put(self, memory: Memory, caller: Caller, before: Kept | None, *, new: bool) -> Put:
        details = memory.details
        if details.valid_until is not None and details.valid_until <= memory.starts:
            raise MalformedRequest("the memory would end before it begins; give a later time - at `$.valid_until`")
        if memory.id in details.supersedes:
            raise MalformedRequest("a memory can't supersede itself; name other memories - at `$.supersedes`")
        known = () if before is None else before.memory.details.supersedes
        added = [each for each in details.supersedes if each not in known]
        later = self.validity.later(memory.id) if added else set()
        for superseded in added:
            if self._visible(superseded) is None:
                raise NotFound(
                    f"there is no memory {superseded[:64]!r} to supersede; `query_memory` lists them - "
                    "at `$.supersedes`"
                )
            if superseded in later:
                raise MalformedRequest(
                    f"memory {superseded[:64]!r} already supersedes this one, so neither would be valid; store the new "
                    "value under another id - at `$.supersedes`"
                )
        entry = self._write(memory, caller, before)
        return Put(entry, new, [] if self._hidden(entry) else self.audit.conflicts(entry.number, memory))

    def _details(self, was: Details, given: dict[str, Any], now: float) -> Details:
        """Return the details after a change; the value of a key, or what supersedes another, begins at some time."""
        details = msgspec.structs.replace(was, **given)
        begins = folded_key(details.key) != folded_key(was.key) or details.supersedes != was.supersedes
        if "valid_from" in given or not begins:
            return details
        if details.occurred_at is None:
            start = now if details.key is None else self.validity.free_start(details.key, now)
        else:
            start = details.occurred_at
        return msgspec.structs.replace(details, valid_from=start)

    def _write(self, memory: Memory, caller: Caller, before: Kept | None) -> Kept:
        entry = self._rows.write(memory, caller.name, before, of_an_operator=caller.operator)
        if not memory.deleted:
            if before is not None and not before.memory.deleted:
                self.audit.forget(entry.number)
            self.audit.mark_new([(entry.number, memory.details.key, memory.content)])
        return entry

    def _merged(self, entry: Kept, outcome: Outcome) -> Merged:
        return Merged(entry, outcome, not self._hidden(entry))

    def _find(self, memory_id: str) -> Kept | None:
        found = self._rows.find(memory_id)
        return self.upkeep.fresh(found) if found is not None else None

    def _visible(self, memory_id: str) -> Kept | None:
        found = self._find(memory_id)
        return None if found is None or found.memory.deleted or self._hidden(found) else found

    def _hidden(self, entry: Kept) -> bool:
        return self._quarantine.hides(entry.written_by)

    def _require_writer(self, entry: Kept, caller: Caller) -> None:
        if not _may_change(entry, caller):
            raise NotGranted(
                f"memory {entry.memory.id[:64]!r} belongs to another caller; ask its writer or an operator to change "
                "or delete it"
            )


def _new(memory_id: str | None, changes: Changes, details: Details, now: float, revised: float) -> Memory:
    return Memory(
        id=_new_id(now) if memory_id is None else memory_id,
        content=changes.content,
        keywords=changes.keywords or (),
        source=changes.source or "",
        strength=FIRST_STRENGTH if changes.strength is None else changes.strength,
        created=now,
        last_accessed=now,
        revised=revised,
        details=details,
    )


def _new_id(now: float) -> str:
    """Return an id that is after earlier ones: three indexes have it, and each grows at its end."""
    return f"{round(now * 1_000):012x}{secrets.token_hex(10)}"


def _may_change(entry: Kept, caller: Caller) -> bool:
    return entry.written_by == caller.name or caller.operator


def _after(before: Kept | None, now: float) -> float:
    """Return a time after the previous revision, also if the clock was set back since."""
    return now if before is None else max(now, round(before.memory.revised + _ONE_MS, 3))
