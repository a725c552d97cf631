"""What strangers can hold of the HTTP port: a number of connections, and each of them for a while.

uvicorn alone waits for ever for a first request, and for the rest of one that has begun;
its `limit_concurrency` answers 503 to everybody while strangers hold connections.
"""

import asyncio
import errno
from typing import Any

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 64
ANSWER_DEADLINE_S = 5.0  # from the connection, or from the last answer, until the next answer is complete
STREAM_PATH = "/api/stream"  # whose answer goes on for as long as its client reads it
_SAY_EVERY_S = 10.0
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class LimitedProtocol(H11Protocol):
    """A connection that ends where it holds its place for too long, or longest of too many."""

    _since: float  # the loop's time of the connection or of its last answer
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_waiting()
        if len(self.connections) > MAX_CONNECTIONS:
            # Never the newcomer: clients that ask without a pause would keep everybody else out.
            others = [other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self]
            min(others, key=LimitedProtocol._worth).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._start_waiting()
        super().on_response_complete()

    def drop(self) -> None:
        """End the connection at once: a close would wait for a client that does not read."""
        self.connections.discard(self)  # it no longer counts, though its end is told to `connection_lost` later
        self.transport.abort()

    def _start_waiting(self) -> None:
        # No byte that comes renews it, so that one byte a second buys no time.
        self._since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(ANSWER_DEADLINE_S, self._overdue)

    def _overdue(self) -> None:
        if self._is_read_stream():
            self._deadline = self.loop.call_later(ANSWER_DEADLINE_S, self._overdue)
        else:
            self.drop()

    def _is_read_stream(self) -> bool:
        """Return whether a stream is being answered, and its client takes what it is sent."""
        cycle = self.cycle
        answering = cycle is not None and cycle.response_started and not cycle.response_complete
        return answering and cycle.scope["path"] == STREAM_PATH and not self.flow.write_paused

    def _worth(self) -> tuple[bool, float]:
        """Return what the least of is dropped first: those that wait for their client, the longest first."""
        answering = self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused
        return answering, self._since


def log_accept_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Tell in one line that the process is out of descriptors: asyncio tells it `backlog` times a second, at length."""
    silent_until = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal silent_until
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_RESOURCES:
            loop.default_exception_handler(context)
        elif loop.time() >= silent_until:
            silent_until = loop.time() + _SAY_EVERY_S
            _log.error("http_not_accepting", reason=error.strerror)

    loop.set_exception_handler(handle)
