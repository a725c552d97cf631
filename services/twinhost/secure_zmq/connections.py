"""The open connections of one server socket, and the end of those whose key is no longer live.

libzmq asks ZAP at the handshake alone and closes no session for us, so the connection itself is
shut down. Its descriptor comes with its first message (`SRCFD`), beside the address that the
message came from (`Peer-Address`); libzmq sets both before it reads what a peer claims. The number
may have been reused since, so the address of whoever has it now is compared first.

A connection that made its handshake and never said anything has told no descriptor: neither ZAP's
question nor libzmq's HANDSHAKE_SUCCEEDED carries one. When a key that got in is live no longer,
every connection that has not yet said whose it is goes with it. Whoever is closed by mistake
reconnects, and a request that was on its way is repeated under its own id.

What is left: a descriptor is taken for the key of the last message read from it, which may come
from a predecessor with the same address and number. A connection that hides behind that is
closed when it says something, and until then is told nothing.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from twinhost.secure_zmq.descriptors import bare_address, held, remote, shut
from twinhost.secure_zmq.handshakes import Outcome
from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.rate_limit import LogBudget
from twinhost.secure_zmq.session_limits import SessionLimits

_log = structlog.get_logger(__name__)

_UNREPORTED_FOR_S = 3.0  # after an unbind: libzmq ends those sessions within LINGER and reports none of them

Live = Callable[[str], object]  # of a fingerprint; None: it may not go on


@dataclass(slots=True)
class _Connection:
    serial: int
    port: int | None  # ours, where it is known
    fingerprint: str | None = None
    address: str | None = None  # the peer's; None: it has said nothing yet
    doomed: str | None = None  # why


class Connections:
    """Written by the monitor's and the ZAP handler's threads, read and closed by the one that owns the socket."""

    def __init__(self, live: Live, limits: SessionLimits | None = None) -> None:
        """Know no connection yet.

        Args:
            live: tells whether the key of a fingerprint may go on; asked at every `kick()`.
            limits: where the connections of each key are counted; None on an open link.
        """
        self.kicked = 0  # since the start
        self.unclosed = 0  # connections that the last `kick()` could not close; the next one tries again
        self._limits = limits
        self._live = live
        self._lock = threading.Lock()
        self._open: dict[int, _Connection] = {}
        self._serial = 0
        self._admitted: set[str] = set()  # keys that made a handshake and were live since
        self._dying: set[str] = set()  # looked for once more: the monitor may tell of a connection late
        self._unreported_until = 0.0
        self._budget = LogBudget()

    def observe(self, event: SocketEvent) -> bool:
        """Note a connection's begin or end, from the monitor's thread; return whether one on this descriptor ended."""
        with self._lock:
            if event.happening is Happening.DISCONNECTED:
                self._forget(event.value)
                return True
            if event.happening not in {Happening.ACCEPTED, Happening.CONNECTED}:
                return False
            if self._limits is not None:
                peer = self.remote(event.value)
                self._limits.opened((id(self), event.value), peer[0] if peer else "")
            known, port = self._open.get(event.value), _own_port(event)
            if known is not None and known.port is None:  # its first message was quicker than this event
                known.port = port
                return False
            self._open[event.value] = self._new(port)
            return known is not None

    def observe_handshake(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        """Note a key that gets in, from the ZAP handler's thread, before libzmq hears of it."""
        if outcome is Outcome.ACCEPTED:
            with self._lock:
                self._admitted.add(fields["fingerprint"])

    def finished(self, fd: int) -> None:
        """Note that a connection's handshake is over, from the guard's thread."""
        if self._limits is not None:
            self._limits.finished((id(self), fd))

    def heard(self, fd: int, address: str, fingerprint: str | None) -> int:
        """Note whose a connection is, from its message; return a number that no other connection has or had."""
        with self._lock:
            connection = self._of(fd, address)
            connection.address, connection.fingerprint = address, fingerprint
            if self._limits is not None and fingerprint is not None and fd in self._open:
                self._limits.proven((id(self), fd), address, fingerprint)
            return connection.serial

    def doom(self, fd: int, address: str, reason: str) -> None:
        """Let the next `kick()` close a connection, whatever its key."""
        with self._lock:
            connection = self._of(fd, address)
            connection.address, connection.doomed = address, reason

    @classmethod
    def holds(cls, fd: int, address: str) -> bool:
        """Return whether a connection from this address is open under this descriptor."""
        peer = cls.remote(fd)
        return peer is not None and peer[0] == bare_address(address)

    @staticmethod
    def remote(fd: int) -> tuple[str, int] | None:
        """Return address and port of whoever is on the other end of a descriptor; no two at a time have the same."""
        with held(fd) as connection:
            return None if connection is None else remote(connection)

    def serials(self) -> frozenset[int]:
        """Return the numbers of the connections that are open."""
        with self._lock:
            return frozenset(connection.serial for connection in self._open.values())

    def kick(self) -> list[int]:
        """Close what is doomed and what belongs to keys that are no longer live; on the socket's own thread.

        Returns:
            The descriptors of connections that ended without a word of libzmq's.
        """
        with self._lock:
            dead = {fingerprint for fingerprint in self._admitted if self._live(fingerprint) is None}
            suspects = dead | self._dying
            self._admitted -= dead
            self._dying = dead
            chosen = [(fd, each, why) for fd, each in self._open.items() if (why := _reason(each, suspects))]
        self.unclosed = sum(not self._hang_up(fd, connection, why) for fd, connection, why in chosen)
        return self._drop_unreported() if time.monotonic() < self._unreported_until else []

    def unbound(self) -> None:
        """Note that the socket's address was unbound, which ends its sessions without an event."""
        self._unreported_until = time.monotonic() + _UNREPORTED_FOR_S

    def end_all(self) -> None:
        """Note that the socket was closed, which ends its connections without an event."""
        with self._lock:
            for fd in tuple(self._open):
                self._forget(fd)

    def _new(self, port: int | None) -> _Connection:
        self._serial += 1
        return _Connection(self._serial, port)

    def _of(self, fd: int, address: str) -> _Connection:
        connection = self._open.get(fd)
        if connection is not None:
            return connection
        connection = self._new(None)
        if self.holds(fd, address):  # else it is over already, and has no end to come
            self._open[fd] = connection
        return connection

    def _drop_unreported(self) -> list[int]:
        with self._lock:
            gone = [fd for fd, connection in self._open.items() if not _is(fd, connection)]
            for fd in gone:
                self._forget(fd)
        return gone

    def _forget(self, fd: int) -> None:
        self._open.pop(fd, None)
        if self._limits is not None:
            self._limits.ended((id(self), fd))

    def _hang_up(self, fd: int, connection: _Connection, reason: str) -> bool:
        """Hang up on whoever has this number now, if on our port and, where that is known, at the same address.

        Returns:
            False where that could not be done; the connection is tried again then.
        """
        with held(fd) as found:
            peer = None if found is None else remote(found)
            if found is None or peer is None or connection.port not in {None, found.getsockname()[1]}:
                return True
            if connection.address is not None and bare_address(connection.address) != peer[0]:
                return True
            if not shut(found):
                connection.doomed = reason
                return False
        self.kicked += 1
        left_out = self._budget.admit(reason)
        if left_out is not None:
            _log.warning(
                "connection_closed",
                reason=reason,
                fingerprint=connection.fingerprint,
                address=peer[0],
                not_logged_before=left_out,
            )
        return True


def _own_port(event: SocketEvent) -> int | None:
    """Return the port on which a connection was accepted; None for one over IPC, and for one that we made."""
    accepted = event.happening is Happening.ACCEPTED and event.endpoint.startswith("tcp://")
    return int(event.endpoint.rpartition(":")[2]) if accepted else None


def _is(fd: int, connection: _Connection) -> bool:
    """Return whether a connection on the same port of ours is open under its descriptor."""
    with held(fd) as found:
        return found is not None and remote(found) is not None and connection.port in {None, found.getsockname()[1]}


def _reason(connection: _Connection, suspects: set[str]) -> str | None:
    if connection.doomed is not None:
        return connection.doomed
    if not suspects:
        return None
    if connection.address is None:
        return "a key was withdrawn, and this connection has not said whose it is"
    return "its key is no longer authorised" if connection.fingerprint in suspects else None
