"""The one place where sockets are made: opened, secured, checked, and bound or connected in one step.

libzmq lets in anyone on a CURVE socket without a ZAP handler, ignores options set after bind,
and binds with an all-zero key where the secret was forgotten. So no half-made socket leaves
this module, and the order of the steps is not the caller's business.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import zmq

from secure_zmq.errors import SocketMisuse
from secure_zmq.handshake_guard import SAID_TO_STRANGER_CURVE, SAID_TO_STRANGER_NULL, HandshakeGuard
from secure_zmq.hardening import (
    ZAP_DOMAIN,
    ZAP_ENDPOINT,
    RunningAuthenticator,
    last_endpoint,
    limit_feed,
    limit_router,
    limit_socket,
    put_server_key,
    require_fresh,
    secure_unbound_server,
    secure_unconnected_client,
    speaks_curve,
)
from secure_zmq.keys import KeyPair, PublicKey
from secure_zmq.monitor import Happening, Monitor, SocketEvent
from secure_zmq.sessions import OpenSessions, SecuredSessions

if TYPE_CHECKING:
    from secure_zmq.handshakes import Handshakes

__all__ = [
    "ZAP_DOMAIN",
    "ZAP_ENDPOINT",
    "ClientSocket",
    "EventCallback",
    "RunningAuthenticator",
    "ServerSocket",
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
    "require_fresh",
    "secure_unbound_server",
    "secure_unconnected_client",
]

_BIND_AGAIN_S = 5.0  # libzmq's I/O thread frees an unbound address when it finds the time
_BIND_AGAIN_EVERY_S = 0.001

EventCallback = Callable[[SocketEvent], None]


@dataclass(frozen=True, slots=True)
class ServerSocket:
    """A bound ROUTER or XPUB with its sessions: identity is believed only where this module put CURVE and ZAP on."""

    socket: "zmq.Socket[bytes]"
    monitor: Monitor
    sessions: SecuredSessions | OpenSessions
    handshakes: "Handshakes"
    guard: HandshakeGuard
    authenticator: RunningAuthenticator | None  # None: an open link

    @property
    def address(self) -> str:
        """The endpoint that it is bound to, with the real port."""
        return last_endpoint(self.socket)

    def kick(self) -> None:
        """Close the connections whose key is no longer live; on the thread that owns the socket."""
        for fd in self.sessions.connections.kick():
            self.sessions.disconnected(fd)
        self.sessions.forget_ended()

    def rekey(self, own_keys: KeyPair) -> None:
        """Go on at the same address under another pair; every session ends, and its peer must know the new key.

        On the thread that owns the socket.

        Raises:
            SocketMisuse: the link is open; or the key did not take, or the address can't be bound again
                within 5 s, and then the socket is bound nowhere and the process must end.
        """
        if self.authenticator is None:
            raise SocketMisuse("the link is open and has no key that could be changed")
        address = self.address
        self.socket.unbind(address)
        put_server_key(self.socket, self.authenticator, own_keys)
        _bind_again(self.socket, address)
        self.sessions.connections.unbound()

    def close(self) -> None:
        self.guard.close()
        self.monitor.close()
        self.socket.close()


@dataclass(frozen=True, slots=True)
class ClientSocket:
    """A connecting DEALER and the monitor that says what becomes of it."""

    socket: "zmq.Socket[bytes]"
    monitor: Monitor

    @property
    def fd(self) -> int:
        """The descriptor that becomes readable when there may be something to do; it is edge-triggered."""
        return cast(int, self.socket.getsockopt(zmq.FD))

    def close(self) -> None:
        self.monitor.close()
        self.socket.close(0)


def open_server_socket(
    authenticator: RunningAuthenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> ServerSocket:
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
) -> ServerSocket:
    """Bind a ROUTER that anybody can read and nobody is authenticated on; SECURE_ZMQ=0 alone leads here."""
    socket = context.socket(zmq.ROUTER)
    limit_router(socket, max_payload_bytes)
    return _bind(socket, address, OpenSessions(), handshakes, None)


def open_feed_socket(
    authenticator: RunningAuthenticator, own_keys: KeyPair, address: str, max_payload_bytes: int
) -> ServerSocket:
    """Bind a CURVE XPUB that grants no subscription by itself; arguments and errors as of `open_server_socket`."""
    socket = authenticator.context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind_secured(socket, authenticator, own_keys, address)


def open_unencrypted_feed_socket(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, max_payload_bytes: int, handshakes: "Handshakes"
) -> ServerSocket:
    """Bind an XPUB whose subscribers nobody knows; SECURE_ZMQ=0 alone leads here."""
    socket = context.socket(zmq.XPUB)
    limit_feed(socket, max_payload_bytes)
    return _bind(socket, address, OpenSessions(), handshakes, None)


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
) -> ServerSocket:
    try:
        secure_unbound_server(socket, authenticator, own_keys)
    except BaseException:
        socket.close(0)
        raise
    sessions = SecuredSessions(authenticator.peers)
    authenticator.handshakes.listen(sessions.connections.observe_handshake)
    return _bind(socket, address, sessions, authenticator.handshakes, authenticator)


def _bind(
    socket: "zmq.Socket[bytes]",
    address: str,
    sessions: SecuredSessions | OpenSessions,
    handshakes: "Handshakes",
    authenticator: RunningAuthenticator | None,
) -> ServerSocket:
    guard = HandshakeGuard(handshakes, SAID_TO_STRANGER_CURVE if speaks_curve(socket) else SAID_TO_STRANGER_NULL)

    def on_event(event: SocketEvent) -> None:
        own_doing = guard.observe(event)
        if sessions.connections.observe(event):
            sessions.disconnected(event.value)
        if event.happening is not Happening.DISCONNECTED and not own_doing:
            handshakes.observe(event)

    monitor = Monitor(socket, on_event)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        guard.close()
        monitor.close()
        socket.close(0)
        raise SocketMisuse(f"{address} can't be bound ({error}); free the port or change network_config.yaml") from None
    return ServerSocket(socket, monitor, sessions, handshakes, guard, authenticator)


def _bind_again(socket: "zmq.Socket[bytes]", address: str) -> None:
    deadline = time.monotonic() + _BIND_AGAIN_S
    while True:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise SocketMisuse(
                    f"{address} can't be bound again under the new key ({error}); start the agent again"
                ) from None
            time.sleep(_BIND_AGAIN_EVERY_S)
        else:
            return


def _connect(socket: "zmq.Socket[bytes]", address: str, on_event: EventCallback) -> ClientSocket:
    socket.immediate = True  # nothing waits for a peer that is not there
    monitor = Monitor(socket, on_event)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        monitor.close()
        socket.close(0)
        raise SocketMisuse(f"{address} is no endpoint that can be connected to ({error})") from None
    return ClientSocket(socket, monitor)
