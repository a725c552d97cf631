"""Closes connections whose requests take too much memory before the server's loop has received them.

libzmq's high-water mark counts whole messages, of any size. It holds what has come of a message that never ends, and
all frames of one that has ever more. So what the kernel has received over each connection is compared with what the
loop has taken from it; in between lies what libzmq holds, and what the kernel does. Where that exceeds the budget
`unhandled_bytes` of an identity, its connections are closed, the worst first.

libzmq keeps the whole messages of a closed connection, and where the loop takes the first one, nothing shows any more
that the connection was closed here. So for two seconds the loop frees what comes of such an identity, unless it is
small, and closes what that came over.

The comparison is inexact by what libzmq takes for itself, such as heartbeats and headers: the first 64 KiB of each
connection don't count, and they begin again with each request. So a connection that sends heartbeats for days, and no
request, may count; it is closed at the worst, and its client reconnects. On Linux only; an open link has no budgets.
"""

import contextlib
import select
import sys
import time
from collections import defaultdict
from collections.abc import Mapping

from twinhost.heap import Resident
from twinhost.secure_zmq.budgets import Budget, Budgets
from twinhost.secure_zmq.connections import Connection
from twinhost.secure_zmq.descriptors import traffic_of
from twinhost.secure_zmq.session import Session
from twinhost.secure_zmq.sessions import CallerSource, SecuredSessions
from twinhost.worker import Waker, Worker

ALLOWED_BYTES = 64 * 1024  # of each connection
HARMLESS_BYTES = 4 * 1024  # of a request
_FREED_FOR_S = 2.0  # more than the loop takes for one request
_PAUSE_S = 0.06  # between two looks, while data comes
_STEP_S = 0.02  # within a pause: each wakes this thread, which the loop notices
_URGENT_S = 0.002  # between two looks, while much waits
_GROWN_BYTES = 2 * 1024 * 1024  # of the process, since the last look
_PAUSE_FACTOR = 20  # times a look's duration, so that many connections cost little CPU time
_YIELD_AFTER = 64  # connections: then the GIL is released for a waiting thread, which would get it after 5 ms
_LOOK_EVERY_S = 1.0  # whatever comes
_REASON = "its key's requests that have not been handled exceed the budget unhandled_bytes; send fewer bytes at once"


class InboundGuard(Worker):
    """Watches the connections of a socket; its thread sleeps until data comes."""

    def __init__(self, sessions: CallerSource, budgets: Budgets, largest: int) -> None:
        """Take the sessions of a socket of which no connection has been accepted, and the budgets.

        One message may be larger than the budget; libzmq takes none that has more than `largest` bytes.
        """
        super().__init__("inbound-guard", self._watch)
        self._sessions = sessions
        self._connections = sessions.connections
        self._budgets = budgets
        self._largest = largest
        self._freed_until: dict[str, float] = {}  # of identities whose connections were closed here
        if sys.platform == "linux" and isinstance(sessions, SecuredSessions):
            self._waker, self._memory = Waker(), Resident()
            self._epoll = select.epoll()
            self._epoll.register(self._waker.fd, select.EPOLLIN)
            self._connections.on_accepted = self._accepted
            self.start()

    @property
    def alive(self) -> bool:
        """Whether the guard runs, or is off here."""
        return not self.started or super().alive

    def used(self) -> Mapping[str, float]:
        """Return how many bytes of each identity wait for the loop."""
        return {name: sum(each.unhandled for each in waiting) for name, waiting in self._waiting().items()}

    def closes(self, session: Session) -> bool:
        """Return whether a large request is only to be freed, and its connection was closed; on the socket's thread."""
        if time.monotonic() >= self._freed_until.get(session.name, 0.0):
            return False
        self._connections.close_now(session.fd, session.remote, _REASON)
        return True

    def _interrupt(self) -> None:
        if self.started:
            self._waker.wake()

    def _accepted(self, fd: int) -> None:
        """Watch a connection; on the monitor's thread."""
        with contextlib.suppress(OSError):  # it has ended
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)

    def _watch(self) -> None:
        pause_s = _PAUSE_S
        while not self.stopping:
            self._epoll.poll(_LOOK_EVERY_S)  # it misses what libzmq has read by the time that this thread runs
            self._pause(pause_s)
            started = time.monotonic()
            excessive = self._look()
            pause_s = _URGENT_S if excessive else max(_PAUSE_S, _PAUSE_FACTOR * (time.monotonic() - started))
            if excessive:
                self._close_worst()

    def _pause(self, seconds: float) -> None:
        """Wait between two looks, but not while the process grows."""
        most, until = self._memory.bytes + _GROWN_BYTES, time.monotonic() + seconds
        time.sleep(min(_STEP_S, seconds))  # which costs less than waiting for `stop()` too
        while time.monotonic() < until and self._memory.bytes < most:
            time.sleep(_STEP_S)

    def _look(self) -> bool:
        """Note what has come over each connection; return whether one holds more than its allowance."""
        excessive = False
        for number, connection in enumerate(self._connections.open()):
            if number % _YIELD_AFTER == 0:
                time.sleep(0)
            if not connection.shut and (traffic := traffic_of(connection.fd)) is not None:
                connection.unhandled = max(0, connection.behind(traffic.received, ALLOWED_BYTES) - ALLOWED_BYTES)
                excessive = excessive or connection.unhandled > 0
        return excessive

    def _waiting(self) -> Mapping[str, list[Connection]]:
        """Return the connections of each identity over which more came than the loop has taken, the worst first."""
        waiting: defaultdict[str, list[Connection]] = defaultdict(list)
        for connection in sorted(self._connections.open(), key=lambda one: -one.unhandled):
            if connection.unhandled and not connection.shut:
                caller = self._sessions.caller_now(connection.fingerprint or connection.counted_for)
                waiting[caller.name if caller else ""].append(connection)
        return waiting

    def _close_worst(self) -> None:
        for name, waiting in self._waiting().items():
            caller = self._sessions.caller_named(name)
            most = max(self._largest, (self._budgets.of(caller) if caller else Budget()).unhandled_bytes)
            excess = sum(connection.unhandled for connection in waiting) - most
            for connection in waiting:
                if excess <= 0:
                    break
                excess -= connection.unhandled
                if connection.fingerprint is not None:  # until then another's key may be assumed
                    self._freed_until[name] = time.monotonic() + _FREED_FOR_S
                self._connections.close_now(connection.fd, self._connections.remote(connection.fd), _REASON)
