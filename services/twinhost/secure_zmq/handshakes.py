"""What became of every handshake: counted by cause, logged within a budget that a stranger can't exceed."""

import errno
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum

import structlog

from twinhost.secure_zmq.monitor import Happening, SocketEvent
from twinhost.secure_zmq.probes import Probes
from twinhost.secure_zmq.rate_limit import LogBudget

_log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """How a handshake ended, as the server can know it."""

    ACCEPTED = "accepted"
    KEY_NOT_AUTHORIZED = "key_not_authorized"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    KEY_NOT_YET_VALID = "key_not_yet_valid"
    TOO_MANY_SESSIONS = "too_many_sessions"
    HANDLER_FAULT = "handler_fault"
    WRONG_KEYS = "wrong_server_key_or_mismatched_halves"
    MECHANISM_MISMATCH = "mechanism_mismatch"
    NOT_ZMTP = "not_zmtp"
    BROKEN_OFF = "broken_off_or_plain_client"
    TIMED_OUT = "timed_out"
    OVERSIZED = "oversized_handshake"
    CROWDED_OUT = "too_many_pending_handshakes"
    ANNOUNCED_PROBE = "announced_probe"  # refused as an operator had announced it: counted here, and told by its cause


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
        self._tell(Outcome.ANNOUNCED_PROBE, {"peer": by, "fingerprint": own_fingerprint, "attempts": str(attempts)})
        _log.info("probes_announced", peer=by, fingerprint=own_fingerprint, attempts=attempts)

    def observe(self, event: SocketEvent, address: str | None = None) -> None:
        """Count a refusal that ZAP never hears of, from the server's monitor; the ZAP handler counts its own."""
        known = {} if address is None else {"address": address}
        match event.happening:
            case Happening.WRONG_KEYS:
                self.refused(Outcome.WRONG_KEYS, **known)
            case Happening.MECHANISM_MISMATCH:
                self.refused(Outcome.MECHANISM_MISMATCH, **known)
            case Happening.NOT_ZMTP:
                self.refused(Outcome.NOT_ZMTP, **known)
            case Happening.BROKEN_OFF:
                outcome = Outcome.TIMED_OUT if event.value == errno.ETIMEDOUT else Outcome.BROKEN_OFF
                self.refused(outcome, **known)
            case _:
                pass

    def accepted(self, peer: str, fingerprint: str, address: str) -> None:
        with self._lock:
            self._counts[Outcome.ACCEPTED] += 1
        self._probes.note_session(fingerprint, address)
        self._tell(Outcome.ACCEPTED, {"peer": peer, "fingerprint": fingerprint, "address": address})
        left_out = self._budget.admit((Outcome.ACCEPTED, peer))
        if left_out is not None:
            _log.info("handshake_accepted", peer=peer, fingerprint=fingerprint, address=address, **_told(left_out))

    def refused(self, outcome: Outcome, **fields: str) -> None:
        """Record a refusal; `fields` (address, fingerprint) are what is known of the other side."""
        announced_by = self._announced_by(outcome, fields)
        if announced_by is not None:
            fields["probe_by"] = announced_by
        with self._lock:
            self._counts[outcome if announced_by is None else Outcome.ANNOUNCED_PROBE] += 1
        self._tell(outcome, fields)
        left_out = self._budget.admit(outcome)
        if left_out is not None:
            _log.warning("handshake_refused", cause=outcome.value, **fields, **_told(left_out))

    def _announced_by(self, outcome: Outcome, fields: Mapping[str, str]) -> str | None:
        if outcome is Outcome.KEY_NOT_AUTHORIZED:
            return self._probes.claim(fields.get("fingerprint", ""), fields.get("address"))
        return self._probes.claim(None, fields.get("address")) if outcome in _KEYLESS_PROBES else None

    def _tell(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        for listener in self._listeners:
            try:
                listener(outcome, fields)
            except Exception:  # noqa: BLE001 - boundary: a listener's fault must not end the ZAP handler, nor the monitor
                _log.exception("handshake_listener_fault")


def _told(left_out: int) -> dict[str, int]:
    return {"not_logged_before": left_out} if left_out else {}
