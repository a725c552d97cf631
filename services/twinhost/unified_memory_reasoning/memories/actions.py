"""Memories: the handlers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from twinhost.agent.request_times import past_seconds_of, seconds_of
from twinhost.moments import Clock, iso_time
from twinhost.secure_zmq.actions import Feature, InParts, action
from twinhost.secure_zmq.budgets import PerMinute
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.memories.audit import text_marks
from twinhost.unified_memory_reasoning.memories.details import DETAILS
from twinhost.unified_memory_reasoning.memories.memories import Changes, Memories, Merged, Present
from twinhost.unified_memory_reasoning.memories.messages import (
    DeleteMemory,
    FurtherMemory,
    GetMemory,
    HistoryFound,
    MemoriesFound,
    MemoriesMerged,
    MemoryAuditDocument,
    MemoryAuditRequest,
    MemoryDeleted,
    MemoryDocument,
    MemoryFound,
    MemoryHistory,
    MemoryReinforced,
    MemoryRestored,
    MemoryStatus,
    MemoryStatusDocument,
    MemoryStored,
    MergeCounts,
    QueryMemory,
    ReinforceMemory,
    RestoreMemory,
    StoreMemory,
    SyncedMemory,
    SyncMemories,
)
from twinhost.unified_memory_reasoning.memories.model import Kept, Memory, deleted
from twinhost.unified_memory_reasoning.memories.recall import Selection
from twinhost.unified_memory_reasoning.memories.validity import marks_of
from twinhost.unified_memory_reasoning.spaces.access import InSpace

MAX_SYNC_REPLY_BYTES = 65_536  # of memories in the reply to a sync, which is stored for retries
_ENVELOPE_BYTES = 1_024  # of a reply, without the memories in brief
_BESIDE_CONTENT = 1_024  # bytes for which each memory of several counts, besides its content: as long as these take
_MAX_AHEAD_S = 300.0  # of this host's clock: a record from the future would replace every later one


class MemoryActions(Feature):
    """Stores, returns and merges memories."""

    def __init__(self, memories: Memories, max_reply_bytes: int, at_once: PerMinute | None = None) -> None:
        self._memories = memories
        self._at_once = at_once
        self._clock = memories.clock
        self._max_bytes = max_reply_bytes // 2  # of memories; the rest of a reply is smaller
        self._max_brief_bytes = max_reply_bytes - _ENVELOPE_BYTES

    @action(mutates=True)
    def store(self, request: StoreMemory, caller: Caller) -> InParts[MemoryStored]:
        if request.also and self._at_once is not None:
            size = sum(_BESIDE_CONTENT + len(memory.content.encode()) for memory in request.also)
            self._at_once.take(caller, size, "store fewer at once, or one by one")
        marks = yield from text_marks(memory.content for memory in request.also or () if memory.key is None)
        changes = msgspec.structs.replace(_changes(request, self._clock), strength=request.strength)
        entry, new, conflicts, disputed_by = self._memories.put(request.name, changes, caller)
        stored: MemoryStored = {
            "status": SUCCESS,
            "message": f"memory {entry.memory.id} {'stored' if new else 'updated'}",
            "memory_id": entry.memory.id,
            "new": new,
            "strength": entry.memory.strength,
            "conflicts": conflicts,
        }
        if disputed_by:
            stored["disputed_by"] = list(disputed_by)
        if request.also:
            also = [_changes(memory, self._clock) for memory in request.also]
            stored["also"] = self._memories.add(also, caller, marks)
        return stored

    @action()
    def get(self, request: GetMemory, caller: Caller) -> MemoryFound:
        moment = None if request.as_of is None else seconds_of(request.as_of, "$.as_of")
        entry = self._memories.get(request.key, request.name, moment, caller.name)
        return {"status": SUCCESS, "memory_id": entry.memory.id, "memory": self._document(entry)}

    @action()
    def query(self, request: QueryMemory, _: Caller) -> MemoriesFound:
        if request.changed_since is not None:
            return self._changes(request, request.changed_since)
        ids = [name for name in (request.memory_id, request.id, *(request.ids or ())) if name is not None]
        chosen = Selection(
            ids=ids or None,
            keywords=request.keywords,
            source=request.source,
            key=request.key,
            as_of=None if request.as_of is None else seconds_of(request.as_of, "$.as_of"),
            min_strength=request.min_strength,
            include_forgotten=request.include_forgotten,
            before=request.before,
            limit=request.limit,
            keys=request.keys,
            entities_with=request.entities_with,
        )
        if request.brief:
            return self._brief(chosen)
        page = self._memories.query(chosen, self._max_bytes)
        return {
            "status": SUCCESS,
            "memories": self._documents(page.entries),
            "count": len(page.entries),
            "more": page.more,
            "next_before": page.entries[-1].number if page.more else None,
        }

    @action(mutates=True)
    def reinforce(self, request: ReinforceMemory, caller: Caller) -> MemoryReinforced:
        present, recovered = self._memories.reinforce(request.name, caller, request.pin)
        memory = present.entry.memory
        return {
            "status": SUCCESS,
            "message": f"memory {memory.id} {'recovered' if recovered else 'reinforced'}",
            "memory_id": memory.id,
            "strength": memory.strength,
            "forgotten": present.forgotten,
            "recovered": recovered,
        }

    @action(mutates=True)
    def restore(self, request: RestoreMemory, caller: Caller) -> MemoryRestored:
        entry = self._memories.restore(request.name, caller)
        message = f"memory {entry.memory.id} is {entry.written_by}'s value; others can't end it"
        memory = self._document(entry)
        return {"status": SUCCESS, "message": message, "memory_id": entry.memory.id, "memory": memory}

    @action(mutates=True, from_reserve=True)
    def delete(self, request: DeleteMemory, caller: Caller) -> MemoryDeleted:
        self._memories.remove(request.name, caller)
        return {"status": SUCCESS, "message": f"memory {request.name} deleted", "memory_id": request.name}

    @action(mutates=True)
    def sync(self, request: SyncMemories, caller: Caller) -> InParts[MemoriesMerged]:
        records = [
            _record(record, f"$.memories[{number}]", self._clock) for number, record in enumerate(request.memories)
        ]
        merged = yield from self._memories.merge(records, caller)
        outcomes = Counter(record.outcome for record in merged)
        counts: MergeCounts = {
            "added": outcomes["added"],
            "changed": outcomes["changed"],
            "unchanged": outcomes["unchanged"],
            "refused": outcomes["refused"],
        }
        memories, left_out = yield from self._memories.with_one_view(lambda: self._stored_now(merged))
        return {
            "status": SUCCESS,
            "message": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
            **counts,
            "refused_ids": [record.kept.memory.id for record in merged if record.outcome == "refused"],
            "memories": memories,
            "left_out": left_out,
        }

    @action()
    def history(self, request: MemoryHistory, _: Caller) -> HistoryFound:
        values = self._memories.history(request.key, request.name, request.limit + 1, request.skip)
        memories, more = page_of(self._documents(values), request.limit, self._max_bytes)
        return {
            "status": SUCCESS,
            "memories": memories,
            "count": len(memories),
            "more": more,
            "next_skip": request.skip + len(memories) if more else None,
        }

    @action()
    def audit(self, request: MemoryAuditRequest, _: Caller) -> InParts[MemoryAuditDocument]:
        audited = yield from self._memories.audit(request.limit)
        return {"status": SUCCESS, **audited}

    @action()
    def status(self, _: MemoryStatus, __: Caller) -> MemoryStatusDocument:
        counted, last = self._memories.counted(), self._memories.upkeep.last_pass
        return {
            "status": SUCCESS,
            "total_memories": counted.total,
            "remembered": counted.total - counted.forgotten,
            "forgotten": counted.forgotten,
            "strength": counted.strength,
            "last_decay": None
            if last is None
            else {"time": iso_time(last.ran), "decayed": last.decayed, "forgotten": last.forgotten},
        }

    def _changes(self, request: QueryMemory, since: int) -> MemoriesFound:
        envelope = dict.fromkeys(InSpace.__struct_fields__)
        if msgspec.structs.replace(request, limit=100, **envelope) != QueryMemory(changed_since=since):
            raise MalformedRequest(
                "`changed_since` returns everything that changed; leave out all other fields except `limit` - "
                "at `$.changed_since`"
            )
        page = self._memories.changes(since, request.limit, self._max_bytes)
        return {
            "status": SUCCESS,
            "memories": self._documents(page.entries),
            "count": len(page.entries),
            "more": page.more,
            "last_change": page.last_change,
        }

    def _brief(self, chosen: Selection) -> MemoriesFound:
        briefs, more = self._memories.brief(chosen, self._max_brief_bytes)
        return {
            "status": SUCCESS,
            "memories": [],
            "brief": briefs,
            "count": len(briefs),
            "more": more,
            "next_before": briefs[-1]["number"] if more else None,
        }

    def _document(self, entry: Kept) -> MemoryDocument:
        return self._documents([entry])[0]

    def _documents(self, entries: Iterable[Kept]) -> list[MemoryDocument]:
        """Return memories as a reply has them; `sync_memories` of another store accepts them unchanged."""
        return list(map(_document, self._memories.present(entries)))

    def _stored_now(self, merged: Sequence[Merged]) -> InParts[tuple[list[MemoryDocument], list[str]]]:
        """Return the stored memories of a sync, as many as fit, and the ids of the others."""
        last = {record.kept.memory.id: record for record in merged}  # an id may occur twice
        memories: list[MemoryDocument] = []
        left_out: list[str] = []
        left = min(self._max_bytes, MAX_SYNC_REPLY_BYTES)
        for memory_id, record in last.items():
            if not self._memories.shows(record):
                continue
            if left > 0:
                stored = self._document(record.kept)
                left -= len(msgspec.json.encode(stored))
                if left >= 0:
                    memories.append(stored)
                yield
            if left < 0:
                left_out.append(memory_id)
        return memories, left_out


def _document(present: Present) -> MemoryDocument:
    memory, details, end = present.entry.memory, present.entry.memory.details, present.end
    strength = present.strength if present.strength == memory.strength else round(present.strength, 3)
    shown: Any = {
        "id": memory.id,
        "content": memory.content,
        "keywords": list(memory.keywords),
        "source": memory.source,
        "strength": strength,
        "created": iso_time(memory.created),
        "last_accessed": iso_time(memory.last_accessed),
        "forgotten": present.forgotten,
        "revised": iso_time(memory.revised),
        "written_by": present.entry.written_by,
        **({"deleted": True} if memory.deleted else {}),
        **DETAILS.shown(msgspec.structs.replace(details, valid_until=end.valid_until)),
        **marks_of(end),
    }
    if strength != memory.strength or end.valid_until != details.valid_until:
        until = None if details.valid_until is None else iso_time(details.valid_until)
        shown["as_stored"] = {"strength": memory.strength, "valid_until": until}
    document: MemoryDocument = shown
    return document


def _changes(memory: StoreMemory | FurtherMemory, clock: Clock) -> Changes:
    keywords = None if memory.keywords is None else _unique(memory.keywords)
    details = DETAILS.stored(memory, clock)
    return Changes(content=memory.content, keywords=keywords, source=memory.source, details=details)


def _record(record: SyncedMemory, where: str, clock: Clock) -> Memory:
    """Return a record of another store as it is stored here; of a deletion, it has no body."""

    def moment(name: str) -> float | None:
        value = getattr(record, name)
        return None if value is None else past_seconds_of(value, f"{where}.{name}", clock, _MAX_AHEAD_S)

    strength = record.strength
    if (stored := record.as_stored) is not None:
        strength, record = stored.strength, msgspec.structs.replace(record, valid_until=stored.valid_until)
    accessed = past_seconds_of(record.last_accessed, f"{where}.last_accessed", clock, _MAX_AHEAD_S)
    created, revised = moment("created"), moment("revised")
    memory = Memory(
        id=record.id,
        content=record.content,
        keywords=_unique(record.keywords),
        source=record.source,
        strength=strength,
        created=accessed if created is None else created,
        last_accessed=accessed,
        revised=accessed if revised is None else revised,
    )
    if record.deleted:
        return deleted(memory, memory.revised)
    details = DETAILS.synced(record, where, clock, _MAX_AHEAD_S)
    memory = msgspec.structs.replace(memory, details=details)
    if details.valid_from is None and (details.key is not None or details.supersedes):
        memory = msgspec.structs.replace(memory, details=msgspec.structs.replace(details, valid_from=memory.occurred))
    return memory


def _unique(keywords: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keywords))
