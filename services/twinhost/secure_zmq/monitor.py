"""Typed events of a socket's connections, from libzmq's monitor.

A thread of its own drains each monitor: one that is not drained, or is closed in the wrong
order, freezes the whole context.
"""

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import zmq

from twinhost.worker import Worker


class Happening(Enum):
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
    BROKEN_OFF = auto()  # the other side hung up in the handshake; value is an errno


@dataclass(frozen=True, slots=True)
class SocketEvent:
    """One event: what happened, libzmq's value for it, and the endpoint."""

    happening: Happening
    value: int
    endpoint: str


_EVENT = struct.Struct("=Hi")  # zmq_socket_monitor(3): a 16-bit event, a 32-bit value; the endpoint is the next frame
_SIMPLE = {
    zmq.Event.CONNECTED: Happening.CONNECTED,
    zmq.Event.ACCEPTED: Happening.ACCEPTED,
    zmq.Event.CONNECT_RETRIED: Happening.RETRIED,
    zmq.Event.HANDSHAKE_SUCCEEDED: Happening.SUCCEEDED,
    zmq.Event.DISCONNECTED: Happening.DISCONNECTED,
    zmq.Event.HANDSHAKE_FAILED_AUTH: Happening.REFUSED,
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: Happening.BROKEN_OFF,
}
_WATCHED = sum(_SIMPLE) | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.MONITOR_STOPPED
_PROTOCOL_ERRORS: dict[int, Happening] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: Happening.WRONG_KEYS,
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: Happening.MECHANISM_MISMATCH,
}


class Monitor(Worker):
    """Drains one socket's monitor and hands every event to a callback; while it is not alive, libzmq soon blocks."""

    def __init__(self, socket: "zmq.Socket[bytes]", on_event: Callable[[SocketEvent], None]) -> None:
        super().__init__("socket-monitor", self._drain)
        self.faults = 0  # of the callback
        self._socket = socket
        self._on_event = on_event
        address = f"inproc://monitor-{secrets.token_hex(16)}"
        socket.monitor(address, _WATCHED)
        # On a Context object of its own: destroying the other one would close this socket, which is in use here.
        shadow: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(socket.context.underlying)
        self._pair = shadow.socket(zmq.PAIR)
        self._pair.connect(address)
        self.start()

    def close(self) -> None:
        """Stop before the socket is closed, from the thread that owns the socket."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self.join()

    def _hand_on(self, event: SocketEvent) -> None:
        try:
            self._on_event(event)
        except Exception:  # boundary: an undrained monitor freezes every socket of the context
            self.faults += 1

    def _drain(self) -> None:
        try:
            while True:
                header, endpoint = self._pair.recv_multipart()
                event, value = _EVENT.unpack(header)
                if event == zmq.Event.MONITOR_STOPPED:
                    return
                self._hand_on(_typed(event, value, endpoint.decode()))
        except zmq.ContextTerminated:
            return
        finally:
            self._pair.close(0)


def _typed(event: int, value: int, endpoint: str) -> SocketEvent:
    if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
        return SocketEvent(_PROTOCOL_ERRORS.get(value, Happening.NOT_ZMTP), value, endpoint)
    return SocketEvent(_SIMPLE[zmq.Event(event)], value, endpoint)
