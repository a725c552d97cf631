"""What SystemDigitalTwin answers about events and errors. The feed sends the same documents, each behind its topic."""

from typing import Any, Literal, TypedDict


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
