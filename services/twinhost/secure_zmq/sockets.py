"""The one place where sockets are made: opened, limited, secured, checked, and bound or connected in one step.

libzmq serves anyone on a CURVE socket without a ZAP handler, ignores options set after bind, and binds with an all-zero
key if no secret was set. So this module returns no incomplete socket, and callers can't change the order of the steps.
The compatible API (`agent.legacy`) secures the sockets of existing agents with the same functions.
"""

import errno
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

import zmq

from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.monitor import Monitor, SocketEvent

if TYPE_CHECKING:
    from twinhost.secure_zmq.authenticator import SessionLimits
    from twinhost.secure_zmq.bound_socket import ServerSocket
    from twinhost.secure_zmq.handshakes import Handshakes
    from twinhost.secure_zmq.peers import AuthorizedPeers

ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # RFC 27
ZAP_DOMAIN = b"twinhost"  # never empty: with an empty one libzmq does not ask the handler
_ZAP_ENFORCE_DOMAIN = 93  # zmq.h; pyzmq does not name it
_BIND_AGAIN_S = 5.0  # libzmq's I/O thread frees an unbound address asynchronously
_BIND_AGAIN_EVERY_S = 0.001
_CONNECT_TIMEOUT_MS = 2_000  # Linux retries for two minutes, over the first route even after it has changed
_HANDSHAKE_TIMEOUT_MS = 4_000  # with libzmq's default of 30 s, half-open connections accumulate
_HEARTBEAT_INTERVAL_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 10_000
_HEARTBEAT_TTL_MS = 20_000  # at most 65.5 s, where libzmq's field overflows
_UNACKNOWLEDGED_MS = 10_000  # by TCP; else it also delivers, after a long cut, what was sent on a socket that is closed
_KEEPALIVE_IDLE_S = 10
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_COUNT = 3
_HIGH_WATER_MARK = 1_000  # messages per peer
_REPLIES_HIGH_WATER_MARK = 512  # that a peer may leave unread; a page of a reply has 256 KiB at most
_LINGER_MS = 1_000
_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 2_000
_BACKLOG = 1_024  # connections waiting to be accepted
_CURVE_OVERHEAD_BYTES = 33  # RFC 26, a MESSAGE command: 16 of box, 8 of nonce, 8 of name, 1 of flags
_MAX_SUBSCRIPTION_BYTES = 1_024  # on the wire; also the handshake's commands, of which INITIATE takes about 300
_SUBSCRIPTIONS_HIGH_WATER_MARK = 64  # queued per connection: libzmq keeps a tree node for every byte
_MAX_CLIENT_SOCKETS = 16_384  # of a process; libzmq's default is 1,023, and a client has three
DONTWAIT = int(zmq.NOBLOCK)  # a plain number, as the next
_READABLE = int(zmq.POLLIN)  # a plain number: an enumeration's `&` costs as much as reading EVENTS

EventCallback = Callable[[SocketEvent], None]
PlainSend = Callable[[bytes, int], object]  # data, flags


class RunningAuthenticator(Protocol):
    """The part of `authenticator.Authenticator`, the ZAP handler, that a secured socket uses."""

    @property
    def context(self) -> "zmq.Context[zmq.Socket[bytes]]": ...
    @property
    def peers(self) -> "AuthorizedPeers": ...
    @property
    def handshakes(self) -> "Handshakes": ...
    @property
    def limits(self) -> "SessionLimits": ...
    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Raise SocketMisuse unless the handler runs on the socket's own Context; then it must outlive the socket."""
        ...


@dataclass(frozen=True, slots=True)
class ClientSocket:
    """A connecting DEALER or SUB, and the monitor of its connection."""

    socket: "zmq.Socket[bytes]"
    monitor: Monitor
    send: PlainSend

    @property
    def readable(self) -> bool:
        """Whether a message has arrived."""
        return readable(self.socket)

    @property
    def fd(self) -> int:
        """The edge-triggered descriptor that becomes readable when EVENTS may have changed."""
        return cast(int, self.socket.getsockopt(zmq.FD))

    def close(self) -> None:
        self.monitor.close()
        self.socket.close(0)


@cache
def _client_context_of(_: int) -> "zmq.Context[zmq.Socket[bytes]]":
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_CLIENT_SOCKETS)
    return context


def client_context() -> "zmq.Context[zmq.Socket[bytes]]":
    """Return the Context of all clients of this process; a fork has its own."""
    return _client_context_of(os.getpid())


def open_server_socket(
    authenticator: RunningAuthenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> "ServerSocket":
    """Bind a CURVE ROUTER on the authenticator's context.

    Args:
        authenticator: the running ZAP handler, which will decide about each peer.
        own_keys: this agent's pair.
        address: a ZeroMQ endpoint, `tcp://*:7120`.
        max_payload_bytes: the largest request that is answered.

    Raises:
        SocketMisuse: the handler does not run, or the address can't be bound.
    """
    socket = authenticator.context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_server_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: "Handshakes"
) -> "ServerSocket":
    """Bind a ROUTER without encryption and authentication; for SECURE_ZMQ=0 alone."""
    socket = context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind_open(socket, address, handshakes)


def open_feed_socket(
    authenticator: RunningAuthenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> "ServerSocket":
    """Bind a CURVE XPUB that grants no subscription by itself; arguments and errors: see `open_server_socket`."""
    socket = authenticator.context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_feed_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: "Handshakes"
) -> "ServerSocket":
    """Bind an XPUB without encryption and authentication; for SECURE_ZMQ=0 alone."""
    socket = context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind_open(socket, address, handshakes)


def open_client_socket(
    context: "zmq.Context[zmq.Socket[bytes]]",
    own_keys: KeyPair,
    server_key: PublicKey,
    address: str,
    max_payload_bytes: int,
    on_event: EventCallback,
    kind: int = zmq.DEALER,
) -> ClientSocket:
    """Connect a CURVE DEALER, or a SUB, that talks only to the holder of `server_key`.

    Raises:
        SocketMisuse: the address is not an endpoint, or CURVE is not in force.
    """
    socket = context.socket(kind)
    limit_socket(socket, max_payload_bytes)
    secure_unconnected_client(socket, own_keys, server_key)
    return _connect(socket, address, on_event)


def open_unencrypted_client_socket(
    context: "zmq.Context[zmq.Socket[bytes]]",
    address: str,
    max_payload_bytes: int,
    on_event: EventCallback,
    kind: int = zmq.DEALER,
) -> ClientSocket:
    """Connect a socket whose traffic anyone on the path can read or forge; for SECURE_ZMQ=0 only."""
    socket = context.socket(kind)
    limit_socket(socket, max_payload_bytes)
    return _connect(socket, address, on_event)


def plain_send(socket: "zmq.Socket[bytes]") -> PlainSend:
    """Return the socket's `send(data, flags)` without pyzmq's options, whose handling costs as much as sending."""
    return cast(PlainSend, super(zmq.Socket, socket).send)


def readable(socket: "zmq.Socket[bytes]") -> bool:
    """Return whether a message has arrived; this never blocks, and costs a third of a failing `recv`."""
    return bool(cast(int, socket.get(zmq.EVENTS)) & _READABLE)


def open_zap_socket(context: "zmq.Context[zmq.Socket[bytes]]") -> "zmq.Socket[bytes]":
    """Bind the context's ZAP endpoint.

    Raises:
        SocketMisuse: the context has a ZAP handler already.
    """
    shadow: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)  # plain, whatever its class
    socket = shadow.socket(zmq.REP)
    socket.linger = 0
    try:
        socket.bind(ZAP_ENDPOINT)
    except zmq.ZMQError as error:
        socket.close(0)
        raise SocketMisuse(
            f"this Context has a ZAP handler already ({error}); use that one, or another Context"
        ) from None
    return socket


def wake_zap_handler(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """Have the handler's blocking receive return, with a request that names no key; callable from any thread."""
    shadow: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
    with shadow.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(ZAP_ENDPOINT)
        socket.send_multipart([b"", b""], zmq.NOBLOCK)


def secure_unbound_server(socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair) -> None:
    """Make a socket a CURVE server whose peers the handler must accept, and check that the options are in force.

    Raises:
        SocketMisuse: it is bound or connected already, belongs to another Context, or an option is not in force.
    """
    require_fresh(socket)
    put_server_key(socket, authenticator, own_keys)


def put_server_key(socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair) -> None:
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


def secure_unconnected_client(socket: "zmq.Socket[bytes]", own_keys: KeyPair, server_key: PublicKey) -> None:
    """Make a socket a CURVE client of one server, and check that CURVE is in force.

    Raises:
        SocketMisuse: it is bound or connected already, or CURVE is not in force.
    """
    require_fresh(socket)
    socket.curve_serverkey = server_key.z85
    socket.curve_secretkey = own_keys.secret_z85
    socket.curve_publickey = own_keys.public.z85
    if not speaks_curve(socket) or socket.curve_server:
        raise SocketMisuse(
            "libzmq did not apply CURVE, so the socket would not encrypt; run: pip install --force-reinstall pyzmq"
        )


def limit_socket(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Limit what a peer may cost: size, time, number of messages."""
    socket.maxmsgsize = (
        2 * max_payload_bytes + _CURVE_OVERHEAD_BYTES
    )  # a message over the payload limit still gets a reply
    socket.connect_timeout = _CONNECT_TIMEOUT_MS
    socket.handshake_ivl = _HANDSHAKE_TIMEOUT_MS
    socket.heartbeat_ivl = _HEARTBEAT_INTERVAL_MS
    socket.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MS
    socket.heartbeat_ttl = _HEARTBEAT_TTL_MS  # until the other side ends a connection that is silent
    socket.tcp_maxrt = _UNACKNOWLEDGED_MS
    socket.set_hwm(_HIGH_WATER_MARK)
    socket.linger = _LINGER_MS
    # The intervals are random for each socket, since libzmq's jitter is a fraction of the longest: all that lose one
    # server at the same time would reconnect at the same time.
    socket.reconnect_ivl = round(_RECONNECT_MS * random.uniform(1.0, 1.5))  # noqa: S311 - jitter, not a secret
    socket.reconnect_ivl_max = round(_RECONNECT_MAX_MS * random.uniform(0.5, 1.0))  # noqa: S311
    socket.ipv6 = True  # IPv4 too, whose addresses appear as IPv4-mapped IPv6 then


def limit_router(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Limit a ROUTER; a reply to a disconnected peer is an error, and not ignored."""
    limit_socket(socket, max_payload_bytes)
    let_clients_send_heartbeats(socket)
    socket.router_mandatory = True
    socket.sndhwm = _REPLIES_HIGH_WATER_MARK
    socket.backlog = _BACKLOG


def limit_feed(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Limit an XPUB; it receives only subscriptions, and grants none by itself."""
    limit_socket(socket, max_payload_bytes)
    let_clients_send_heartbeats(socket)
    socket.maxmsgsize = _MAX_SUBSCRIPTION_BYTES
    socket.rcvhwm = _SUBSCRIPTIONS_HIGH_WATER_MARK
    socket.backlog = _BACKLOG
    socket.xpub_manual = True


def let_clients_send_heartbeats(socket: "zmq.Socket[bytes]") -> None:
    """Have a bound socket send no heartbeats: their timer aborts the process if it fires on a failed connection.

    Seen with repeated frames (stream_engine_base.cpp, `!_io_error`), which an authorised peer, or anyone on the path,
    can send. The TTL in the clients' heartbeats ends dead connections here; for other clients, TCP keepalive does.
    """
    socket.heartbeat_ivl = 0
    socket.tcp_maxrt = 0  # as the system has it: with a limit, Linux ignores the keepalive's count
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = _KEEPALIVE_IDLE_S
    socket.tcp_keepalive_intvl = _KEEPALIVE_INTERVAL_S
    socket.tcp_keepalive_cnt = _KEEPALIVE_COUNT


def require_fresh(socket: "zmq.Socket[bytes]") -> None:
    """Raise SocketMisuse if the socket is bound or connected, where options have no effect."""
    if last_endpoint(socket):
        raise SocketMisuse(
            "the socket is bound or connected already and would ignore CURVE set now; secure it before that"
        )


def speaks_curve(socket: "zmq.Socket[bytes]") -> bool:
    """Whether CURVE is in force; libzmq returns no key, but KeyPair and PublicKey have checked theirs."""
    return socket.getsockopt(zmq.MECHANISM) == zmq.CURVE


def last_endpoint(socket: "zmq.Socket[bytes]") -> str:
    return cast(bytes, socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


def _bind_secured(
    socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair, address: str
) -> "ServerSocket":
    from twinhost.secure_zmq.bound_socket import bind_secured  # noqa: PLC0415 - a client starts twice as fast without

    return bind_secured(socket, authenticator, own_keys, address)


def _bind_open(socket: "zmq.Socket[bytes]", address: str, handshakes: "Handshakes") -> "ServerSocket":
    from twinhost.secure_zmq.bound_socket import bind_open  # noqa: PLC0415 - as above

    return bind_open(socket, address, handshakes)


def _connect(socket: "zmq.Socket[bytes]", address: str, on_event: EventCallback) -> ClientSocket:
    # Nothing is queued for a peer that is not connected. A SUB sends nothing; and with this option libzmq ends the pipe
    # of a lost connection at once: between two frames of an event that aborts the process (fq.cpp, `!_more`).
    socket.immediate = socket.type != zmq.SUB
    monitor = Monitor(socket, on_event)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        monitor.close()
        socket.close(0)
        raise SocketMisuse(
            f"{address} is not an endpoint to connect to ({error}); write it as tcp://mainpc:7120"
        ) from None
    return ClientSocket(socket, monitor, plain_send(socket))


def bind_again(socket: "zmq.Socket[bytes]", address: str) -> None:
    """Bind a socket to the address that it was bound to a moment ago.

    Raises:
        SocketMisuse: that is not possible within 5 s.
    """
    deadline = time.monotonic() + _BIND_AGAIN_S
    while True:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise SocketMisuse(f"{address} can't be bound again ({error}); restart the agent") from None
            time.sleep(_BIND_AGAIN_EVERY_S)
        else:
            return
