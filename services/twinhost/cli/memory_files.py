"""The three JSON files of the older agent, as requests to today's.

    memory_store.json          {session: [interaction, ...]}, or {session: {"interactions": [...]}}, also below
                               "sessions"; {"memories": [memory, ...] or {id: memory}} beside these; or [memory, ...]
        interaction            {"type" or "interaction_type": code, user_query, system_response or error,
                               "content" or "text" or "message": text, "speaker"?, "metadata"?, ...}
        memory                 {"content" or "text": text, "id" or "memory_id"?, "keywords"?, "source"?, "strength"?,
                               "created" or "created_at" or "timestamp"?, "last_accessed"?, ...}
    error_patterns.json        {error type: [pattern, ...] or pattern}, or [{"error_type": ..., ...pattern}, ...]
        pattern                {"pattern": regular expression, "solution"?, ...}, or the regular expression itself
    digital_twin_store.json    {user: {...}}

What an interaction has besides is kept in its metadata, under `imported`; what a memory or a pattern has besides is
left out. Anything else is refused with the file and the place in it, before anything is sent.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from twinhost.secure_zmq.errors import ConfigurationError

MEMORY_STORE, ERROR_PATTERNS, TWIN_STORE = "memory_store.json", "error_patterns.json", "digital_twin_store.json"
IMPORT_ID = "import_id"  # in an interaction's metadata
KINDS = ("code", "user_query", "system_response", "error")
_CREATED = ("created", "created_at", "timestamp")


@dataclass(frozen=True, slots=True)
class Item:
    """One request: `place` is where it stands in its file."""

    place: str
    action: str
    fields: dict[str, Any]


def read_items(path: Path) -> list[Item]:
    """Return what a file asks to be stored, in its order.

    Raises:
        ConfigurationError: it is none of the three, can't be read, or has another shape.
    """
    readers: dict[str, Callable[[Any], Iterable[Item]]] = {
        MEMORY_STORE: _memory_store,
        ERROR_PATTERNS: _error_patterns,
        TWIN_STORE: _twins,
    }
    if path.name not in readers:
        raise ConfigurationError(f"{path} is none of {', '.join(readers)}; name the file as the older agent did")
    try:
        content = msgspec.json.decode(path.read_bytes())
        return list(readers[path.name](content))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read ({error.strerror}); see its path and its mode") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}; take it from the older agent again") from None
    except _OtherShape as error:
        raise ConfigurationError(f"{path}: {error}; mend it, and import it again") from None


class _OtherShape(Exception):
    """A file holds something else; the message says what was expected and where."""

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
        seen: Counter[str] = Counter()  # the same words may well have been said twice
        for number, entry in enumerate(_array(value, "an array of interactions", at)):
            yield _interaction(session, entry, f"{at}[{number}]", seen)


def _interaction(session: str, entry: Any, at: str, seen: Counter[str]) -> Item:
    left = dict(_object(entry, "an interaction", at))
    kind = _first(left, ("interaction_type", "type"), at)
    if kind not in KINDS:
        raise _OtherShape(f"one of {', '.join(KINDS)}", kind, f"{at}.type")
    content = _text(_first(left, ("content", "text", "message"), at), f"{at}.content")
    metadata = dict(_object(left.pop("metadata", None) or {}, "an object", f"{at}.metadata"))
    fields: dict[str, Any] = {"session_id": session, "interaction_type": kind, "content": content}
    if left.get("speaker") is not None:
        fields["speaker"] = _text(left["speaker"], f"{at}.speaker")
    left.pop("speaker", None)
    identity = _digest(session, entry)
    seen[identity] += 1
    fields["metadata"] = {**metadata, IMPORT_ID: f"{identity}-{seen[identity]}", **({"imported": left} if left else {})}
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
    for field in ("keywords", "source", "strength"):
        if entry.get(field) is not None:
            fields[field] = entry[field]
    created = next((entry[field] for field in _CREATED if entry.get(field) is not None), None)
    accessed = entry.get("last_accessed") or created
    if accessed is None:
        return Item(at, "store_memory", fields)
    fields["last_accessed"] = accessed
    if created is not None:
        fields["created"] = created
    return Item(at, "sync_memories", {"memories": [fields]})  # keeps its moments


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
        yield Item(f"$.{user}", "update_twin", {"user_id": user, "twin_data": data})


def _first(entry: dict[str, Any], names: tuple[str, ...], at: str) -> Any:
    """Take out and return the first of some fields that is there."""
    for name in names:
        if name in entry:
            return entry.pop(name)
    raise _OtherShape(f"a field `{names[0]}`", entry, at)


def _object(value: Any, expected: str, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _OtherShape(expected, value, at)
    return value


def _array(value: Any, expected: str, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise _OtherShape(expected, value, at)
    return value


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str) or not value:
        raise _OtherShape("a text", value, at)
    return value


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:64])
    names = {dict: "an object", list: "an array", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:40]
