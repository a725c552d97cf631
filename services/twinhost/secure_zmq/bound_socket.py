"""A bound socket with all that watches it: its connections, their handshakes, and whose they are.

`sockets` makes the socket and has it bound here, in one step; nobody else does.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.errors import SocketMisuse
from twinhost.secure_zmq.failed_handshakes import FailedHandshakes
from twinhost.secure_zmq.handshake_guard import SAID_TO_STRANGER_CURVE, SAID_TO_STRANGER_NULL, HandshakeGuard
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.monitor import Monitor, SocketEvent
from twinhost.secure_zmq.sessions import OpenSessions, SecuredSessions
from twinhost.secure_zmq.sockets import (
    RunningAuthenticator,
    last_endpoint,
    put_server_key,
    secure_unbound_server,
    speaks_curve,
)

if TYPE_CHECKING:
    from twinhost.secure_zmq.handshakes import Handshakes

_BIND_AGAIN_S = 5.0  # libzmq's I/O thread frees an unbound address when it finds the time
_BIND_AGAIN_EVERY_S = 0.001


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
class Watch:
    """What watches a socket's connections."""

    connections: Connections
    guard: HandshakeGuard
    monitor: Monitor


def bind_secured(
    socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator, own_keys: KeyPair, address: str
) -> ServerSocket:
    """Secure a fresh socket, prove that it took, bind it, and watch its connections.

    Raises:
        SocketMisuse: the handler does not run, or the address can't be bound.
    """
    try:
        secure_unbound_server(socket, authenticator, own_keys)
    except BaseException:
        socket.close(0)
        raise
    sessions = SecuredSessions(authenticator.peers, authenticator.limits)
    authenticator.handshakes.listen(sessions.connections.observe_handshake)
    return _bind(socket, address, sessions, authenticator.handshakes, authenticator)


def bind_open(socket: "zmq.Socket[bytes]", address: str, handshakes: "Handshakes") -> ServerSocket:
    """Bind a socket whose peers nobody knows, and watch its connections.

    Raises:
        SocketMisuse: the address can't be bound.
    """
    return _bind(socket, address, OpenSessions(), handshakes, None)


def _bind(
    socket: "zmq.Socket[bytes]",
    address: str,
    sessions: SecuredSessions | OpenSessions,
    handshakes: "Handshakes",
    authenticator: RunningAuthenticator | None,
) -> ServerSocket:
    watch = _watch(socket, sessions.connections, handshakes, sessions.disconnected)
    guard, monitor = watch.guard, watch.monitor
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        guard.close()
        monitor.close()
        socket.close(0)
        raise SocketMisuse(f"{address} can't be bound ({error}); free the port or change network_config.yaml") from None
    return ServerSocket(socket, monitor, sessions, handshakes, guard, authenticator)


def watch_unbound(socket: "zmq.Socket[bytes]", authenticator: RunningAuthenticator) -> Watch:
    """Watch a socket that another program secured, and will bind and serve by itself.

    No message is seen here, so it is not known whose a connection is: when a key is revoked or expires, `kick()` closes
    every connection of the socket, and the good ones come again.
    """
    connections = Connections(authenticator.peers.live, authenticator.limits)
    return _watch(socket, connections, authenticator.handshakes, lambda _: None)


def _watch(
    socket: "zmq.Socket[bytes]",
    connections: Connections,
    handshakes: "Handshakes",
    disconnected: Callable[[int], None],
) -> Watch:
    said_to_stranger = SAID_TO_STRANGER_CURVE if speaks_curve(socket) else SAID_TO_STRANGER_NULL
    guard = HandshakeGuard(handshakes, said_to_stranger, connections.finished)
    failed = FailedHandshakes(handshakes)

    def on_event(event: SocketEvent) -> None:
        if connections.observe(event):  # first: the guard's thread may find the handshake over at once
            disconnected(event.value)
        failed.observe(event, own_doing=guard.observe(event))

    return Watch(connections, guard, Monitor(socket, on_event))


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
