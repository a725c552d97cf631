"""How every handshake ended, counted by cause; and what a stranger may send and hold before its end.

An operator may announce refusals before provoking them, so that they are counted apart from attacks. An announcement
changes a number and nothing else: every refusal is logged and audited under its cause as before, and the line names who
announced it. It is for few attempts and a short time. A key is claimed by its fingerprint alone, which nobody but the
announcer knows before. A refusal without a key is claimed by the announcer's own address, and each attempt once, so
that whoever takes one leaves one of the announcer's own among the refusals.
"""

import ctypes
import errno
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

import structlog

from twinhost.rate_limit import LogBudget, WindowLimit
from twinhost.secure_zmq.connections import Connection, Connections, held, most_pending, remote, shut
from twinhost.secure_zmq.errors import LimitReached
from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.peers import Outcome
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 16  # of one announcement
WINDOW_S = 15.0  # for which an announcement is open
_ANNOUNCEMENTS_PER_HOUR = 60  # whoever makes them
_KEYLESS_PROBES = frozenset({Outcome.WRONG_KEYS, Outcome.MECHANISM_MISMATCH, Outcome.BROKEN_OFF})

_GREETING_BYTES = 64
_WELCOME_BYTES = 170
_ERROR_BYTES = 12
SAID_TO_STRANGER_CURVE = _GREETING_BYTES + _WELCOME_BYTES + _ERROR_BYTES  # READY adds 67 to greeting and WELCOME
SAID_TO_STRANGER_NULL = _GREETING_BYTES
MAX_HANDSHAKE_BYTES = 16 * 1024  # a real one takes less than 1 KiB
_POLL_S = 0.010
_PAUSE_FACTOR = 4  # times as long as a poll took, so that a flood costs little; bounded, so that little comes meanwhile
_LONGEST_PAUSE_S = 0.050
_YIELD_AFTER = 64  # connections: then a thread that waits for the interpreter gets it, which it would wait 5 ms for
_CROWDED_OUT_PER_POLL = 1_024
_TCP_INFO = 11  # linux/tcp.h; the module `socket` has it only on Linux
_libc = ctypes.pythonapi  # a PyDLL of the whole process
_BYTES_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")  # of struct tcp_info, since Linux 4.1

HandshakeListener = Callable[[Outcome, Mapping[str, str]], None]  # what is known: peer, fingerprint, address


class Handshakes:
    """Counts by outcome; safe to use from the handler's and the monitor's thread."""

    def __init__(self) -> None:
        self._listeners: list[HandshakeListener] = []
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._budget = LogBudget()  # by outcome, so that many of one kind can't hide another
        self._probes = Probes()

    def counts(self) -> dict[str, int]:
        """Return the number of handshakes by outcome since the start."""
        with self._lock:
            return {outcome.value: self._counts[outcome] for outcome in Outcome}

    def listen(self, listener: HandshakeListener) -> None:
        """Call back for every handshake, on the thread that saw its end; the callback must be quick."""
        self._listeners.append(listener)

    def announce_probes(self, by: str, own_fingerprint: str, fingerprints: Collection[str], attempts: int) -> None:
        """Count refusals that an operator is about to provoke apart; arguments and errors are `Probes.announce`'s."""
        self._probes.announce(by, own_fingerprint, fingerprints, attempts)
        self._notify(Outcome.ANNOUNCED_PROBE, {"peer": by, "fingerprint": own_fingerprint, "attempts": str(attempts)})
        _log.info("probes_announced", peer=by, fingerprint=own_fingerprint, attempts=attempts)

    def accepted(self, peer: str, fingerprint: str, address: str) -> None:
        """Record an accepted key, from the ZAP handler."""
        with self._lock:
            self._counts[Outcome.ACCEPTED] += 1
        self._probes.note_session(fingerprint, address)
        known = {"peer": peer, "fingerprint": fingerprint, "address": address}
        self._notify(Outcome.ACCEPTED, known)
        self._budget.log(_log.info, "handshake_accepted", (Outcome.ACCEPTED, peer), **known)

    def refused(self, outcome: Outcome, **fields: str) -> None:
        """Record a refusal; `fields` (address, fingerprint) are what is known of the other side."""
        announced_by = self._announced_by(outcome, fields)
        if announced_by is not None:
            fields["probe_by"] = announced_by
        with self._lock:
            self._counts[outcome if announced_by is None else Outcome.ANNOUNCED_PROBE] += 1
        self._notify(outcome, fields)
        self._budget.log(_log.warning, "handshake_refused", outcome, cause=outcome.value, **fields)

    def _announced_by(self, outcome: Outcome, fields: Mapping[str, str]) -> str | None:
        if outcome is Outcome.KEY_NOT_AUTHORIZED:
            return self._probes.claim(fields.get("fingerprint", ""), fields.get("address"))
        return self._probes.claim(None, fields.get("address")) if outcome in _KEYLESS_PROBES else None

    def _notify(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        for listener in self._listeners:
            try:
                listener(outcome, fields)
            except Exception:  # noqa: BLE001 - boundary: a listener's fault must not end the ZAP handler, nor the monitor
                _log.exception("handshake_listener_fault")


class FailedHandshakes:
    """Records the failures that ZAP is never asked about, with their address; on the monitor's thread alone.

    libzmq's event of a failure has no descriptor, and the connection's end, which follows, has one.
    """

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes
        self._failed: Outcome | None = None

    def observe(self, event: SocketEvent, address: str | None, *, own_doing: bool) -> None:
        """Note a server's event.

        Args:
            event: from the socket's monitor.
            address: of the connection that ended, where the event is an end.
            own_doing: whether this side brought a failure about, and recorded it.
        """
        if self._failed is not None:  # without an address where something came in between
            self._handshakes.refused(self._failed, **({} if address is None else {"address": address}))
        self._failed = None if own_doing else failure_of(event)


def failure_of(event: SocketEvent) -> Outcome | None:
    """Return the refusal that a server's event reports, where ZAP was not asked; None for every other event."""
    match event.happening:
        case Happening.WRONG_KEYS:
            return Outcome.WRONG_KEYS
        case Happening.MECHANISM_MISMATCH:
            return Outcome.MECHANISM_MISMATCH
        case Happening.NOT_ZMTP:
            return Outcome.NOT_ZMTP
        case Happening.BROKEN_OFF:
            return Outcome.TIMED_OUT if event.value == errno.ETIMEDOUT else Outcome.BROKEN_OFF
        case Happening.CONNECTED | Happening.ACCEPTED | Happening.RETRIED:
            pass
        case Happening.SUCCEEDED | Happening.DISCONNECTED:
            pass
        case Happening.REFUSED:  # by the ZAP handler, which records it
            pass
        case _:
            assert_never(event.happening)
    return None


@dataclass(slots=True)
class _Announcement:
    address: str | None  # of the announcer's newest session
    fingerprints: frozenset[str]
    left: int
    until: float


class Probes:
    """The announcements that are open; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._addresses: dict[str, str] = {}  # of the newest handshake, by the fingerprint of an authorised key
        self._open: dict[str, _Announcement] = {}  # by the announcer's name
        self._limit = WindowLimit(_ANNOUNCEMENTS_PER_HOUR, 3_600, clock)

    def note_session(self, fingerprint: str, address: str) -> None:
        """Note from where a key was accepted."""
        with self._lock:
            self._addresses[fingerprint] = _without_scope(address)

    def announce(self, by: str, own_fingerprint: str, fingerprints: Collection[str], attempts: int) -> None:
        """Open an announcement, in place of the announcer's last one.

        Args:
            by: the announcer's name.
            own_fingerprint: of the key that announces.
            fingerprints: of the keys that will be shown.
            attempts: how many refusals will be provoked at most, with and without a key; up to MAX_ATTEMPTS.

        Raises:
            LimitReached: there were too many in the last hour.
        """
        with self._lock:
            if not self._limit.take("announcements"):
                raise LimitReached(f"{_ANNOUNCEMENTS_PER_HOUR} probes were announced within an hour; announce fewer")
            attempts, until = min(attempts, MAX_ATTEMPTS), self._clock() + WINDOW_S
            address = self._addresses.get(own_fingerprint)
            self._open[by] = _Announcement(address, frozenset(fingerprints), attempts, until)

    def claim(self, fingerprint: str | None, address: str | None) -> str | None:
        """Return who announced a refusal, and take it off what is left; None where nobody did.

        Args:
            fingerprint: of the key that was refused; None where none was shown.
            address: of who was refused; None where it is not known.
        """
        with self._lock:
            now = self._clock()
            for by, announced in tuple(self._open.items()):
                if now >= announced.until or not announced.left:
                    del self._open[by]
                elif _matches(announced, fingerprint, address):
                    announced.left -= 1
                    return by
        return None


def _matches(announced: _Announcement, fingerprint: str | None, address: str | None) -> bool:
    if fingerprint is not None:
        return fingerprint in announced.fingerprints
    return address is None or _without_scope(address) == announced.address


def _without_scope(address: str) -> str:
    """Return an address without its scope, which not every source includes."""
    return address.partition("%")[0]


@dataclass(frozen=True, slots=True)
class _Traffic:
    acknowledged: int  # bytes; retransmissions don't count, so a peer can't make it grow by itself
    received: int


class HandshakeGuard(Worker):
    """Cuts connections that cost too much before their handshake is over; its thread sleeps while none is.

    libzmq's own limit, MAXMSGSIZE, counts for handshake commands too, so whoever can reach the port could make the
    server keep 8 MiB a connection. libzmq does not report whose handshake succeeded; the kernel's counters tell: until
    then a CURVE server has sent its greeting, WELCOME, and at most an ERROR, and READY goes beyond that. A client sends
    nothing large before it has READY, and what it sends then acknowledges it, so a connection that sent much and
    acknowledged little is in no handshake.

    On an open link READY comes with the greeting and anybody may send a large message, so there only the number of
    connections that have not greeted is bounded. Elsewhere than on Linux the guard is off.
    """

    def __init__(self, connections: Connections, handshakes: Handshakes, said_to_stranger: int) -> None:
        """Watch from now on.

        Args:
            connections: of the socket; a handshake that is over is noted there.
            handshakes: where a cut is counted.
            said_to_stranger: the bytes that the server has sent at most to a peer whose handshake is not over.
        """
        super().__init__("handshake-guard", self._watch)
        self.looks = 0  # polls of all that is pending; none while nothing is
        self._connections = connections
        self._handshakes = handshakes
        self._said_to_stranger = said_to_stranger
        self._most_pending = most_pending()  # beyond it the oldest goes
        self._lock = threading.Lock()
        self._cut: set[int] = set()
        self._unreported = 0  # cuts that libzmq has not reported yet
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
                    self._unreported = min(self._unreported, len(self._cut))
            case Happening.BROKEN_OFF:
                with self._lock:
                    if self._unreported:
                        self._unreported -= 1
                        return True
            case _:
                pass
        return False

    def _interrupt(self) -> None:
        self._work.set()

    def _watch(self) -> None:
        took_s = 0.0
        while self._work.wait() and not self.wait(_pause_s(took_s)):
            started = time.monotonic()
            self._look()
            took_s = time.monotonic() - started

    def _look(self) -> None:
        self.looks += 1
        unfinished: list[Connection] = []
        for number, connection in enumerate(self._connections.pending()):
            if number % _YIELD_AFTER == 0:
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
        for connection in unfinished[: min(_CROWDED_OUT_PER_POLL, max(0, len(unfinished) - self._most_pending))]:
            self._shut_down(connection, Outcome.CROWDED_OUT, -1)
        self._work.clear()
        if self.stopping or self._connections.pending():  # read after the clear: what comes now sets it again
            self._work.set()

    def _shut_down(self, connection: Connection, outcome: Outcome, more_than: int) -> None:
        """Hang up on whoever has this number now, if it too is a stranger on our port that sent too much."""
        with held(connection.fd) as stranger:
            address = None if stranger is None else self._address_of(stranger, connection, more_than)
            if stranger is not None and address is not None:
                with self._lock:  # before libzmq can report it
                    if not shut(stranger):
                        return  # still pending: the next poll tries again
                    self._cut.add(connection.fd)
                    self._unreported += 1
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


def _pause_s(took_s: float) -> float:
    return min(max(_POLL_S, _PAUSE_FACTOR * took_s), _LONGEST_PAUSE_S)


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
