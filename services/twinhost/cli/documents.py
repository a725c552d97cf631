"""The agents' replies as types, and their times in words; a reply of another shape is an error that names the field.

Most replies are read as the types that the agents declare. The types here are those of which the CLI shows a part, or
that lack fields in an older agent's reply.
"""

from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import Reply

T = TypeVar("T")


class Check(msgspec.Struct, frozen=True):
    """One of an agent's checks of itself."""

    ok: bool
    detail: str


class Health(msgspec.Struct, frozen=True):
    """The shown part of an agent's health document; older agents send no warnings and no versions."""

    status: str
    ready: bool
    agent: str
    timestamp: str
    uptime_s: float
    secure: bool
    checks: dict[str, Check] = {}
    warnings: tuple[str, ...] = ()
    version: dict[str, str] = {}  # by component


class Peer(msgspec.Struct, frozen=True):
    """A key that one agent lists, and the sessions that its owner has there."""

    name: str
    host: str
    roles: tuple[str, ...]
    fingerprint: str
    sessions: int
    last_seen: str | None = None
    not_before: str | None = None
    not_after: str | None = None
    standing: str = "live"


class Peers(msgspec.Struct, frozen=True):
    """The reply to `get_peers`; `handshakes` counts them by outcome since the agent's start."""

    peers: tuple[Peer, ...]
    handshakes: dict[str, int]
    revoked: tuple[str, ...] = ()  # fingerprints


class Registration(msgspec.Struct, frozen=True):
    """The shown part of one agent in the registry."""

    name: str
    status: str
    location: str
    last_seen: str | None = None
    host: str | None = None
    port: int | None = None
    registered_by: str | None = None


class Registrations(msgspec.Struct, frozen=True):
    """The reply to `get_registered_agents`."""

    agents: tuple[Registration, ...]


def read(reply: Reply, kind: type[T]) -> T:
    """Return a reply as a type.

    Raises:
        MalformedRequest: it has another shape.
    """
    try:
        return msgspec.convert(reply, kind)
    except msgspec.ValidationError as error:
        raise MalformedRequest(
            f"the reply is no {kind.__name__} document ({error}); compare the versions: ./twinhost doctor"
        ) from None


def age(moment: str | None, now: str) -> str:
    """Return how long ago a moment was; both times are of the same agent's clock."""
    if moment is None:
        return "never"
    seconds = seconds_between(moment, now)
    return moment if seconds is None else f"{duration(max(0.0, seconds))} ago"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `42 s`, `3 min 5 s`, `2 d 4 h`."""
    whole = int(seconds)
    for size, unit, smaller_size, smaller_unit in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller_unit}"
    return f"{whole} s"


def days(seconds: float) -> str:
    """Return a long duration in days; below two days in its two largest units."""
    return duration(seconds) if seconds < 2 * 86_400 else f"{round(seconds / 86_400)} d"


def seconds_between(earlier: str | None, later: str) -> float | None:
    """Return the seconds from one moment to another, negative if the first is later; None if one is no time."""
    then, reference = parse_moment(earlier or ""), parse_moment(later)
    return (reference - then).total_seconds() if then and reference else None


def parse_moment(moment: str) -> datetime | None:
    """Return an ISO-8601 time, in UTC if it has no zone; None if it is no time."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
