"""A store for LangGraph (`BaseStore`) whose items are memories of UnifiedMemoryReasoningAgent.

    from twinhost import connect
    from twinhost.adapters.langgraph import TwinhostStore

    graph = builder.compile(store=TwinhostStore(connect("UnifiedMemoryReasoningAgent")))

An item is the present value of a memory key, which is the namespace and the item's key, encoded so that no two are
alike. Each beginning of the namespace is a keyword, by which items are listed and searched. A put stores the next value
of the memory key, so the puts of all writers have one order, that of the agent (decision 61).

An item with a time to live ends with the `valid_until` of its memory, which a read moves. As of `_LATEST` it is not
valid, so it has further keywords by which it is listed.
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import structlog

from twinhost.adapters import missing_extra
from twinhost.adapters.item_filters import fits
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound, NotGranted, TwinhostError
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


class TwinhostStore(base.BaseStore):
    """Items as memories; for any number of threads, which share the client's connection."""

    supports_ttl = True

    def __init__(self, client: Client, *, history: int = 3, ttl: base.TTLConfig | None = None) -> None:
        """Use a client of UnifiedMemoryReasoningAgent, which nothing else uses meanwhile.

        Args:
            client: it stays open; its errors are raised as they are.
            history: how many earlier values of an item are kept when it is put again, for `memory_history`.
            ttl: how items expire where a call does not say it; no item is returned after that, whatever it says.
        """
        self._client = client
        self._history = history
        self.ttl_config = ttl
        self._sweeper: tuple[Worker, Future[None]] | None = None
        self._lock = threading.Lock()
        self._others: set[str] = set()  # writers whose values this client may not delete

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
            values = self._last_values([_expiring_keyword(())])
            expired = {_place(memory) for memory in values if _expired(memory)}
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
            memories = [self._client.call("get_memory", key=key, as_of=_LATEST)["memory"]]
        except NotFound:  # or it expires
            memories = [memory for memory in self._values(key)[-1:] if "valid_until" in memory and not _expired(memory)]
        if op.refresh_ttl:
            self._refresh(memories)
        return next((base.Item(**document) for document in _documents(memories)), None)

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
        results = self._client.call("search_memory", query=text, keyword=_keyword(prefix), limit=_MOST_FOUND)["results"]
        fitting = [
            result for result in results if "superseded_by" not in result and _UNINDEXED not in result["content"]
        ]
        wholes = self._client.map(("query_memory", {"ids": [result["id"]]}) for result in fitting)
        for result, whole in zip(fitting, cast("Iterator[Reply]", wholes), strict=True):  # an error is raised
            yield from _items(whole["memories"], result["score"])

    def _listed(self, prefix: tuple[str, ...], limit: int) -> Iterator[tuple[base.SearchItem, _Memory]]:
        """Yield the items under a namespace, the last one that was put first."""
        limit, keywords = max(1, min(limit, _MOST_ON_A_PAGE)), [_keyword(prefix)]
        if any(self._pages(1, keywords=[_expiring_keyword(prefix)])):
            return _items(self._last_values(keywords, limit))
        return _items(self._pages(limit, keywords=keywords, as_of=_LATEST))  # without the earlier values: quicker

    def _last_values(self, keywords: list[str], limit: int = _MOST_ON_A_PAGE) -> Iterator[_Memory]:
        """Yield the last values of items, also of those that have expired."""
        return (memory for memory in self._pages(limit, keywords=keywords) if "superseded_by" not in memory)

    def _pages(self, limit: int, **fields: Any) -> Iterator[_Memory]:
        page: dict[str, Any] = {"more": True, "next_before": None}
        while page["more"]:
            page = self._client.call("query_memory", limit=limit, before=page["next_before"], **fields)
            yield from page["memories"]

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
            for memory in memories
            if memory["written_by"] not in self._others and (ttl := _ttl(memory)) is not None
        ]
        replies = self._client.map(("sync_memories", {"memories": [memory]}) for memory in longer)
        for memory, reply in zip(longer, cast("Iterator[Reply]", replies), strict=True):
            if reply["refused_ids"]:
                self._others.add(memory["written_by"])

    def _sweep(self, place: _Place) -> bool:
        """Delete an item that has expired, unless it was put again since, or its last value is another writer's."""
        with self._lock:
            values = self._values(_memory_key(place))
            if not values or not _expired(values[-1]):
                return False
            self._delete(self._mine(values))
            if values[-1]["written_by"] in self._others:  # it has ended, and hides what is before it
                return False
            self._hide_others(place, values)
            return True

    def _write(self, puts: Mapping[_Place, base.PutOp]) -> None:
        """Put and delete items: first the new values, so that no reader finds an item missing meanwhile."""
        values = {place: self._values(_memory_key(place)) for place in puts}
        new = (_value(op, values[place]) for place, op in puts.items() if op.value is not None)
        list(self._client.map(("store_memory", value) for value in new))
        for place, op in puts.items():
            mine = self._mine(values[place])
            if op.value is not None:
                self._delete(mine[: max(0, len(mine) - self._history)])
            elif any(_documents(values[place][-1:])):  # else it is deleted already, perhaps by a mark
                self._delete(mine)
                self._hide_others(place, values[place])

    def _hide_others(self, place: _Place, values: Sequence[_Memory]) -> None:
        """Let a mark follow what is left of an item's values: nobody can delete another's."""
        left = [memory for memory in values if memory["written_by"] in self._others]
        if any(_documents(left[-1:])):
            mark: dict[str, Any] = {"content": _json({"deleted": True}), "source": _ROOT, **_start(left)}
            self._client.call("store_memory", key=_memory_key(place), **mark)

    def _mine(self, values: Sequence[_Memory]) -> list[_Memory]:
        return [memory for memory in values if memory["written_by"] not in self._others]

    def _values(self, key: str) -> list[_Memory]:
        values: list[_Memory] = []
        page: dict[str, Any] = {"next_skip": 0}
        with suppress(NotFound):
            while page["next_skip"] is not None:
                page = self._client.call("memory_history", key=key, skip=page["next_skip"])
                values += page["memories"]
        return values

    def _delete(self, memories: Sequence[_Memory]) -> None:
        """Delete values, the oldest first, so that none of them becomes the present one again; others' stay."""
        for memory in memories:
            try:
                with suppress(NotFound):  # another process was faster
                    self._client.call("delete_memory", memory_id=memory["id"])
            except NotGranted:
                self._others.add(memory["written_by"])


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


def _value(op: base.PutOp, values: Sequence[_Memory]) -> dict[str, Any]:
    document: dict[str, Any] = {"namespace": op.namespace, "key": op.key}
    for before in _documents(memory for memory in values[-1:] if not _expired(memory)):
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


def _ttl(memory: _Memory) -> float | None:
    """Return how many minutes an item has to live, as its put said; None if it does not expire by that."""
    if "valid_until" not in memory:
        return None
    with suppress(ValueError, TypeError, KeyError):
        ttl = float(json.loads(memory["content"], strict=False)["ttl"])
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
    return "valid_until" in memory and datetime.fromisoformat(memory["valid_until"]) <= datetime.now(UTC)


def _start(values: Sequence[_Memory]) -> dict[str, str]:
    """Return when a value has to begin to be the present one, if others begin in the future; else nothing."""
    starts = max((datetime.fromisoformat(memory["valid_from"]) for memory in values), default=None)
    if starts is None or starts < datetime.now(UTC):
        return {}
    return {"valid_from": (starts + timedelta(milliseconds=2)).isoformat()}  # a time is cut to milliseconds


def _json(value: object) -> str:
    """Return JSON with line feeds and tabs as they are: a search would not find the word after an escaped one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _escape.sub(lambda escaped: {"n": "\n", "t": "\t"}.get(escaped[1], escaped[0]), text)


def _documents(memories: Iterable[_Memory]) -> Iterator[dict[str, Any]]:
    """Yield what items are made of, without marks of deletions, and without what no store has put."""
    for memory in memories:
        with suppress(ValueError, TypeError, KeyError):
            document = json.loads(memory["content"], strict=False)
            if memory["key"] != _memory_key((tuple(document["namespace"]), document["key"])):
                continue  # another program's, which names an item that it is not
            stored = memory.get("timestamp") or memory["created"]  # by the put of this value: it is not changed
            yield {
                "namespace": tuple(document["namespace"]),
                "key": document["key"],
                "value": document["value"]
                if "value" in document
                else json.loads(base64.b64decode(document["encoded"])),
                "created_at": datetime.fromisoformat(document.get("created_at") or stored),
                "updated_at": datetime.fromisoformat(stored),
            }


def _items(memories: Iterable[_Memory], score: float | None = None) -> Iterator[tuple[base.SearchItem, _Memory]]:
    """Yield the items that have not expired, with their memories."""
    for memory in memories:
        if not _expired(memory):
            yield from ((base.SearchItem(**document, score=score), memory) for document in _documents([memory]))


def _place(memory: _Memory) -> _Place:
    """Return the namespace and the key of an item; of what is none, a place where none is."""
    return next(((document["namespace"], document["key"]) for document in _documents([memory])), ((), ""))


def _matches(namespace: tuple[str, ...], condition: base.MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return len(part) == len(path) and all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
