"""What each caller wrote, and the quarantine: an operator's actions."""

from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar

import msgspec
import structlog

from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.conversations.interactions import WrittenInteraction
from twinhost.unified_memory_reasoning.coordination import WrittenClaim
from twinhost.unified_memory_reasoning.errors.patterns import WrittenErrorPattern, WrittenOutcome
from twinhost.unified_memory_reasoning.errors.proposals import WrittenUnknownError
from twinhost.unified_memory_reasoning.memories.recall import WrittenMemory
from twinhost.unified_memory_reasoning.provenance.quarantine import MAX_NUMBER, Quarantine, QuarantinedWriter, WrittenBy
from twinhost.unified_memory_reasoning.spaces.access import InSpace
from twinhost.unified_memory_reasoning.twins.twins import WrittenTwin, WrittenTwinChange

MAX_LIMIT = 1_000
NUMBER = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
REASON = Annotated[str, msgspec.Meta(max_length=256)]


class MemoryBy(InSpace, tag="memory_by"):
    """List what a caller wrote, newest first, quarantined or not: of every kind, or of one.

    `limit` applies to each kind. `before` needs `kind`; it is the `next_before` of the previous page.
    """

    name: NAME
    kind: NAME | None = None
    before: NUMBER | None = None
    limit: LIMIT = 100


class QuarantineMemory(Request, tag="quarantine_memory"):
    """Hide what a caller wrote and will write from every reply; nothing is deleted."""

    name: NAME
    reason: REASON = ""


class ReleaseMemory(Request, tag="release_memory"):
    """Show again what a quarantined caller wrote."""

    name: NAME


class ListQuarantine(Request, tag="list_quarantine"):
    """List the quarantined callers, since when, by whom, and why."""


Row = TypeVar("Row")


class WrittenPage(TypedDict, Generic[Row]):
    """Rows of one kind, newest first; `next_before` is null on the last page."""

    entries: list[Row]
    more: bool
    next_before: int | None


class Written(TypedDict):
    """A page of each kind, or of the requested one."""

    interactions: NotRequired[WrittenPage[WrittenInteraction]]
    memories: NotRequired[WrittenPage[WrittenMemory]]
    error_patterns: NotRequired[WrittenPage[WrittenErrorPattern]]
    solution_outcomes: NotRequired[WrittenPage[WrittenOutcome]]
    unknown_errors: NotRequired[WrittenPage[WrittenUnknownError]]
    twins: NotRequired[WrittenPage[WrittenTwin]]
    twin_changes: NotRequired[WrittenPage[WrittenTwinChange]]
    operations: NotRequired[WrittenPage[WrittenClaim]]


class MemoryWritten(TypedDict):
    """What a caller wrote, and whether it is quarantined."""

    status: Literal["ok"]
    name: str
    quarantined: bool
    written: Written


class MemoryQuarantined(TypedDict):
    """The caller is quarantined; `new` is false if it already was."""

    status: Literal["ok"]
    name: str
    new: bool


class MemoryReleased(TypedDict):
    """What the caller wrote is visible again."""

    status: Literal["ok"]
    name: str


class QuarantineList(TypedDict):
    """The quarantined callers, newest first."""

    status: Literal["ok"]
    quarantined: list[QuarantinedWriter]


_log = structlog.get_logger(__name__)
_SHORT_BYTES = 1_024  # of a field's JSON; longer fields of an entry that is too large for a reply are left out


class ProvenanceActions(Feature):
    """Lists what each caller wrote, and quarantines callers."""

    def __init__(self, quarantine: Quarantine, kinds: Mapping[str, WrittenBy], max_reply_bytes: int) -> None:
        self._quarantine = quarantine
        self._kinds = dict(kinds)
        self._max_bytes = max_reply_bytes // 2  # of the entries; the rest of a reply is smaller

    @action()
    def memory_by(self, request: MemoryBy, _: Caller) -> MemoryWritten:
        kinds = list(self._kinds) if request.kind is None else [request.kind]
        if request.kind is not None and request.kind not in self._kinds:
            known = ", ".join(self._kinds)
            raise MalformedRequest(f"Expected one of {known}, got {request.kind[:64]!r} - at `$.kind`")
        if request.before is not None and request.kind is None:
            raise MalformedRequest("`before` is a row number of one kind; set `kind` too - at `$.before`")
        left = self._max_bytes
        written: Any = {}  # `Written` has the types of the pages
        for kind in kinds:
            written[kind], left = self._page(self._kinds[kind], request, left)
        return {
            "status": SUCCESS,
            "name": request.name,
            "quarantined": self._quarantine.hides(request.name),
            "written": written,
        }

    @action(mutates=True, from_reserve=True, unowned="it is for operators")
    def quarantine(self, request: QuarantineMemory, caller: Caller) -> MemoryQuarantined:
        new = self._quarantine.add(request.name, caller.name, request.reason)
        _log.warning("memory_quarantined", name=request.name, by=caller.name, reason=request.reason, new=new)
        return {"status": SUCCESS, "name": request.name, "new": new}

    @action(mutates=True, from_reserve=True, unowned="it is for operators")
    def release(self, request: ReleaseMemory, caller: Caller) -> MemoryReleased:
        self._quarantine.lift(request.name)
        _log.warning("memory_released", name=request.name, by=caller.name)
        return {"status": SUCCESS, "name": request.name}

    @action()
    def list(self, _: ListQuarantine, __: Caller) -> QuarantineList:
        return {"status": SUCCESS, "quarantined": self._quarantine.all()}

    def _page(self, written_by: WrittenBy, request: MemoryBy, left: int) -> tuple[WrittenPage[dict[str, Any]], int]:
        """Return a page of at most `left` bytes, and how many bytes are left after it."""
        entries: list[dict[str, Any]] = []
        more, next_before = False, None
        for row in written_by(request.name, request.before, request.limit + 1):
            number = row.pop("number")
            entry = _shortened(row, self._max_bytes // 2)
            size = len(msgspec.json.encode(entry))
            if len(entries) == request.limit or size > left:
                more = True
                break
            left -= size
            next_before = number
            entries.append({"number": number, **entry})
        if more and next_before is None:  # not even one fits: the next request starts here, with this kind alone
            next_before = request.before if request.before is not None else MAX_NUMBER
        return {"entries": entries, "more": more, "next_before": next_before if more else None}, left


def _shortened(row: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """Return a row, without its long fields if it is too large for a reply."""
    size = len(msgspec.json.encode(row))
    if size <= max_bytes:
        return row
    short = {name: value for name, value in row.items() if len(msgspec.json.encode(value)) <= _SHORT_BYTES}
    return {**short, "left_out": sorted(row.keys() - short.keys()), "size_bytes": size}
