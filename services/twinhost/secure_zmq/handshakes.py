"""Counts how handshakes end, by cause; and limits what an unauthenticated peer may send and hold until then."""

import errno
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

import structlog

from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.connections import Connection, Connections, held, most_pending, remote, shut, traffic_of
from twinhost.secure_zmq.errors import PeerNotLive
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import Outcome
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

MAX_WAITING = 64  # accepted keys whose record failed; beyond this the ZAP handler refuses every key
_MAX_UNLOGGED = 256  # recorded keys that have no line in the log yet

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

HandshakeListener = Callable[[Outcome, Mapping[str, str]], None]  # the fields: peer, fingerprint, address, if known


@dataclass(slots=True)
class _Accepted:
    """An accepted key that is not recorded yet."""

    known: Mapping[str, str]
    listeners: list[HandshakeListener]  # that have not recorded it
    at: float  # in seconds since the epoch
    failed: bool = False  # the last attempt


class Handshakes:
    """Counts by outcome; safe to use from any thread."""

    def __init__(self) -> None:
        self.waiting: deque[_Accepted] = deque()  # the oldest first
        self._unlogged: deque[_Accepted] = deque()  # recorded
        self._recording = threading.Lock()
        self._logging = threading.Lock()
        self._listeners: list[HandshakeListener] = []
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._budget = LogBudget()  # by outcome, so that many of one don't suppress the lines of another
        self._accepted_budget = LogBudget()  # by peer

    def counts(self) -> dict[str, int]:
        """Return the number of handshakes by outcome since the start."""
        self.record()
        with self._lock:
            return {outcome.value: self._counts[outcome] for outcome in Outcome}

    def listen(self, listener: HandshakeListener) -> None:
        """Call back for every handshake, on the thread that records it; it must not block, nor report one.

        While it raises for an accepted key, that key is not served, and it is called again.
        """
        self._listeners.append(listener)

    def accepted(self, peer: str, fingerprint: str, address: str) -> None:
        """Note that a key was accepted, before libzmq is answered; to be recorded after that, off the client's path."""
        known = {"peer": peer, "fingerprint": fingerprint, "address": address}
        self.waiting.append(_Accepted(known, self._listeners.copy(), time.time()))

    def record(self) -> None:
        """Record the accepted keys that wait; one whose record fails goes on waiting, and the next call tries again."""
        if not self.waiting:
            return
        with self._recording:
            for _ in range(len(self.waiting)):
                accepted = self.waiting[0]
                accepted.listeners = [
                    each for each in accepted.listeners if not self._notify(each, Outcome.ACCEPTED, accepted.known)
                ]
                if accepted.listeners or not self._notify(self._count_accepted, Outcome.ACCEPTED, accepted.known):
                    accepted.failed = True
                    self.waiting.rotate(-1)
                else:
                    self._unlogged.append(accepted)
                    self.waiting.popleft()  # only now: nobody may find nothing waiting before all is recorded
        if len(self._unlogged) >= _MAX_UNLOGGED:
            self.log_accepted()

    def log_accepted(self) -> None:
        """Write the log's lines of recorded keys: before a peer's first reply, and at every tick."""
        with self._logging:  # so that who finds none knows that all are written
            while self._unlogged:
                accepted = self._unlogged.popleft()
                known, at = accepted.known, datetime.fromtimestamp(accepted.at, UTC).isoformat().replace("+00:00", "Z")
                self._accepted_budget.log(_log.info, "handshake_accepted", known["peer"], timestamp=at, **known)

    def require_recorded(self, fingerprint: str) -> None:
        """Record what waits; raise PeerNotLive if that fails for a handshake of this key, which must not be served."""
        self.record()
        self.log_accepted()
        if any(each.failed and each.known["fingerprint"] == fingerprint for each in tuple(self.waiting)):
            raise PeerNotLive(
                "the handshake of this connection can't be recorded, so nothing is answered; free space on the "
                "agent's volume, and read its log"
            )

    def refused(self, outcome: Outcome, **fields: str) -> None:
        """Record a refusal; `fields` (address, fingerprint) have what is known of the peer."""
        self.record()  # in the order in which they came
        self.log_accepted()
        with self._lock:
            self._counts[outcome] += 1
        for listener in self._listeners:
            self._notify(listener, outcome, fields)
        self._budget.log(_log.warning, "handshake_refused", outcome, cause=outcome.value, **fields)

    def _count_accepted(self, _: Outcome, __: Mapping[str, str]) -> None:
        with self._lock:
            self._counts[Outcome.ACCEPTED] += 1

    def _notify(self, listener: HandshakeListener, outcome: Outcome, fields: Mapping[str, str]) -> bool:
        try:
            listener(outcome, fields)
        except Exception:  # noqa: BLE001 - boundary: a listener's fault must not end the ZAP handler, nor the monitor
            self._budget.log(_log.exception, "handshake_listener_fault", "handshake_listener_fault")
            return False
        return True


class FailedHandshakes:
    """Records the failures that occur before ZAP is asked, with their address; on the monitor's thread only.

    libzmq's event of a failure has no descriptor; the event of the connection's end, which follows, has one.
    """

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes
        self._failed: Outcome | None = None

    def observe(self, event: SocketEvent, address: str | None, *, caused_here: bool) -> None:
        """Note a server's event.

        Args:
            event: from the socket's monitor.
            address: of the connection that ended, where the event is an end.
            caused_here: whether this side caused the failure, and recorded it.
        """
        if self._failed is not None:  # without an address if another event came in between
            self._handshakes.refused(self._failed, **({} if address is None else {"address": address}))
        self._failed = None if caused_here else failure_of(event)


def failure_of(event: SocketEvent) -> Outcome | None:
    """Return the refusal that a server's event reports, where ZAP was not asked; None for every other event."""
    match event.kind:
        case EventKind.WRONG_KEYS:
            return Outcome.WRONG_KEYS
        case EventKind.MECHANISM_MISMATCH:
            return Outcome.MECHANISM_MISMATCH
        case EventKind.NOT_ZMTP:
            return Outcome.NOT_ZMTP
        case EventKind.BROKEN_OFF:
            return Outcome.TIMED_OUT if event.value == errno.ETIMEDOUT else Outcome.BROKEN_OFF
        case EventKind.CONNECTED | EventKind.ACCEPTED | EventKind.SUCCEEDED | EventKind.DISCONNECTED:
            pass
        case EventKind.REFUSED:  # by the ZAP handler, which records it
            pass
        case _:
            assert_never(event.kind)
    return None


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
        """Watch from now on.

        Args:
            connections: of the socket; the end of a handshake is noted there.
            handshakes: where a closed connection is counted.
            max_sent_before_ready: the most bytes that the server sends in a handshake before READY.
        """
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
                    self._closed.discard(event.value)
                    self._unreported = min(self._unreported, len(self._closed))
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
        with held(connection.fd) as found:
            address = None if found is None else self._address_of(found, connection, more_than)
            if found is not None and address is not None:
                with self._lock:  # before libzmq can report it
                    if not shut(found):
                        return  # still pending: the next poll retries
                    self._closed.add(connection.fd)
                    self._unreported += 1
        if address is not None:
            self._handshakes.refused(outcome, address=address)
        self._connections.end_handshake(connection, succeeded=False)

    def _address_of(self, found: socket.socket, connection: Connection, more_than: int) -> str | None:
        """Return the remote address if the peer on our port is unauthenticated and sent too much; None otherwise."""
        traffic, peer = traffic_of(found.fileno()), remote(found)
        if peer is None or traffic is None or traffic.acknowledged > self._max_sent_before_ready:
            return None
        ours = found.getsockname()[1] == connection.port
        return peer[0] if ours and traffic.received > more_than else None
