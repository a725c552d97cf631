"""The actions on events and errors: told by whom they concern, kept, sent on the feed, and asked for afterwards."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypedDict, cast

import msgspec

from twinhost.agent.trust import TRUST_TOPIC
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin.events.events import Events, Page, Topic
from twinhost.system_digital_twin.registry.actions import SUCCESS, require_shallow, require_speaks_for
from twinhost.system_digital_twin.registry.registry import AGENT_TOPIC

MAX_DEPTH = 32  # of what an event carries: an answer nests it deeper than its request did, and must be written
MAX_LIMIT = 1_000
SENTENCE = Annotated[str, msgspec.Meta(max_length=16_384)]
STACK_TRACE = Annotated[str, msgspec.Meta(max_length=32_768)]
TTL = Annotated[float, msgspec.Meta(ge=0, le=315_360_000)]
SEQ = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
MOMENT = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class Event(msgspec.Struct, kw_only=True):
    """Something happened: `ttl` is how many seconds it is worth telling, 0 and null for ever."""

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
    """Something went wrong."""

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
    """Keep an event, and send it on the feed."""

    event: Event


class ReportError(Request, tag="report_error"):
    """Keep an error, and send it on the feed."""

    error: ErrorReport


class GetEvents(Request, tag="get_events"):
    """The newest events, newest first.

    `since` is a number, and those after it are meant; or a moment in ISO-8601, and those from it on
    are. `before` is a number: the next page of what did not fit.
    """

    since: SEQ | MOMENT | None = None
    before: SEQ | None = None
    limit: LIMIT = 100


class GetErrors(Request, tag="get_errors"):
    """The newest errors; fields as of `get_events`."""

    since: SEQ | MOMENT | None = None
    before: SEQ | None = None
    limit: LIMIT = 100


class Kept(TypedDict):
    """Of everything that is kept: its number, when it came in, by whose key, and the moment that its teller gave it."""

    seq: int
    time: str
    written_by: str
    timestamp: str | float


class KeptEvent(Kept):
    """An event as it was told."""

    event_id: str
    event_type: str
    source_agent: str
    data: dict[str, Any] | None
    propagate: bool
    ttl: float | None


class KeptError(Kept):
    """An error as it was told."""

    error_id: str
    agent_id: str
    severity: Literal["info", "warning", "error", "critical"]
    error_type: str
    message: str
    context: dict[str, Any] | None
    stack_trace: str | None
    related_task_id: str | None
    recovery_attempted: bool
    recovery_successful: bool | None


class EventStored(TypedDict):
    """The event is kept under this number."""

    status: Literal["success"]
    message: str
    event_id: str
    seq: int


class ErrorStored(TypedDict):
    """The error is kept under this number."""

    status: Literal["success"]
    message: str
    error_id: str
    seq: int


class PageTold(TypedDict):
    """Of a page: whether older ones were left out, the newest number of all, and the newest that gave way (0: none)."""

    status: Literal["success"]
    more: bool
    last_seq: int
    let_go_to: int


class EventsTold(PageTold):
    """Events, newest first."""

    events: list[KeptEvent]


class ErrorsTold(PageTold):
    """Errors, newest first."""

    errors: list[KeptError]


class EventActions(Feature):
    """Events and errors as the wire has them."""

    def __init__(self, events: Events, max_reply_bytes: int) -> None:
        self._events = events
        self._max_bytes = max_reply_bytes // 2  # of records; what an answer says of each is less than that

    @action(mutates=True)
    def publish(self, request: PublishEvent, caller: Caller) -> EventStored:
        event = request.event
        require_speaks_for(caller, event.source_agent)
        fields = _told(event)
        seq = self._events.add(Topic.EVENT, fields, caller.name, ttl_s=event.ttl or 0.0, propagate=event.propagate)
        return {
            "status": SUCCESS,
            "message": f"event {event.event_id} stored",
            "event_id": event.event_id,
            "seq": seq,
        }

    @action(mutates=True)
    def report(self, request: ReportError, caller: Caller) -> ErrorStored:
        error = request.error
        require_speaks_for(caller, error.agent_id)
        seq = self._events.add(Topic.ERROR, _told(error), caller.name)
        return {
            "status": SUCCESS,
            "message": f"error {error.error_id} stored",
            "error_id": error.error_id,
            "seq": seq,
        }

    @action(forwardable=True)
    def events(self, request: GetEvents, _: Caller) -> EventsTold:
        page = self._page(Topic.EVENT, request)
        return {
            "status": SUCCESS,
            "events": [cast("KeptEvent", entry.document()) for entry in page.entries],  # as its teller's request was
            "more": page.more,
            "last_seq": page.last_seq,
            "let_go_to": page.let_go_to,
        }

    @action(forwardable=True)
    def errors(self, request: GetErrors, _: Caller) -> ErrorsTold:
        page = self._page(Topic.ERROR, request)
        return {
            "status": SUCCESS,
            "errors": [cast("KeptError", entry.document()) for entry in page.entries],
            "more": page.more,
            "last_seq": page.last_seq,
            "let_go_to": page.let_go_to,
        }

    def _page(self, topic: Topic, request: GetEvents | GetErrors) -> Page:
        since = request.since
        return self._events.newest(
            topic,
            since_seq=since if isinstance(since, int) else 0,
            since_time=_moment(since) if isinstance(since, str) else None,
            before_seq=request.before,
            limit=request.limit,
            max_bytes=self._max_bytes,
        )


def _told(told: msgspec.Struct) -> dict[str, Any]:
    """Return what was told; without a moment, which is then that of its coming in."""
    fields = msgspec.structs.asdict(told)
    if fields["timestamp"] is None:
        del fields["timestamp"]
    return fields


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise MalformedRequest(
            f"Expected a sequence number or a moment in ISO-8601, got {text!r} - at `$.since`"
        ) from None


class EventSent(KeptEvent):
    """An event as `get_events` answers it, and the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class ErrorSent(KeptError):
    """An error as `get_errors` answers it, and the number of the one that was sent before it; 0 for the first."""

    previous_seq: int


class AgentSent(TypedDict):
    """An agent came or went."""

    timestamp: str
    agent_name: str
    what: Literal["registered", "unregistered"]
    registered_by: str


class TrustSent(TypedDict):
    """The list of whom to trust has changed: `get_trust` answers the new one."""

    timestamp: str
    revision: str | None


FEED: Mapping[str, type] = {
    Topic.EVENT.value: EventSent,
    Topic.ERROR.value: ErrorSent,
    AGENT_TOPIC.decode(): AgentSent,
    TRUST_TOPIC.decode(): TrustSent,
}
