"""What SystemDigitalTwin is told and asked about events and errors: every field with its type and its bounds."""

from typing import Annotated, Any, Literal

import msgspec

from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin.messages import require_shallow

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
