"""What an operator asks about who wrote what: every field with its type and its bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar

import msgspec
import structlog

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

MAX_LIMIT = 1_000
NUMBER = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
REASON = Annotated[str, msgspec.Meta(max_length=256)]


class MemoryBy(Request, tag="memory_by"):
    """What a caller wrote, newest first, in quarantine or not: of every kind, or of one.

    `limit` is of each kind. `before` goes with `kind`, and is the `next_before` of the page above.
    """

    name: NAME
    kind: NAME | None = None
    before: NUMBER | None = None
    limit: LIMIT = 100


class QuarantineMemory(Request, tag="quarantine_memory"):
    """Hide from every recall what a caller wrote and will write."""

    name: NAME
    reason: REASON = ""


class ReleaseMemory(Request, tag="release_memory"):
    """Show again what a caller wrote."""

    name: NAME


class ListQuarantine(Request, tag="list_quarantine"):
    """Whose rows are hidden, since when, by whom, and why."""


class WrittenRow(TypedDict):
    """A row by its number; one that is too large for a reply names what is absent of it, and its size in bytes."""

    number: int
    left_out: NotRequired[list[str]]
    size_bytes: NotRequired[int]


class WrittenInteraction(WrittenRow):
    """An interaction; `speaker` is empty where none was told."""

    id: int
    session_id: NotRequired[str]
    speaker: NotRequired[str]
    kind: Literal["code", "user_query", "system_response", "error"]
    content: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    importance: float
    strength: float
    created: str
    tier: int
    written_by: str


class WrittenMemory(WrittenRow):
    """A memory, a forgotten one too, and never a deleted one."""

    id: NotRequired[str]
    content: NotRequired[str]
    keywords: NotRequired[tuple[str, ...]]
    source: NotRequired[str]
    strength: float
    created: str
    last_accessed: str
    revised: str
    deleted: Literal[False]
    written_by: str


class OutcomeCounts(TypedDict):
    """How often a solution helped, and how often not."""

    successes: int
    failures: int


class WrittenErrorPattern(WrittenRow):
    """An error pattern; `solution` is null where none was told, `last_seen` where it never answered."""

    pattern_id: int
    error_type: NotRequired[str]
    pattern: NotRequired[str]
    solution: NotRequired[str | None]
    occurrence_count: int
    last_seen: str | None
    created: str
    updated: str
    written_by: str
    score: OutcomeCounts


class WrittenOutcome(WrittenRow):
    """What a reporter said of a pattern's solution; `note` is null where it never gave one."""

    pattern_id: int
    score: OutcomeCounts
    note: NotRequired[str | None]
    updated: str
    written_by: str


class WrittenUnknownError(WrittenRow):
    """What was sent of one shape of errors that no pattern knows."""

    pattern: NotRequired[str]
    seen: int
    last_seen: str
    example: NotRequired[str]
    written_by: str


class WrittenTwin(WrittenRow):
    """A user's twin, by who wrote it last."""

    user_id: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    revision: int
    updated: str


class WrittenClaim(WrittenRow):
    """A claim on an operation, by who holds it."""

    op_id: NotRequired[str]
    priority: int
    since: str
    holder: str


Row = TypeVar("Row")


class WrittenPage(TypedDict, Generic[Row]):
    """Rows of one kind, newest first; `next_before` is null where there are no more."""

    entries: list[Row]
    more: bool
    next_before: int | None


class Written(TypedDict):
    """A page of each kind, or of the one that was asked for."""

    interactions: NotRequired[WrittenPage[WrittenInteraction]]
    memories: NotRequired[WrittenPage[WrittenMemory]]
    error_patterns: NotRequired[WrittenPage[WrittenErrorPattern]]
    solution_outcomes: NotRequired[WrittenPage[WrittenOutcome]]
    unknown_errors: NotRequired[WrittenPage[WrittenUnknownError]]
    twins: NotRequired[WrittenPage[WrittenTwin]]
    operations: NotRequired[WrittenPage[WrittenClaim]]


class MemoryWritten(TypedDict):
    """What a caller wrote, and whether it is in quarantine."""

    status: Literal["ok"]
    name: str
    quarantined: bool
    written: Written


class MemoryQuarantined(TypedDict):
    """What the name wrote and will write is hidden; `new` is false where it was before."""

    status: Literal["ok"]
    name: str
    new: bool


class MemoryReleased(TypedDict):
    """What the name wrote is shown again."""

    status: Literal["ok"]
    name: str


class QuarantinedDocument(TypedDict):
    """A name that is hidden, since when, by whom, and why; `reason` is empty where none was told."""

    name: str
    since: str
    quarantined_by: str
    reason: str


class QuarantineList(TypedDict):
    """Whose rows are hidden, the newest first."""

    status: Literal["ok"]
    quarantined: list[QuarantinedDocument]


_log = structlog.get_logger(__name__)

_MOMENTS = frozenset({"created", "updated", "last_seen", "last_accessed", "revised", "since"})  # seconds since 1970
_SHORT_BYTES = 1_024  # a field's JSON that is told of an entry which is too large for a reply


@dataclass(frozen=True, slots=True)
class Shelf:
    """One kind of rows: how to read what a caller wrote, and the number of a row, which grows with each new one.

    `written_by(name, before, limit)` returns rows newest first: at most `limit`, with numbers under `before`.
    A row is a dataclass or a Struct.
    """

    written_by: Callable[[str, int | None, int], Sequence[Any]]
    number: Callable[[Any], int]


class ProvenanceActions(Feature):
    """What each caller wrote, over all shelves, and the quarantine of a caller's rows."""

    def __init__(self, quarantine: Quarantine, shelves: Mapping[str, Shelf], max_reply_bytes: int) -> None:
        """Answer for some shelves.

        Args:
            quarantine: whose rows are hidden.
            shelves: by the name of the kind.
            max_reply_bytes: of a reply; the entries of one take half of it at most.
        """
        self._quarantine = quarantine
        self._shelves = dict(shelves)
        self._max_bytes = max_reply_bytes // 2

    @action()
    def memory_by(self, request: MemoryBy, _: Caller) -> MemoryWritten:
        kinds = list(self._shelves) if request.kind is None else [request.kind]
        if request.kind is not None and request.kind not in self._shelves:
            known = ", ".join(self._shelves)
            raise MalformedRequest(f"Expected one of {known}, got {request.kind[:64]!r} - at `$.kind`")
        if request.before is not None and request.kind is None:
            raise MalformedRequest("`before` is a number of one kind; name it in `kind` - at `$.before`")
        left = self._max_bytes
        written: Any = {}  # rows are told as they are stored; `Written` says how that is
        for kind in kinds:
            written[kind], left = self._page(self._shelves[kind], request, left)
        return {
            "status": SUCCESS,
            "name": request.name,
            "quarantined": self._quarantine.hides(request.name),
            "written": written,
        }

    @action(mutates=True)
    def quarantine(self, request: QuarantineMemory, caller: Caller) -> MemoryQuarantined:
        new = self._quarantine.add(request.name, caller.name, request.reason)
        _log.warning("memory_quarantined", name=request.name, by=caller.name, reason=request.reason, new=new)
        return {"status": SUCCESS, "name": request.name, "new": new}

    @action(mutates=True)
    def release(self, request: ReleaseMemory, caller: Caller) -> MemoryReleased:
        self._quarantine.lift(request.name)
        _log.warning("memory_released", name=request.name, by=caller.name)
        return {"status": SUCCESS, "name": request.name}

    @action()
    def list(self, _: ListQuarantine, __: Caller) -> QuarantineList:
        entries: list[QuarantinedDocument] = [
            {
                "name": each.name,
                "since": iso_time(each.since),
                "quarantined_by": each.quarantined_by,
                "reason": each.reason,
            }
            for each in self._quarantine.all()
        ]
        return {"status": SUCCESS, "quarantined": entries}

    def _page(self, shelf: Shelf, request: MemoryBy, left: int) -> tuple[WrittenPage[dict[str, Any]], int]:
        """Return a page of a shelf that takes at most `left` bytes, and how many are left then."""
        rows = shelf.written_by(request.name, request.before, request.limit + 1)
        entries: list[dict[str, Any]] = []
        more, next_before = False, None
        for row in rows:
            entry = _document(row)
            size = len(msgspec.json.encode(entry))
            if size > self._max_bytes // 2:
                entry = _shortened(entry, size)
                size = len(msgspec.json.encode(entry))
            if len(entries) == request.limit or size > left:
                more = True
                break
            left -= size
            next_before = shelf.number(row)
            entries.append({"number": next_before, **entry})
        if more and next_before is None:  # no room for a single one: the same page again, of this kind alone
            next_before = request.before if request.before is not None else 2**63 - 1
        return {"entries": entries, "more": more, "next_before": next_before if more else None}, left


def _document(row: Any) -> dict[str, Any]:
    """Return a row's fields, a row within it merged, and moments in ISO-8601."""
    fields: dict[str, Any] = msgspec.to_builtins(row)
    for name in list(fields):
        if isinstance(getattr(row, name, None), msgspec.Struct):
            fields = {**fields.pop(name), **fields}
    for name in _MOMENTS & fields.keys():
        if fields[name] is not None:
            fields[name] = iso_time(fields[name])
    return fields


def _shortened(entry: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the short fields of an entry that no reply could hold, and how large it is."""
    short = {name: value for name, value in entry.items() if len(msgspec.json.encode(value)) <= _SHORT_BYTES}
    return {**short, "left_out": sorted(entry.keys() - short.keys()), "size_bytes": size}
