"""A log line of each answered request, at level debug: a dispatcher of its own, so that without it nothing is asked."""

import time
from collections.abc import Sequence

import msgspec
import structlog

from twinhost.secure_zmq.dispatch import Dispatcher, More
from twinhost.secure_zmq.framing.forms import FIRST_OF_MESSAGEPACK
from twinhost.secure_zmq.framing.inbound import DeferredReply, Inbound, Job, Unread
from twinhost.secure_zmq.trace_context import in_trace

_log = structlog.get_logger(__name__)


class _Outcome(msgspec.Struct):
    """What every error reply has."""

    status: str = ""
    code: str = "error"


_json, _messagepack = msgspec.json.Decoder(_Outcome), msgspec.msgpack.Decoder(_Outcome)


class LoggingDispatcher(Dispatcher):
    """Logs each request with its reply: in a batch, all took as long as the batch."""

    def answer(self, batch: Sequence[Inbound], more: More = tuple) -> list[bytes]:
        """Return the replies, as `Dispatcher.answer` does."""
        arrived = list(batch)

        def further() -> Sequence[Inbound] | None:
            came = more()
            arrived.extend(came or ())
            return came

        began = time.perf_counter()
        replies = super().answer(batch, further)
        seconds = time.perf_counter() - began
        for inbound, reply in zip(arrived, replies, strict=False):
            if reply:  # else it is deferred
                _log_answer(self._reader.read(inbound), reply, seconds)
        return replies

    def settle(self, deferred: DeferredReply, *, at_once: bool = False) -> bytes:
        """Return the reply to a deferred request, as `Dispatcher.settle` does."""
        if reply := super().settle(deferred, at_once=at_once):
            _log_answer(deferred.job, reply, time.perf_counter() - deferred.since)
        return reply


def _log_answer(job: Job | Unread, reply: bytes, seconds: float) -> None:
    request = job.request if isinstance(job, Job) else None
    with in_trace(request.traceparent if request else None):
        _log.debug(
            "request_answered",
            peer=job.caller.name if job.caller else None,
            action=job.action.name,
            request_id=request.request_id if request else None,
            outcome=_outcome_of(reply),
            ms=round(1_000 * seconds, 3),
            **({"on_behalf_of": request.on_behalf_of} if request and request.on_behalf_of else {}),
        )


def _outcome_of(reply: bytes) -> str:
    """Return `ok`, or the code of an error."""
    try:
        outcome = (_messagepack if reply[0] >= FIRST_OF_MESSAGEPACK else _json).decode(reply)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # an older dialect's, of another form
        return "ok"
    return outcome.code if outcome.status == "error" else "ok"
