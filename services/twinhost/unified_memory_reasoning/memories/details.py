"""The optional fields of a memory, each declared once, in `Details`.

From there a field reaches the requests that store and sync it, the table, the replies, and whoever shows a memory to a
person or a model. A field that a search filters by has a column of the table too.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar, get_type_hints

import msgspec

from twinhost.agent.request_times import ISO_TIME, TIME, past_seconds_of, stored_seconds_of
from twinhost.moments import Clock, iso_time
from twinhost.secure_zmq.wire import NAME

KEY = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]  # compared without case and surplus white space
MAX_AHEAD_S = 60.0  # of this host's clock, for a time in the past

S = TypeVar("S", bound=msgspec.Struct)
D = TypeVar("D")
Read = Callable[[Any, str, Clock, float], Any]  # of a request's value, its path, the clock, and seconds ahead of it


class Kind(msgspec.Struct, frozen=True):
    """The types of a value in `store_memory`, `sync_memories` and replies, and how it is read and written."""

    stored: Any
    synced: Any
    shown: Any
    read: Read = lambda value, *_: value
    write: Callable[[Any], Any] = lambda value: value


PAST = Kind(ISO_TIME, TIME, str, past_seconds_of, iso_time)
MOMENT = Kind(ISO_TIME, TIME, str, lambda value, path, *_: stored_seconds_of(value, path), iso_time)
TEXT = Kind(KEY, KEY, str)
FLAG = Kind(bool, bool, Literal[True])
_MEMORIES = Annotated[list[NAME], msgspec.Meta(max_length=64)]
MEMORIES = Kind(_MEMORIES, _MEMORIES, list[str], lambda value, *_: tuple(dict.fromkeys(value)), list)


class Field(msgspec.Struct, frozen=True):
    """How a field is sent and shown: with `in_search`, the results of a search have it, and so do those who show them.

    `stored_as` is its name in `store_memory`, if that is another one.
    """

    kind: Kind
    in_search: bool = False
    stored_as: str = ""


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The optional part of a memory's body; times in seconds since the epoch. A new field is the last one.

    `occurred_at` is when it happened or was said. `valid_from` and `valid_until` are as its writer gave them: a later
    value of the same `key`, or a memory that `supersedes` it, may end its validity earlier (see `validity`).
    """

    occurred_at: Annotated[float | None, Field(PAST)] = None
    key: Annotated[str | None, Field(TEXT)] = None
    valid_from: Annotated[float | None, Field(MOMENT, in_search=True)] = None
    valid_until: Annotated[float | None, Field(MOMENT, in_search=True)] = None
    supersedes: Annotated[tuple[str, ...], Field(MEMORIES)] = ()
    review_at: Annotated[float | None, Field(MOMENT)] = None
    pinned: Annotated[bool, Field(FLAG, stored_as="pin")] = False


MIGRATION = """
CREATE TABLE memory_details (
    number INTEGER PRIMARY KEY REFERENCES memories (number) ON DELETE CASCADE,
    id TEXT NOT NULL UNIQUE,
    written_by TEXT NOT NULL,
    starts REAL NOT NULL,
    details TEXT NOT NULL,
    key TEXT GENERATED ALWAYS AS (details ->> 'key') VIRTUAL,
    occurred_at REAL GENERATED ALWAYS AS (details ->> 'occurred_at') VIRTUAL,
    valid_until REAL GENERATED ALWAYS AS (details ->> 'valid_until') VIRTUAL,
    review_at REAL GENERATED ALWAYS AS (details ->> 'review_at') VIRTUAL,
    pinned INTEGER GENERATED ALWAYS AS (coalesce(details ->> 'pinned', 0)) VIRTUAL
) STRICT;
CREATE INDEX memory_details_by_key ON memory_details (key, starts, id, written_by) WHERE key IS NOT NULL;
CREATE INDEX memory_details_by_end ON memory_details (valid_until) WHERE valid_until IS NOT NULL;
CREATE INDEX memory_details_by_review ON memory_details (review_at) WHERE review_at IS NOT NULL;
CREATE INDEX memory_details_by_pin ON memory_details (pinned, number);
CREATE TABLE memory_supersedes (
    superseded TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES memory_details (number) ON DELETE CASCADE,
    PRIMARY KEY (superseded, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_supersedes_by_memory ON memory_supersedes (number);
CREATE TABLE memory_claims (
    mark TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES memories (number) ON DELETE CASCADE,
    PRIMARY KEY (mark, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_claims_by_memory ON memory_claims (number);
DROP INDEX memories_by_number;
DROP INDEX memories_by_source;
CREATE INDEX memories_by_number ON memories (number, strength, forgotten, written_by, last_accessed);
CREATE INDEX memories_by_source ON memories (source, number, strength, forgotten, written_by, last_accessed);
"""
FOLDED_KEYS_MIGRATION = """
ALTER TABLE memory_details ADD COLUMN folded_key TEXT;
DROP INDEX memory_details_by_key;
CREATE INDEX memory_details_by_key ON memory_details (folded_key, starts, id, written_by)
WHERE folded_key IS NOT NULL;
"""  # without a value, which SQL can't compute: see `Validity.fold_keys`
NONE = Details()
_FIELDS: dict[str, Field] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Details, include_extras=True).items()
}
decode_details = msgspec.json.Decoder(Details).decode  # as they are stored


def stores_details(request: type[S]) -> type[S]:
    """Give a request the fields of `Details`; those that it omits are None."""
    return _with_fields(
        request, [(field.stored_as or name, field.kind.stored | None, None) for name, field in _FIELDS.items()]
    )


def syncs_details(record: type[S]) -> type[S]:
    """Give a record of another store the fields of `Details`, with the same defaults."""
    fields = []
    for name, field in _FIELDS.items():
        default = getattr(NONE, name)
        default = list(default) if isinstance(default, tuple) else default
        fields.append((name, field.kind.synced | None if default is None else field.kind.synced, default))
    return _with_fields(record, fields, kw_only=True)


def _with_fields(struct: type[S], fields: list[tuple[str, Any, Any]], *, kw_only: bool = False) -> type[S]:
    made: Any = msgspec.defstruct(struct.__name__, fields, bases=(struct,), module=struct.__module__, kw_only=kw_only)
    with_fields: type[S] = made
    return with_fields


def shows_details(document: type[D], *, in_search: bool = False) -> type[D]:
    """Give a document the fields of `Details`, or those that a search shows; the ones without a value are absent."""
    shown = {name: NotRequired[_FIELDS[name].kind.shown] for name in _names(in_search=in_search)}
    made: Any = TypedDict
    with_fields: type[D] = made(document.__name__, {**document.__annotations__, **shown})
    with_fields.__module__ = document.__module__
    return with_fields


shows_details_in_search = partial(shows_details, in_search=True)


def stored_details(request: msgspec.Struct, clock: Clock) -> dict[str, Any]:
    """Return the fields that a request to store a memory gives; the others stay unchanged.

    Raises:
        MalformedRequest: one names no time, or one that it may not be.
    """
    given: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        sent_as = field.stored_as or name
        if (sent := getattr(request, sent_as, None)) is not None:
            value = field.kind.read(sent, f"$.{sent_as}", clock, MAX_AHEAD_S)
            given[name] = value.strip() if isinstance(value, str) else value
    return given


def synced_details(record: msgspec.Struct, path: str, clock: Clock, ahead_s: float) -> Details:
    """Return the fields of another store's record, whose times may be so far ahead of this host's clock.

    Raises:
        MalformedRequest: one names no time, or one that it may not be.
    """
    return Details(
        **{
            name: field.kind.read(value, f"{path}.{name}", clock, ahead_s)
            for name, field in _FIELDS.items()
            if (value := getattr(record, name)) is not None
        }
    )


def shown_details(details: Details, *, in_search: bool = False) -> dict[str, Any]:
    """Return the fields that have a value, or those that a search shows, as a reply has them."""
    return {
        name: _FIELDS[name].kind.write(value)
        for name in _names(in_search=in_search)
        if (value := getattr(details, name)) != getattr(NONE, name)
    }


def described(document: Mapping[str, Any], moment: Callable[[str], str] = lambda time: time[:10]) -> list[str]:
    """Return in words what a search shows of a memory, such as *valid until 2026-05-01*; `moment` shortens a time."""
    names = (name for name in _names(in_search=True) if document.get(name))
    return [f"{name.replace('_', ' ')} {moment(str(document[name]))}" for name in names]


def _names(*, in_search: bool) -> Iterator[str]:
    return (name for name, field in _FIELDS.items() if field.in_search or not in_search)
