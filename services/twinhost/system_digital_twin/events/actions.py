"""The actions on events and errors: publish, report, and read them."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

import msgspec

from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin.events.events import Events, Page, StoredError, StoredEvent, Topic
from twinhost.system_digital_twin.registry.actions import require_shallow, require_speaks_for

MAX_DEPTH = 32  # of an event's data: a reply nests it deeper than its request did, and must still be encoded
MAX_LIMIT = 1_000
SENTENCE = Annotated[str, msgspec.Meta(max_length=16_384)]
STACK_TRACE = Annotated[str, msgspec.Meta(max_length=32_768)]
TTL = Annotated[float, msgspec.Meta(ge=0, le=315_360_000)]
SEQ = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
MOMENT = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class Event(msgspec.Struct, kw_only=True):
    """Something that happened. It expires `ttl` seconds after it arrived; with 0 or null, never."""

    event_id: NAME
    event_type: NAME
    source_agent: NAME
    timestamp: MOMENT | float | None = None
    data: dict[str, Any] | None = None
    propagate: bool = True
    ttl: TTL | None = None

    def __post_init__(self) -> None:
        require_shallow(self.data, "data", MAX_DEPTH)


class ErrorReport(msgspec.Struct, kw_only=True):
    """Something that went wrong."""

    error_id: NAME
    agent_id: NAME
    severity: Literal["info", "warning", "error", "critical"]
    error_type: NAME
    message: SENTENCE
    timestamp: MOMENT | float | None = None
    context: dict[str, Any] | None = None
    stack_trace: STACK_TRACE | None = None
    related_task_id: NAME | None = None
    recovery_attempted: bool = False
    recovery_successful: bool | None = None

    def __post_init__(self) -> None:
        require_shallow(self.context, "context", MAX_DEPTH)


class PublishEvent(Request, tag="publish_event"):
    """Store an event, and send it on the feed."""

    event: Event


class ReportError(Request, tag="report_error"):
    """Store an error report, and send it on the feed."""

    error: ErrorReport


class _GetPage(Request):
    since: SEQ | MOMENT | None = None
    before: SEQ | None = None
    limit: LIMIT = 100


class GetEvents(_GetPage, tag="get_events"):
    """Return the newest events, newest first.

    `since` is a sequence number, for those after it, or a time in ISO-8601, for those from then on. `before` is a
    sequence number: the last one of a page gives the next page.
    """


class GetErrors(_GetPage, tag="get_errors"):
    """Return the newest errors, newest first; the fields are those of `get_events`."""


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
    """A page: whether older ones match, the newest number of all, and the newest that was evicted (0: none)."""

    more: bool
    last_seq: int
    let_go_to: int


class EventList(PageReply):
    """Events, newest first."""

    events: list[StoredEvent]


class ErrorList(PageReply):
    """Errors, newest first."""

    errors: list[StoredError]


class PublishedEvent(StoredEvent):
    """An event on the feed, with the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class PublishedError(StoredError):
    """An error on the feed, with the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class EventActions(Feature):
    """The actions on events and errors."""

    def __init__(self, events: Events, max_reply_bytes: int) -> None:
        self._events = events
        self._max_bytes = max_reply_bytes // 2  # of records; what a reply adds to each is less than that

    @action(mutates=True)
    def publish(self, request: PublishEvent, caller: Caller) -> EventStored:
        event = request.event
        require_speaks_for(caller, event.source_agent)
        ttl_s = event.ttl or 0.0
        seq = self._events.add(Topic.EVENT, _fields(event), caller.name, ttl_s=ttl_s, propagate=event.propagate)
        message = f"event {event.event_id} stored"
        return {"status": SUCCESS, "message": message, "event_id": event.event_id, "seq": seq}

    @action(mutates=True)
    def report(self, request: ReportError, caller: Caller) -> ErrorStored:
        error = request.error
        require_speaks_for(caller, error.agent_id)
        seq = self._events.add(Topic.ERROR, _fields(error), caller.name)
        message = f"error {error.error_id} stored"
        return {"status": SUCCESS, "message": message, "error_id": error.error_id, "seq": seq}

    @action(forwardable=True)
    def events(self, request: GetEvents, _: Caller) -> EventList:
        page = self._page(Topic.EVENT, request)
        events = [cast("StoredEvent", entry.document()) for entry in page.entries]  # checked when they were stored
        return {"status": SUCCESS, "events": events, **_bounds(page)}

    @action(forwardable=True)
    def errors(self, request: GetErrors, _: Caller) -> ErrorList:
        page = self._page(Topic.ERROR, request)
        errors = [cast("StoredError", entry.document()) for entry in page.entries]
        return {"status": SUCCESS, "errors": errors, **_bounds(page)}

    def _page(self, topic: Topic, request: _GetPage) -> Page:
        since = request.since
        return self._events.newest(
            topic,
            since_seq=since if isinstance(since, int) else 0,
            since_time=_moment(since) if isinstance(since, str) else None,
            before_seq=request.before,
            limit=request.limit,
            max_bytes=self._max_bytes,
        )


def _bounds(page: Page) -> PageReply:
    return {"status": SUCCESS, "more": page.more, "last_seq": page.last_seq, "let_go_to": page.let_go_to}


def _fields(sent: Event | ErrorReport) -> dict[str, Any]:
    """Return the sender's fields; without a timestamp, it gets the time of its arrival."""
    fields = msgspec.structs.asdict(sent)
    if fields["timestamp"] is None:
        del fields["timestamp"]
    return fields


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise MalformedRequest(
            f"Expected a sequence number or a time in ISO-8601, got {text!r} - at `$.since`"
        ) from None
