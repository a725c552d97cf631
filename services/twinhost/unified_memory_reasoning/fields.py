"""Optional fields of what this agent stores, each declared once, in a record.

A field of such a record reaches the requests that store it and those that sync it, the replies, and whoever shows it to
a person or a model. It is stored as JSON with the record, or in a column of its name.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Generic, NotRequired, TypedDict, TypeVar, get_args, get_type_hints

import msgspec

from twinhost.agent.request_times import ISO_TIME, TIME, past_seconds_of, stored_seconds_of
from twinhost.fence import LONGEST_TAG, SHORTEST_TAG, TAG_PATTERN
from twinhost.moments import Clock, iso_time

TAG = Annotated[
    str, msgspec.Meta(min_length=SHORTEST_TAG, max_length=LONGEST_TAG, pattern=TAG_PATTERN, examples=["kqzvtrwmxa"])
]
MAX_AHEAD_S = 60.0  # of this host's clock, for a time in the past

R = TypeVar("R", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)
D = TypeVar("D")
Read = Callable[[Any, str, Clock, float], Any]  # of a request's value, its path, the clock, and seconds ahead of it


class Kind(msgspec.Struct, frozen=True):
    """The types of a value in a request to store it, in one to sync it, and in replies; how it is read and written.

    Without a value it is absent from what is shown, or null if the type there allows that.
    """

    stored: Any
    synced: Any
    shown: Any
    read: Read = lambda value, *_: value
    write: Callable[[Any], Any] = lambda value: value
    stripped: bool = False  # a text is stored without the white space around it


PAST = Kind(ISO_TIME, TIME, str, past_seconds_of, iso_time)
MOMENT = Kind(ISO_TIME, TIME, str, lambda value, path, *_: stored_seconds_of(value, path), iso_time)


class Field(msgspec.Struct, frozen=True):
    """How a field is sent and shown: with `in_search`, the results of a search have it, and so do those who show them.

    `stored_as` is its name in the request to store it, if that is another one.
    """

    kind: Kind
    in_search: bool = False
    stored_as: str = ""


class Fields(Generic[R]):
    """The fields of one record, each of which is `Annotated` with a `Field` and has a default: none."""

    def __init__(self, record: type[R]) -> None:
        self._record = record
        self._fields: dict[str, Field] = {
            name: hint.__metadata__[0] for name, hint in get_type_hints(record, include_extras=True).items()
        }
        self._searched = [name for name, field in self._fields.items() if field.in_search]
        self.nulls = [name for name, field in self._fields.items() if type(None) in get_args(field.kind.shown)]
        self.none = record()
        self.names = tuple(self._fields)

    def stored_by(self, request: type[S]) -> type[S]:
        """Give a request the fields; those that it omits are None."""
        return _extended(
            request, [(field.stored_as or name, field.kind.stored | None, None) for name, field in self._fields.items()]
        )

    def synced_by(self, record: type[S]) -> type[S]:
        """Give a record of another store the fields, with the same defaults."""
        fields = []
        for name, field in self._fields.items():
            default = getattr(self.none, name)
            default = list(default) if isinstance(default, tuple) else default
            fields.append((name, field.kind.synced | None if default is None else field.kind.synced, default))
        return _extended(record, fields, kw_only=True)

    def shown_by(self, document: type[D]) -> type[D]:
        """Give a document the fields; the ones without a value are absent, or null."""
        return self._shown_by(document, self.names, self.nulls)

    def listed_by(self, row: type[D]) -> type[D]:
        """Give the fields to a `WrittenRow`, which may leave out any of them."""
        return self._shown_by(row, self.names)

    def shown_by_search(self, document: type[D]) -> type[D]:
        """Give a result of a search the fields that it shows."""
        return self._shown_by(document, self._searched)

    def _shown_by(self, document: type[D], names: Iterable[str], always: Collection[str] = ()) -> type[D]:
        kinds = {name: self._fields[name].kind.shown for name in names}
        shown = {name: kind if name in always else NotRequired[kind] for name, kind in kinds.items()}
        made: Any = TypedDict
        with_fields: type[D] = made(document.__name__, {**document.__annotations__, **shown})
        with_fields.__module__ = document.__module__
        return with_fields

    def stored(self, request: msgspec.Struct, clock: Clock) -> dict[str, Any]:
        """Return the fields that a request gives.

        Raises:
            MalformedRequest: one names no time, or one that it may not be.
        """
        given: dict[str, Any] = {}
        for name, field in self._fields.items():
            sent_as = field.stored_as or name
            if (sent := getattr(request, sent_as, None)) is not None:
                value = field.kind.read(sent, f"$.{sent_as}", clock, MAX_AHEAD_S)
                given[name] = value.strip() if field.kind.stripped else value
        return given

    def synced(self, record: msgspec.Struct, path: str, clock: Clock, ahead_s: float) -> R:
        """Return the fields of another store's record, whose times may be so far ahead of this host's clock.

        Raises:
            MalformedRequest: one names no time, or one that it may not be.
        """
        values = {name: getattr(record, name) for name in self.names}
        return self._record(
            **{
                name: self._fields[name].kind.read(value, f"{path}.{name}", clock, ahead_s)
                for name, value in values.items()
                if value is not None
            }
        )

    def shown(self, record: R, *, in_search: bool = False) -> dict[str, Any]:
        """Return the fields that have a value, or those of them that a search shows, as a reply has them."""
        return {
            name: self._fields[name].kind.write(value)
            for name in (self._searched if in_search else self.names)
            if (value := getattr(record, name)) != getattr(self.none, name)
        }

    def described(
        self, document: Mapping[str, Any], moment: Callable[[str], str] = lambda time: time[:10]
    ) -> list[str]:
        """Return in words what a search shows, such as *valid until 2026-05-01*; `moment` shortens a time."""
        names = (name for name in self._searched if document.get(name))
        return [f"{name.replace('_', ' ')} {moment(str(document[name]))}" for name in names]


def _extended(struct: type[S], fields: list[tuple[str, Any, Any]], *, kw_only: bool = False) -> type[S]:
    made: Any = msgspec.defstruct(struct.__name__, fields, bases=(struct,), module=struct.__module__, kw_only=kw_only)
    extended: type[S] = made
    return extended
