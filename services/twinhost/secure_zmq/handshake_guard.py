"""Limits on what a stranger may send and hold before its handshake is over.

libzmq's own limit, MAXMSGSIZE, is meant for messages and counts for handshake commands too, so whoever can reach the
port could make the server keep 8 MiB a connection. libzmq does not report whose handshake succeeded; the kernel's
counters tell: until then a CURVE server has sent its greeting, WELCOME, and at most an ERROR, and READY goes beyond
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
from dataclasses import dataclass

from twinhost.secure_zmq.connections import Connection, Connections, most_pending
from twinhost.secure_zmq.descriptors import held, remote, shut
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.worker import Worker

_GREETING_BYTES = 64
_WELCOME_BYTES = 170
_ERROR_BYTES = 12
SAID_TO_STRANGER_CURVE = _GREETING_BYTES + _WELCOME_BYTES + _ERROR_BYTES  # READY adds 67 to greeting and WELCOME
SAID_TO_STRANGER_NULL = _GREETING_BYTES
MAX_HANDSHAKE_BYTES = 16 * 1024  # a real one takes less than 1 KiB
_LOOK_EVERY_S = 0.010
_REST = 4  # times as long as a look took, so that a flood costs little; but not so long that much comes meanwhile
_LONGEST_REST_S = 0.050
_LOOK_AT_ONCE = 64  # connections; then it yields to threads that wait for the interpreter, which they would for 5 ms
_CROWDED_OUT_PER_LOOK = 1_024
_TCP_INFO = 11  # linux/tcp.h; the module `socket` has it only on Linux
_libc = ctypes.pythonapi  # a PyDLL of the whole process
_BYTES_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")  # of struct tcp_info, since Linux 4.1


@dataclass(frozen=True, slots=True)
class _Traffic:
    acknowledged: int  # bytes; retransmissions don't count, so a peer can't make it grow by itself
    received: int


class HandshakeGuard(Worker):
    """Cuts connections that cost too much before their handshake is over; its thread sleeps while none is."""

    def __init__(self, connections: Connections, handshakes: Handshakes, said_to_stranger: int) -> None:
        """Watch from now on.

        Args:
            connections: of the socket; a handshake that is over is noted there.
            handshakes: where a cut is counted.
            said_to_stranger: the bytes that the server has sent at most to a peer whose handshake is not over.
        """
        super().__init__("handshake-guard", self._watch)
        self.looks = 0  # at all that is pending; none while nothing is
        self._connections = connections
        self._handshakes = handshakes
        self._said_to_stranger = said_to_stranger
        self._most_pending = most_pending()  # beyond it the oldest goes
        self._lock = threading.Lock()
        self._cut: set[int] = set()
        self._unheard = 0  # cuts that libzmq has not reported yet
        self._work = threading.Event()
        if sys.platform == "linux":
            self.start()

    @property
    def idle(self) -> bool:
        """Whether no connection is in its handshake, as far as the guard has looked."""
        return not self._work.is_set()

    @property
    def alive(self) -> bool:
        """Whether the guard is on watch; always where it is off, since the system does not count a peer's bytes."""
        return not self.started or super().alive

    def observe(self, event: SocketEvent) -> bool:
        """Note a server's event after `Connections` has; return whether it was the guard's own doing."""
        match event.happening:
            case Happening.ACCEPTED if self.started:
                self._work.set()
            case Happening.DISCONNECTED:
                with self._lock:
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

    def _interrupt(self) -> None:
        self._work.set()

    def _watch(self) -> None:
        took_s = 0.0
        while self._work.wait() and not self.wait(_rest_s(took_s)):
            started = time.monotonic()
            self._look()
            took_s = time.monotonic() - started

    def _look(self) -> None:
        self.looks += 1
        unfinished: list[Connection] = []
        for number, connection in enumerate(self._connections.pending()):
            if number % _LOOK_AT_ONCE == 0:
                time.sleep(0)
            traffic = _traffic(connection.fd)
            if traffic is None:
                self._connections.end_handshake(connection, succeeded=False)
            elif traffic.acknowledged > self._said_to_stranger:
                self._connections.end_handshake(connection, succeeded=True)
            elif traffic.received > MAX_HANDSHAKE_BYTES:
                self._shut_down(connection, Outcome.OVERSIZED, MAX_HANDSHAKE_BYTES)
            else:
                unfinished.append(connection)
        for connection in unfinished[: min(_CROWDED_OUT_PER_LOOK, max(0, len(unfinished) - self._most_pending))]:
            self._shut_down(connection, Outcome.CROWDED_OUT, -1)
        self._work.clear()
        if self.stopping or self._connections.pending():  # looked up after the clear: what comes now sets it again
            self._work.set()

    def _shut_down(self, connection: Connection, outcome: Outcome, more_than: int) -> None:
        """Hang up on whoever has this number now, if it too is a stranger on our port that sent too much."""
        with held(connection.fd) as stranger:
            address = None if stranger is None else self._address_of(stranger, connection, more_than)
            if stranger is not None and address is not None:
                with self._lock:  # before libzmq can report it
                    if not shut(stranger):
                        return  # still pending: the next look tries again
                    self._cut.add(connection.fd)
                    self._unheard += 1
        if address is not None:
            self._handshakes.refused(outcome, address=address)
        self._connections.end_handshake(connection, succeeded=False)

    def _address_of(self, stranger: socket.socket, connection: Connection, more_than: int) -> str | None:
        """Return the address of a stranger on our port that sent too much; None for whoever else has its number now."""
        traffic, peer = _traffic(stranger.fileno()), remote(stranger)
        if peer is None or traffic is None or traffic.acknowledged > self._said_to_stranger:
            return None
        ours = stranger.getsockname()[1] == connection.port
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
