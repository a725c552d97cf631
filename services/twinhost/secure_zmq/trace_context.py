"""The trace that a request belongs to: `traceparent`, as W3C Trace Context defines it, and the log lines about it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from structlog.contextvars import bound_contextvars

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


@contextmanager
def in_trace(traceparent: str | None) -> Iterator[None]:
    """Have what this thread logs and forwards in the block belong to the trace of a request.

    A text of another form than the standard's is no trace.
    """
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None:
        yield
        return
    token = _current.set(traceparent)
    try:
        with bound_contextvars(trace_id=match["trace_id"]):
            yield
    finally:
        _current.reset(token)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the request that this thread is answering, if it belongs to a trace."""
    return _current.get()
