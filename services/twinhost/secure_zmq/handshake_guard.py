"""Closes connections that use too much memory before they are authenticated."""

import socket
import sys
import threading
import time

from twinhost.secure_zmq.connections import Connection, Connections
from twinhost.secure_zmq.descriptors import held, most_pending, remote, shut, traffic_of
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import Outcome
from twinhost.worker import Worker

_GREETING_BYTES = 64
_WELCOME_BYTES = 170
_ERROR_BYTES = 12
MAX_SENT_BEFORE_READY_CURVE = _GREETING_BYTES + _WELCOME_BYTES + _ERROR_BYTES  # READY adds 67 to greeting and WELCOME
MAX_SENT_BEFORE_READY_NULL = _GREETING_BYTES
MAX_HANDSHAKE_BYTES = 16 * 1024  # a real one takes less than 1 KiB
_POLL_S = 0.010
_PAUSE_FACTOR = 4  # times a poll's duration, so that a flood costs little CPU time; at most _LONGEST_PAUSE_S
_LONGEST_PAUSE_S = 0.050
_YIELD_AFTER = 64  # connections: then the GIL is released for a waiting thread, which would get it after 5 ms
_MAX_EVICTED_PER_POLL = 1_024


class HandshakeGuard(Worker):
    """Closes connections that use too much memory in their handshake; its thread sleeps while there is no handshake.

    libzmq's own limit, MAXMSGSIZE, applies to handshake commands too, so any host that can reach the port could make
    the server hold 8 MiB per connection. libzmq does not report which handshake succeeded, so the kernel's TCP counters
    decide. Before READY, a CURVE server has sent its greeting, WELCOME, and at most an ERROR; once the peer has
    acknowledged more than that, the handshake has succeeded. A valid client sends nothing large before it has READY, so
    a connection that sent much and acknowledged little is an attack.

    On an open link READY comes with the greeting and any peer may send a large message, so there only the number of
    connections without a greeting is limited. The guard is off on systems other than Linux.
    """

    def __init__(self, connections: Connections, handshakes: Handshakes, max_sent_before_ready: int) -> None:
        """Watch a socket's connections; `max_sent_before_ready` is the most bytes that it sends one before READY."""
        super().__init__("handshake-guard", self._watch)
        self.looks = 0  # polls of the pending connections; none while there are none
        self._connections = connections
        self._handshakes = handshakes
        self._max_sent_before_ready = max_sent_before_ready
        self._most_pending = most_pending()  # beyond this the oldest are closed
        self._lock = threading.Lock()
        self._closed: set[int] = set()
        self._unreported = 0  # closed ones that libzmq has not reported yet
        self._work = threading.Event()
        if sys.platform == "linux":
            self.start()

    @property
    def idle(self) -> bool:
        """Whether no connection is in its handshake, as of the last poll."""
        return not self._work.is_set()

    @property
    def alive(self) -> bool:
        """Whether the guard runs; also True where it is off, since the system has no such counters."""
        return not self.started or super().alive

    def observe(self, event: SocketEvent) -> bool:
        """Note a server's event after `Connections` has; return whether the guard caused it."""
        match event.kind:
            case EventKind.ACCEPTED if self.started and not self._work.is_set():
                self._work.set()
            case EventKind.DISCONNECTED:
                with self._lock:
                    closed_here = event.value in self._closed
                    self._closed.discard(event.value)
                    self._unreported = min(self._unreported, len(self._closed))
                    return closed_here
            case EventKind.BROKEN_OFF:
                with self._lock:
                    if self._unreported:
                        self._unreported -= 1
                        return True
            case _:
                pass
        return False

    def _interrupt(self) -> None:
        self._work.set()

    def _watch(self) -> None:
        took_s = 0.0
        while self._work.wait() and not self.wait(min(max(_POLL_S, _PAUSE_FACTOR * took_s), _LONGEST_PAUSE_S)):
            started = time.monotonic()
            self._look()
            took_s = time.monotonic() - started

    def _look(self) -> None:
        self.looks += 1
        unfinished: list[Connection] = []
        for number, connection in enumerate(self._connections.pending()):
            if number % _YIELD_AFTER == 0:
                time.sleep(0)
            traffic = traffic_of(connection.fd)
            if traffic is None:
                self._connections.end_handshake(connection, succeeded=False)
            elif traffic.acknowledged > self._max_sent_before_ready:
                self._connections.end_handshake(connection, succeeded=True)
            elif traffic.received > MAX_HANDSHAKE_BYTES:
                self._shut_down(connection, Outcome.OVERSIZED, MAX_HANDSHAKE_BYTES)
            else:
                unfinished.append(connection)
        for connection in unfinished[: min(_MAX_EVICTED_PER_POLL, max(0, len(unfinished) - self._most_pending))]:
            self._shut_down(connection, Outcome.TOO_MANY_PENDING, -1)
        self._work.clear()
        if self.stopping or self._connections.pending():  # read after the clear: a new one sets it again
            self._work.set()

    def _shut_down(self, connection: Connection, outcome: Outcome, more_than: int) -> None:
        """Close the connection that has this descriptor now, if it too is unauthenticated and sent too much."""
        with held(connection.fd) as present:
            address = None if present is None else self._address_of(present, connection, more_than)
            if present is not None and address is not None:
                with self._lock:  # before libzmq can report it
                    if not shut(present):
                        return  # still pending: the next poll retries
                    self._closed.add(connection.fd)
                    self._unreported += 1
        if address is not None:
            self._handshakes.refused(outcome, address=address)
        self._connections.end_handshake(connection, succeeded=False)

    def _address_of(self, present: socket.socket, connection: Connection, more_than: int) -> str | None:
        """Return the remote address if the peer on our port is unauthenticated and sent too much; None otherwise."""
        traffic, peer = traffic_of(present.fileno()), remote(present)
        if peer is None or traffic is None or traffic.acknowledged > self._max_sent_before_ready:
            return None
        ours = present.getsockname()[1] == connection.port
        return peer[0] if ours and traffic.received > more_than else None
