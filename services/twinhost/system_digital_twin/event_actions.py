"""The actions on events and errors: told by whom they concern, kept, sent on the feed, and asked for afterwards."""

from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.system_digital_twin.event_messages import GetErrors, GetEvents, PublishEvent, ReportError
from twinhost.system_digital_twin.event_records import Page
from twinhost.system_digital_twin.event_replies import (
    ErrorsTold,
    ErrorStored,
    EventsTold,
    EventStored,
    KeptError,
    KeptEvent,
)
from twinhost.system_digital_twin.events import Events, Topic
from twinhost.system_digital_twin.handlers import SUCCESS, require_speaks_for


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
