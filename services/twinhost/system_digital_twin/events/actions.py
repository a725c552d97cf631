"""The actions on events and errors: publish, report, read, count, and acknowledge them."""

import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

import msgspec

from twinhost.agent.request_times import FIRST_S, ISO_TIME, seconds_of
from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, OWN_NAME, Request
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.system_digital_twin import SUCCESS, Success, reply_from
from twinhost.system_digital_twin.events.events import (
    EntryPage,
    ErrorCounts,
    Events,
    Filter,
    StoredError,
    StoredEvent,
    Topic,
)
from twinhost.system_digital_twin.registry.actions import require_shallow, require_speaks_for

MAX_DEPTH = 32  # of an event's data: a reply nests it deeper than its request did, and must still be encoded
MAX_LIMIT = 1_000
SENTENCE = Annotated[str, msgspec.Meta(max_length=16_384)]
STACK_TRACE = Annotated[str, msgspec.Meta(max_length=32_768)]
TTL = Annotated[float, msgspec.Meta(ge=0, le=315_360_000)]
SEQ = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]
GROUP_LIMIT = Annotated[int, msgspec.Meta(ge=1, le=200)]
TEXT = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
SHAPE_ID = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$", examples=["5f1d7a84db735184"])]
Severity = Literal["info", "warning", "error", "critical"]
DEFAULT_WINDOW_S = 86_400.0
_A_PLACE = "a sequence number or a time in ISO-8601"


class Event(msgspec.Struct, kw_only=True):
    """Something that happened. It expires `ttl` seconds after it arrived; with 0 or null, never."""

    event_id: NAME | None = None
    event_type: NAME
    source_agent: OWN_NAME | None = None
    timestamp: ISO_TIME | float | None = None
    data: dict[str, Any] | None = None
    propagate: bool = True
    ttl: TTL | None = None

    def __post_init__(self) -> None:
        require_shallow(self.data, "data", MAX_DEPTH)


class ErrorReport(msgspec.Struct, kw_only=True):
    """Something that went wrong."""

    error_id: NAME
    agent_id: OWN_NAME
    severity: Severity
    error_type: NAME
    message: SENTENCE
    timestamp: ISO_TIME | float | None = None
    context: dict[str, Any] | None = None
    stack_trace: STACK_TRACE | None = None
    related_task_id: NAME | None = None
    recovery_attempted: bool = False
    recovery_successful: bool | None = None

    def __post_init__(self) -> None:
        require_shallow(self.context, "context", MAX_DEPTH)


class PublishEvent(Request, tag="publish_event"):
    """Store an event, and send it on the feed.

    Without `event_id`, it gets a unique one; without `source_agent`, the caller's name.
    """

    event: Event


class ReportError(Request, tag="report_error"):
    """Store an error report, and send it on the feed."""

    error: ErrorReport


class _GetPage(Request):
    type: NAME | None = None
    agent: NAME | None = None
    severity: Severity | None = None
    text: TEXT | None = None
    since: SEQ | ISO_TIME | None = None
    until: ISO_TIME | None = None
    before: SEQ | None = None
    limit: LIMIT = 100


class GetEvents(_GetPage, tag="get_events"):
    """Return the newest events that match, newest first.

    `since` is a sequence number (exclusive) or a time in ISO-8601 (inclusive), `until` a time (exclusive). `text` is
    searched in the data, ignoring case; `severity` is that in the data. `before` is a sequence number (exclusive):
    with the `next_before` of a reply, the next page is returned.
    """


class GetErrors(_GetPage, tag="get_errors"):
    """Return the newest errors that match, newest first.

    The fields are those of `get_events`; `text` is searched in the message, the stack trace, and the context.
    `acknowledged` selects acknowledged or unacknowledged errors, `shape_id` those of one shape.
    """

    acknowledged: bool | None = None
    shape_id: SHAPE_ID | None = None


class GetErrorCounts(Request, tag="get_error_counts"):
    """Count errors by type, agent, and severity, and group those with messages of one shape.

    Errors count that arrived at `since` (by default 24 hours ago) or later, and before `until`; acknowledged errors
    count only if `acknowledged` is true. `limit` is the number of groups.
    """

    type: NAME | None = None
    agent: NAME | None = None
    severity: Severity | None = None
    since: ISO_TIME | None = None
    until: ISO_TIME | None = None
    acknowledged: bool = False
    limit: GROUP_LIMIT = 50


class AcknowledgeErrors(Request, tag="acknowledge_errors"):
    """Acknowledge the stored errors of one shape, or those with an `error_id`: counts and warnings omit them.

    Errors of the same shape that are reported later are not acknowledged.
    """

    shape_id: SHAPE_ID | None = None
    error_id: NAME | None = None

    def __post_init__(self) -> None:
        if (self.shape_id is None) == (self.error_id is None):
            raise ValueError("Expected one of `shape_id` and `error_id`")


class EventStored(Success):
    """The event is stored under this number."""

    message: str
    event_id: str
    seq: int


class ErrorStored(Success):
    """The error is stored under this number."""

    message: str
    error_id: str
    seq: int


class PageReply(Success):
    """A page: whether older entries match, the newest number of all, and the newest that was evicted (0: none).

    `next_before` is the `before` of the next page, null if there is none. A text search reads a limited number of
    bytes, so its page may have fewer than `limit` entries although there is a next page.
    """

    more: bool
    next_before: int | None
    last_seq: int
    let_go_to: int


class EventList(PageReply):
    """Events, newest first."""

    events: list[StoredEvent]


class ErrorList(PageReply):
    """Errors, newest first."""

    errors: list[StoredError]


class ErrorsCounted(Success, ErrorCounts):
    """The counts of errors between two times."""

    since: str
    until: str


class ErrorsAcknowledged(Success):
    """How many errors were acknowledged now, who did it, and when."""

    acknowledged: int
    acknowledged_by: str
    acknowledged_at: str


class PublishedEvent(StoredEvent):
    """An event on the feed, with the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class PublishedError(StoredError):
    """An error on the feed, with the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class EventActions(Feature):
    """The actions on events and errors."""

    def __init__(
        self, events: Events, max_reply_bytes: int, audit: Callable[..., None], budgets: Budgets | None = None
    ) -> None:
        self._events = events
        self._budgets = budgets or Budgets()
        self._clock = events.clock
        self._audit = audit
        self._max_bytes = max_reply_bytes // 2  # of records; what a reply adds to each is less than that

    @action(mutates=True, unowned="it adds an entry, of the caller's")
    def publish(self, request: PublishEvent, caller: Caller) -> EventStored:
        event = request.event
        event.event_id = event.event_id or uuid.uuid4().hex  # a retry gets the stored reply, with this id
        event.source_agent = event.source_agent or caller.name
        require_speaks_for(caller, event.source_agent)
        seq = self._events.add(
            Topic.EVENT,
            _fields(event),
            caller.name,
            ttl_s=event.ttl or 0.0,
            propagate=event.propagate,
            most=self._budgets.of(caller).events,
        )
        message = f"event {event.event_id} stored"
        return {"status": SUCCESS, "message": message, "event_id": event.event_id, "seq": seq}

    @action(mutates=True, unowned="it adds an entry, of the caller's")
    def report(self, request: ReportError, caller: Caller) -> ErrorStored:
        error = request.error
        require_speaks_for(caller, error.agent_id)
        seq = self._events.add(Topic.ERROR, _fields(error), caller.name, most=self._budgets.of(caller).errors)
        message = f"error {error.error_id} stored"
        return {"status": SUCCESS, "message": message, "error_id": error.error_id, "seq": seq}

    @action(forwardable=True)
    def events(self, request: GetEvents, _: Caller) -> EventList:
        page = page_of(self._events, Topic.EVENT, request, self._max_bytes)
        events = [cast("StoredEvent", entry.document()) for entry in page.entries]  # checked when they were stored
        return {"status": SUCCESS, "events": events, **_bounds(page)}

    @action(forwardable=True)
    def errors(self, request: GetErrors, _: Caller) -> ErrorList:
        page = page_of(self._events, Topic.ERROR, request, self._max_bytes)
        errors = [cast("StoredError", entry.document()) for entry in page.entries]
        return {"status": SUCCESS, "errors": errors, **_bounds(page)}

    @action(forwardable=True)
    def error_counts(self, request: GetErrorCounts, _: Caller) -> ErrorsCounted:
        return counts_of(self._events, request)

    @action(mutates=True, unowned="it is for operators")
    def acknowledge(self, request: AcknowledgeErrors, caller: Caller) -> ErrorsAcknowledged:
        at = self._clock.time()
        count = self._events.acknowledge(caller.name, at, shape_id=request.shape_id, error_id=request.error_id)
        if count:
            chosen = {"shape_id": request.shape_id} if request.shape_id else {"error_id": request.error_id}
            self._audit(AuditEvent.ERRORS_ACKNOWLEDGED, name=caller.name, count=count, **chosen)
        return {
            "status": SUCCESS,
            "acknowledged": count,
            "acknowledged_by": caller.name,
            "acknowledged_at": iso_time(at),
        }


def page_of(
    events: Events,
    topic: Topic,
    request: GetEvents | GetErrors,
    max_bytes: int,
    max_searched: int | None = None,
) -> EntryPage:
    """Return what a request asks for: at most so many bytes of records, after a search of at most so many."""
    since = request.since
    matching = _filter(
        request,
        since=seconds_of(since, "$.since", _A_PLACE) if isinstance(since, str) else None,
        until=None if request.until is None else seconds_of(request.until, "$.until"),
    )
    return events.newest(
        topic,
        matching,
        since_seq=since if isinstance(since, int) else 0,
        before_seq=request.before,
        limit=request.limit,
        max_bytes=max_bytes,
        max_searched=max_searched,
    )


def counts_of(events: Events, request: GetErrorCounts) -> ErrorsCounted:
    """Return the counts that a request asks for."""
    until = events.clock.time() if request.until is None else seconds_of(request.until, "$.until")
    earliest = max(until - DEFAULT_WINDOW_S, FIRST_S)
    since = earliest if request.since is None else seconds_of(request.since, "$.since")
    matching = _filter(
        request,
        since=since,
        until=None if request.until is None else until,
        acknowledged=None if request.acknowledged else False,
    )
    counts = events.error_counts(matching, request.limit)
    return {"status": SUCCESS, "since": iso_time(since), "until": iso_time(until), **counts}


def _bounds(page: EntryPage) -> PageReply:
    return reply_from(PageReply, page, status=SUCCESS)


def _fields(sent: Event | ErrorReport) -> dict[str, Any]:
    """Return the sender's fields; without a timestamp, it gets the time of its arrival."""
    fields = msgspec.structs.asdict(sent)
    if fields["timestamp"] is None:
        del fields["timestamp"]
    return fields


def _filter(request: Request, **fields: Any) -> Filter:
    """Return what a request asks for: its fields with the names of the filter's, but for those that are given here."""
    asked = {name: getattr(request, name) for name in Filter.__struct_fields__ if hasattr(request, name)}
    matching = Filter(**(asked | fields))
    if matching.since is not None and matching.until is not None and matching.since >= matching.until:
        raise MalformedRequest("Expected a time after `since` - at `$.until`")
    return matching
