"""The one place where sockets are made: opened, secured, checked, and bound or connected in one step.

libzmq lets in anyone on a CURVE socket without a ZAP handler, ignores options set after bind,
and binds with an all-zero key where the secret was forgotten. So no half-made socket leaves
this module, and the order of the steps is not the caller's business.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import zmq

from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.hardening import (
    ZAP_DOMAIN,
    ZAP_ENDPOINT,
    RunningAuthenticator,
    limit_feed,
    limit_router,
    limit_socket,
    require_fresh,
    secure_unbound_server,
    secure_unconnected_client,
)
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.monitor import Monitor, SocketEvent

if TYPE_CHECKING:
    from twinhost.secure_zmq.bound_socket import ServerSocket
    from twinhost.secure_zmq.handshakes import Handshakes

__all__ = [
    "ZAP_DOMAIN",
    "ZAP_ENDPOINT",
    "ClientSocket",
    "EventCallback",
    "RunningAuthenticator",
    "limit_router",
    "limit_socket",
    "open_client_socket",
    "open_feed_socket",
    "open_server_socket",
    "open_subscriber_socket",
    "open_unencrypted_client_socket",
    "open_unencrypted_feed_socket",
    "open_unencrypted_server_socket",
    "open_unencrypted_subscriber_socket",
    "open_zap_socket",
    "plain_send",
    "require_fresh",
    "secure_unbound_server",
    "secure_unconnected_client",
]

_READABLE = int(zmq.POLLIN)  # a plain number: an enumeration's `&` costs as much as the look

EventCallback = Callable[[SocketEvent], None]
PlainSend = Callable[[bytes, int], object]  # data, flags


@dataclass(frozen=True, slots=True)
class ClientSocket:
    """A connecting DEALER and the monitor that says what becomes of it."""

    socket: "zmq.Socket[bytes]"
    monitor: Monitor
    send: PlainSend

    @property
    def readable(self) -> bool:
        """Whether something has come; a look that does not wait, and a third of what a failing `recv` costs."""
        return bool(cast(int, self.socket.get(zmq.EVENTS)) & _READABLE)

    @property
    def fd(self) -> int:
        """The descriptor that becomes readable when there may be something to do; it is edge-triggered."""
        return cast(int, self.socket.getsockopt(zmq.FD))

    def close(self) -> None:
        self.monitor.close()
        self.socket.close(0)


def open_server_socket(
    authenticator: RunningAuthenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> "ServerSocket":
    """Bind a CURVE ROUTER on the authenticator's context.

    Args:
        authenticator: the running ZAP handler that will be asked.
        own_keys: this agent's pair.
        address: a ZeroMQ endpoint, `tcp://*:7120`.
        max_payload_bytes: the largest request that gets an answer.

    Raises:
        SocketMisuse: the handler does not run, or the address can't be bound.
    """
    socket = authenticator.context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_server_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: "Handshakes"
) -> "ServerSocket":
    """Bind a ROUTER that anybody can read and nobody is authenticated on; SECURE_ZMQ=0 alone leads here."""
    socket = context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind_open(socket, address, handshakes)


def open_feed_socket(
    authenticator: RunningAuthenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> "ServerSocket":
    """Bind a CURVE XPUB that grants no subscription by itself; arguments and errors as of `open_server_socket`."""
    socket = authenticator.context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_feed_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: "Handshakes"
) -> "ServerSocket":
    """Bind an XPUB whose subscribers nobody knows; SECURE_ZMQ=0 alone leads here."""
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
) -> ClientSocket:
    """Connect a CURVE DEALER that talks to the holder of `server_key` and to nobody else."""
    socket = context.socket(zmq.DEALER)
    limit_socket(socket, max_payload_bytes)
    secure_unconnected_client(socket, own_keys, server_key)
    return _connect(socket, address, on_event)


def open_unencrypted_client_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, on_event: EventCallback
) -> ClientSocket:
    """Connect a DEALER that anybody on the way can read; SECURE_ZMQ=0 alone leads here."""
    socket = context.socket(zmq.DEALER)
    limit_socket(socket, max_payload_bytes)
    return _connect(socket, address, on_event)


def open_subscriber_socket(
    context: "zmq.Context[zmq.Socket[bytes]]",
    own_keys: KeyPair,
    server_key: PublicKey,
    address: str,
    max_payload_bytes: int,
    on_event: EventCallback,
) -> ClientSocket:
    """Connect a CURVE SUB that hears the holder of `server_key` and nobody else; it is subscribed to nothing yet."""
    socket = context.socket(zmq.SUB)
    limit_socket(socket, max_payload_bytes)
    secure_unconnected_client(socket, own_keys, server_key)
    return _connect(socket, address, on_event)


def open_unencrypted_subscriber_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, on_event: EventCallback
) -> ClientSocket:
    """Connect a SUB that believes whoever answers there; SECURE_ZMQ=0 alone leads here."""
    socket = context.socket(zmq.SUB)
    limit_socket(socket, max_payload_bytes)
    return _connect(socket, address, on_event)


def plain_send(socket: "zmq.Socket[bytes]") -> PlainSend:
    """Return the socket's `send(data, flags)` without pyzmq's options: their handling costs as much as sending."""
    return cast(PlainSend, super(zmq.Socket, socket).send)


def open_zap_socket(context: "zmq.Context[zmq.Socket[bytes]]") -> "zmq.Socket[bytes]":
    """Bind the context's ZAP endpoint.

    Raises:
        SocketMisuse: another handler has it.
    """
    shadow: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)  # plain, whatever its class
    socket = shadow.socket(zmq.REP)
    socket.linger = 0
    try:
        socket.bind(ZAP_ENDPOINT)
    except zmq.ZMQError as error:
        socket.close(0)
        raise SocketMisuse(f"this Context has a ZAP handler already ({error}); use that one") from None
    return socket


def _bind_secured(
    socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair, address: str
) -> "ServerSocket":
    from twinhost.secure_zmq.bound_socket import bind_secured  # noqa: PLC0415 - a client does without, and starts twice as fast

    return bind_secured(socket, authenticator, own_keys, address)


def _bind_open(socket: "zmq.Socket[bytes]", address: str, handshakes: "Handshakes") -> "ServerSocket":
    from twinhost.secure_zmq.bound_socket import bind_open  # noqa: PLC0415 - as above

    return bind_open(socket, address, handshakes)


def _connect(socket: "zmq.Socket[bytes]", address: str, on_event: EventCallback) -> ClientSocket:
    socket.immediate = True  # nothing waits for a peer that is not there
    monitor = Monitor(socket, on_event)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        monitor.close()
        socket.close(0)
        raise SocketMisuse(f"{address} is no endpoint that can be connected to ({error})") from None
    return ClientSocket(socket, monitor, plain_send(socket))
