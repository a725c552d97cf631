"""`memory import`: the JSON files of the older agent, stored with this agent; a second import adds nothing.

    memory_store.json          {session: [interaction, ...]}, or {session: {"interactions": [...]}}, also below
                               "sessions"; {"memories": [memory, ...] or {id: memory}} beside these; or [memory, ...]
        interaction            {"type" or "interaction_type": code, user_query, system_response or error,
                               "content" or "text" or "message": text, "speaker"?, "metadata"?,
                               "occurred_at" or "timestamp" or "created_at" or "created"?, ...}
        memory                 {"content" or "text": text, "id" or "memory_id"?, "keywords"?, "source"?, "strength"?,
                               "created" or "created_at" or "timestamp"?, "last_accessed"?,
                               "occurred_at"?, ...}
    error_patterns.json        {error type: [pattern, ...] or pattern}, or [{"error_type": ..., ...pattern}, ...]
        pattern                {"pattern": regular expression, "solution"?, ...}, or the regular expression itself
    digital_twin_store.json    {user: {...}}

A time is ISO-8601, in UTC if it has no zone, or seconds since the epoch; items keep their times. Other fields of an
interaction are stored in its metadata, under `imported`; other fields of a memory or a pattern are ignored. A file of
another shape is refused, with the place in it, before anything is sent.

An earlier import is recognised by what this operator's key wrote: an interaction by the id in its metadata, a memory by
its own id, a pattern by type, text and solution. A twin or a memory that exists, whoever wrote it, is left unchanged,
in quarantine too, which only an operator can see. What was deleted since is stored again.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from twinhost.cli.output import Progress, parse_moment, read
from twinhost.clients.memory_replies import MemoriesFound, MemoriesMerged, QuarantineList, TwinFound
from twinhost.secure_zmq.client import CHANGES_IN_FLIGHT, Client
from twinhost.secure_zmq.errors import ConfigurationError, Conflict, MalformedRequest, RequestError
from twinhost.secure_zmq.wire import Reply

MEMORY_STORE, ERROR_PATTERNS, TWIN_STORE = "memory_store.json", "error_patterns.json", "digital_twin_store.json"
_PAGE = 500  # items, and entries that the agent lists
_DEADLINE_S = 15.0
_NEW_MEMORY_FIELDS = frozenset({"id", "content", "keywords", "source", "strength"})
IMPORT_ID = "import_id"  # in an interaction's metadata
_INTERACTION_KINDS = ("code", "user_query", "system_response", "error")
_Stored = Literal["added", "kept", "replaced"]
_CREATED, _OCCURRED = ("created", "created_at", "timestamp"), ("occurred_at", "timestamp", "created_at", "created")


@dataclass(frozen=True, slots=True)
class Item:
    """One request; `place` is its position in the file."""

    place: str
    action: str
    fields: dict[str, Any]


class PageOfEntries(msgspec.Struct, frozen=True):
    """A page of one kind of entry."""

    entries: tuple[dict[str, Any], ...]
    more: bool
    next_before: int | None = None


class CallersEntries(msgspec.Struct, frozen=True):
    """The reply to `memory_by`, of any kind of entry."""

    quarantined: bool
    written: dict[str, PageOfEntries]


@dataclass(frozen=True, slots=True)
class Imported:
    """How many of a file's items were added, and how many existed: unchanged, or replaced by a newer one of the file.

    `missing` counts items that were stored, but were deleted by another caller before the end of the import.
    """

    added: int
    kept: int
    replaced: int
    missing: int


@dataclass(slots=True)
class Importer:
    """Stores items with one agent."""

    client: Client
    name: str  # of the key that asks
    space: dict[str, Any] = field(default_factory=dict)  # the field that names it; empty for the shared one
    forgotten: int = 0  # of the added memories, because their last access is long ago
    _known: dict[str, set[Any]] = field(default_factory=dict)

    def store(self, file: str, items: list[Item], progress: Progress) -> Imported:
        """Store the items that do not exist yet, and check afterwards that they exist.

        Raises:
            MalformedRequest: the agent refuses an item; the sentence has its place in the file.
            TwinhostError: the agent can't be asked, or refuses for another reason.
        """
        outcomes: Counter[_Stored] = Counter()
        stored: list[Item] = []
        for begin in range(0, len(items), _PAGE):
            page = items[begin : begin + _PAGE]
            new = self._absent(file, page)
            outcomes["kept"] += len(page) - len(new)
            for item, outcome in self._send(file, new):
                outcomes[outcome] += 1
                if outcome != "kept":
                    stored.append(item)
                progress(sum(outcomes.values()), len(items))
            progress(begin + len(page), len(items))
        self._known.clear()
        missing = sum(len(self._absent(file, stored[begin : begin + _PAGE])) for begin in range(0, len(stored), _PAGE))
        self._known.clear()
        return Imported(outcomes["added"], outcomes["kept"], outcomes["replaced"], missing)

    def _send(self, file: str, items: list[Item]) -> Iterator[tuple[Item, _Stored]]:
        """Send items, several at once, and yield what became of each."""
        deleted: list[Item] = []
        for item, reply in self._replies(file, items, [(item.action, item.fields) for item in items]):
            if not reply:  # a twin that somebody stored meanwhile
                yield item, "kept"
            elif item.action != "sync_memories":
                yield item, "added"
            elif outcome := self._merged(reply):
                yield item, outcome
            else:
                deleted.append(item)
        # They were deleted after their last change in the file: store them as new, then give them the file's `created`.
        memories = [item.fields["memories"][0] for item in deleted]
        new = [{name: value for name, value in memory.items() if name in _NEW_MEMORY_FIELDS} for memory in memories]
        for requests in (
            [("store_memory", fields) for fields in new],
            [(item.action, item.fields) for item in deleted],
        ):
            for _ in self._replies(file, deleted, requests):
                pass
        yield from ((item, "added") for item in deleted)

    def _merged(self, reply: Reply) -> _Stored | None:
        """Return what became of a memory that keeps its times; None: nothing, since it was deleted here."""
        merged = read(reply, MemoriesMerged)
        self.forgotten += sum(memory.forgotten for memory in merged.memories)
        return "added" if merged.added else "replaced" if merged.changed else None

    def _replies(
        self, file: str, items: list[Item], requests: list[tuple[str, dict[str, Any]]]
    ) -> Iterator[tuple[Item, Reply]]:
        """Yield the reply to the request of each item; an empty one where the agent has something newer."""
        placed = [(action, self.space | fields) for action, fields in requests]
        replies = self.client.map(placed, in_flight=CHANGES_IN_FLIGHT, deadline_s=_DEADLINE_S, return_exceptions=True)
        for item, reply in zip(items, replies, strict=True):
            if isinstance(reply, Conflict):
                yield item, {}
            elif isinstance(reply, MalformedRequest):
                raise MalformedRequest(f"{file}: {item.place} is refused: {reply}")
            elif isinstance(reply, RequestError):
                located = type(reply)(f"{file}: {item.place}: {reply}; the entries before it are stored")
                located.code = reply.code
                raise located
            else:
                yield item, reply

    def _absent(self, file: str, items: list[Item]) -> list[Item]:
        """Return the items that are not there yet; of several with one identity, only the first."""
        unknown: list[Item] = []
        for item in items:
            if item.action != "update_twin":
                kind, key = _key(item)
                if key in (known := self._written(kind)):
                    continue
                known.add(key)
            unknown.append(item)
        asked = [item for item in unknown if item.action in _ASK_FOR]
        requests = [_ASK_FOR[item.action](item.fields) for item in asked]
        there = {item.place for item, reply in self._replies(file, asked, requests) if self._shows(item, reply)}
        return [item for item in unknown if item.place not in there]

    def _shows(self, item: Item, reply: Reply) -> bool:
        """Return whether a reply has what an item would store, or a quarantined writer has it."""
        if item.action == "update_twin":
            return read(reply, TwinFound).revision > 0 or item.fields["user_id"] in self._hidden("twins", "user_id")
        return read(reply, MemoriesFound).count > 0 or _key(item)[1] in self._hidden("memories", "id")

    def _hidden(self, kind: str, name: str) -> set[Any]:
        """Return the field `name` of all quarantined entries of a kind, which no other reply shows."""
        if (key := f"hidden {kind}") not in self._known:
            writers = read(self._call("list_quarantine"), QuarantineList).quarantined
            entries = (entry for writer in writers for entry in self._written_by(writer.name, kind))
            self._known[key] = {entry.get(name) for entry in entries}
        return self._known[key]

    def _written(self, kind: str) -> set[Any]:
        """Return the keys of what this operator has written of a kind."""
        if kind not in self._known:
            self._known[kind] = {key for entry in self._written_by(self.name, kind) for key in _keys_of(kind, entry)}
        return self._known[kind]

    def _written_by(self, name: str, kind: str) -> Iterator[dict[str, Any]]:
        """Return everything that a caller wrote of one kind, newest first."""
        before: dict[str, int] = {}
        while True:
            reply = self._call("memory_by", name=name, kind=kind, limit=_PAGE, **self.space, **before)
            page = read(reply, CallersEntries).written[kind]
            yield from page.entries
            if not page.more or page.next_before is None:
                return
            before = {"before": page.next_before}

    def _call(self, action: str, **fields: Any) -> Reply:
        return self.client.call(action, deadline_s=_DEADLINE_S, **fields)


# How to ask whether it is there, whoever wrote it; interactions and patterns of others are not looked for.
_ASK_FOR: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "update_twin": lambda fields: ("get_twin", {"user_id": fields["user_id"]}),
    "store_memory": lambda fields: ("query_memory", {"id": fields["id"], "include_forgotten": True, "limit": 1}),
    "sync_memories": lambda fields: _ASK_FOR["store_memory"](fields["memories"][0]),
}


def _key(item: Item) -> tuple[str, Any]:
    fields = item.fields
    if item.action == "add_interaction":
        return "interactions", fields["metadata"][IMPORT_ID]
    if item.action == "add_error_pattern":
        return "error_patterns", (fields["error_type"], fields["pattern"], fields.get("solution"))
    return "memories", (fields["memories"][0] if item.action == "sync_memories" else fields)["id"]


def _keys_of(kind: str, entry: dict[str, Any]) -> set[Any]:
    if kind == "interactions":
        return {entry.get("metadata", {}).get(IMPORT_ID)}
    if kind == "memories":
        return {entry.get("id")}
    # A pattern without a solution is there as soon as the pattern is, with any.
    known = (entry.get("error_type"), entry.get("pattern"))
    return {(*known, entry.get("solution")), (*known, None)}


def read_items(path: Path) -> list[Item]:
    """Return what a file has to store, in its order.

    Raises:
        ConfigurationError: it is none of the three files, can't be read, or has another shape.
    """
    readers: dict[str, Callable[[Any], Iterable[Item]]] = {
        MEMORY_STORE: _memory_store,
        ERROR_PATTERNS: _error_patterns,
        TWIN_STORE: _twins,
    }
    if path.name not in readers:
        raise ConfigurationError(f"{path} is none of {', '.join(readers)}; use the older agent's file names")
    try:
        content = msgspec.json.decode(path.read_bytes())
        return list(readers[path.name](content))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read ({error.strerror}); check its path and its mode") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}; copy it from the older agent again") from None
    except _OtherShape as error:
        raise ConfigurationError(f"{path}: {error}; correct it, and import it again") from None


class _OtherShape(Exception):
    """A file has another shape; the message says what was expected and where."""

    def __init__(self, expected: str, got: Any, place: str) -> None:
        super().__init__(f"Expected {expected}, got {_kind(got)} - at `{place}`")


def _memory_store(content: Any) -> Iterator[Item]:
    if isinstance(content, list):
        yield from _memories(content, "$")
        return
    store = dict(_object(content, "an object of sessions, or an array of memories", "$"))
    if "memories" in store:
        yield from _memories(store.pop("memories"), "$.memories")
    if "sessions" in store:
        sessions = _object(store.pop("sessions"), "an object of sessions", "$.sessions")
        yield from _sessions(sessions, "$.sessions")
    yield from _sessions({name: value for name, value in store.items() if isinstance(value, list | dict)}, "$")
    for name, value in store.items():
        if not isinstance(value, list | dict):
            raise _OtherShape("an array of interactions", value, f"$.{name}")


def _sessions(sessions: Mapping[str, Any], place: str) -> Iterator[Item]:
    for session, value in sessions.items():
        at = f"{place}.{session}"
        if isinstance(value, dict) and "interactions" in value:
            value, at = value["interactions"], f"{at}.interactions"  # noqa: PLW2901 - the same, one level deeper
        seen: Counter[str] = Counter()  # the same content may be there twice
        for number, entry in enumerate(_array(value, "an array of interactions", at)):
            yield _interaction(session, entry, f"{at}[{number}]", seen)


def _interaction(session: str, entry: Any, at: str, seen: Counter[str]) -> Item:
    rest = dict(_object(entry, "an interaction", at))
    kind = _first(rest, ("interaction_type", "type"), at)
    if kind not in _INTERACTION_KINDS:
        raise _OtherShape(f"one of {', '.join(_INTERACTION_KINDS)}", kind, f"{at}.type")
    content = _text(_first(rest, ("content", "text", "message"), at), f"{at}.content")
    metadata = dict(_object(rest.pop("metadata", None) or {}, "an object", f"{at}.metadata"))
    fields: dict[str, Any] = {"session_id": session, "interaction_type": kind, "content": content}
    if rest.get("speaker") is not None:
        fields["speaker"] = _text(rest["speaker"], f"{at}.speaker")
    rest.pop("speaker", None)
    if (occurred := _time(rest, at)) is not None:
        fields["occurred_at"] = occurred
    identity = _digest(session, entry)
    seen[identity] += 1
    fields["metadata"] = {**metadata, IMPORT_ID: f"{identity}-{seen[identity]}", **({"imported": rest} if rest else {})}
    return Item(at, "add_interaction", fields)


def _memories(content: Any, place: str) -> Iterator[Item]:
    if isinstance(content, dict):
        entries = [(f"{place}.{name}", name, value) for name, value in content.items()]
    else:
        array = _array(content, "an array of memories", place)
        entries = [(f"{place}[{number}]", None, value) for number, value in enumerate(array)]
    for at, name, entry in entries:
        yield _memory(name, _object(entry, "a memory", at), at)


def _memory(name: str | None, entry: Mapping[str, Any], at: str) -> Item:
    content = _text(_first(dict(entry), ("content", "text"), at), f"{at}.content")
    own = entry.get("id") or entry.get("memory_id") or name or f"import-{_digest(content)}"
    fields: dict[str, Any] = {"id": _text(own, f"{at}.id"), "content": content}
    fields |= {key: entry[key] for key in ("keywords", "source", "strength") if entry.get(key) is not None}
    created = next((entry[key] for key in _CREATED if entry.get(key) is not None), None)
    accessed = entry.get("last_accessed") or created
    if accessed is None:
        return Item(at, "store_memory", fields)
    fields["last_accessed"] = accessed
    if created is not None:
        fields["created"] = created
    if entry.get("occurred_at") is not None:
        fields["occurred_at"] = entry["occurred_at"]
    return Item(at, "sync_memories", {"memories": [fields]})  # keeps its times


def _time(entry: Mapping[str, Any], at: str) -> str | None:
    """Return when an interaction occurred, as `add_interaction` takes it; None if the file does not say."""
    name = next((name for name in _OCCURRED if entry.get(name) is not None), None)
    if name is None:
        return None
    value, moment = entry[name], None
    if isinstance(value, str):
        moment = parse_moment(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            moment = datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            moment = None
    if moment is None:
        raise _OtherShape("a time in ISO-8601 or in seconds since the epoch", value, f"{at}.{name}")
    return moment.isoformat()


def _error_patterns(content: Any) -> Iterator[Item]:
    if isinstance(content, list):
        for number, entry in enumerate(content):
            at = f"$[{number}]"
            pattern = _object(entry, "an error pattern", at)
            yield _pattern(_text(_first(dict(pattern), ("error_type",), at), f"{at}.error_type"), pattern, at)
        return
    for error_type, value in _object(content, "an object of error types", "$").items():
        at = f"$.{error_type}"
        if isinstance(value, list):
            for number, entry in enumerate(value):
                yield _pattern(error_type, entry, f"{at}[{number}]")
        else:
            yield _pattern(error_type, value, at)


def _pattern(error_type: str, entry: Any, at: str) -> Item:
    if isinstance(entry, str):
        return Item(at, "add_error_pattern", {"error_type": error_type, "pattern": entry})
    given = _object(entry, "an error pattern", at)
    pattern = _text(_first(dict(given), ("pattern",), at), f"{at}.pattern")
    fields: dict[str, Any] = {"error_type": error_type, "pattern": pattern}
    if given.get("solution"):
        fields["solution"] = _text(given["solution"], f"{at}.solution")
    return Item(at, "add_error_pattern", fields)


def _twins(content: Any) -> Iterator[Item]:
    for user, twin in _object(content, "an object of users", "$").items():
        data = dict(_object(twin, "a twin, an object", f"$.{user}"))
        yield Item(f"$.{user}", "update_twin", {"user_id": user, "twin_data": data, "if_revision": 0})


def _first(entry: dict[str, Any], names: tuple[str, ...], at: str) -> Any:
    """Remove and return the first of some fields that is present."""
    if (name := next((name for name in names if name in entry), None)) is not None:
        return entry.pop(name)
    raise _OtherShape(f"a field `{names[0]}`", entry, at)


def _object(value: Any, expected: str, at: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise _OtherShape(expected, value, at)


def _array(value: Any, expected: str, at: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise _OtherShape(expected, value, at)


def _text(value: Any, at: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise _OtherShape("a text", value, at)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:64])
    return {dict: "an object", list: "an array", type(None): "null", bool: "a boolean"}.get(type(value), "a number")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:40]
