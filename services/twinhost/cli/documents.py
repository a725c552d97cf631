"""The agents' answers as types; an answer of another shape is an error that names the field."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import Reply

T = TypeVar("T")


class Check(msgspec.Struct, frozen=True):
    """One of an agent's checks of itself."""

    ok: bool
    detail: str


class Health(msgspec.Struct, frozen=True):
    """An agent's health document, as far as it is shown."""

    status: str
    ready: bool
    agent: str
    timestamp: str
    uptime_s: float
    secure: bool
    checks: dict[str, Check] = {}
    warnings: tuple[str, ...] = ()
    version: dict[str, str] = {}  # of what, by name


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
    """The answer to `get_peers`; `handshakes` counts them by outcome since the agent's start."""

    peers: tuple[Peer, ...]
    handshakes: dict[str, int]
    revoked: tuple[str, ...] = ()  # fingerprints


class Happenings(msgspec.Struct, frozen=True):
    """A page of events, or of errors, newest first."""

    entries: tuple[dict[str, Any], ...]
    more: bool
    last_seq: int  # of all that ever came in
    let_go_to: int = 0  # the newest that gave way to newer ones


class Registration(msgspec.Struct, frozen=True):
    """One agent in the registry."""

    name: str
    status: str
    location: str
    last_seen: str | None = None
    host: str | None = None
    port: int | None = None
    registered_by: str | None = None


class Registrations(msgspec.Struct, frozen=True):
    """The answer to `get_registered_agents`."""

    agents: tuple[Registration, ...]


class Endpoint(msgspec.Struct, frozen=True):
    """The answer to `get_agent_endpoint`, as far as it is used: the key to pin."""

    public_key: str | None = None


class Pong(msgspec.Struct, frozen=True):
    """The answer to `ping`: the agent's clock."""

    timestamp: str


class FirstLine(msgspec.Struct, frozen=True):
    """Where the audit log begins: its oldest line, and the hash that this line must follow."""

    seq: int
    prev: str


class LastLine(msgspec.Struct, frozen=True):
    """Where the audit log ends."""

    seq: int
    hash: str


class AuditPage(msgspec.Struct, frozen=True):
    """The answer to `get_audit`."""

    lines: tuple[str, ...]
    position: str
    anchor: FirstLine
    head: LastLine


class SeenHead(msgspec.Struct, frozen=True):
    """A line of the audit log that another host saw as the newest."""

    seq: int
    hash: str
    restored: str | None = None
    seen_at: str = ""


class Gap(msgspec.Struct, frozen=True):
    """Lines that another host saw and that are gone since a restore, or since an operator accepted it."""

    first: int
    last: int
    noticed: str
    restored: str | None = None
    acknowledged: str | None = None


class AuditHeads(msgspec.Struct, frozen=True):
    """The answer to `get_audit_heads`."""

    heads: tuple[SeenHead, ...]
    gaps: tuple[Gap, ...] = ()
    fault: str | None = None


class AuditAccepted(msgspec.Struct, frozen=True):
    """The answer to `accept_audit_log`: a phrase for each thing that was accepted."""

    accepted: tuple[str, ...]


def read(reply: Reply, kind: type[T]) -> T:
    """Return a reply as a type.

    Raises:
        MalformedRequest: it has another shape.
    """
    try:
        return msgspec.convert(reply, kind)
    except msgspec.ValidationError as error:
        raise MalformedRequest(f"the answer is not a {kind.__name__} document ({error}); check its version") from None


def age(moment: str | None, now: str) -> str:
    """Return how long ago a moment was, by the clock of the agent that told both times."""
    if moment is None:
        return "never"
    then, reference = parse_moment(moment), parse_moment(now)
    if then is None or reference is None:
        return moment
    seconds = max(0.0, (reference - then).total_seconds())
    return f"{duration(seconds)} ago"


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
    """Return a long time as people count it, the nearest day; below two days in its two largest units."""
    return duration(seconds) if seconds < 2 * 86_400 else f"{round(seconds / 86_400)} d"


def seconds_between(earlier: str | None, later: str) -> float | None:
    """Return the seconds from one moment to another, negative where it is the later one; None where one is none."""
    then, reference = parse_moment(earlier or ""), parse_moment(later)
    return (reference - then).total_seconds() if then and reference else None


def parse_moment(moment: str) -> datetime | None:
    """Return a moment in ISO-8601, UTC where it names no zone; None where it is none."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
