"""The sockets of clients: limited, secured, checked, and connected in one step; those of servers are `bound_socket`'s.

libzmq ignores options that are set after a connect or a bind. So no incomplete socket is returned, and callers can't
change the order of the steps. The compatible API (`agent.legacy`) secures the sockets of existing agents with the same
functions.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import zmq

from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.monitor import Monitor, SocketEvent

ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # RFC 27
ZAP_DOMAIN = b"twinhost"  # never empty: with an empty one libzmq does not ask the handler
_CONNECT_TIMEOUT_MS = 2_000  # Linux retries for two minutes, over the first route even after it has changed
_HANDSHAKE_TIMEOUT_MS = 4_000  # with libzmq's default of 30 s, half-open connections accumulate
_HEARTBEAT_INTERVAL_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 10_000
_HEARTBEAT_TTL_MS = 20_000  # at most 65.5 s, where libzmq's field overflows
_KEEPALIVE_S = 5  # a SUB has these instead of heartbeats
_KEEPALIVE_COUNT = 3
_UNACKNOWLEDGED_MS = 10_000  # by TCP; else it also delivers, after a long cut, what was sent on a socket that is closed
_HIGH_WATER_MARK = 1_000  # messages per peer
LINGER_MS = 1_000
_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 2_000
_CURVE_OVERHEAD_BYTES = 33  # RFC 26, a MESSAGE command: 16 of box, 8 of nonce, 8 of name, 1 of flags
_MAX_CLIENT_SOCKETS = 16_384  # of a process; libzmq's default is 1,023, and a client has three
DONTWAIT = int(zmq.NOBLOCK)  # a plain number, as the next
_READABLE = int(zmq.POLLIN)  # a plain number: an enumeration's `&` costs as much as reading EVENTS

EventCallback = Callable[[SocketEvent], None]
PlainSend = Callable[[bytes, int], object]  # data, flags


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
    if socket.type == zmq.SUB:
        detect_by_keepalive(socket, _KEEPALIVE_S)
    socket.set_hwm(_HIGH_WATER_MARK)
    socket.linger = LINGER_MS
    # The intervals are random for each socket, since libzmq's jitter is a fraction of the longest: all that lose one
    # server at the same time would reconnect at the same time.
    socket.reconnect_ivl = round(_RECONNECT_MS * random.uniform(1.0, 1.5))  # noqa: S311 - jitter, not a secret
    socket.reconnect_ivl_max = round(_RECONNECT_MAX_MS * random.uniform(0.5, 1.0))  # noqa: S311
    socket.ipv6 = True  # IPv4 too, whose addresses appear as IPv4-mapped IPv6 then


def detect_by_keepalive(socket: "zmq.Socket[bytes]", idle_s: int) -> None:
    """Have a socket notice dead connections by TCP, and send no heartbeats, whose timer can abort the process.

    It does where it fires on a connection that failed while libzmq was not reading from it (stream_engine_base.cpp,
    `!_io_error`): on a SUB whose program is too slow, once the feed has closed it.
    """
    socket.heartbeat_ivl = 0
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = idle_s
    socket.tcp_keepalive_intvl = _KEEPALIVE_S
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


def connect(socket: "zmq.Socket[bytes]", address: str, on_event: EventCallback) -> ClientSocket:
    """Connect a socket that is limited, and secured unless the link is open; watch its connection.

    Raises:
        SocketMisuse: the address is not an endpoint.
    """
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
