"""What a stranger may send and hold before its handshake is over; libzmq bounds only what a peer may send.

MAXMSGSIZE counts for handshake commands too, so whoever can reach the port could make the server
keep 8 MiB a connection. libzmq does not say whose handshake succeeded; the kernel knows: until
then a CURVE server has said its greeting, WELCOME, and at most an ERROR, and READY goes beyond
that. A client sends nothing large before it has READY, and what it sends then acknowledges it,
so a connection that sent much and acknowledged little is in no handshake.

On an open link READY comes with the greeting and anybody may send a large message, so there only
the number of connections that have not greeted is bounded. Elsewhere than on Linux the guard is off.
"""

import ctypes
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from twinhost.secure_zmq.descriptors import held, remote, shut
from twinhost.secure_zmq.handshakes import Handshakes, Outcome
from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.session_limits import most_pending

_GREETING_BYTES = 64
_WELCOME_BYTES = 170
_ERROR_BYTES = 12
SAID_TO_STRANGER_CURVE = _GREETING_BYTES + _WELCOME_BYTES + _ERROR_BYTES  # READY adds 67 to greeting and WELCOME
SAID_TO_STRANGER_NULL = _GREETING_BYTES
MAX_HANDSHAKE_BYTES = 16 * 1024  # a real one takes less than 1 KiB
_LOOK_EVERY_S = 0.010
_REST = 4  # times as long as a look took, so that a flood costs little; but not so long that much comes meanwhile
_LONGEST_REST_S = 0.050
_LOOK_AT_ONCE = 64  # connections; then whoever waits for the interpreter has it, which it would wait 5 ms for
_CROWDED_OUT_PER_LOOK = 1_024
_TCP_INFO = 11  # linux/tcp.h; the module `socket` has it only on Linux
_libc = ctypes.pythonapi  # a PyDLL of the whole process
_BYTES_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")  # of struct tcp_info, since Linux 4.1


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    endpoint: str  # of the listener


@dataclass(frozen=True, slots=True)
class _Traffic:
    acknowledged: int  # bytes; retransmissions don't count, so a peer can't make it grow by itself
    received: int


class HandshakeGuard:
    """Cuts connections that cost too much before their handshake is over, on a thread that sleeps while none is."""

    def __init__(
        self, handshakes: Handshakes, said_to_stranger: int, finished: Callable[[int], None] = lambda _: None
    ) -> None:
        """Watch from now on.

        Args:
            handshakes: where a cut is counted.
            said_to_stranger: the bytes that the server has said at most to somebody whose handshake is not over.
            finished: called with the descriptor of a connection whose handshake is over, on the guard's thread.
        """
        self._finished = finished
        self._most_pending = most_pending()  # beyond it the oldest goes
        self.looks = 0  # at all that is pending; none while nothing is
        self._handshakes = handshakes
        self._said_to_stranger = said_to_stranger
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}  # by descriptor, oldest first
        self._cut: set[int] = set()
        self._unheard = 0  # cuts that libzmq has not reported yet
        self._work, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="handshake-guard", daemon=True)
        if sys.platform == "linux":
            self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether no connection is in its handshake, as far as the guard has looked."""
        return not self._work.is_set()

    @property
    def alive(self) -> bool:
        """Whether the guard is on watch; always, where the system tells no traffic and it is off."""
        return self._thread.ident is None or self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closing.set()
            self._work.set()
        if self._thread.ident is not None:
            self._thread.join()

    def observe(self, event: SocketEvent) -> bool:
        """Note a server's event, from the monitor's thread; return whether it was the guard's own doing."""
        match event.happening:
            case Happening.ACCEPTED if self._thread.ident is not None:
                with self._lock:
                    self._pending.pop(event.value, None)
                    self._pending[event.value] = _Pending(event.endpoint)
                    self._work.set()
            case Happening.DISCONNECTED:
                with self._lock:
                    self._pending.pop(event.value, None)
                    self._cut.discard(event.value)
                    self._unheard = min(self._unheard, len(self._cut))
            case Happening.BROKEN_OFF:
                with self._lock:
                    if self._unheard:
                        self._unheard -= 1
                        return True
            case _:
                pass
        return False

    def _watch(self) -> None:
        took_s = 0.0
        while self._work.wait() and not self._closing.wait(_rest_s(took_s)):
            started = time.monotonic()
            self._look()
            took_s = time.monotonic() - started

    def _look(self) -> None:
        self.looks += 1
        with self._lock:
            pending = tuple(self._pending.items())
        unfinished: list[tuple[int, _Pending]] = []
        for number, (fd, connection) in enumerate(pending):
            if number % _LOOK_AT_ONCE == 0:
                time.sleep(0)
            traffic = _traffic(fd)
            if traffic is None:
                self._forget(fd, connection)
            elif traffic.acknowledged > self._said_to_stranger:
                self._finished(fd)
                self._forget(fd, connection)
            elif traffic.received > MAX_HANDSHAKE_BYTES:
                self._shut_down(fd, connection, Outcome.OVERSIZED, MAX_HANDSHAKE_BYTES)
            else:
                unfinished.append((fd, connection))
        for fd, connection in unfinished[: min(_CROWDED_OUT_PER_LOOK, max(0, len(unfinished) - self._most_pending))]:
            self._shut_down(fd, connection, Outcome.CROWDED_OUT, -1)
        with self._lock:
            if not self._pending and not self._closing.is_set():
                self._work.clear()

    def _forget(self, fd: int, connection: _Pending) -> None:
        with self._lock:
            if self._pending.get(fd) is connection:  # not a newcomer on the same number
                del self._pending[fd]

    def _shut_down(self, fd: int, connection: _Pending, outcome: Outcome, more_than: int) -> None:
        """Hang up on whoever has this number now, if it too is a stranger on our port that sent too much."""
        with held(fd) as stranger:
            address = None if stranger is None else self._address_of(stranger, connection, more_than)
            if stranger is not None and address is not None:
                with self._lock:  # before libzmq can report it
                    if not shut(stranger):
                        return  # still pending: the next look tries again
                    self._cut.add(fd)
                    self._unheard += 1
        if address is not None:
            self._handshakes.refused(outcome, address=address)
        self._forget(fd, connection)

    def _address_of(self, stranger: socket.socket, connection: _Pending, more_than: int) -> str | None:
        """Return the address of a stranger on our port that sent too much; None for whoever else has its number now."""
        traffic, peer = _traffic(stranger.fileno()), remote(stranger)
        if peer is None or traffic is None or traffic.acknowledged > self._said_to_stranger:
            return None
        ours = stranger.getsockname()[1] == int(connection.endpoint.rpartition(":")[2])
        return peer[0] if ours and traffic.received > more_than else None


def _rest_s(took_s: float) -> float:
    return min(max(_LOOK_EVERY_S, _REST * took_s), _LONGEST_REST_S)


def _traffic(fd: int) -> _Traffic | None:
    """Return what TCP has counted; None where the number is no TCP connection, or no longer one."""
    content = ctypes.create_string_buffer(_BYTES_ACKED_AND_RECEIVED.size)
    length = ctypes.c_uint32(len(content))
    # libc itself: a socket object would own libzmq's descriptor. PyDLL keeps the GIL: giving it up a thousand times
    # for a microsecond each would wait for a busy server a thousand times.
    failed = _libc.getsockopt(fd, socket.IPPROTO_TCP, _TCP_INFO, content, ctypes.byref(length))
    if failed or length.value < len(content):
        return None
    return _Traffic(*_BYTES_ACKED_AND_RECEIVED.unpack(content))
