"""The open connections of one server socket: the keys that they belong to, and closing those of refused keys.

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

import contextlib
import ctypes
import functools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog

from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import Outcome

if TYPE_CHECKING:
    from twinhost.secure_zmq.authenticator import SessionLimits

_log = structlog.get_logger(__name__)

MAX_PENDING = 4_096  # connections of one socket in their handshake, where there are descriptors for them
_PENDING_SHARE = 8  # at most one in this many descriptors is for such a connection
_LATE_S = 0.1  # how long after a key was refused the monitor may report a connection that had been accepted with it
MAX_LOST = 256  # connections of one socket that libzmq keeps after their end; each has a descriptor and up to 100 KB
_LOOK_FOR_LOST_S = 2.0  # the monitor's report of an end that libzmq has noticed takes less
_UNREPORTED_FOR_S = 3.0  # after an unbind: libzmq ends those sessions within LINGER and reports none of them

# A descriptor of libzmq's may be closed and reused for another connection at any moment, so it is duplicated before it
# is used. The duplicate gets a number that is reserved here, so `dup2` works even if no descriptor is left.
_nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
_reserved = os.dup(_nothing)
_reserved_lock = threading.Lock()
_RESET = struct.pack("=ii", 1, 0)  # unsent data is dropped when libzmq closes

# libc directly, where one system call is enough: a socket object would own libzmq's descriptor. A PyDLL keeps the GIL:
# releasing it a thousand times for a microsecond each would mean waiting for a busy server a thousand times.
_libc = ctypes.pythonapi
_SocketAddress = ctypes.c_char * 128  # struct sockaddr_storage
_TCP_INFO = 11  # linux/tcp.h; the module `socket` has it only on Linux
_BYTES_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")  # of struct tcp_info, since Linux 4.1
_TcpInfo = ctypes.c_char * _BYTES_ACKED_AND_RECEIVED.size
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}

Live = Callable[[str], object]  # of a fingerprint; None: the key is refused now


@contextlib.contextmanager
def held(fd: int) -> Iterator[socket.socket | None]:
    """Hold the connection with this descriptor; None where there is none. Not to be nested: one number is reserved."""
    with _reserved_lock:
        try:
            os.dup2(fd, _reserved, inheritable=False)
            duplicate = socket.socket(fileno=_reserved)
        except OSError:
            os.dup2(_nothing, _reserved, inheritable=False)
            yield None
            return
        try:
            yield duplicate if duplicate.family in _FAMILIES else None
        finally:
            duplicate.detach()
            os.dup2(_nothing, _reserved, inheritable=False)


def shut(connection: socket.socket) -> bool:
    """Shut a connection down in both directions; return whether that succeeded, or it had ended already."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return remote(connection) is None
    return True


def remote(connection: socket.socket) -> tuple[str, int] | None:
    """Return the remote address and port, IPv4 as such and IPv6 without a scope; None if the connection has ended.

    A connection over IPC has neither: `("", 0)`.
    """
    try:
        name = connection.getpeername()
    except OSError:
        return None
    if not isinstance(name, tuple):
        return "", 0
    address, port = name[:2]
    return bare_address(str(address)), int(port)


def remote_of(fd: int) -> tuple[str, int] | None:
    """Return the remote address and port of a descriptor's connection, as `remote` does."""
    if sys.platform != "linux":  # elsewhere an address begins with its length
        with held(fd) as connection:
            return None if connection is None else remote(connection)
    content, length = _SocketAddress(), ctypes.c_uint32(ctypes.sizeof(_SocketAddress))
    if _libc.getpeername(fd, content, ctypes.byref(length)):
        return None
    raw = content.raw
    family, port = int.from_bytes(raw[:2], sys.byteorder), int.from_bytes(raw[2:4], "big")
    if family == _INET6:
        return bare_address(socket.inet_ntop(_INET6, raw[8:24])), port
    if family == _INET:
        return shared(socket.inet_ntop(_INET, raw[4:8])), port
    return ("", 0) if family == socket.AF_UNIX else None


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes of a connection, as TCP counts them."""

    acknowledged: int  # retransmissions don't count, so a peer can't make it grow by itself
    received: int


def traffic_of(fd: int) -> Traffic | None:
    """Return the TCP counters; None if the descriptor is not, or no longer, a TCP connection; on Linux only."""
    content, length = _TcpInfo(), ctypes.c_uint32(ctypes.sizeof(_TcpInfo))
    failed = _libc.getsockopt(fd, socket.IPPROTO_TCP, _TCP_INFO, content, ctypes.byref(length))
    if failed or length.value < ctypes.sizeof(_TcpInfo):
        return None
    return Traffic(*_BYTES_ACKED_AND_RECEIVED.unpack(content))


def bare_address(address: str) -> str:
    """Return an address without its scope, which Python omits and libzmq does not; an IPv4-mapped one as IPv4."""
    return shared(address.partition("%")[0].removeprefix("::ffff:"))


@functools.lru_cache(maxsize=4_096)
def shared(address: str) -> str:
    """Return one object for all equal addresses (`sys.intern` would keep each for good in some versions of Python)."""
    return address


def most_open_files() -> int:
    """Return how many descriptors this process may have; a large number if there is no limit or it is not known."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft, 1 << 20) if soft != resource.RLIM_INFINITY else 1 << 20


def most_pending() -> int:
    """Return how many connections of one socket may be in their handshake at a time."""
    return min(MAX_PENDING, max(1, most_open_files() // _PENDING_SHARE))


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
    shut: bool = False  # here; its end may not have been reported yet


class Connections:
    """The table of one socket: written by the threads of the monitor, the ZAP handler, and the guard.

    The thread that owns the socket reads it, and closes connections.
    """

    def __init__(self, live: Live, limits: "SessionLimits | None" = None) -> None:
        """Start with an empty table.

        Args:
            live: returns None where the key of a fingerprint is refused now; called at every `close_refused()`.
            limits: where the connections of each key are counted; None on an open link.
        """
        self.closed_count = 0  # since the start
        self.unclosed = 0  # connections that the last `close_refused()` could not close; the next one tries again
        self._limits = limits
        self._live = live
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
                found = self.remote(fd)
                connection = self._open[fd] = Connection(fd, found[0] if found else "", port)
            if self._limits is not None:
                self._limits.opened(connection)
            if event.kind is EventKind.ACCEPTED:
                self._pending[fd] = connection
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
        if succeeded and self._limits is not None:
            self._limits.finished(connection)

    def peer_of(self, fd: int) -> str | None:
        """Return the address of the connection that has, or had until its end is reported, this descriptor."""
        connection = self._open.get(fd)
        return None if connection is None else connection.peer or None

    def note_key(self, fd: int, address: str, fingerprint: str | None) -> Connection:
        """Note the key of a connection, from its message; return the connection."""
        with self._lock:
            connection = self._of(fd, address)
            connection.address, connection.fingerprint = shared(address), fingerprint
            if self._limits is not None and fingerprint is not None and fd in self._open:
                self._limits.proven(connection, fingerprint)
            return connection

    def mark_for_closing(self, fd: int, address: str, reason: str) -> None:
        """Have the next `close_refused()` close a connection, whatever its key."""
        with self._lock:
            self._mark(fd, address, reason)
            self._marked[fd, self.remote(fd)] = address, reason

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
        now = time.monotonic()
        with self._lock:
            for (fd, peer), (address, reason) in self._marked.items():
                if self.remote(fd) == peer:  # again: an event that came late may have replaced it in the table since
                    self._mark(fd, address, reason)
            self._marked.clear()
            dead = {fingerprint for fingerprint in self._admitted if self._live(fingerprint) is None}
            late = {each: since for each, since in self._just_refused.items() if self._live(each) is None}
            suspects = dead | late.keys()
            self._admitted -= dead
            self._just_refused = dict.fromkeys(dead, now)
            self._just_refused |= {each: since for each, since in late.items() if now - since < _LATE_S}
            chosen = [(each, why) for each in self._open.values() if (why := _reason(each, suspects))]
        self.unclosed = sum(not self._close(connection, why) for connection, why in chosen)
        return self._drop_unreported() if now < self._unreported_until else []

    @property
    def unsettled(self) -> bool:
        """Whether `close_refused()` is to be called again soon, though no key has changed."""
        return bool(self._just_refused or self.unclosed) or time.monotonic() < self._unreported_until

    def too_many_lost(self) -> bool:
        """Return whether libzmq keeps so many connections after their end that the socket is to be bound again.

        libzmq does not notice the end of a session in which a peer repeated an encrypted frame (decision 14).
        """
        now = time.monotonic()
        if len(self._open) < MAX_LOST or now < self._look_at:
            return False
        ended = frozenset(connection for connection in self.open() if self.remote(connection.fd) is None)
        lost, self._ended, self._look_at = ended & self._ended, ended, now + _LOOK_FOR_LOST_S
        return len(lost) >= MAX_LOST

    def unbound(self) -> None:
        """Note that the socket's address was unbound, which ends its sessions without an event."""
        self._unreported_until = time.monotonic() + _UNREPORTED_FOR_S

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
        with held(connection.fd) as found:
            peer = None if found is None else remote(found)
            if found is None or peer is None or connection.port not in {None, found.getsockname()[1]}:
                return True
            if connection.address is not None and bare_address(connection.address) != peer[0]:
                return True
            if not shut(found):
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
    return _port_of(event.endpoint) if event.kind is EventKind.ACCEPTED else None


@functools.lru_cache(maxsize=16)  # all connections of a socket share the number
def _port_of(endpoint: str) -> int | None:
    return int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp://") else None


def _is_open(connection: Connection) -> bool:
    """Return whether its descriptor has an open connection with our port."""
    with held(connection.fd) as found:
        return found is not None and remote(found) is not None and connection.port in {None, found.getsockname()[1]}


def _reason(connection: Connection, suspects: set[str]) -> str | None:
    if connection.close_reason is not None:
        return connection.close_reason
    if not suspects:
        return None
    if connection.address is None:
        return "a key was revoked or expired, and this connection has not shown its key in a message yet"
    return "its key is no longer authorised" if connection.fingerprint in suspects else None
