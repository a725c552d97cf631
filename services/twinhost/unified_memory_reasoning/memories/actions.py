"""The actions of the memory model."""

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
from twinhost.unified_memory_reasoning.memories.memories import Memories, Merged, Told
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
    SyncMemories,
    ToldMemory,
)
from twinhost.unified_memory_reasoning.memories.model import Kept, Memory
from twinhost.unified_memory_reasoning.memories.recall import Selection

MAX_TOLD_BACK_BYTES = 65_536  # by a sync, whose reply is stored for retries
MAX_AHEAD_S = 300.0  # of this host's clock: a record from further on would stand above every later one


class MemoryActions(Feature):
    """Memories as the wire has them."""

    def __init__(self, memories: Memories, max_reply_bytes: int) -> None:
        self._memories = memories
        self._max_bytes = max_reply_bytes // 2  # of memories; what an answer says of each is less than that

    @action(mutates=True)
    def store(self, request: StoreMemory, caller: Caller) -> MemoryStored:
        told = Told(
            content=request.content,
            keywords=_unique(request.keywords) if request.keywords is not None else None,
            source=request.source,
            strength=request.strength,
        )
        entry, new = self._memories.put(request.name, told, caller)
        return {
            "status": SUCCESS,
            "message": f"memory {entry.memory.id} {'stored' if new else 'told anew'}",
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
            "message": f"memory {entry.memory.id} {'is remembered again' if recovered else 'reinforced'}",
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
        records = [_record(told, number, latest) for number, told in enumerate(request.memories)]
        merged = self._memories.merge(records, caller)
        outcomes = Counter(each.outcome for each in merged)
        counts: MergeCounts = {
            "added": outcomes["added"],
            "changed": outcomes["changed"],
            "unchanged": outcomes["unchanged"],
            "refused": outcomes["refused"],
        }
        told_back, left_out = self._told_back(merged)
        return {
            "status": SUCCESS,
            "message": ", ".join(f"{count} {outcome}" for outcome, count in counts.items()),
            **counts,
            "refused_ids": [each.kept.memory.id for each in merged if each.outcome == "refused"],
            "memories": told_back,
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
            "strength": {
                "mean": counted.mean_strength,
                "least": counted.least_strength,
                "greatest": counted.greatest_strength,
                "bands": counted.strengths,
            },
            "last_decay": None
            if last is None
            else {"time": iso_time(last.ran), "decayed": last.decayed, "forgotten": last.forgotten},
        }

    def _changes(self, request: QueryMemory, since: int) -> MemoriesFound:
        if msgspec.structs.replace(request, limit=100) != QueryMemory(
            changed_since=since, request_id=request.request_id, on_behalf_of=request.on_behalf_of
        ):
            raise MalformedRequest(
                "`changed_since` tells all that changed, and goes with `limit` alone; leave the other fields out - "
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

    def _told_back(self, merged: Sequence[Merged]) -> tuple[list[MemoryDocument], list[str]]:
        """Return what is stored now of what was told, as far as there is room, and the ids of the rest."""
        last = {each.kept.memory.id: each for each in merged}  # an id that was told twice is told back once
        told_back: list[MemoryDocument] = []
        left_out: list[str] = []
        size = 0
        for memory_id, each in last.items():
            if not each.visible:
                continue
            told = document(each.kept)
            size += len(msgspec.json.encode(told))
            if size <= min(self._max_bytes, MAX_TOLD_BACK_BYTES):
                told_back.append(told)
            else:
                left_out.append(memory_id)
        return told_back, left_out


def document(entry: Kept) -> MemoryDocument:
    """Return a memory as it is answered; `sync_memories` of another store takes it as it is."""
    memory = entry.memory
    told: MemoryDocument = {
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
        told["deleted"] = True
    return told


def _record(told: ToldMemory, number: int, latest: float) -> Memory:
    where = f"$.memories[{number}]"
    accessed = _moment(told.last_accessed, f"{where}.last_accessed", latest)
    return Memory(
        id=told.id,
        content="" if told.deleted else told.content,
        keywords=() if told.deleted else _unique(told.keywords),
        source="" if told.deleted else told.source,
        strength=told.strength,
        created=accessed if told.created is None else _moment(told.created, f"{where}.created", latest),
        last_accessed=accessed,
        revised=accessed if told.revised is None else _moment(told.revised, f"{where}.revised", latest),
        deleted=told.deleted,
    )


def _moment(told: str | float, path: str, latest: float) -> float:
    """Return a moment in seconds since the epoch, in whole milliseconds; one without a zone is in UTC."""
    try:
        seconds = told if isinstance(told, float) else _iso_moment(told)
    except (ValueError, OverflowError):
        raise MalformedRequest(
            f"Expected a moment in ISO-8601 or seconds since the epoch, got {told!r} - at `{path}`"
        ) from None
    if not 0 <= seconds <= latest:
        raise MalformedRequest(
            f"{told!r} is before 1970, or over {MAX_AHEAD_S:g} s ahead of this host's clock; set the clock of the one "
            f"who tells it - at `{path}`"
        )
    return round(seconds, 3)


def _iso_moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _unique(keywords: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keywords))
