"""The sockets of servers: limited, secured, checked, watched, and bound in one step.

libzmq serves anyone on a CURVE socket without a ZAP handler, ignores options set after bind, and binds with an all-zero
key if no secret was set. So no incomplete socket is returned, and callers can't change the order of the steps. The
compatible API (`agent.legacy`) secures the sockets of existing agents with the same functions.
"""

import errno
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

import structlog
import zmq

from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.handshake_guard import MAX_SENT_BEFORE_READY_CURVE, MAX_SENT_BEFORE_READY_NULL, HandshakeGuard
from twinhost.secure_zmq.handshakes import FailedHandshakes, Handshakes
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.monitor import SERVER_EVENTS, EventKind, Monitor, SocketEvent
from twinhost.secure_zmq.sessions import CallerSource, OpenSessions, SecuredSessions
from twinhost.secure_zmq.sockets import (
    LINGER_MS,
    ZAP_DOMAIN,
    detect_by_keepalive,
    last_endpoint,
    limit_socket,
    require_fresh,
    speaks_curve,
)

_log = structlog.get_logger(__name__)

_ZAP_ENFORCE_DOMAIN = 93  # zmq.h; pyzmq does not name it
_BIND_AGAIN_S = 5.0  # libzmq's I/O thread frees an unbound address asynchronously
_BIND_AGAIN_EVERY_S = 0.001
_KEEPALIVE_IDLE_S = 10
_REPLIES_HIGH_WATER_MARK = 512  # that a peer may leave unread; `backlog` bounds their bytes
_REQUESTS_HIGH_WATER_MARK = 128  # of a peer, whole ones: large ones wait in the kernel's buffers, and not here
_SEND_BUFFER_BYTES = 256 * 1024  # of a connection; by itself the kernel takes up to 4 MiB for a peer that doesn't read
_BACKLOG = 1_024  # connections waiting to be accepted
_MAX_SUBSCRIPTION_BYTES = 1_024  # on the wire; also the handshake's commands, of which INITIATE takes about 300
_SUBSCRIPTIONS_HIGH_WATER_MARK = 64  # queued per connection: libzmq keeps a tree node for every byte


@dataclass(frozen=True, slots=True)
class ServerSocket:
    """A bound ROUTER or XPUB with its sessions: identities count only where this module has set CURVE and ZAP."""

    socket: "zmq.Socket[bytes]"
    monitor: Monitor
    sessions: CallerSource
    handshakes: Handshakes
    guard: HandshakeGuard
    authenticator: Authenticator | None  # None: an open link

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
        self.socket.linger = LINGER_MS
        self.socket.unbind(address)
        self.socket.linger = 0
        while_unbound()
        deadline = time.monotonic() + _BIND_AGAIN_S
        while True:
            try:
                self.socket.bind(address)
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise SocketMisuse(f"{address} can't be bound again ({error}); restart the agent") from None
                time.sleep(_BIND_AGAIN_EVERY_S)
            else:
                break
        self.sessions.connections.unbound()

    def close(self) -> None:
        self.guard.stop()
        self.monitor.close()
        self.socket.close(LINGER_MS)


@dataclass(frozen=True, slots=True)
class Watch:
    """What watches a socket's connections."""

    connections: Connections
    guard: HandshakeGuard
    monitor: Monitor


def open_server_socket(
    authenticator: Authenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> ServerSocket:
    """Bind a CURVE ROUTER on the context of the running ZAP handler, which will decide about each peer.

    Raises:
        SocketMisuse: the handler does not run, or the address can't be bound.
    """
    socket = authenticator.context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_server_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: Handshakes
) -> ServerSocket:
    """Bind a ROUTER without encryption and authentication; for SECURE_ZMQ=0 alone."""
    socket = context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind(socket, address, OpenSessions(), handshakes, None)


def open_feed_socket(
    authenticator: Authenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> ServerSocket:
    """Bind a CURVE XPUB that grants no subscription by itself; errors as of `open_server_socket`."""
    socket = authenticator.context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_feed_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: Handshakes
) -> ServerSocket:
    """Bind an XPUB without encryption and authentication; for SECURE_ZMQ=0 alone."""
    socket = context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind(socket, address, OpenSessions(), handshakes, None)


def secure_unbound_server(socket: "zmq.Socket[bytes]", authenticator: Authenticator, own_keys: KeyPair) -> None:
    """Make a socket a CURVE server whose peers the handler must accept, and check that the options are in force.

    Raises:
        SocketMisuse: it is bound or connected already, belongs to another Context, or an option is not in force.
    """
    require_fresh(socket)
    put_server_key(socket, authenticator, own_keys)


def put_server_key(socket: "zmq.Socket[bytes]", authenticator: Authenticator, own_keys: KeyPair) -> None:
    """Set a key pair, CURVE and ZAP on a socket that is not bound, and check that they are in force.

    Raises:
        SocketMisuse: the handler does not run, or an option is not in force.
    """
    authenticator.guard(socket)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(_ZAP_ENFORCE_DOMAIN, 1)
    socket.curve_secretkey = own_keys.secret_z85
    socket.curve_publickey = own_keys.public.z85
    socket.curve_server = True
    domain = cast(bytes, socket.getsockopt(zmq.ZAP_DOMAIN)).rstrip(b"\0")
    enforced = domain == ZAP_DOMAIN and socket.getsockopt(_ZAP_ENFORCE_DOMAIN) == 1
    if not (speaks_curve(socket) and socket.curve_server and enforced):
        raise SocketMisuse(
            "libzmq did not apply CURVE with ZAP, so the socket would serve anyone; "
            "run: pip install --force-reinstall pyzmq"
        )


def limit_router(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Limit a ROUTER; a reply to a disconnected peer is an error, and not ignored."""
    limit_socket(socket, max_payload_bytes)
    _limit_server(socket)
    socket.router_mandatory = True
    socket.sndhwm = _REPLIES_HIGH_WATER_MARK
    socket.rcvhwm = _REQUESTS_HIGH_WATER_MARK


def limit_feed(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Limit an XPUB; it receives only subscriptions, and grants none by itself."""
    limit_socket(socket, max_payload_bytes)
    _limit_server(socket)
    socket.maxmsgsize = _MAX_SUBSCRIPTION_BYTES
    socket.rcvhwm = _SUBSCRIPTIONS_HIGH_WATER_MARK
    socket.xpub_manual = True


def _limit_server(socket: "zmq.Socket[bytes]") -> None:
    """Limit what the connections of a bound socket take from the kernel, and for how long."""
    let_clients_send_heartbeats(socket)
    socket.backlog = _BACKLOG
    socket.sndbuf = _SEND_BUFFER_BYTES
    socket.linger = 0  # else libzmq keeps what it has for a connection for a second after its end


def let_clients_send_heartbeats(socket: "zmq.Socket[bytes]") -> None:
    """Have a bound socket send no heartbeats: their timer aborts the process if it fires on a failed connection.

    Seen with repeated frames (stream_engine_base.cpp, `!_io_error`), which an authorised peer, or anyone on the path,
    can send. The TTL in the clients' heartbeats ends dead connections here; for other clients, TCP keepalive does.
    """
    detect_by_keepalive(socket, _KEEPALIVE_IDLE_S)
    socket.tcp_maxrt = 0  # as the system has it: with a limit, Linux ignores the keepalive's count


def _bind_secured(
    socket: "zmq.Socket[bytes]", authenticator: Authenticator, own_keys: KeyPair, address: str
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


def _bind(
    socket: "zmq.Socket[bytes]",
    address: str,
    sessions: CallerSource,
    handshakes: Handshakes,
    authenticator: Authenticator | None,
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


def watch_unbound(socket: "zmq.Socket[bytes]", authenticator: Authenticator) -> Watch:
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
    shows_keys = speaks_curve(socket)
    max_sent_before_ready = MAX_SENT_BEFORE_READY_CURVE if shows_keys else MAX_SENT_BEFORE_READY_NULL
    guard = HandshakeGuard(connections, handshakes, max_sent_before_ready)
    failed = FailedHandshakes(handshakes)

    def on_event(event: SocketEvent) -> None:
        address = since = None
        if event.kind is EventKind.DISCONNECTED:
            address = connections.peer_of(event.value)
            since = connections.unfinished_since(event.value) if shows_keys else None
        if connections.observe(event):  # before the guard, which takes the handshakes to watch from the table
            disconnected(event.value)
        failed.observe(event, address, caused_here=guard.observe(event), unfinished_since=since)

    return Watch(connections, guard, Monitor(socket, on_event, SERVER_EVENTS))


class RekeyRequests:
    """At most one change of keys waits; the loop that owns the socket checks between two batches."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting: tuple[KeyPair, Future[float]] | None = None
        self._ended = False

    def ask(self, own_keys: KeyPair) -> "Future[float]":
        """Ask for a change; its result is the seconds for which the socket was not bound, or the error.

        Raises:
            SocketMisuse: another change waits, or the loop has ended.
        """
        with self._lock:
            if self._ended or self.waiting is not None:
                raise SocketMisuse(
                    "the key can't be changed: the server is stopping, or another change is under way; try again"
                )
            future: Future[float] = Future()
            self.waiting = own_keys, future
            return future

    def carry_out(self, rekey: Callable[[KeyPair], None]) -> None:
        """Make the waiting change, on the loop's thread; an error goes to the one who asked, and ends the loop."""
        with self._lock:
            waiting, self.waiting = self.waiting, None
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
            if self.waiting is not None:
                self.waiting[1].cancel()
                self.waiting = None
