"""Typed events of a socket's connections, from libzmq's monitor.

Each monitor is drained by its own thread: one that is not drained, or is closed in the wrong
order, blocks the whole context.
"""

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import zmq

from twinhost.worker import Worker


class EventKind(Enum):
    """What a monitor reports."""

    CONNECTED = auto()  # TCP only
    ACCEPTED = auto()  # TCP only, by a server; value is the descriptor
    RETRIED = auto()
    SUCCEEDED = auto()  # the handshake
    DISCONNECTED = auto()
    REFUSED = auto()  # a ZAP status; value 300, 400, 500
    WRONG_KEYS = auto()
    MECHANISM_MISMATCH = auto()
    NOT_ZMTP = auto()
    BROKEN_OFF = auto()  # the peer closed the connection in the handshake; value is an errno


@dataclass(frozen=True, slots=True)
class SocketEvent:
    """One event: its kind, libzmq's value for it, and the endpoint."""

    kind: EventKind
    value: int
    endpoint: str


_EVENT = struct.Struct("=Hi")  # zmq_socket_monitor(3): a 16-bit event, a 32-bit value; the endpoint is the next frame
_SIMPLE = {
    zmq.Event.CONNECTED: EventKind.CONNECTED,
    zmq.Event.ACCEPTED: EventKind.ACCEPTED,
    zmq.Event.CONNECT_RETRIED: EventKind.RETRIED,
    zmq.Event.HANDSHAKE_SUCCEEDED: EventKind.SUCCEEDED,
    zmq.Event.DISCONNECTED: EventKind.DISCONNECTED,
    zmq.Event.HANDSHAKE_FAILED_AUTH: EventKind.REFUSED,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: EventKind.BROKEN_OFF,
}
_WATCHED = sum(_SIMPLE) | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.MONITOR_STOPPED
_PROTOCOL_ERRORS: dict[int, EventKind] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: EventKind.WRONG_KEYS,
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: EventKind.MECHANISM_MISMATCH,
}


class Monitor(Worker):
    """Drains one socket's monitor and passes every event to a callback; if its thread ends, libzmq soon blocks."""

    def __init__(self, socket: "zmq.Socket[bytes]", on_event: Callable[[SocketEvent], None]) -> None:
        super().__init__("socket-monitor", self._drain)
        self.faults = 0  # of the callback
        self._socket = socket
        self._on_event = on_event
        address = f"inproc://monitor-{secrets.token_hex(16)}"
        socket.monitor(address, _WATCHED)
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
                header, endpoint = self._pair.recv_multipart()
                event, value = _EVENT.unpack(header)
                if event == zmq.Event.MONITOR_STOPPED:
                    return
                self._deliver(_typed(event, value, endpoint.decode()))
        except zmq.ContextTerminated:
            return
        finally:
            self._pair.close(0)


def _typed(event: int, value: int, endpoint: str) -> SocketEvent:
    if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
        return SocketEvent(_PROTOCOL_ERRORS.get(value, EventKind.NOT_ZMTP), value, endpoint)
    return SocketEvent(_SIMPLE[zmq.Event(event)], value, endpoint)
