"""The trace that a request belongs to: `traceparent`, as W3C Trace Context defines it, and the log lines about it."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from structlog.contextvars import bound_contextvars

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE: AbstractContextManager[None] = nullcontext()
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def in_trace(traceparent: str | None) -> AbstractContextManager[None]:
    """Return a context in which what this thread logs and forwards belongs to the trace of a request.

    A text of another form than the standard's is no trace.
    """
    if traceparent is None or (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return _NO_TRACE
    return _in_trace(traceparent, match["trace_id"])


def current_traceparent() -> str | None:
    """Return the `traceparent` of the request that this thread is answering, if it belongs to a trace."""
    return _current.get()


@contextmanager
def _in_trace(traceparent: str, trace_id: str) -> Iterator[None]:
    token = _current.set(traceparent)
    try:
        with bound_contextvars(trace_id=trace_id):
            yield
    finally:
        _current.reset(token)
