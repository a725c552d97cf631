"""Typed events of a socket's connections, from libzmq's monitor.

Each monitor is drained by its own thread: one that is not drained, or is closed in the wrong
order, blocks the whole context.
"""

import secrets
import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

import zmq

from twinhost.worker import Worker


class EventKind(Enum):
    """What a monitor reports."""

    CONNECTED = auto()  # TCP only
    RETRIED = auto()  # no TCP connection was made, or the one before was lost
    ACCEPTED = auto()  # TCP only, by a server; value is the descriptor
    SUCCEEDED = auto()  # the handshake
    DISCONNECTED = auto()
    REFUSED = auto()  # a ZAP status; value 300, 400, 500
    WRONG_KEYS = auto()
    MECHANISM_MISMATCH = auto()
    NOT_ZMTP = auto()
    BROKEN_OFF = auto()  # the peer closed the connection in the handshake; value is an errno


class SocketEvent(NamedTuple):
    """One event: its kind, libzmq's value for it, and the endpoint."""

    kind: EventKind
    value: int
    endpoint: str


_EVENT = struct.Struct("=Hi")  # zmq_socket_monitor(3): a 16-bit event, a 32-bit value; the endpoint is the next frame
_SIMPLE: dict[int, EventKind] = {  # plain numbers: looking up an enumeration's member takes ten times as long
    int(zmq.Event.CONNECTED): EventKind.CONNECTED,
    int(zmq.Event.CONNECT_RETRIED): EventKind.RETRIED,
    int(zmq.Event.ACCEPTED): EventKind.ACCEPTED,
    int(zmq.Event.HANDSHAKE_SUCCEEDED): EventKind.SUCCEEDED,
    int(zmq.Event.DISCONNECTED): EventKind.DISCONNECTED,
    int(zmq.Event.HANDSHAKE_FAILED_AUTH): EventKind.REFUSED,
    int(zmq.Event.HANDSHAKE_FAILED_NO_DETAIL): EventKind.BROKEN_OFF,
}
_PROTOCOL_FAILED, _STOPPED = int(zmq.Event.HANDSHAKE_FAILED_PROTOCOL), int(zmq.Event.MONITOR_STOPPED)
EVENTS = sum(_SIMPLE) | _PROTOCOL_FAILED
# A server does without the end of a handshake: ZAP has recorded it, and the event has no descriptor. Each event wakes
# the monitor's thread, this one while the client waits for its first reply.
SERVER_EVENTS = EVENTS & ~int(zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.HANDSHAKE_FAILED_AUTH)
_PROTOCOL_ERRORS: dict[int, EventKind] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: EventKind.WRONG_KEYS,
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: EventKind.MECHANISM_MISMATCH,
}


class Monitor(Worker):
    """Drains one socket's monitor and passes every event to a callback; if its thread ends, libzmq soon blocks."""

    def __init__(
        self, socket: "zmq.Socket[bytes]", on_event: Callable[[SocketEvent], None], events: int = EVENTS
    ) -> None:
        """Watch from now on; libzmq reports only `events`, a sum of its numbers for them."""
        super().__init__("socket-monitor", self._drain)
        self.faults = 0  # of the callback
        self._socket = socket
        self._on_event = on_event
        address = f"inproc://monitor-{secrets.token_hex(16)}"
        socket.monitor(address, events | _STOPPED)
        # On a separate Context object: destroying the other one would close this socket, which is in use here.
        shadow: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context.underlying)
        self._pair = shadow.socket(zmq.PAIR)
        self._pair.connect(address)
        self.start()

    def close(self) -> None:
        """Stop before the socket is closed, from the thread that owns the socket."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self.join()

    def _deliver(self, event: SocketEvent) -> None:
        try:
            self._on_event(event)
        except Exception:  # boundary: an undrained monitor blocks every socket of the context
            self.faults += 1

    def _drain(self) -> None:
        try:
            while True:
                event, value = _EVENT.unpack(self._pair.recv())
                endpoint = self._pair.recv()
                if event == _STOPPED:
                    return
                self._deliver(_typed(event, value, endpoint.decode()))
        except zmq.ContextTerminated:
            return
        finally:
            self._pair.close(0)


def _typed(event: int, value: int, endpoint: str) -> SocketEvent:
    if event == _PROTOCOL_FAILED:
        return SocketEvent(_PROTOCOL_ERRORS.get(value, EventKind.NOT_ZMTP), value, endpoint)
    return SocketEvent(_SIMPLE[event], value, endpoint)
