"""A store for LangGraph (`BaseStore`) whose items are memories of UnifiedMemoryReasoningAgent.

    from twinhost import connect
    from twinhost.adapters.langgraph import TwinhostStore

    graph = builder.compile(store=TwinhostStore(connect("UnifiedMemoryReasoningAgent")))

An item is the present value of a memory key, which is the namespace and the item's key, encoded so that no two are
alike. Each beginning of the namespace is a keyword, by which items are listed and searched. A put stores the next value
of the memory key, so the puts of all writers have one order, that of the agent (decision 61).
"""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from twinhost.adapters import missing_extra
from twinhost.adapters.item_filters import fits
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound, NotGranted
from twinhost.secure_zmq.wire import Reply

try:
    from langgraph.store import base
except ImportError:
    raise missing_extra("langgraph", "langgraph-checkpoint") from None

_ROOT = "langgraph"
_LATEST = "9999-12-31T00:00:00+00:00"  # as of then the newest value is the present one, also if a clock was set back
_MOST_KEY_CHARACTERS = 256
_MOST_QUERY_BYTES = 4_096
_MOST_FOUND, _MOST_ON_A_PAGE = 100, 1_000
_encoded = re.compile(r"[^a-z0-9_-]")
_escape = re.compile(r"\\(.)")
_UNINDEXED = '"text": [], "encoded": "'  # JSON escapes quotation marks, so no text of an item has this

_Place = tuple[tuple[str, ...], str]  # an item's namespace and key
_Memory = Mapping[str, Any]


class TwinhostStore(base.BaseStore):
    """Items as memories; for any number of threads, which share the client's connection."""

    def __init__(self, client: Client, *, history: int = 3) -> None:
        """Use a client of UnifiedMemoryReasoningAgent, which nothing else uses meanwhile.

        Args:
            client: it stays open; its errors are raised as they are.
            history: how many earlier values of an item are kept when it is put again, for `memory_history`.
        """
        self._client = client
        self._history = history
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
        try:
            found = self._client.call("get_memory", key=_memory_key((op.namespace, op.key)), as_of=_LATEST)
        except NotFound:
            return None
        return next((base.Item(**each) for each in _documents([found["memory"]])), None)

    def _search(self, op: base.SearchOp) -> list[base.SearchItem]:
        """Return what fits the query, then the other items: as if each were near to the query to some degree."""
        most = op.offset + op.limit
        found: dict[_Place, base.SearchItem] = {}
        sources = [self._listed(op.namespace_prefix, _MOST_ON_A_PAGE if op.filter else most)]
        if op.query:
            sources.insert(0, self._ranked(op.query, op.namespace_prefix))
        for item in (each for source in sources for each in source):
            if fits(item.value, op.filter or {}):
                found.setdefault((item.namespace, item.key), item)
            if len(found) >= most:
                break
        return list(found.values())[op.offset : most]

    def _ranked(self, query: str, prefix: tuple[str, ...]) -> Iterator[base.SearchItem]:
        """Yield what fits a query, best first."""
        text = query.encode()[:_MOST_QUERY_BYTES].decode(errors="ignore")
        results = self._client.call("search_memory", query=text, keyword=_keyword(prefix), limit=_MOST_FOUND)["results"]
        found = [each for each in results if "superseded_by" not in each and _UNINDEXED not in each["content"]]
        wholes = self._client.map(("query_memory", {"ids": [each["id"]]}) for each in found)
        for each, whole in zip(found, cast("Iterator[Reply]", wholes), strict=True):  # an error is raised
            yield from (base.SearchItem(**document, score=each["score"]) for document in _documents(whole["memories"]))

    def _listed(self, prefix: tuple[str, ...], limit: int) -> Iterator[base.SearchItem]:
        """Yield the items under a namespace, the last one that was put first."""
        limit, keywords = max(1, min(limit, _MOST_ON_A_PAGE)), [_keyword(prefix)]
        page: dict[str, Any] = {"more": True, "next_before": None}
        while page["more"]:
            before = page["next_before"]
            page = self._client.call("query_memory", keywords=keywords, as_of=_LATEST, limit=limit, before=before)
            yield from (base.SearchItem(**each) for each in _documents(page["memories"]))

    def _namespaces(self, op: base.ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        prefixes = (each.path for each in conditions if each.match_type == "prefix" and "*" not in each.path)
        found = {item.namespace for item in self._listed(max(prefixes, key=len, default=()), _MOST_ON_A_PAGE)}
        matching = {each[: op.max_depth] for each in found if all(_matches(each, one) for one in conditions)}
        return sorted(matching)[op.offset : op.offset + op.limit]

    def _write(self, puts: Mapping[_Place, base.PutOp]) -> None:
        """Put and delete items: first the new values, so that no reader finds an item missing meanwhile."""
        values = {place: self._values(_memory_key(place)) for place in puts}
        new = (_value(op, values[place]) for place, op in puts.items() if op.value is not None)
        list(self._client.map(("store_memory", each) for each in new))
        for place, op in puts.items():
            if op.value is None and not any(_documents(values[place][-1:])):
                continue  # it is deleted already, perhaps by a mark that hides another writer's value
            mine = [each for each in values[place] if each["written_by"] not in self._others]
            self._delete(mine if op.value is None else mine[: max(0, len(mine) - self._history)])
            left = [each for each in values[place] if each["written_by"] in self._others]
            if op.value is None and any(_documents(left[-1:])):  # nobody can delete another's value
                mark: dict[str, Any] = {"content": _json({"deleted": True}), "source": _ROOT, **_start(left)}
                self._client.call("store_memory", key=_memory_key(place), **mark)

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


def _memory_key(place: _Place) -> str:
    """Return the memory key of an item, unlike that of any other item also where case and white space don't count.

    What is not a lower-case letter, a digit, `_`, or `-` is `%` and the bytes of its UTF-8; a key that is too long ends
    with a dot and a digest.
    """
    namespace, key = place
    parts = (_encoded.sub(lambda found: f"%{found[0].encode().hex('%')}", each) for each in (*namespace, key))
    text = "/".join((_ROOT, *parts))
    if len(text) <= _MOST_KEY_CHARACTERS:
        return text
    return f"{text[: _MOST_KEY_CHARACTERS - 33]}.{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _value(op: base.PutOp, values: Sequence[_Memory]) -> dict[str, Any]:
    document: dict[str, Any] = {"namespace": op.namespace, "key": op.key}
    for before in _documents(values[-1:]):
        document["created_at"] = before["created_at"].isoformat()
    if op.index is None:
        document["value"] = op.value
    else:  # a search finds words of the chosen texts alone
        document["text"] = [text for path in op.index or () for text in base.get_text_at_path(op.value, path)]
        document["encoded"] = base64.b64encode(json.dumps(op.value, allow_nan=False).encode()).decode()
    return {
        "key": _memory_key((op.namespace, op.key)),
        "content": _json(document),
        "keywords": [_keyword(op.namespace[:depth]) for depth in range(len(op.namespace) + 1)],
        "source": _ROOT,
        "pin": True,
        **_start(values),
    }


def _start(values: Sequence[_Memory]) -> dict[str, str]:
    """Return when a value has to begin to be the present one, if others begin in the future; else nothing."""
    starts = max((datetime.fromisoformat(each["valid_from"]) for each in values), default=None)
    if starts is None or starts < datetime.now(UTC):
        return {}
    return {"valid_from": (starts + timedelta(milliseconds=2)).isoformat()}  # a time is cut to milliseconds


def _json(value: object) -> str:
    """Return JSON with line feeds and tabs as they are: a search would not find the word after an escaped one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _escape.sub(lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[0]), text)


def _documents(memories: Iterable[_Memory]) -> Iterator[dict[str, Any]]:
    """Yield what items are made of, without marks of deletions, and without what no store has put."""
    for memory in memories:
        with suppress(ValueError, TypeError, KeyError):
            found = json.loads(memory["content"], strict=False)
            if memory["key"] != _memory_key((tuple(found["namespace"]), found["key"])):
                continue  # another program's, which names an item that it is not
            stored = memory.get("timestamp") or memory["created"]  # by the put of this value: it is not changed
            yield {
                "namespace": tuple(found["namespace"]),
                "key": found["key"],
                "value": found["value"] if "value" in found else json.loads(base64.b64decode(found["encoded"])),
                "created_at": datetime.fromisoformat(found.get("created_at") or stored),
                "updated_at": datetime.fromisoformat(stored),
            }


def _matches(namespace: tuple[str, ...], condition: base.MatchCondition) -> bool:
    path = condition.path
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return len(part) == len(path) and all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))
