"""How every handshake ended: counted by cause, logged within a budget that a stranger can't exceed.

An operator may announce refusals before provoking them, so that they are counted apart from attacks. An announcement
changes a number and nothing else: every refusal is logged and audited under its cause as before, and the line names who
announced it. It is for few attempts and a short time. A key is claimed by its fingerprint alone, which nobody but the
announcer knows before. A refusal without a key is claimed by the announcer's own address, and each attempt once, so
that whoever takes one leaves one of the announcer's own among the refusals.
"""

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

import structlog

from twinhost.secure_zmq.errors import LimitReached
from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.rate_limit import LogBudget, TokenBuckets

_log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 16  # of one announcement
WINDOW_S = 15.0  # for which an announcement is open
_ANNOUNCEMENTS_PER_HOUR = 60  # whoever makes them
_KEYLESS_PROBES = frozenset({Outcome.WRONG_KEYS, Outcome.MECHANISM_MISMATCH, Outcome.BROKEN_OFF})

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
        self._notify(Outcome.ACCEPTED, {"peer": peer, "fingerprint": fingerprint, "address": address})
        left_out = self._budget.admit((Outcome.ACCEPTED, peer))
        if left_out is not None:
            _log.info("handshake_accepted", peer=peer, fingerprint=fingerprint, address=address, **_noted(left_out))

    def refused(self, outcome: Outcome, **fields: str) -> None:
        """Record a refusal; `fields` (address, fingerprint) are what is known of the other side."""
        announced_by = self._announced_by(outcome, fields)
        if announced_by is not None:
            fields["probe_by"] = announced_by
        with self._lock:
            self._counts[outcome if announced_by is None else Outcome.ANNOUNCED_PROBE] += 1
        self._notify(outcome, fields)
        left_out = self._budget.admit(outcome)
        if left_out is not None:
            _log.warning("handshake_refused", cause=outcome.value, **fields, **_noted(left_out))

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
        self._rate = TokenBuckets(_ANNOUNCEMENTS_PER_HOUR, _ANNOUNCEMENTS_PER_HOUR / 3_600, clock)

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
        if not self._rate.take("announcements"):
            raise LimitReached(f"{_ANNOUNCEMENTS_PER_HOUR} probes were announced within an hour; try again in a minute")
        with self._lock:
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


def _noted(left_out: int) -> dict[str, int]:
    return {"not_logged_before": left_out} if left_out else {}
