"""A store for LangGraph (`BaseStore`) whose items are memories of UnifiedMemoryReasoningAgent.

    from twinhost import connect
    from twinhost.adapters.langgraph import TwinhostStore

    graph = builder.compile(store=TwinhostStore(connect("UnifiedMemoryReasoningAgent")))

An item is the present value of a memory key, which is the namespace and the item's key, encoded so that no two are
alike. Each beginning of the namespace is a keyword, by which items are listed and searched. A put stores the next value
of the memory key, so the puts of all writers have one order, that of the agent (decision 61).

An item with a time to live ends with the `valid_until` of its memory, which a read moves; it has further keywords by
which a sweep finds it.

An item is its writer's: whatever others store under its key, the last value of the writers that this store takes is the
item. Each item says who wrote it.
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, cast

import structlog

from twinhost.adapters import missing_extra
from twinhost.adapters.item_filters import fits
from twinhost.adapters.stored import Taken, in_space, read_json, require_shallow
from twinhost.fence import Passage, fenced, item_named, new_tag
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound, TwinhostError
from twinhost.secure_zmq.wire import Reply
from twinhost.worker import Worker

try:
    from langgraph.store import base
except ImportError:
    raise missing_extra("langgraph", "langgraph-checkpoint") from None

_log = structlog.get_logger(__name__)
_ROOT = "langgraph"
_LATEST = "9999-12-31T00:00:00+00:00"  # as of then the newest value is the present one, also if a clock was set back
_MOST_KEY_CHARACTERS = 256
_MOST_QUERY_BYTES = 4_096
_MOST_FOUND, _MOST_ON_A_PAGE = 100, 1_000
_MOST_TTL_MIN = 1_000_000_000
_SWEEP_EVERY_MIN = 5.0  # where the configuration says nothing, as other stores do
_encoded = re.compile(r"[^a-z0-9_-]")
_escape = re.compile(r"\\(.)")
_UNINDEXED = '"text": [], "encoded": "'  # JSON escapes quotation marks, so no text of an item has this

_Place = tuple[tuple[str, ...], str]  # an item's namespace and key
_Memory = Mapping[str, Any]


class Item(base.Item):
    """An item, and who wrote it."""

    __slots__ = ("written_by",)

    def __init__(self, *, written_by: str, **fields: Any) -> None:
        super().__init__(**fields)
        self.written_by = written_by


class SearchItem(base.SearchItem):
    """An item that was found, and who wrote it."""

    __slots__ = ("written_by",)

    def __init__(self, *, written_by: str, **fields: Any) -> None:
        super().__init__(**fields)
        self.written_by = written_by


def recalled(items: Iterable[base.Item], tag: str | None = None) -> str:
    """Return items as one text for a model, each value as JSON under its writer; empty if there are none.

    Args:
        items: what a `TwinhostStore` has returned.
        tag: of the first and the last line, 8 letters or more that no writer knows; a random one by default.
    """
    passages = (
        Passage(
            cast("Item", item).written_by,
            item.updated_at.date().isoformat(),
            item_named("/".join((*item.namespace, item.key))),
            "",
            "item",
            json.dumps(item.value, ensure_ascii=False),
        )
        for item in items
    )
    return fenced(passages, tag or new_tag())


class TwinhostStore(base.BaseStore):
    """Items as memories; for any number of threads, which share the client's connection."""

    supports_ttl = True

    def __init__(
        self,
        client: Client,
        *,
        history: int = 3,
        ttl: base.TTLConfig | None = None,
        writers: Collection[str] | None = (),
        space: str | None = None,
    ) -> None:
        """Use a client of UnifiedMemoryReasoningAgent, which nothing else uses meanwhile.

        Args:
            client: it stays open; its errors are raised as they are.
            history: how many earlier values of an item are kept when it is put again, for `memory_history`.
            ttl: how items expire where a call does not say it; no item is returned after that, whatever it says.
            writers: whose items are taken beside those of the client's own key; None for everybody's, of which any
                may then replace any.
            space: of the memory, such as `shared`. None: this program's own, which no other program reads; with
                `writers`, or on an open link, the shared one.
        """
        self._client = client
        self._history = history
        self.ttl_config = ttl
        self._sweeper: tuple[Worker, Future[None]] | None = None
        self._lock = threading.Lock()
        self._taken = Taken(client.identity, writers)
        self._common: dict[str, Any] = in_space(space, client.identity, writers)  # fields of every request

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Why a stored value was left out as none that can be read, by the id of its memory."""
        return self._taken.unreadable

    def batch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """Read, then write: reads see what was there before the batch, and of two puts of an item the last counts."""
        ordered = list(ops)
        with self._lock:
            results = [self._read(op) for op in ordered]
            self._write({(op.namespace, op.key): op for op in ordered if isinstance(op, base.PutOp)})
        return results

    async def abatch(self, ops: Iterable[base.Op]) -> list[base.Result]:
        """Do the same on another thread, so that the event loop goes on; a cancelled write is still made."""
        return await asyncio.to_thread(self.batch, list(ops))

    def sweep_ttl(self) -> int:
        """Delete the expired items whose last value this client's key has put; return how many."""
        with self._lock:
            values = self._last_values(_expiring_keyword(()))
            expired = {place for memory in values if _expired(memory) and (place := self._place(memory)) is not None}
        return sum(map(self._sweep, expired))  # one after the other, so that other threads get their turn

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Delete expired items from time to time, on a thread of its own, until `stop_ttl_sweeper`.

        Args:
            sweep_interval_minutes: by default as configured, or 5.

        Returns:
            What is done once the thread has ended; to cancel it ends the thread.

        Raises:
            ValueError: the interval is negative, or no number.
        """
        configured = (self.ttl_config or {}).get("sweep_interval_minutes")
        interval = sweep_interval_minutes or configured or _SWEEP_EVERY_MIN
        if not interval > 0:  # True for nan
            raise ValueError(f"sweep_interval_minutes is {interval!r}; give more than 0, or None for the default")
        interval_s = min(60 * interval, threading.TIMEOUT_MAX)
        self.stop_ttl_sweeper()
        ended: Future[None] = Future()

        def sweep() -> None:
            try:
                while not sweeper.wait(interval_s):
                    try:
                        self.sweep_ttl()
                    except TwinhostError as error:  # the next one may succeed
                        _log.warning("ttl_sweep_failed", reason=str(error))
            finally:
                if ended.set_running_or_notify_cancel():
                    ended.set_result(None)

        sweeper = Worker("ttl-sweeper", sweep)
        ended.add_done_callback(lambda _: sweeper.request_stop())
        self._sweeper = sweeper, ended
        sweeper.start()
        return ended

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """End the thread, and wait for it so many seconds, by default until it has ended; return whether it has."""
        if self._sweeper is None:
            return True
        sweeper, ended = self._sweeper
        sweeper.request_stop()
        return ended in wait([ended], timeout).done

    def _read(self, op: base.Op) -> base.Result:
        if isinstance(op, base.PutOp):
            return None
        if isinstance(op, base.GetOp):
            return self._get(op)
        if isinstance(op, base.SearchOp):
            return self._search(op)
        if isinstance(op, base.ListNamespacesOp):
            return self._namespaces(op)
        raise ValueError(f"{op!r} is no operation of a store; use get, put, search, or list_namespaces")

    def _get(self, op: base.GetOp) -> base.Item | None:
        key = _memory_key((op.namespace, op.key))
        try:
            memory = self._call("get_memory", key=key, as_of=_LATEST)["memory"]
        except NotFound:  # or it expires
            memory = None
        if memory is None or not self._taken.takes(memory["written_by"]):
            memory = next((value for value in self._values(key)[-1:] if not _expired(value)), None)
        memories = [] if memory is None else [memory]
        if op.refresh_ttl:
            self._refresh(memories)
        return next((Item(**document) for document in self._documents(memories)), None)

    def _search(self, op: base.SearchOp) -> list[base.SearchItem]:
        """Return what fits the query, then the other items: as if each were near to the query to some degree."""
        most = op.offset + op.limit
        items: dict[_Place, tuple[base.SearchItem, _Memory]] = {}
        sources = [self._listed(op.namespace_prefix, _MOST_ON_A_PAGE if op.filter else most)]
        if op.query:
            sources.insert(0, self._ranked(op.query, op.namespace_prefix))
        for item, memory in (pair for source in sources for pair in source):
            if fits(item.value, op.filter or {}):
                items.setdefault((item.namespace, item.key), (item, memory))
            if len(items) >= most:
                break
        page = list(items.values())[op.offset : most]
        if op.refresh_ttl:
            self._refresh([memory for _, memory in page])
        return [item for item, _ in page]

    def _ranked(self, query: str, prefix: tuple[str, ...]) -> Iterator[tuple[base.SearchItem, _Memory]]:
        """Yield what fits a query, best first."""
        text = query.encode()[:_MOST_QUERY_BYTES].decode(errors="ignore")
        results = self._call("search_memory", query=text, keyword=_keyword(prefix), limit=_MOST_FOUND)["results"]
        fitting = [
            result
            for result in results
            if self._taken.takes(result["written_by"]) and _UNINDEXED not in result["content"]
        ]
        pages = self._map(("query_memory", {"ids": [result["id"]]}) for result in fitting)
        wholes = [
            (result["score"], memory)
            for result, page in zip(fitting, pages, strict=True)
            for memory in page["memories"]
        ]
        scores = {memory["id"]: score for score, memory in wholes}
        for memory in self._present((memory for _, memory in wholes), _MOST_FOUND):
            yield from self._items([memory], scores[memory["id"]])

    def _listed(self, prefix: tuple[str, ...], limit: int) -> Iterator[tuple[base.SearchItem, _Memory]]:
        """Yield the items under a namespace, the last one that was put first."""
        return self._items(self._last_values(_keyword(prefix), limit))

    def _last_values(self, keyword: str, limit: int = _MOST_ON_A_PAGE) -> Iterator[_Memory]:
        """Yield the last values of items, also of those that have expired."""
        limit = max(1, min(limit, _MOST_ON_A_PAGE))
        pages = self._pages(min(limit * (self._history + 1), _MOST_ON_A_PAGE), keywords=[keyword])
        seen: set[str] = set()

        def first() -> Iterator[_Memory]:
            for memory in pages:
                key = memory.get("key", "")
                if key not in seen and self._taken.takes(memory["written_by"]):
                    seen.add(key)
                    yield memory

        return self._present(first(), limit)

    def _present(self, memories: Iterable[_Memory], at_once: int) -> Iterator[_Memory]:
        """Yield those of some values that nothing follows of what this store takes."""
        left = iter(memories)
        while some := list(islice(left, at_once)):
            followed = [memory["key"] for memory in some if "superseded_by" in memory and "key" in memory]
            last: dict[str, str] = {}
            for memory in self._pages(keys=followed) if followed else ():
                if self._taken.takes(memory["written_by"]):
                    last.setdefault(memory["key"], memory["id"])
            for memory in some:
                if "superseded_by" not in memory or last.get(memory.get("key", "")) == memory["id"]:
                    yield memory

    def _pages(self, limit: int = _MOST_ON_A_PAGE, **fields: Any) -> Iterator[_Memory]:
        """Yield memories, the newest first."""
        page: dict[str, Any] = {"more": True, "next_before": None}
        while page["more"]:
            page = self._call("query_memory", limit=limit, before=page["next_before"], **fields)
            yield from page["memories"]

    def _call(self, action: str, **fields: Any) -> Reply:
        return self._client.call(action, **self._common, **fields)

    def _map(self, requests: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Reply]:
        """Yield replies; an error is raised."""
        return cast(
            "Iterator[Reply]", self._client.map((action, {**self._common, **each}) for action, each in requests)
        )

    def _namespaces(self, op: base.ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        prefixes = (
            condition.path for condition in conditions if condition.match_type == "prefix" and "*" not in condition.path
        )
        namespaces = {item.namespace for item, _ in self._listed(max(prefixes, key=len, default=()), _MOST_ON_A_PAGE)}
        matching = {
            namespace[: op.max_depth] for namespace in namespaces if all(_matches(namespace, one) for one in conditions)
        }
        return sorted(matching)[op.offset : op.offset + op.limit]

    def _refresh(self, memories: Iterable[_Memory]) -> None:
        """Let those of some items that expire begin their time to live again, if this key has put them.

        A sync changes no other's memory, and brings nothing back that another program has deleted meanwhile. Another's
        item does not get a copy by this key, which would stay when its writer is quarantined.
        """
        longer = [
            {**memory, "valid_until": _end(ttl), "as_stored": None}
            for memory in self._mine(memories)
            if (ttl := _ttl(memory)) is not None
        ]
        for _ in self._map(("sync_memories", {"memories": [memory]}) for memory in longer):
            pass

    def _sweep(self, place: _Place) -> bool:
        """Delete an item that has expired, unless it was put again since, or its last value is another writer's."""
        with self._lock:
            values = self._values(_memory_key(place))
            if not values or not _expired(values[-1]):
                return False
            self._delete(self._mine(values))
            if values[-1]["written_by"] != self._taken.own:  # it has ended, and hides what is before it
                return False
            self._hide_others(place, values)
            return True

    def _write(self, puts: Mapping[_Place, base.PutOp]) -> None:
        """Put and delete items: first the new values, so that no reader finds an item missing meanwhile."""
        values = {place: self._values(_memory_key(place)) for place in puts}
        new = (self._value(op, values[place]) for place, op in puts.items() if op.value is not None)
        list(self._map(("store_memory", value) for value in new))
        for place, op in puts.items():
            mine = self._mine(values[place])
            if op.value is not None:
                self._delete(mine[: max(0, len(mine) - self._history)])
            elif any(self._documents(values[place][-1:])):  # else it is deleted already, perhaps by a mark
                self._delete(mine)
                self._hide_others(place, values[place])

    def _hide_others(self, place: _Place, values: Sequence[_Memory]) -> None:
        """Let a mark follow what is left of an item's values: nobody can delete another's."""
        left = [memory for memory in values if memory["written_by"] != self._taken.own]
        if any(self._documents(left[-1:])):
            mark: dict[str, Any] = {"content": _json({"deleted": True}), "source": _ROOT, **_start(left)}
            self._call("store_memory", key=_memory_key(place), **mark)

    def _mine(self, memories: Iterable[_Memory]) -> list[_Memory]:
        return [memory for memory in memories if memory["written_by"] == self._taken.own]

    def _values(self, key: str) -> list[_Memory]:
        """Return the values of an item in their order, those that this store takes."""
        values: list[_Memory] = []
        page: dict[str, Any] = {"next_skip": 0}
        with suppress(NotFound):
            while page["next_skip"] is not None:
                page = self._call("memory_history", key=key, skip=page["next_skip"])
                values += (memory for memory in page["memories"] if self._taken.takes(memory["written_by"]))
        return values

    def _delete(self, memories: Sequence[_Memory]) -> None:
        """Delete values of this key, the oldest first, so that none of them becomes the present one again."""
        for memory in memories:
            with suppress(NotFound):  # another process was faster
                self._call("delete_memory", memory_id=memory["id"])

    def _value(self, op: base.PutOp, values: Sequence[_Memory]) -> dict[str, Any]:
        require_shallow(op.value)
        document: dict[str, Any] = {"namespace": op.namespace, "key": op.key}
        for before in self._documents(memory for memory in values[-1:] if not _expired(memory)):
            document["created_at"] = before["created_at"].isoformat()
        if op.index is None:
            document["value"] = op.value
        else:  # a search finds words of the chosen texts alone
            document["text"] = [text for path in op.index or () for text in base.get_text_at_path(op.value, path)]
            document["encoded"] = base64.b64encode(json.dumps(op.value, allow_nan=False).encode()).decode()
        prefixes = [op.namespace[:depth] for depth in range(len(op.namespace) + 1)]
        fields: dict[str, Any] = {"keywords": list(map(_keyword, prefixes)), **(start := _start(values))}
        if op.ttl is not None:
            document["ttl"] = op.ttl
            fields["valid_until"] = _end(op.ttl, start.get("valid_from"))
            fields["keywords"] += map(_expiring_keyword, prefixes)
        return {
            "key": _memory_key((op.namespace, op.key)),
            "content": _json(document),
            "source": _ROOT,
            "pin": True,
            **fields,
        }

    def _documents(self, memories: Iterable[_Memory]) -> Iterator[dict[str, Any]]:
        """Yield what items are made of, without marks of deletions; what can't be read is left out, and said."""
        for memory in memories:
            try:
                if (document := _document(memory)) is not None:
                    yield document
            except (ValueError, TypeError, KeyError) as error:
                self._taken.skip(memory["id"], memory["written_by"], error)

    def _items(self, memories: Iterable[_Memory], score: float | None = None) -> Iterator[tuple[SearchItem, _Memory]]:
        """Yield the items that have not expired, with their memories."""
        for memory in memories:
            if not _expired(memory):
                yield from ((SearchItem(**document, score=score), memory) for document in self._documents([memory]))

    def _place(self, memory: _Memory) -> _Place | None:
        """Return the namespace and the key of an item; None of what is none."""
        return next(((document["namespace"], document["key"]) for document in self._documents([memory])), None)


def _keyword(prefix: Sequence[str]) -> str:
    return f"{_ROOT}-{hashlib.blake2b(json.dumps(list(prefix)).encode(), digest_size=16).hexdigest()}"


def _expiring_keyword(prefix: Sequence[str]) -> str:
    return f"{_keyword(prefix)}-expiring"


def _memory_key(place: _Place) -> str:
    """Return the memory key of an item, unlike that of any other item also where case and white space don't count.

    What is not a lower-case letter, a digit, `_`, or `-` is `%` and the bytes of its UTF-8; a key that is too long ends
    with a dot and a digest.
    """
    namespace, key = place
    parts = (_encoded.sub(lambda character: f"%{character[0].encode().hex('%')}", label) for label in (*namespace, key))
    text = "/".join((_ROOT, *parts))
    if len(text) <= _MOST_KEY_CHARACTERS:
        return text
    return f"{text[: _MOST_KEY_CHARACTERS - 33]}.{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _ends(memory: _Memory) -> str | None:
    """Return when a value ends as it was put; that another writer's value follows it does not end it here."""
    shown: str | None = memory.get("valid_until")
    return memory["as_stored"]["valid_until"] if "as_stored" in memory else shown


def _ttl(memory: _Memory) -> float | None:
    """Return how many minutes an item has to live, as its put said; None if it does not expire by that."""
    if _ends(memory) is None:
        return None
    with suppress(ValueError, TypeError, KeyError):
        ttl = float(read_json(memory["content"])["ttl"])
        return ttl if 0 < ttl <= _MOST_TTL_MIN else None
    return None


def _end(ttl: float, begins: str | None = None) -> str:
    """Return when a value ends that has so many minutes to live from its beginning, by default now."""
    if not 0 < ttl <= _MOST_TTL_MIN:
        raise ValueError(f"ttl is {ttl!r} minutes; give more than 0 and at most {_MOST_TTL_MIN:,}, or None for no end")
    start = datetime.fromisoformat(begins) if begins else datetime.now(UTC)
    return (start + timedelta(minutes=ttl)).isoformat()


def _expired(memory: _Memory) -> bool:
    """Return whether the last value of an item has ended."""
    ends = _ends(memory)
    return ends is not None and datetime.fromisoformat(ends) <= datetime.now(UTC)


def _start(values: Sequence[_Memory]) -> dict[str, str]:
    """Return when a value has to begin to be the present one, if others begin in the future; else nothing."""
    times = (datetime.fromisoformat(memory["valid_from"]) for memory in values)
    starts = max((time for time in times if time < datetime.fromisoformat(_LATEST)), default=None)
    if starts is None or starts < datetime.now(UTC):
        return {}
    return {"valid_from": (starts + timedelta(milliseconds=2)).isoformat()}  # a time is cut to milliseconds


def _json(value: object) -> str:
    """Return JSON with line feeds and tabs as they are: a search would not find the word after an escaped one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _escape.sub(lambda escaped: {"n": "\n", "t": "\t"}.get(escaped[1], escaped[0]), text)


def _document(memory: _Memory) -> dict[str, Any] | None:
    """Return what an item is made of; None of a mark of a deletion.

    Raises:
        ValueError, TypeError, KeyError: no store has put it.
    """
    document = read_json(memory["content"])
    if document == {"deleted": True}:
        return None
    namespace, key = tuple(document["namespace"]), document["key"]
    if memory["key"] != _memory_key((namespace, key)):
        raise ValueError("it names an item that it is not")
    value = document["value"] if "value" in document else read_json(base64.b64decode(document["encoded"]))
    stored = memory.get("timestamp") or memory["created"]  # by the put of this value: it is not changed
    created, updated = (datetime.fromisoformat(time) for time in (document.get("created_at") or stored, stored))
    if not isinstance(value, dict) or created.tzinfo is None:
        raise ValueError("its value is no object, or its time has no zone")
    return {
        "namespace": namespace,
        "key": key,
        "value": value,
        "created_at": created,
        "updated_at": updated,
        "written_by": memory["written_by"],
    }


def _matches(namespace: tuple[str, ...], condition: base.MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return len(part) == len(path) and all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
