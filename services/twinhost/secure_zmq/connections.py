"""Open connections: the key that each belongs to, how many a key may have, and closing those of refused keys.

libzmq asks ZAP only at the handshake and can't close a session afterwards, so the TCP connection itself is shut down.
Its descriptor comes with its first message (`SRCFD`), as does the address that the message came from (`Peer-Address`);
libzmq sets both before it reads what a peer claims. The descriptor may have been reused since, so the address of its
present connection is compared first.

The descriptor of a connection that has sent no message since its handshake is not known: neither the ZAP request nor
libzmq's HANDSHAKE_SUCCEEDED has it. So when an accepted key is revoked or expires, every connection that has sent no
message is closed too. A peer that is closed by mistake reconnects, and its client repeats an unanswered request with
the same id.

A known gap: a descriptor counts as the connection of the key in the last message read from it, which may come from a
predecessor with the same address and descriptor. Such a connection is closed with its next message, and is sent
nothing until then.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.descriptors import (
    bare_address,
    held,
    most_open_files,
    most_pending,
    remote,
    remote_of,
    shut,
)
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import Outcome

_log = structlog.get_logger(__name__)

SESSIONS_PER_KEY = 64
_SOCKETS = 2  # that accept connections: requests, and the feed
_OWN_FILES = 128  # that an agent has open besides its connections
LEAST_OPEN_FILES = 256  # leave 48 connections for the keys; below 200 there is room for nobody
_REPORTED_WITHIN_S = 1.0  # of an acceptance, by the monitor
_MOST_UNREPORTED = 256  # acceptances whose connection seemed to have ended; beyond this the oldest is dropped

_LATE_S = 0.1  # how long after a key was refused the monitor may report a connection that had been accepted with it
MAX_LOST = 256  # connections of one socket that libzmq keeps after their end; each has a descriptor and up to 100 KB
_LOOK_FOR_LOST_S = 2.0  # the monitor's report of an end that libzmq has noticed takes less
_UNREPORTED_FOR_S = 3.0  # after an unbind: libzmq ends those sessions within LINGER and reports none of them

Live = Callable[[str], object]  # of a fingerprint; None: the key is refused now


class Connection(msgspec.Struct, eq=False, gc=False):
    """A connection from its acceptance, or its first message where that is read earlier, to its end."""

    fd: int
    peer: str = ""  # the remote address when it was accepted; empty if it had ended by then
    port: int | None = None  # ours, where it is known
    reported: bool = True  # by the monitor, whose event may follow the first message
    address: str | None = None  # that its messages come from; None before the first one
    fingerprint: str | None = None  # of its key, proven by a message
    counted_for: str | None = None  # the key that it is counted for: assumed at first, then the proven one
    close_reason: str | None = None  # why it is to be closed, whatever its key
    began: float = msgspec.field(default_factory=time.monotonic)  # when it was noticed
    shut: bool = False  # here; its end may not have been reported yet
    unfinished: bool = False  # its handshake, as far as is known; whether it has ended is reported late
    handled: int = 0  # bytes that the loop has taken from it
    unhandled: int = 0  # as of the last look of `InboundGuard`
    _passed: int = 0  # bytes that came, and are no part of a request
    _handled_before: int = 0

    def behind(self, received: int, at_most: int) -> int:
        """Return how many received bytes have not been taken; up to `at_most` are forgotten with each request."""
        behind = received - self._passed - self.handled
        if behind < at_most and self.handled != self._handled_before:
            self._passed, self._handled_before = received - self.handled, self.handled
            return 0
        return behind


def require_open_files() -> None:
    """Raise ConfigurationError if this process may have too few descriptors for an agent's connections."""
    if (most := most_open_files()) < LEAST_OPEN_FILES:
        raise ConfigurationError(
            f"this process may open {most} files, and an agent needs {LEAST_OPEN_FILES}, since each connection is one; "
            f"raise TWINHOST_NOFILE in .env, or outside a container: ulimit -n {LEAST_OPEN_FILES}"
        )


@dataclass(frozen=True, slots=True)
class _Acceptance:
    """Of a key, which is not assigned to a connection yet."""

    fingerprint: str
    at: float  # by the monotonic clock


class SessionLimits:
    """Limits the connections of each key, over all sockets of one ZAP handler.

    libzmq never reports which connection a key belongs to: a ZAP request has the key and an address, an accepted
    connection has its descriptor and an address, and a message has all three. So an accepted key is assigned to a
    connection in two steps. When a connection from that address has completed its handshake, the oldest acceptance
    from there is assigned to it. That may mix up keys that connect from one address at the same time; the first message
    of a connection, which proves its key, corrects it. The count of each key is right in either case, and the limit
    depends on nothing else.

    Used by the ZAP handler, the monitors, the guards, and the sockets' own threads.
    """

    def __init__(self, per_key: int = SESSIONS_PER_KEY, clock: Clock = SYSTEM_CLOCK) -> None:
        """Start with no connections; `per_key` is the most connections of one key."""
        open_files = most_open_files()
        self.per_key = per_key
        self._clock = clock
        self.total = max(1, open_files - _SOCKETS * most_pending() - open_files // 16 - _OWN_FILES)
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._assigned: defaultdict[str, list[Connection]] = defaultdict(list)  # by key, the oldest first
        self._unassigned: Counter[str] = Counter()  # the connections without a key, by address
        self._unplaced: dict[str, deque[_Acceptance]] = defaultdict(deque)  # by address, the oldest first
        self._late: deque[tuple[str, str]] = deque(maxlen=_MOST_UNREPORTED)
        self._counts: Counter[str] = Counter()
        self._sum = 0  # of the counts

    def admit(self, fingerprint: str, address: str) -> bool:
        """Count a key at its handshake; return False if it, or all keys together, have reached the limit."""
        with self._lock:
            if self._is_full(fingerprint):
                self._drop_ended(fingerprint)
                if self._is_full(fingerprint):
                    return False
            self._count(fingerprint, 1)
            self._unplaced[bare_address(address)].append(_Acceptance(fingerprint, self._clock.monotonic()))
            return True

    def which_is_reached(self, fingerprint: str) -> str:
        """Return which limit a key was refused for."""
        if self._counts[fingerprint] >= self.per_key:
            return f"the key has the {self.per_key} connections that limits.sessions_per_key allows"
        return f"all keys together have the {self.total} connections that TWINHOST_NOFILE allows"

    def count(self, fingerprint: str) -> int:
        """Return how many connections a key has."""
        with self._lock:
            self._trim_all()
            return self._counts[fingerprint]

    def opened(self, connection: Connection) -> None:
        """Add a connection that was accepted; its handshake follows."""
        with self._lock:
            self._add(connection)

    def finished(self, connection: Connection) -> None:
        """Note that a connection has completed its handshake."""
        with self._lock:
            if connection in self._connections and connection.counted_for is None:
                self._assign(connection, self._oldest_at(connection.peer))

    def proven(self, connection: Connection, fingerprint: str) -> None:
        """Note the key of a connection, which its message proves."""
        with self._lock:
            connection.fingerprint = fingerprint
            self._add(connection)
            assumed = connection.counted_for
            self._assign(connection, fingerprint)
            if assumed is None and not self._take(connection.peer, fingerprint):
                self._count(fingerprint, 1)
            elif assumed is not None and assumed != fingerprint:
                self._exchange(connection.peer, fingerprint, assumed)

    def ended(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        with self._lock:
            self._end(connection)

    def _add(self, connection: Connection) -> None:
        if connection not in self._connections:
            self._connections.add(connection)
            self._count_unassigned(connection.peer, 1)

    def _assign(self, connection: Connection, fingerprint: str | None) -> None:
        before, connection.counted_for = connection.counted_for, fingerprint
        if before is None:
            self._count_unassigned(connection.peer, -1)
        else:
            self._assigned[before].remove(connection)
            if not self._assigned[before]:
                del self._assigned[before]
        if fingerprint is None:
            self._count_unassigned(connection.peer, 1)
        else:
            self._assigned[fingerprint].append(connection)

    def _count_unassigned(self, address: str, more: int) -> None:
        self._unassigned[address] += more
        if not self._unassigned[address]:
            del self._unassigned[address]

    def _is_full(self, fingerprint: str) -> bool:
        return self._counts[fingerprint] >= self.per_key or self._sum >= self.total

    def _drop_ended(self, fingerprint: str) -> None:
        """Drop a key's ended connections before it is refused one more: an end is reported late, or never."""
        for connection in tuple(self._assigned.get(fingerprint, ())):
            if remote_of(connection.fd) is None:
                self._end(connection)
        self._trim_all()

    def _oldest_at(self, address: str) -> str | None:
        if waiting := self._unplaced.get(address):
            return waiting.popleft().fingerprint
        for late in self._late:
            if late[0] == address:
                self._late.remove(late)
                self._count(late[1], 1)
                return late[1]
        return None

    def _take(self, address: str, fingerprint: str) -> bool:
        waiting = self._unplaced.get(address, ())
        own = next((acceptance for acceptance in waiting if acceptance.fingerprint == fingerprint), None)
        if own is None:
            return False
        self._unplaced[address].remove(own)
        return True

    def _exchange(self, address: str, proven: str, assumed: str) -> None:
        """Assign the assumed key to the connection or acceptance to which the proven key was assigned."""
        for other in self._assigned.get(proven, ()):
            if other.peer == address and other.fingerprint is None:
                self._assign(other, assumed)
                return
        if self._take(address, proven):
            self._unplaced[address].append(_Acceptance(assumed, self._clock.monotonic()))
            return
        self._count(assumed, -1)
        self._count(proven, 1)

    def _end(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        if connection.counted_for is not None:
            self._count(connection.counted_for, -1)
            self._assign(connection, None)
        self._connections.remove(connection)
        self._count_unassigned(connection.peer, -1)
        if connection.peer:
            self._trim(connection.peer)
        else:  # it had ended before its address was read
            self._trim_all()

    def _trim_all(self) -> None:
        for address in tuple(self._unplaced):
            self._trim(address)

    def _trim(self, address: str) -> None:
        """Drop acceptances in excess of the open connections: theirs ended before they were assigned.

        A recent one stays: the monitor's thread may be behind, and not have reported its connection yet.
        """
        waiting = self._unplaced.get(address)
        if not waiting:
            self._unplaced.pop(address, None)
            return
        without = self._unassigned[address]
        settled = self._clock.monotonic() - _REPORTED_WITHIN_S
        while len(waiting) > without and waiting[0].at <= settled:
            fingerprint = waiting.popleft().fingerprint
            self._count(fingerprint, -1)
            self._late.append((address, fingerprint))
        if not waiting:
            del self._unplaced[address]

    def _count(self, fingerprint: str, more: int) -> None:
        self._counts[fingerprint] += more
        self._sum += more
        if not self._counts[fingerprint]:
            del self._counts[fingerprint]


class Connections:
    """The open connections of one socket: written by the threads of the monitor, the ZAP handler, and the guard.

    The thread that owns the socket reads it, and closes connections.
    """

    def __init__(self, live: Live, limits: SessionLimits | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """Start with none; `live` is called at every `close_refused()`, and an open link has no `limits`."""
        self.closed_count = 0  # since the start
        self.unclosed = 0  # connections that the last `close_refused()` could not close; the next one tries again
        self._limits = limits
        self._clock = clock
        self._live = live
        self.on_accepted: Callable[[int], None] = lambda _: None
        self._lock = threading.Lock()
        self._open: dict[int, Connection] = {}  # by descriptor
        self._pending: dict[int, Connection] = {}  # those of them in their handshake, the oldest first
        # By `mark_for_closing` since the last `close_refused()`: the descriptor and what `remote` returned; the address
        # and the reason.
        self._marked: dict[tuple[int, tuple[str, int] | None], tuple[str, str]] = {}
        self._admitted: set[str] = set()  # keys that completed a handshake and have been valid since
        self._just_refused: dict[str, float] = {}  # and since when: the monitor may report a connection late
        self._unreported_until = 0.0
        self._ended: frozenset[Connection] = frozenset()  # as of the last look for lost connections
        self._look_at = 0.0
        self._budget = LogBudget()

    def observe(self, event: SocketEvent) -> bool:
        """Add or remove a connection, from the monitor's thread; return whether one with this descriptor ended."""
        fd = event.value
        with self._lock:
            if event.kind is EventKind.DISCONNECTED:
                self._forget(fd)
                return True
            if event.kind is not EventKind.ACCEPTED and event.kind is not EventKind.CONNECTED:
                return False
            known, port = self._open.get(fd), _own_port(event)
            if known is not None and not known.reported:  # its first message was read before this event
                known.port, known.reported = port, True
                connection = known
            else:
                self._forget(fd)
                peer = self.remote(fd)
                connection = self._open[fd] = Connection(fd, peer[0] if peer else "", port)
            if self._limits is not None:
                self._limits.opened(connection)
            if event.kind is EventKind.ACCEPTED:
                self._pending[fd], connection.unfinished = connection, True
                self.on_accepted(fd)
            return known is not None and known is not connection

    def observe_handshake(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        """Note an accepted key, from any thread, before anything of its connection is answered."""
        if outcome is Outcome.ACCEPTED:
            with self._lock:
                self._admitted.add(fields["fingerprint"])

    def pending(self) -> tuple[Connection, ...]:
        """Return the connections that may still be in their handshake, oldest first."""
        with self._lock:
            return tuple(self._pending.values())

    def end_handshake(self, connection: Connection, *, succeeded: bool) -> None:
        """Note that a connection's handshake has ended, from the guard's thread."""
        with self._lock:
            if self._pending.get(connection.fd) is connection:  # not a newer connection with the same descriptor
                del self._pending[connection.fd]
            connection.unfinished = not succeeded
        if succeeded and self._limits is not None:
            self._limits.finished(connection)

    def peer_of(self, fd: int) -> str | None:
        """Return the address of the connection that has, or had until its end is reported, this descriptor."""
        connection = self._open.get(fd)
        return None if connection is None else connection.peer or None

    def unfinished_since(self, fd: int) -> float | None:
        """Return when the connection with this descriptor was noticed, if it may still be in its handshake."""
        connection = self._open.get(fd)
        return connection.began if connection is not None and connection.unfinished and not connection.shut else None

    def note_key(self, fd: int, address: str, fingerprint: str | None) -> Connection:
        """Note the key of a connection, from its message; return the connection."""
        with self._lock:
            connection = self._of(fd, address)
            connection.address, connection.fingerprint = address, fingerprint
            if self._limits is not None and fingerprint is not None and fd in self._open:
                self._limits.proven(connection, fingerprint)
            return connection

    def mark_for_closing(self, fd: int, address: str, reason: str) -> None:
        """Have the next `close_refused()` close a connection, whatever its key."""
        with self._lock:
            self._mark(fd, address, reason)
            self._marked[fd, self.remote(fd)] = address, reason

    def close_now(self, fd: int, peer: tuple[str, int] | None, reason: str) -> None:
        """Close the connection that has this descriptor, if `peer` is what `remote` returns; on the socket's thread."""
        with self._lock:
            if peer is None or self.remote(fd) != peer:
                return
            self._mark(fd, peer[0], reason)
            connection = self._open[fd]
        self._close(connection, reason)  # where that fails, the next `close_refused()` tries again

    def remote_from(self, fd: int, address: str) -> tuple[str, int] | None:
        """Return what `remote` does if a message from that address may have come over the descriptor's connection."""
        peer = self.remote(fd)
        return peer if peer is not None and peer[0] in {"", bare_address(address)} else None  # IPC has no address

    remote = staticmethod(remote_of)  # unique among open connections

    def open(self) -> frozenset[Connection]:
        """Return the open connections."""
        with self._lock:
            return frozenset(self._open.values())

    def close_refused(self) -> list[int]:
        """Close the connections that are marked for it, and those of refused keys; on the socket's own thread.

        Returns:
            The descriptors of connections that ended without libzmq's reporting it.
        """
        now = self._clock.monotonic()
        with self._lock:
            for (fd, peer), (address, reason) in self._marked.items():
                if self.remote(fd) == peer:  # again: an event that came late may have replaced it in the table since
                    self._mark(fd, address, reason)
            self._marked.clear()
            dead = {fingerprint for fingerprint in self._admitted if self._live(fingerprint) is None}
            late = {key: since for key, since in self._just_refused.items() if self._live(key) is None}
            suspects = dead | late.keys()
            self._admitted -= dead
            self._just_refused = dict.fromkeys(dead, now)
            self._just_refused |= {key: since for key, since in late.items() if now - since < _LATE_S}
            chosen = [(connection, why) for connection in self._open.values() if (why := _reason(connection, suspects))]
        self.unclosed = sum(not self._close(connection, why) for connection, why in chosen)
        return self._drop_unreported() if now < self._unreported_until else []

    @property
    def unsettled(self) -> bool:
        """Whether `close_refused()` is to be called again soon, though no key has changed."""
        return bool(self._just_refused or self.unclosed) or self._clock.monotonic() < self._unreported_until

    def too_many_lost(self) -> bool:
        """Return whether libzmq keeps so many connections after their end that the socket is to be bound again.

        libzmq does not notice the end of a session in which a peer repeated an encrypted frame (decision 14).
        """
        now = self._clock.monotonic()
        if len(self._open) < MAX_LOST or now < self._look_at:
            return False
        ended = frozenset(connection for connection in self.open() if self.remote(connection.fd) is None)
        lost, self._ended, self._look_at = ended & self._ended, ended, now + _LOOK_FOR_LOST_S
        return len(lost) >= MAX_LOST

    def unbound(self) -> None:
        """Note that the socket's address was unbound, which ends its sessions without an event."""
        self._unreported_until = self._clock.monotonic() + _UNREPORTED_FOR_S

    def end_all(self) -> None:
        """Note that the socket was closed, which ends its connections without an event."""
        with self._lock:
            for fd in tuple(self._open):
                self._forget(fd)

    def _mark(self, fd: int, address: str, reason: str) -> None:
        connection = self._of(fd, address)
        connection.address, connection.close_reason = address, reason

    def _of(self, fd: int, address: str) -> Connection:
        connection = self._open.get(fd)
        if connection is not None:
            return connection
        connection = Connection(fd, bare_address(address), reported=False)
        if self.remote_from(fd, address):  # else it has ended already, and no event will report that
            self._open[fd] = connection
        return connection

    def _drop_unreported(self) -> list[int]:
        with self._lock:
            ended = [fd for fd, connection in self._open.items() if not _is_open(connection)]
            for fd in ended:
                self._forget(fd)
        return ended

    def _forget(self, fd: int) -> None:
        self._pending.pop(fd, None)
        connection = self._open.pop(fd, None)
        if connection is not None and self._limits is not None:
            self._limits.ended(connection)

    def _close(self, connection: Connection, reason: str) -> bool:
        """Close the connection that has this descriptor now, if it has our port and, where known, the same address.

        Returns:
            False if that failed; it is retried then.
        """
        with held(connection.fd) as present:
            peer = None if present is None else remote(present)
            if present is None or peer is None or connection.port not in {None, present.getsockname()[1]}:
                return True
            if connection.address is not None and bare_address(connection.address) != peer[0]:
                return True
            if not shut(present):
                connection.close_reason = reason
                return False
        if connection.shut:
            return True
        connection.shut = True
        self.closed_count += 1
        known = {"fingerprint": connection.fingerprint, "address": peer[0]}
        self._budget.log(_log.warning, "connection_closed", reason, reason=reason, **known)
        return True


def _own_port(event: SocketEvent) -> int | None:
    """Return the port on which a connection was accepted; None for one over IPC, and for one that this side opened."""
    accepted = event.kind is EventKind.ACCEPTED and event.endpoint.startswith("tcp://")
    return int(event.endpoint.rpartition(":")[2]) if accepted else None


def _is_open(connection: Connection) -> bool:
    """Return whether its descriptor has an open connection with our port."""
    with held(connection.fd) as present:
        return (
            present is not None and remote(present) is not None and connection.port in {None, present.getsockname()[1]}
        )


def _reason(connection: Connection, suspects: set[str]) -> str | None:
    if connection.close_reason is not None:
        return connection.close_reason
    if not suspects:
        return None
    if connection.address is None:
        return "a key was revoked or expired, and this connection has not shown its key in a message yet"
    return "its key is no longer authorised" if connection.fingerprint in suspects else None
