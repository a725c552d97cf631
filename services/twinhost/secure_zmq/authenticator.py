"""The ZAP handler (RFC 27): asked by libzmq at every CURVE handshake of one Context.

Its rules: one handler per Context; it runs before a socket is bound and can't be stopped while one is; only a listed
key is accepted, and only up to its limit of connections; if the handler itself fails, every key is refused.

A client waits for the answer, so an accepted key is recorded after it, and nothing of its connection is answered before
that: see `Handshakes.require_recorded`.
"""

import contextlib
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import zmq

from twinhost.secure_zmq.callers import IDENTITY_PROPERTY, Peer
from twinhost.secure_zmq.connections import (
    Connection,
    Connections,
    bare_address,
    most_open_files,
    most_pending,
    shared,
)
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse
from twinhost.secure_zmq.handshakes import MAX_WAITING, Handshakes
from twinhost.secure_zmq.keys import KEY_BYTES, fingerprint_of
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.sockets import ZAP_DOMAIN, ZAP_ENDPOINT, open_zap_socket, plain_send, wake_zap_handler
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

SESSIONS_PER_KEY = 64
_STALLED_AFTER_S = 3.0  # in one handshake; between two, the handler rests
_VERSION = b"1.0"  # of ZAP
_SNDMORE = int(zmq.SNDMORE)  # a plain number: an enumeration's `|` takes ten times as long
_UNREPORTED_S = 1.0
_LATE = 256  # acceptances whose connection seemed to have ended; beyond this the oldest is dropped
_SOCKETS = 2  # that accept connections: requests, and the feed
_OWN_FILES = 128  # that an agent has open besides its connections
LEAST_OPEN_FILES = 256  # leave 48 connections for the keys; below 200 there is room for nobody


@dataclass(frozen=True, slots=True)
class _Verdict:
    status: bytes
    text: bytes
    user_id: bytes = b""
    metadata: bytes = b""


_REFUSED = _Verdict(b"400", b"key not authorized")
_TOO_MANY = _Verdict(b"500", b"too many sessions")  # a client shows the status, and retries
_FAULT = _Verdict(b"300", b"handler fault, try again")


@dataclass(frozen=True, slots=True)
class _Acceptance:
    """Of a key, which is not assigned to a connection yet."""

    fingerprint: str
    at: float  # by the monotonic clock


def require_open_files() -> None:
    """Raise ConfigurationError if this process may have too few descriptors for an agent's connections."""
    if (most := most_open_files()) < LEAST_OPEN_FILES:
        raise ConfigurationError(
            f"this process may open {most} files, and an agent needs {LEAST_OPEN_FILES}, since each connection is one; "
            f"raise TWINHOST_NOFILE in .env, or outside a container: ulimit -n {LEAST_OPEN_FILES}"
        )


class SessionLimits:
    """Limits the connections of each key, over all sockets of one ZAP handler.

    libzmq never reports which connection a key belongs to: a ZAP request has the key and an address, an accepted
    connection has its descriptor and an address, and a message has all three. So an accepted key is assigned to a
    connection in two steps. When a connection from that address has completed its handshake, the oldest acceptance
    from there is assigned to it. That may mix up keys that connect from one address at the same time; the first message
    of a connection, which proves its key, corrects it. The count of each key is right in either case, and the limit
    depends on nothing else.

    Used by the ZAP handler, the monitors, the guards, and the sockets' own threads.
    """

    def __init__(self, per_key: int = SESSIONS_PER_KEY, *, unreported_s: float = _UNREPORTED_S) -> None:
        """Start with no connections.

        Args:
            per_key: the most connections of one key.
            unreported_s: how long after an acceptance the monitor may still report its connection.
        """
        open_files = most_open_files()
        self.per_key = per_key
        self._unreported_s = unreported_s
        self.total = max(1, open_files - _SOCKETS * most_pending() - open_files // 16 - _OWN_FILES)
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._assigned: dict[str, list[Connection]] = {}  # by key, the oldest first
        self._unassigned: Counter[str] = Counter()  # the connections without a key, by address
        self._unplaced: dict[str, deque[_Acceptance]] = defaultdict(deque)  # by address, the oldest first
        self._late: deque[tuple[str, str]] = deque(maxlen=_LATE)
        self._counts: Counter[str] = Counter()
        self._sum = 0  # of the counts

    def admit(self, fingerprint: str, address: str) -> bool:
        """Count a key at its handshake; return False if it, or all keys together, have reached the limit."""
        with self._lock:
            if self._is_full(fingerprint):
                self._drop_ended(fingerprint)
                if self._is_full(fingerprint):
                    return False
            self._count(fingerprint, 1)
            self._unplaced[bare_address(address)].append(_Acceptance(fingerprint, time.monotonic()))
            return True

    def which_is_reached(self, fingerprint: str) -> str:
        """Return which limit a key was refused for."""
        if self._counts[fingerprint] >= self.per_key:
            return f"the key has the {self.per_key} connections that limits.sessions_per_key allows"
        return f"all keys together have the {self.total} connections that TWINHOST_NOFILE allows"

    def count(self, fingerprint: str) -> int:
        """Return how many connections a key has."""
        with self._lock:
            self._trim_all()
            return self._counts[fingerprint]

    def opened(self, connection: Connection) -> None:
        """Add a connection that was accepted; its handshake follows."""
        with self._lock:
            self._add(connection)

    def finished(self, connection: Connection) -> None:
        """Note that a connection has completed its handshake."""
        with self._lock:
            if connection in self._connections and connection.counted_for is None:
                self._assign(connection, self._oldest_at(connection.peer))

    def proven(self, connection: Connection, fingerprint: str) -> None:
        """Note the key of a connection, which its message proves."""
        with self._lock:
            connection.fingerprint = fingerprint
            self._add(connection)
            assumed = connection.counted_for
            self._assign(connection, fingerprint)
            if assumed is None and not self._take(connection.peer, fingerprint):
                self._count(fingerprint, 1)
            elif assumed is not None and assumed != fingerprint:
                self._exchange(connection.peer, fingerprint, assumed)

    def ended(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        with self._lock:
            self._end(connection)

    def _add(self, connection: Connection) -> None:
        if connection not in self._connections:
            self._connections.add(connection)
            self._count_unassigned(connection.peer, 1)

    def _assign(self, connection: Connection, fingerprint: str | None) -> None:
        """Assign another key to a connection, or none."""
        before, connection.counted_for = connection.counted_for, fingerprint
        if before is None:
            self._count_unassigned(connection.peer, -1)
        else:
            self._assigned[before].remove(connection)
            if not self._assigned[before]:
                del self._assigned[before]
        if fingerprint is None:
            self._count_unassigned(connection.peer, 1)
        elif fingerprint in self._assigned:
            self._assigned[fingerprint].append(connection)
        else:
            self._assigned[fingerprint] = [connection]  # most keys have one

    def _count_unassigned(self, address: str, more: int) -> None:
        self._unassigned[address] += more
        if not self._unassigned[address]:
            del self._unassigned[address]

    def _is_full(self, fingerprint: str) -> bool:
        return self._counts[fingerprint] >= self.per_key or self._sum >= self.total

    def _drop_ended(self, fingerprint: str) -> None:
        """Drop a key's ended connections before it is refused one more: an end is reported late, or never."""
        for connection in tuple(self._assigned.get(fingerprint, ())):
            if Connections.remote(connection.fd) is None:
                self._end(connection)
        self._trim_all()

    def _oldest_at(self, address: str) -> str | None:
        if waiting := self._unplaced.get(address):
            return waiting.popleft().fingerprint
        for late in self._late:
            if late[0] == address:
                self._late.remove(late)
                self._count(late[1], 1)
                return late[1]
        return None

    def _take(self, address: str, fingerprint: str) -> bool:
        waiting = self._unplaced.get(address, ())
        own = next((each for each in waiting if each.fingerprint == fingerprint), None)
        if own is None:
            return False
        self._unplaced[address].remove(own)
        return True

    def _exchange(self, address: str, proven: str, assumed: str) -> None:
        """Assign the assumed key to the connection or acceptance to which the proven key was assigned."""
        for other in self._assigned.get(proven, ()):
            if other.peer == address and other.fingerprint is None:
                self._assign(other, assumed)
                return
        if self._take(address, proven):
            self._unplaced[address].append(_Acceptance(assumed, time.monotonic()))
            return
        self._count(assumed, -1)
        self._count(proven, 1)

    def _end(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        if connection.counted_for is not None:
            self._count(connection.counted_for, -1)
            self._assign(connection, None)
        self._connections.remove(connection)
        self._count_unassigned(connection.peer, -1)
        if connection.peer:
            self._trim(connection.peer)
        else:  # it had ended before its address was read
            self._trim_all()

    def _trim_all(self) -> None:
        for address in tuple(self._unplaced):
            self._trim(address)

    def _trim(self, address: str) -> None:
        """Drop acceptances in excess of the open connections: theirs ended before they were assigned.

        A recent one stays: the monitor's thread may be behind, and not have reported its connection yet.
        """
        waiting = self._unplaced.get(address)
        if not waiting:
            self._unplaced.pop(address, None)
            return
        without = self._unassigned[address]
        settled = time.monotonic() - self._unreported_s
        while len(waiting) > without and waiting[0].at <= settled:
            fingerprint = waiting.popleft().fingerprint
            self._count(fingerprint, -1)
            self._late.append((address, fingerprint))
        if not waiting:
            del self._unplaced[address]

    def _count(self, fingerprint: str, more: int) -> None:
        self._counts[fingerprint] += more
        self._sum += more
        if not self._counts[fingerprint]:
            del self._counts[fingerprint]


class Authenticator(Worker):
    """A ZAP handler, started by its constructor; `responsive` unless one handshake has kept it busy for 3 s."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        peers: AuthorizedPeers,
        handshakes: Handshakes | None = None,
        on_end: Callable[[], None] = lambda: None,
        limits: SessionLimits | None = None,
        *,
        record_first: bool = False,
    ) -> None:
        """Start the handler on a context.

        Args:
            context: the one whose CURVE server sockets it authenticates.
            peers: the authorised keys.
            handshakes: where each is counted.
            limits: how many connections a key may have; the default is `SessionLimits()`.
            on_end: called on the handler's thread when it ends, at the latest with the context.
            record_first: record an accepted key before the answer, for sockets that `SecuredSessions` doesn't read.

        Raises:
            SocketMisuse: the context has a handler already.
        """
        super().__init__("zap-handler", self._serve, stalled_after_s=_STALLED_AFTER_S)
        self.context = context
        self.peers = peers
        self.handshakes = handshakes or Handshakes()
        self.limits = limits or SessionLimits()
        self._on_end = on_end
        self._record_first = record_first
        self._guarded: list[zmq.Socket[bytes]] = []
        self._socket = open_zap_socket(context)
        self._send = plain_send(self._socket)
        self.start()

    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Register a server socket that relies on this handler; `stop()` is refused while it is open."""
        if socket.context.underlying != self.context.underlying:
            raise SocketMisuse(
                "the socket belongs to another Context, which does not use this ZAP handler; start one there"
            )
        self.require_running()
        self._guarded.append(socket)

    def require_running(self) -> None:
        """Raise SocketMisuse unless the handler answers."""
        if not self.responsive:
            raise SocketMisuse("the ZAP handler is not running, so no peer would be authenticated; start it first")

    def request_stop(self) -> None:
        """End the handler; `stop()` waits for it.

        Raises:
            SocketMisuse: a server socket that relies on it is still open.
        """
        if any(not socket.closed for socket in self._guarded):
            raise SocketMisuse("a server socket still relies on this ZAP handler; close the socket first")
        super().request_stop()

    def _interrupt(self) -> None:
        if self.alive and not self.context.closed:
            with contextlib.suppress(zmq.ZMQError):  # the context is being terminated, which wakes the handler too
                wake_zap_handler(self.context)

    def _serve(self) -> None:
        try:
            while not self.stopping:
                self.rest()
                frames = self._receive()
                self.beat()
                if not self.stopping:
                    self._answer(frames)
        except zmq.ContextTerminated:
            return
        finally:
            with contextlib.suppress(zmq.ZMQError):  # the context has ended
                self._socket.unbind(ZAP_ENDPOINT)  # freed at once; close() frees it later
            try:
                self._on_end()  # before the context can end, and another one get its address
            finally:
                self._socket.close(0)

    def _receive(self) -> list[bytes]:
        frame = self._socket.recv(copy=False)
        frames = [frame.bytes]
        while frame.more:  # the frame's flag is faster than the socket's option, and a client waits
            frame = self._socket.recv(copy=False)
            frames.append(frame.bytes)
        return frames

    def _answer(self, frames: list[bytes]) -> None:
        request_id = frames[1] if len(frames) > 1 else b""
        fault: Exception | None = None
        try:
            verdict = self._judge(frames)
        except Exception as error:  # boundary: without a handler every peer would be refused
            verdict, fault = _FAULT, error
        for part in (_VERSION, request_id, verdict.status, verdict.text, verdict.user_id):
            self._send(part, _SNDMORE)
        self._send(verdict.metadata, 0)
        if fault is not None:
            self.handshakes.refused(Outcome.HANDLER_FAULT)
            _log.error("zap_handler_fault", exc_info=fault)
        self.handshakes.record()
        if self._record_first:  # no loop of ours has ticks
            self.handshakes.log_accepted()

    def _judge(self, frames: list[bytes]) -> _Verdict:
        """Return the verdict on `[version, request id, domain, address, routing id, mechanism, public key]`."""
        if len(frames) != 7 or frames[0] != _VERSION or frames[2] != ZAP_DOMAIN or frames[5] != b"CURVE":
            self.handshakes.refused(Outcome.KEY_NOT_AUTHORIZED, reason="not a CURVE request of this domain")
            return _REFUSED
        address, raw_key = shared(frames[3].decode(errors="replace").removeprefix("::ffff:")), frames[6]
        peer = self.peers.judge(raw_key)
        if not isinstance(peer, Peer):  # the peer doesn't learn which refusal it is
            fingerprint = fingerprint_of(raw_key) if len(raw_key) == KEY_BYTES and any(raw_key) else "not a key"
            self.handshakes.refused(peer, address=address, fingerprint=fingerprint)
            return _REFUSED
        known = {"peer": peer.name, "fingerprint": peer.fingerprint, "address": address}
        if len(self.handshakes.waiting) >= MAX_WAITING:
            self.handshakes.refused(Outcome.HANDLER_FAULT, **known, reason="earlier handshakes can't be recorded")
            return _FAULT
        if not self.limits.admit(peer.fingerprint, address):
            self.handshakes.refused(
                Outcome.TOO_MANY_SESSIONS, **known, reason=self.limits.which_is_reached(peer.fingerprint)
            )
            return _TOO_MANY
        self.handshakes.accepted(**known)
        if self._record_first:
            self.handshakes.require_recorded(peer.fingerprint)
        return _accept(peer)


def _accept(peer: Peer) -> _Verdict:
    value = f"{peer.fingerprint} {peer.name}".encode()
    name = bytes([len(IDENTITY_PROPERTY)]) + IDENTITY_PROPERTY
    metadata = name + len(value).to_bytes(4, "big") + value  # RFC 23, one property
    return _Verdict(b"200", b"OK", peer.name.encode(), metadata)
