"""Whose handshake failed: libzmq's event of a failure has no descriptor, and the connection's end, which follows, has.

The address of a connection is looked up when it is accepted: at its end nobody is there any more. It stays unknown
where a peer hangs up so soon that libzmq has closed the connection before this thread sees that it was accepted.
"""

from twinhost.secure_zmq.connections import Connections
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.monitor import Happening, SocketEvent

_FAILURES = {
    Happening.WRONG_KEYS,
    Happening.MECHANISM_MISMATCH,
    Happening.NOT_ZMTP,
    Happening.BROKEN_OFF,
}


class FailedHandshakes:
    """Counts, with their address, the failures that ZAP never hears of; on the monitor's thread alone."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes
        self._addresses: dict[int, str] = {}  # by descriptor
        self._failed: SocketEvent | None = None

    def observe(self, event: SocketEvent, *, own_doing: bool) -> None:
        """Note a server's event; `own_doing` is a failure that this side brought about, and counted."""
        address = None
        if event.happening is Happening.ACCEPTED:
            remote = Connections.remote(event.value)
            self._addresses.pop(event.value, None)
            if remote is not None:
                self._addresses[event.value] = remote[0]
        elif event.happening is Happening.DISCONNECTED:
            address = self._addresses.pop(event.value, None)
        if self._failed is not None:  # without an address where something came in between
            self._handshakes.observe(self._failed, address)
        self._failed = event if event.happening in _FAILURES and not own_doing else None
