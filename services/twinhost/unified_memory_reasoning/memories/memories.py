"""The memory model: memories are stored, read, reinforced, forgotten, and merged with those of another store.

A memory belongs to its writer: others may read and reinforce it; only its writer or an operator may change or delete
it, also by a sync. `written_by` is the caller who stored the current body.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from twinhost.secure_zmq.actions import InParts
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.audit import Audited, BriefMemory, MemoryAudit
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
    now_ms,
    reinforced,
    same_body,
)
from twinhost.unified_memory_reasoning.memories.recall import MemoryReads
from twinhost.unified_memory_reasoning.memories.rows import MOST, MOST_OF_A_WRITER, MemoryRows
from twinhost.unified_memory_reasoning.memories.upkeep import MemoryUpkeep
from twinhost.unified_memory_reasoning.memories.validity import NO_END, End, Validity
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine, with_one_view

_FREE_ID = "choose another id, or leave it out to get a new one"
_ONE_MS = 0.001  # times are whole milliseconds, as on the wire

T = TypeVar("T")
MergeOutcome = Literal["added", "changed", "unchanged", "refused"]


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a memory to store; None: unchanged, or the default if the memory is new."""

    content: str
    keywords: tuple[str, ...] | None = None
    source: str | None = None
    strength: float | None = None
    details: dict[str, Any] = {}  # by name; only those that were given


class Put(NamedTuple):
    """A stored memory, whether it is new, the memories that it contradicts, and who has another value of its key."""

    entry: Kept
    new: bool
    conflicts: list[BriefMemory]
    disputed_by: Sequence[str]


class Merged(msgspec.Struct, frozen=True):
    """The outcome of one record of a sync: what is stored now, or the record if nothing is."""

    kept: Kept
    outcome: MergeOutcome
    stored: bool = True


class Present(NamedTuple):
    """A memory as it is now: when it ceases to be valid, how strong it is, and whether it is forgotten."""

    entry: Kept
    end: End
    strength: float
    forgotten: bool


class Memories(MemoryReads):
    """Memories by id."""

    def __init__(
        self,
        database: Database,
        fading: Fading = BY_DAYS,
        *,
        most: int = MOST,
        most_of_a_writer: int = MOST_OF_A_WRITER,
    ) -> None:
        self._validity = Validity(database)
        self._validity.fold_keys()
        self._audit = MemoryAudit(database, self._validity)
        self._quarantine = Quarantine(database)
        rows = MemoryRows(
            database, most, most_of_a_writer, lambda memory: fading.forgotten(memory, now_ms(database.clock))
        )
        super().__init__(database, rows, MemoryUpkeep(database, rows, fading, self._audit), fading)
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
        now = now_ms(self.clock)
        before = self._find(memory_id) if memory_id is not None else None
        if before is None or before.memory.deleted:
            details = self._details(NONE, changes.details, now)
            memory = _new(memory_id, changes, details, now, _after(before, now))
            return self._put(memory, caller, before, new=True)
        caller.require_own(f"memory {before.memory.id[:64]!r}", before.written_by, instead=_FREE_ID)
        was = before.memory
        kept_strength = FIRST_STRENGTH if self._fading.forgotten(was, now) else was.strength
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

    def add(self, several: Sequence[Changes], caller: Caller, marks: Mapping[str, list[str]]) -> list[str]:
        """Store memories, each with a new id, and return their ids; `marks` are those of their texts (see `audit`).

        Raises:
            LimitReached: there would be too many memories, or too many of this writer; none is stored.
        """
        self._rows.require_room(caller.name, len(several), of_an_operator=caller.operator)  # before any work on them
        now = now_ms(self.clock)
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
        self._audit.mark_new(
            [(number, memory.details.key, memory.content) for number, memory in zip(numbers, memories, strict=True)],
            marks,
        )
        return [memory.id for memory in memories]

    def get(self, key: str | None, memory_id: str, moment: float | None = None, reader: str | None = None) -> Kept:
        """Return a memory, or the value of its key or its history at a time; unless it is forgotten, it is accessed.

        Args:
            key: whose value; None if the memory is named by its id.
            memory_id: the id, if there is no key.
            moment: the time; None: now, or what has the id.
            reader: a writer whose own value of the key, if it has one now, goes before those of others.

        Raises:
            NotFound: there is none, or its writer is quarantined.
        """
        if key is None and moment is None:
            entry = self.find(memory_id)
        else:
            known = self.find(memory_id).memory.details.key if key is None else key
            if moment is not None:
                reader = None
            entry = self._valid_at(known, memory_id, now_ms(self.clock) if moment is None else moment, reader)
        return self.upkeep.access([entry])[0]

    def present(self, entries: Iterable[Kept]) -> list[Present]:
        """Return memories as they are now."""
        kept, now = list(entries), self.clock.time()
        ends = self._validity.ends(entry.number for entry in kept if not entry.memory.deleted)
        return [
            Present(
                entry,
                NO_END if entry.memory.deleted else ends.get(entry.number, NO_END),
                self._fading.strength(
                    entry.memory.strength, entry.memory.last_accessed, now, pinned=entry.memory.details.pinned
                ),
                self._fading.forgotten(entry.memory, now),
            )
            for entry in kept
        ]

    def audit(self, limit: int) -> InParts[Audited]:
        """Return the memories that need attention, in lists of at most `limit` entries."""
        return self.with_one_view(lambda: self._audit.lists(limit))

    def find(self, memory_id: str) -> Kept:
        """Return a memory, also a forgotten one.

        Raises:
            NotFound: there is none, or its writer is quarantined.
        """
        if (entry := self._visible(memory_id)) is None:
            raise NotFound(f"there is no memory {memory_id[:64]!r}; `store_memory` stores one")
        return entry

    def _valid_at(self, key: str | None, memory_id: str, moment: float, reader: str | None) -> Kept:
        """Return the value of a key, or of a memory's history, that was valid at a time; also a forgotten one.

        A reader's own value of a key goes before the others'.

        Raises:
            NotFound: there was none.
        """
        entry = self._rows.read(self._validity.valid_at(key, memory_id, moment, reader))
        if entry is None:
            raise NotFound("the memory was deleted; `memory_history` lists what is left")
        return self.upkeep.fresh(entry)

    def history(self, key: str | None, memory_id: str | None, limit: int, skip: int) -> list[Kept]:
        """Return the values of a key, or the memories that supersede each other, in the order of their validity.

        Raises:
            NotFound: there are none.
        """
        if key is None:
            key = self.find(memory_id or "").memory.details.key
        numbers = self._validity.history(key, memory_id or "", limit, skip)
        if not numbers and not skip:
            raise NotFound(f"no value of the key {(key or '')[:64]!r} is stored; `store_memory` stores one")
        return [self.upkeep.fresh(entry) for entry in map(self._rows.read, numbers) if entry is not None]

    def reinforce(self, memory_id: str, caller: Caller, pin: bool | None = None) -> tuple[Present, bool]:
        """Make a memory stronger, and pin or unpin it; return it, and whether it had been forgotten.

        Raises:
            NotFound: there is none, or its writer is quarantined.
            NotGranted: it belongs to another caller, and would be pinned or unpinned, or the grant is limited.
        """
        before = self.find(memory_id)
        caller.require_change(f"memory {memory_id[:64]!r}", before.written_by)
        was, now = before.memory, now_ms(self.clock)
        memory = msgspec.structs.replace(
            was, strength=reinforced(was.strength), last_accessed=max(now, was.last_accessed)
        )
        if pin is not None and pin != was.details.pinned:
            _require_writer(before, caller)
            details = msgspec.structs.replace(was.details, pinned=pin)
            memory = msgspec.structs.replace(memory, details=details, revised=_after(before, now))
        (present,) = self.present([self._rows.write(memory, before.written_by, before)])
        return present, self._fading.forgotten(was, now)

    def restore(self, memory_id: str, caller: Caller) -> Kept:
        """Let nobody end a memory any more but its writer and operators; return it.

        Raises:
            NotFound: there is none, or its writer is quarantined.
            NotGranted: it belongs to another caller.
        """
        entry = self.find(memory_id)
        _require_writer(entry, caller)
        self._validity.restore(entry.number)
        return entry

    def remove(self, memory_id: str, caller: Caller) -> None:
        """Delete a memory; a tombstone without its body stays.

        Raises:
            NotFound: there is none.
            NotGranted: it belongs to another caller.
        """
        before = self._find(memory_id)
        if before is None or before.memory.deleted or (self._hidden(before) and not caller.operator):
            raise NotFound(f"there is no memory {memory_id[:64]!r} to delete; `query_memory` lists them")
        _require_writer(before, caller)
        self._write(deleted(before.memory, max(now_ms(self.clock), before.memory.revised)), caller, before)

    def merge(self, records: Sequence[Memory], caller: Caller) -> InParts[list[Merged]]:
        """Merge another store's records into this one, one in each part; the n-th result is for the n-th record.

        To another writer's memory, any caller may add a newer access and a greater strength; a record that would change
        more is refused, unless an operator sends it. A caller whose grant is limited to its own may not add that
        either, nor supersede another's.

        Raises:
            LimitReached: there would be too many memories; nothing is merged, unless others took the room meanwhile.
        """
        yield from self._require_room(records, caller)
        merged = []
        for record in records:
            merged.append(self._merge(record, caller))
            yield
        return merged

    def shows(self, record: Merged) -> bool:
        """Return whether what is stored of a record is visible now."""
        return record.stored and not self._hidden(record.kept)

    def with_one_view(self, answer: Callable[[], InParts[T]]) -> InParts[T]:
        """Answer in parts as if all of it were read at one moment, as to whose texts are visible."""
        return with_one_view(self._database, answer)

    def _require_room(self, records: Sequence[Memory], caller: Caller) -> InParts[None]:
        """Raise LimitReached if some records would be more new memories than there is room for."""
        live = self._rows.live(record.id for record in records)
        new = {record.id: record for record in records if record.id not in live and not record.deleted}
        if self._rows.room(caller.name, of_an_operator=caller.operator) >= len(new):
            return
        adding = 0
        for record in new.values():
            before = self._find(record.id)
            adding += before is None or (caller.owns(before.written_by) and not merge(before.memory, record).deleted)
            yield
        self._rows.require_room(caller.name, adding, of_an_operator=caller.operator)

    def _merge(self, record: Memory, caller: Caller) -> Merged:
        before = self._find(record.id)
        if caller.own_only and not all(map(caller.owns, self._writers_of(record.details.supersedes))):
            return Merged(before or Kept(record, 0, caller.name), "refused", before is not None)
        if before is None:
            return Merged(self._write(record, caller, None), "added")
        was, merged = before.memory, merge(before.memory, record)
        if merged == was:
            return Merged(before, "unchanged")
        updated = not same_body(merged, was)
        more = updated or merged.created != was.created
        if not (caller.owns if more else caller.may_change)(before.written_by):
            return Merged(before, "refused")
        if updated:
            return Merged(self._write(merged, caller, before), "changed")
        return Merged(self._rows.write(merged, before.written_by, before), "changed")

    def _put(self, memory: Memory, caller: Caller, before: Kept | None, *, new: bool) -> Put:
        details = memory.details
        if details.valid_until is not None and details.valid_until <= memory.starts:
            raise MalformedRequest("the memory would end before it begins; give a later time - at `$.valid_until`")
        if memory.id in details.supersedes:
            raise MalformedRequest("a memory can't supersede itself; name other memories - at `$.supersedes`")
        known = () if before is None else before.memory.details.supersedes
        added = [superseded for superseded in details.supersedes if superseded not in known]
        later = self._validity.later(memory.id) if added else set()
        for superseded in added:
            if (entry := self._visible(superseded)) is None:
                raise NotFound(
                    f"there is no memory {superseded[:64]!r} to supersede; `query_memory` lists them - "
                    "at `$.supersedes`"
                )
            caller.require_change(f"memory {superseded[:64]!r}", entry.written_by)
            if self._validity.is_restored(entry.number):
                what = f"memory {superseded[:64]!r}, which its writer has restored,"
                caller.require_own(what, entry.written_by, instead="store yours without `supersedes`")
            if superseded in later:
                raise MalformedRequest(
                    f"memory {superseded[:64]!r} already supersedes this one, so neither would be valid; store the new "
                    "value under another id - at `$.supersedes`"
                )
        entry = self._write(memory, caller, before)
        keyed = memory.details.key is not None
        disputed_by = self._validity.ends([entry.number]).get(entry.number, NO_END).disputed_by if keyed else ()
        conflicts = [] if self._hidden(entry) else self._audit.conflicts(entry.number, memory)
        return Put(entry, new, conflicts, disputed_by)

    def _details(self, was: Details, given: dict[str, Any], now: float) -> Details:
        """Return the details after a change; the value of a key, or what supersedes another, begins at some time."""
        details = msgspec.structs.replace(was, **given)
        begins = folded_key(details.key) != folded_key(was.key) or details.supersedes != was.supersedes
        if "valid_from" in given or not begins:
            return details
        if details.occurred_at is None:
            start = now if details.key is None else self._validity.free_start(details.key, now)
        else:
            start = details.occurred_at
        return msgspec.structs.replace(details, valid_from=start)

    def _write(self, memory: Memory, caller: Caller, before: Kept | None) -> Kept:
        entry = self._rows.write(memory, caller.name, before, of_an_operator=caller.operator)
        if not memory.deleted:
            if before is not None and not before.memory.deleted:
                self._audit.forget(entry.number)
            self._audit.mark_new([(entry.number, memory.details.key, memory.content)])
        return entry

    def _find(self, memory_id: str) -> Kept | None:
        entry = self._rows.find(memory_id)
        return self.upkeep.fresh(entry) if entry is not None else None

    def _visible(self, memory_id: str) -> Kept | None:
        entry = self._find(memory_id)
        return None if entry is None or entry.memory.deleted or self._hidden(entry) else entry

    def _writers_of(self, memory_ids: Iterable[str]) -> set[str]:
        return {entry.written_by for entry in map(self._visible, memory_ids) if entry is not None}

    def _hidden(self, entry: Kept) -> bool:
        return self._quarantine.hides(entry.written_by)


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


def _require_writer(entry: Kept, caller: Caller) -> None:
    caller.require_own(f"memory {entry.memory.id[:64]!r}", entry.written_by)


def _after(before: Kept | None, now: float) -> float:
    """Return a time after the previous revision, also if the clock was set back since."""
    return now if before is None else max(now, round(before.memory.revised + _ONE_MS, 3))
