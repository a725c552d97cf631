"""Memories: the handlers."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.memories.memories import Changes, Memories, Merged
from twinhost.unified_memory_reasoning.memories.messages import (
    DeleteMemory,
    GetMemory,
    MemoriesFound,
    MemoriesMerged,
    MemoryDeleted,
    MemoryDocument,
    MemoryFound,
    MemoryReinforced,
    MemoryStatus,
    MemoryStatusDocument,
    MemoryStored,
    MergeCounts,
    QueryMemory,
    ReinforceMemory,
    StoreMemory,
    SyncedMemory,
    SyncMemories,
)
from twinhost.unified_memory_reasoning.memories.model import Kept, Memory
from twinhost.unified_memory_reasoning.memories.recall import Selection

MAX_SYNC_REPLY_BYTES = 65_536  # of memories in the reply to a sync, which is stored for retries
MAX_AHEAD_S = 300.0  # of this host's clock: a record from the future would replace every later one


class MemoryActions(Feature):
    """Stores, returns and merges memories."""

    def __init__(self, memories: Memories, max_reply_bytes: int) -> None:
        self._memories = memories
        self._max_bytes = max_reply_bytes // 2  # of memories; the rest of a reply is smaller

    @action(mutates=True)
    def store(self, request: StoreMemory, caller: Caller) -> MemoryStored:
        changes = Changes(
            content=request.content,
            keywords=_unique(request.keywords) if request.keywords is not None else None,
            source=request.source,
            strength=request.strength,
        )
        entry, new = self._memories.put(request.name, changes, caller)
        return {
            "status": SUCCESS,
            "message": f"memory {entry.memory.id} {'stored' if new else 'updated'}",
            "memory_id": entry.memory.id,
            "new": new,
            "strength": entry.memory.strength,
        }

    @action()
    def get(self, request: GetMemory, _: Caller) -> MemoryFound:
        (entry,) = self._memories.upkeep.access([self._memories.find(request.name)])
        return {"status": SUCCESS, "memory_id": entry.memory.id, "memory": document(entry)}

    @action()
    def query(self, request: QueryMemory, _: Caller) -> MemoriesFound:
        if request.changed_since is not None:
            return self._changes(request, request.changed_since)
        ids = [each for each in (request.memory_id, request.id, *(request.ids or ())) if each is not None]
        page = self._memories.recall.query(
            Selection(
                ids=ids or None,
                keywords=request.keywords,
                source=request.source,
                min_strength=request.min_strength,
                include_forgotten=request.include_forgotten,
                before=request.before,
                limit=request.limit,
            ),
            self._max_bytes,
        )
        entries = self._memories.upkeep.access(page.entries) if ids else page.entries
        return {
            "status": SUCCESS,
            "memories": [document(entry) for entry in entries],
            "count": len(entries),
            "more": page.more,
            "next_before": entries[-1].number if page.more else None,
        }

    @action(mutates=True)
    def reinforce(self, request: ReinforceMemory, _: Caller) -> MemoryReinforced:
        entry, recovered = self._memories.reinforce(request.name)
        return {
            "status": SUCCESS,
            "message": f"memory {entry.memory.id} {'recovered' if recovered else 'reinforced'}",
            "memory_id": entry.memory.id,
            "strength": entry.memory.strength,
            "forgotten": entry.memory.forgotten,
            "recovered": recovered,
        }

    @action(mutates=True)
    def delete(self, request: DeleteMemory, caller: Caller) -> MemoryDeleted:
        self._memories.remove(request.name, caller)
        return {"status": SUCCESS, "message": f"memory {request.name} deleted", "memory_id": request.name}

    @action(mutates=True)
    def sync(self, request: SyncMemories, caller: Caller) -> MemoriesMerged:
        latest = time.time() + MAX_AHEAD_S
        records = [_record(record, number, latest) for number, record in enumerate(request.memories)]
        merged = self._memories.merge(records, caller)
        outcomes = Counter(each.outcome for each in merged)
        counts: MergeCounts = {
            "added": outcomes["added"],
            "changed": outcomes["changed"],
            "unchanged": outcomes["unchanged"],
            "refused": outcomes["refused"],
        }
        memories, left_out = self._stored_now(merged)
        return {
            "status": SUCCESS,
            "message": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
            **counts,
            "refused_ids": [each.kept.memory.id for each in merged if each.outcome == "refused"],
            "memories": memories,
            "left_out": left_out,
        }

    @action()
    def status(self, _: MemoryStatus, __: Caller) -> MemoryStatusDocument:
        counted, last = self._memories.recall.counted(), self._memories.upkeep.last_pass
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
        if msgspec.structs.replace(request, limit=100) != QueryMemory(
            changed_since=since, request_id=request.request_id, on_behalf_of=request.on_behalf_of
        ):
            raise MalformedRequest(
                "`changed_since` returns everything that changed; leave out all other fields except `limit` - "
                "at `$.changed_since`"
            )
        page = self._memories.recall.changes(since, request.limit, self._max_bytes)
        return {
            "status": SUCCESS,
            "memories": [document(entry) for entry in page.entries],
            "count": len(page.entries),
            "more": page.more,
            "last_change": page.last_change,
        }

    def _stored_now(self, merged: Sequence[Merged]) -> tuple[list[MemoryDocument], list[str]]:
        """Return the stored memories of a sync, as many as fit, and the ids of the others."""
        last = {each.kept.memory.id: each for each in merged}  # an id may occur twice
        memories: list[MemoryDocument] = []
        left_out: list[str] = []
        size = 0
        for memory_id, each in last.items():
            if not each.visible:
                continue
            stored = document(each.kept)
            size += len(msgspec.json.encode(stored))
            if size <= min(self._max_bytes, MAX_SYNC_REPLY_BYTES):
                memories.append(stored)
            else:
                left_out.append(memory_id)
        return memories, left_out


def document(entry: Kept) -> MemoryDocument:
    """Return a memory as a reply has it; `sync_memories` of another store accepts it unchanged."""
    memory = entry.memory
    found: MemoryDocument = {
        "id": memory.id,
        "content": memory.content,
        "keywords": list(memory.keywords),
        "source": memory.source,
        "strength": memory.strength,
        "created": iso_time(memory.created),
        "last_accessed": iso_time(memory.last_accessed),
        "forgotten": memory.forgotten,
        "revised": iso_time(memory.revised),
        "written_by": entry.written_by,
    }
    if memory.deleted:
        found["deleted"] = True
    return found


def _record(record: SyncedMemory, number: int, latest: float) -> Memory:
    where = f"$.memories[{number}]"
    accessed = _seconds(record.last_accessed, f"{where}.last_accessed", latest)
    return Memory(
        id=record.id,
        content="" if record.deleted else record.content,
        keywords=() if record.deleted else _unique(record.keywords),
        source="" if record.deleted else record.source,
        strength=record.strength,
        created=accessed if record.created is None else _seconds(record.created, f"{where}.created", latest),
        last_accessed=accessed,
        revised=accessed if record.revised is None else _seconds(record.revised, f"{where}.revised", latest),
        deleted=record.deleted,
    )


def _seconds(value: str | float, path: str, latest: float) -> float:
    """Return a time in seconds since the epoch, in whole milliseconds; without a time zone it is in UTC."""
    try:
        seconds = value if isinstance(value, float) else _iso_seconds(value)
    except (ValueError, OverflowError):
        raise MalformedRequest(
            f"Expected a time in ISO-8601 or seconds since the epoch, got {value!r} - at `{path}`"
        ) from None
    if not 0 <= seconds <= latest:
        raise MalformedRequest(
            f"{value!r} is before 1970, or more than {MAX_AHEAD_S:g} s ahead of this host's clock; "
            f"set the sender's clock - at `{path}`"
        )
    return round(seconds, 3)


def _iso_seconds(text: str) -> float:
    parsed = datetime.fromisoformat(text)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _unique(keywords: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keywords))
