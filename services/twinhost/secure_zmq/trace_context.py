"""The trace that a request belongs to: `traceparent`, as W3C Trace Context defines it, and the log lines about it."""

import re
from contextlib import AbstractContextManager, nullcontext

from structlog.contextvars import bound_contextvars

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TRACE: AbstractContextManager[object] = nullcontext()


def valid_traceparent(traceparent: str | None) -> str | None:
    """Return a `traceparent` that has the form of the standard, and None in place of any other."""
    return traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None


def in_trace(traceparent: str | None) -> AbstractContextManager[object]:
    """Return a context in which this thread's log lines have the `trace_id` of a request, if it belongs to a trace."""
    if traceparent is None or (found := _TRACEPARENT.fullmatch(traceparent)) is None:
        return _NO_TRACE
    return bound_contextvars(trace_id=found["trace_id"])
