"""What every socket is given before it is bound or connected: CURVE and ZAP, proven to be on, and limits.

`sockets` alone makes sockets; it and the compatible API (`legacy`) secure them here.
"""

import random
from typing import TYPE_CHECKING, Protocol, cast

import zmq

from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.keys import KeyPair, PublicKey

if TYPE_CHECKING:
    from twinhost.secure_zmq.authenticator import SessionLimits
    from twinhost.secure_zmq.handshakes import Handshakes
    from twinhost.secure_zmq.peers import AuthorizedPeers

ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # RFC 27
ZAP_DOMAIN = b"twinhost"  # never empty: an empty one skips the handler
_ZAP_ENFORCE_DOMAIN = 93  # zmq.h; pyzmq does not name it
_HANDSHAKE_TIMEOUT_MS = 4_000  # libzmq's default of 30 s lets half-open connections pile up
_HEARTBEAT_INTERVAL_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 10_000
_HEARTBEAT_TTL_MS = 20_000  # libzmq overflows at 65.6 s
_KEEPALIVE_IDLE_S = 10
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_COUNT = 3
_HIGH_WATER_MARK = 1_000  # messages a peer
_REPLIES_HIGH_WATER_MARK = 512  # that a peer may leave unread; a page of an answer has 256 KiB at most
_LINGER_MS = 1_000
_RECONNECT_MS = 100
_RECONNECT_MAX_MS = 2_000
_BACKLOG = 1_024  # connections waiting to be accepted
_CURVE_OVERHEAD_BYTES = 33  # RFC 26, a MESSAGE command: 16 of box, 8 of nonce, 8 of name, 1 of flags
_MAX_SUBSCRIPTION_BYTES = 1_024  # on the wire; also the handshake's commands, of which INITIATE takes about 300
_SUBSCRIPTIONS_HIGH_WATER_MARK = 64  # that a connection may have waiting: libzmq keeps a tree node for every byte


class RunningAuthenticator(Protocol):
    """What a secured socket needs of the ZAP handler; `authenticator.Authenticator` is the one there is."""

    @property
    def context(self) -> "zmq.Context[zmq.Socket[bytes]]": ...
    @property
    def peers(self) -> "AuthorizedPeers": ...
    @property
    def handshakes(self) -> "Handshakes": ...
    @property
    def limits(self) -> "SessionLimits": ...
    def guard(self, socket: "zmq.Socket[bytes]") -> None:
        """Raise SocketMisuse unless the handler runs on the socket's own Context; then outlive the socket."""
        ...


def secure_unbound_server(socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair) -> None:
    """Make a socket a CURVE server whose peers the handler must accept, and prove that it took.

    Raises:
        SocketMisuse: it is bound or connected already, belongs to another Context, or the options did not take.
    """
    require_fresh(socket)
    put_server_key(socket, authenticator, own_keys)


def put_server_key(socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair) -> None:
    """Give a socket that is bound nowhere at this moment a pair, CURVE, and ZAP, and prove that they took.

    Raises:
        SocketMisuse: the handler does not run, or the options did not take.
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
        raise SocketMisuse("the socket did not take CURVE with ZAP, so its peers would not be checked; it is not used")


def secure_unconnected_client(socket: "zmq.Socket[bytes]", own_keys: KeyPair, server_key: PublicKey) -> None:
    """Make a socket a CURVE client of one server, and prove that it took.

    Raises:
        SocketMisuse: it is bound or connected already, or the options did not take.
    """
    require_fresh(socket)
    socket.curve_serverkey = server_key.z85
    socket.curve_secretkey = own_keys.secret_z85
    socket.curve_publickey = own_keys.public.z85
    if not speaks_curve(socket) or socket.curve_server:
        raise SocketMisuse("the socket did not take CURVE, so it would speak in the open; it is not used")


def limit_socket(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Bound what a peer may cost: size, time, number of messages."""
    socket.maxmsgsize = 2 * max_payload_bytes + _CURVE_OVERHEAD_BYTES  # over the payload limit still gets an answer
    socket.handshake_ivl = _HANDSHAKE_TIMEOUT_MS
    socket.heartbeat_ivl = _HEARTBEAT_INTERVAL_MS
    socket.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MS
    socket.heartbeat_ttl = _HEARTBEAT_TTL_MS  # until the other side ends a connection that is silent
    socket.set_hwm(_HIGH_WATER_MARK)
    socket.linger = _LINGER_MS
    # Each socket has waits of its own, since libzmq's jitter is a fraction of the longest: all that lose one server at
    # one moment would come again at one moment.
    socket.reconnect_ivl = round(_RECONNECT_MS * random.uniform(1.0, 1.5))  # noqa: S311 - jitter, not a secret
    socket.reconnect_ivl_max = round(_RECONNECT_MAX_MS * random.uniform(0.5, 1.0))  # noqa: S311
    socket.ipv6 = True  # both families; an IPv4 address is written as IPv6 where it is seen from here


def limit_router(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Bound a ROUTER; an answer to a peer that is gone is an error, not a silence."""
    limit_socket(socket, max_payload_bytes)
    let_clients_send_heartbeats(socket)
    socket.router_mandatory = True
    socket.sndhwm = _REPLIES_HIGH_WATER_MARK
    socket.backlog = _BACKLOG


def limit_feed(socket: "zmq.Socket[bytes]", max_payload_bytes: int) -> None:
    """Bound an XPUB; it receives nothing but subscriptions, and grants none by itself."""
    limit_socket(socket, max_payload_bytes)
    let_clients_send_heartbeats(socket)
    socket.maxmsgsize = _MAX_SUBSCRIPTION_BYTES
    socket.rcvhwm = _SUBSCRIPTIONS_HIGH_WATER_MARK
    socket.backlog = _BACKLOG
    socket.xpub_manual = True


def let_clients_send_heartbeats(socket: "zmq.Socket[bytes]") -> None:
    """Have a bound socket send none: libzmq aborts the process where its timer meets a connection that failed.

    Seen with frames that came twice (stream_engine_base.cpp, `!_io_error`), which an authorised peer, or whoever is on
    the way, can send.
    Clients' heartbeats carry a TTL that ends dead connections here; for others there is TCP's.
    """
    socket.heartbeat_ivl = 0
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = _KEEPALIVE_IDLE_S
    socket.tcp_keepalive_intvl = _KEEPALIVE_INTERVAL_S
    socket.tcp_keepalive_cnt = _KEEPALIVE_COUNT


def require_fresh(socket: "zmq.Socket[bytes]") -> None:
    """Raise SocketMisuse where options would come too late to count."""
    if last_endpoint(socket):
        raise SocketMisuse("the socket is bound or connected already and would ignore security set now; set it first")


def speaks_curve(socket: "zmq.Socket[bytes]") -> bool:
    """Whether CURVE took; libzmq tells no key, but KeyPair and PublicKey proved that they match and are not zero."""
    return socket.getsockopt(zmq.MECHANISM) == zmq.CURVE


def last_endpoint(socket: "zmq.Socket[bytes]") -> str:
    return cast(bytes, socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
