"""A bound socket with its monitoring: its connections, their handshakes, and the keys that they belong to.

Only `sockets` calls this: it makes the socket and has it bound here, in one step.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec
import structlog
import zmq

from twinhost.secure_zmq.authenticator import SessionLimits
from twinhost.secure_zmq.callers import IDENTITY_PROPERTY, UNAUTHENTICATED, Caller, Peer
from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.errors import PeerNotLive, SocketMisuse
from twinhost.secure_zmq.handshakes import (
    MAX_SENT_BEFORE_READY_CURVE,
    MAX_SENT_BEFORE_READY_NULL,
    FailedHandshakes,
    HandshakeGuard,
    Handshakes,
)
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.monitor import SERVER_EVENTS, EventKind, Monitor, SocketEvent
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome, explain
from twinhost.secure_zmq.sockets import (
    RunningAuthenticator,
    bind_again,
    last_endpoint,
    put_server_key,
    secure_unbound_server,
    speaks_curve,
)

_log = structlog.get_logger(__name__)


def origin(frame: zmq.Frame) -> tuple[int, str]:
    """Return the descriptor and the address that a message came from; a peer can claim neither.

    Raises:
        zmq.ZMQError: the message did not come over a connection.
    """
    return int(frame.get(zmq.SRCFD)), str(frame.get("Peer-Address"))


class Session(msgspec.Struct, frozen=True, gc=False):
    """A connection over which messages came: its owner's name, its descriptor, and its remote address and port."""

    name: str
    fd: int
    address: str | None  # None: it had ended before this was read
    port: int

    @property
    def remote(self) -> tuple[str, int] | None:
        return None if self.address is None else (self.address, self.port)


class SecuredSessions:
    """The caller of a message is the owner of the key that ZAP accepted for its connection, while that key is listed.

    It is read from every message: a routing-id proves nothing, since a peer may choose any, even one that begins with a
    zero byte like those that libzmq assigns. Routing-ids only serve to count sessions.
    """

    def __init__(
        self, peers: AuthorizedPeers, limits: SessionLimits | None = None, handshakes: Handshakes | None = None
    ) -> None:
        self.connections = Connections(peers.live, limits)
        self._peers = peers
        self._handshakes = handshakes or Handshakes()
        self._known: dict[object, Peer] = {}  # by the identity that ZAP gave a session
        self._sessions: dict[bytes, Session] = {}  # by routing-id
        self._ended: deque[int] = deque()
        self._last_seen: dict[str, float] = {}  # by fingerprint
        self.seen_since: float | None = None  # when that record began

    def caller_of(self, routing_id: bytes, frame: zmq.Frame, now: float) -> Caller:
        """Return the caller of a message, as of `now` in seconds since the epoch, and count its session.

        Raises:
            PeerNotLive: its key is refused now, or its handshake can't be recorded; its connection will be closed.
        """
        if self._ended:
            self.forget_ended()
        try:
            identity = frame.get(IDENTITY_PROPERTY)
        except zmq.ZMQError:
            raise PeerNotLive("the connection carries no authenticated identity; use an authorised key") from None
        caller = self._known.get(identity)
        if caller is None or self._peers.judge_fingerprint(caller.fingerprint, now) is not caller:
            caller = self._recognise(str(identity), frame, now)
        if self._handshakes.waiting:
            self._require_recorded(caller, frame)
        session = self._sessions.get(routing_id)
        if session is None or session.name != caller.name:  # another peer may have taken over the routing-id
            self._handshakes.log_accepted()
            fd, address = origin(frame)
            fd = self.connections.note_key(fd, address, caller.fingerprint).fd  # an equal number, which is kept already
            remote = self.connections.remote_from(fd, address) or (None, 0)
            self._sessions[routing_id] = Session(caller.name, fd, *remote)
            if remote[0] is None:
                self.disconnected(fd)  # it had ended before, so its end is not reported any more
        self._last_seen[caller.fingerprint] = now
        return caller

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        """Return the caller that holds a key, as of now; None where the key is refused now."""
        return None if fingerprint is None else self._peers.live(fingerprint)

    def session_of(self, routing_id: bytes) -> Session | None:
        """Return the session that the last message under a routing-id belongs to; None where none is known."""
        return self._sessions.get(routing_id)

    def leads_to(self, routing_id: bytes, session: Session | None) -> bool:
        """Return whether a routing-id still leads to a session's owner, as far as is known; on the loop's thread."""
        if session is not None and session.address is None:  # whoever has the routing-id now
            return False
        if not self._ended and self._sessions.get(routing_id) is session:
            return True
        self.forget_ended()
        known = self._sessions.get(routing_id)
        if session is None:
            return known is None
        if known is not None:
            return known.name == session.name
        if self.connections.remote(session.fd) != session.remote:
            return False
        self._sessions[routing_id] = session  # an older connection with the same descriptor had ended
        return True

    def disconnected(self, fd: int) -> None:
        """Note, from any thread, that a connection ended."""
        self._ended.append(fd)

    def forget_ended(self) -> None:
        """Drop the sessions whose connections ended; on the thread that owns the socket."""
        if not self._ended:
            return
        ended = {self._ended.popleft() for _ in range(len(self._ended))}
        for routing_id in [key for key, session in self._sessions.items() if session.fd in ended]:
            del self._sessions[routing_id]

    def counts(self) -> dict[str, int]:
        """Return the number of live sessions by caller's name."""
        names = {session.fd: session.name for session in tuple(self._sessions.values())}  # one has each descriptor
        return dict(Counter(names[fd] for fd in names.keys() - set(self._ended)))

    def last_seen(self) -> dict[str, float]:
        """Return when the last message of each key came, by fingerprint, in seconds since the epoch."""
        return dict(self._last_seen)

    def restore_last_seen(self, seen: Mapping[str, float], since: float) -> None:
        """Start with what was known before this process; `since` is when that record began."""
        self._last_seen, self.seen_since = dict(seen), since

    def _require_recorded(self, caller: Peer, frame: zmq.Frame) -> None:
        try:
            self._handshakes.require_recorded(caller.fingerprint)
        except PeerNotLive:
            self.connections.mark_for_closing(*origin(frame), "its handshake can't be recorded")
            raise

    def _recognise(self, identity: str, frame: zmq.Frame, now: float) -> Peer:
        """Return the accepted peer as it is listed now; or raise PeerNotLive, and have the connection closed."""
        self._known.pop(identity, None)
        fingerprint, _, name = identity.partition(" ")
        verdict = self._peers.judge_fingerprint(fingerprint, now)
        if isinstance(verdict, Peer):
            if verdict.name == name:
                self._known[identity] = verdict
                return verdict
            verdict = Outcome.KEY_NOT_AUTHORIZED  # by this name
        reason = explain(verdict)
        self.connections.mark_for_closing(*origin(frame), f"its key {reason}")
        raise PeerNotLive(f"the key of {name} {reason} here; enrol a new key")


class OpenSessions:
    """SECURE_ZMQ=0: no caller is authenticated, whatever a message's metadata claims; methods as of SecuredSessions."""

    def __init__(self) -> None:
        self.connections = Connections(lambda _: True)
        self.seen_since: float | None = None

    def caller_of(self, routing_id: bytes, frame: zmq.Frame, now: float) -> Caller:
        return UNAUTHENTICATED

    def caller_now(self, fingerprint: str | None) -> Caller | None:
        return UNAUTHENTICATED

    def session_of(self, routing_id: bytes) -> Session | None:
        return None

    def leads_to(self, routing_id: bytes, session: Session | None) -> bool:
        return True

    def disconnected(self, fd: int) -> None:
        pass

    def forget_ended(self) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {}

    def last_seen(self) -> dict[str, float]:
        return {}


CallerSource = SecuredSessions | OpenSessions


@dataclass(frozen=True, slots=True)
class ServerSocket:
    """A bound ROUTER or XPUB with its sessions: identities count only where this module has set CURVE and ZAP."""

    socket: "zmq.Socket[bytes]"
    monitor: Monitor
    sessions: CallerSource
    handshakes: Handshakes
    guard: HandshakeGuard
    authenticator: RunningAuthenticator | None  # None: an open link

    @property
    def address(self) -> str:
        """The endpoint that it is bound to, with the actual port."""
        return last_endpoint(self.socket)

    def on_changed_keys(self, call: Callable[[], None]) -> None:
        """Have a function called, on any thread, whenever the authorised keys have changed; never on an open link."""
        if self.authenticator is not None:
            self.authenticator.peers.listen(lambda _: call())

    @property
    def unsettled(self) -> bool:
        """Whether `close_refused()` is to be called again soon, though no key has changed."""
        return self.sessions.connections.unsettled

    def close_refused(self) -> None:
        """Close the connections whose key is refused now; at every tick, on the thread that owns the socket.

        Where libzmq keeps hundreds of connections after their end, all sessions end, and valid peers reconnect.

        Raises:
            SocketMisuse: the address can't be bound again then; the process must end.
        """
        self.handshakes.record()  # of a key that was revoked since it was accepted
        self.handshakes.log_accepted()
        for fd in self.sessions.connections.close_refused():
            self.sessions.disconnected(fd)
        if self.sessions.connections.too_many_lost():
            _log.warning("socket_bound_again", address=self.address, reason="libzmq keeps too many ended connections")
            self._bind_again(lambda: None)
        self.sessions.forget_ended()

    def rekey(self, own_keys: KeyPair) -> None:
        """Continue at the same address with another pair; every session ends, and its peer must know the new key.

        On the thread that owns the socket.

        Raises:
            SocketMisuse: the link is open; or the new key is not in force, or the address can't be bound again
                within 5 s: then the socket is not bound, and the process must end.
        """
        if self.authenticator is None:
            raise SocketMisuse("the link is unencrypted, so it has no key to change; set SECURE_ZMQ=1")
        authenticator = self.authenticator
        self._bind_again(lambda: put_server_key(self.socket, authenticator, own_keys))

    def _bind_again(self, while_unbound: Callable[[], None]) -> None:
        """Unbind, which ends every session, and bind to the same address."""
        address = self.address
        self.socket.unbind(address)
        while_unbound()
        bind_again(self.socket, address)
        self.sessions.connections.unbound()

    def close(self) -> None:
        self.guard.stop()
        self.monitor.close()
        self.socket.close()
        self.handshakes.log_accepted()


@dataclass(frozen=True, slots=True)
class Watch:
    """What watches a socket's connections."""

    connections: Connections
    guard: HandshakeGuard
    monitor: Monitor


def bind_secured(
    socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair, address: str
) -> ServerSocket:
    """Secure a new socket, check that CURVE is in force, bind it, and watch its connections.

    Raises:
        SocketMisuse: the handler is not running, or the address can't be bound.
    """
    try:
        secure_unbound_server(socket, authenticator, own_keys)
    except BaseException:
        socket.close(0)
        raise
    sessions = SecuredSessions(authenticator.peers, authenticator.limits, authenticator.handshakes)
    authenticator.handshakes.listen(sessions.connections.observe_handshake)
    return _bind(socket, address, sessions, authenticator.handshakes, authenticator)


def bind_open(socket: "zmq.Socket[bytes]", address: str, handshakes: Handshakes) -> ServerSocket:
    """Bind a socket whose peers are not authenticated, and watch its connections.

    Raises:
        SocketMisuse: the address can't be bound.
    """
    return _bind(socket, address, OpenSessions(), handshakes, None)


def _bind(
    socket: "zmq.Socket[bytes]",
    address: str,
    sessions: CallerSource,
    handshakes: Handshakes,
    authenticator: RunningAuthenticator | None,
) -> ServerSocket:
    watch = _watch(socket, sessions.connections, handshakes, sessions.disconnected)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        watch.guard.stop()
        watch.monitor.close()
        socket.close(0)
        raise SocketMisuse(f"{address} can't be bound ({error}); free the port or change network_config.yaml") from None
    return ServerSocket(socket, watch.monitor, sessions, handshakes, watch.guard, authenticator)


def watch_unbound(socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator) -> Watch:
    """Watch a socket that another program secured, and will bind and serve by itself.

    No message is read here, so the key of a connection is not known: when a key is revoked or expires,
    `close_refused()` closes every connection of the socket, and the authorised peers reconnect.
    """
    connections = Connections(authenticator.peers.live, authenticator.limits)
    return _watch(socket, connections, authenticator.handshakes, lambda _: None)


def _watch(
    socket: "zmq.Socket[bytes]",
    connections: Connections,
    handshakes: Handshakes,
    disconnected: Callable[[int], None],
) -> Watch:
    max_sent_before_ready = MAX_SENT_BEFORE_READY_CURVE if speaks_curve(socket) else MAX_SENT_BEFORE_READY_NULL
    guard = HandshakeGuard(connections, handshakes, max_sent_before_ready)
    failed = FailedHandshakes(handshakes)

    def on_event(event: SocketEvent) -> None:
        address = connections.peer_of(event.value) if event.kind is EventKind.DISCONNECTED else None
        if connections.observe(event):  # before the guard, which takes the handshakes to watch from the table
            disconnected(event.value)
        failed.observe(event, address, caused_here=guard.observe(event))

    return Watch(connections, guard, Monitor(socket, on_event, SERVER_EVENTS))


class RekeyRequests:
    """At most one change of keys waits; the loop that owns the socket checks between two batches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: tuple[KeyPair, Future[float]] | None = None
        self._ended = False

    def ask(self, own_keys: KeyPair) -> "Future[float]":
        """Ask for a change; its result is the seconds for which the socket was not bound, or the error.

        Raises:
            SocketMisuse: another change waits, or the loop has ended.
        """
        with self._lock:
            if self._ended or self._waiting is not None:
                raise SocketMisuse(
                    "the key can't be changed: the server is stopping, or another change is under way; try again"
                )
            future: Future[float] = Future()
            self._waiting = own_keys, future
            return future

    @property
    def waiting(self) -> bool:
        return self._waiting is not None

    def carry_out(self, rekey: Callable[[KeyPair], None]) -> None:
        """Make the waiting change, on the loop's thread; an error goes to the one who asked, and ends the loop."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        own_keys, future = waiting
        started = time.monotonic()
        try:
            rekey(own_keys)
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(time.monotonic() - started)

    def end(self) -> None:
        """Accept no more changes; a waiting one is cancelled."""
        with self._lock:
            self._ended = True
            if self._waiting is not None:
                self._waiting[1].cancel()
                self._waiting = None
