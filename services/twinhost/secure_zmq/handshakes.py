"""How handshakes end: each is counted by its cause, logged, and reported to who records it, such as the audit log."""

import errno
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

import structlog

from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.errors import PeerNotLive
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import Outcome

_log = structlog.get_logger(__name__)

_MOST_JUDGED = 4_096  # addresses
_LATE_S = 2.0  # after which the monitor reports a connection, at the latest
MAX_WAITING = 64  # accepted keys whose record failed; beyond this the ZAP handler refuses every key

HandshakeListener = Callable[[Outcome, Mapping[str, str]], None]  # the fields: peer, fingerprint, address, if known


@dataclass(slots=True)
class _Accepted:
    """An accepted key that is not recorded yet."""

    known: Mapping[str, str]
    listeners: list[HandshakeListener]  # that have not recorded it
    failed: bool = False  # the last attempt


class Handshakes:
    """Counts by outcome; safe to use from any thread."""

    def __init__(self) -> None:
        self.waiting: deque[_Accepted] = deque()  # the oldest first
        self._recording = threading.Lock()
        self._listeners: list[HandshakeListener] = []
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._budget = LogBudget()  # by outcome, so that many of one don't suppress the lines of another
        self._accepted_budget = LogBudget()  # by peer
        self._judged: dict[str, float] = {}  # by address: when a key was judged last, on the ZAP handler's thread

    def counts(self) -> dict[str, int]:
        """Return the number of handshakes by outcome since the start."""
        self.record()
        with self._lock:
            return {outcome.value: self._counts[outcome] for outcome in Outcome}

    def listen(self, listener: HandshakeListener) -> None:
        """Call back for every handshake, on the thread that records it; it must not block, nor report one.

        While it raises for an accepted key, that key is not served, and it is called again.
        """
        self._listeners.append(listener)

    def judged(self, address: str) -> None:
        """Note that a peer got as far as to show a key."""
        self._judged.pop(address, None)
        if len(self._judged) >= _MOST_JUDGED:
            del self._judged[next(iter(self._judged))]
        self._judged[address] = time.monotonic()

    def judged_since(self, address: str, began: float) -> bool:
        """Return whether a key from an address was judged since a connection was noticed, by the monotonic clock."""
        return self._judged.get(address, -math.inf) >= began - _LATE_S

    def accepted(self, peer: str, fingerprint: str, address: str) -> None:
        """Note that a key was accepted, before libzmq is answered; to be recorded after that, off the client's path."""
        known = {"peer": peer, "fingerprint": fingerprint, "address": address}
        self.waiting.append(_Accepted(known, self._listeners.copy()))

    def record(self) -> None:
        """Record the accepted keys that wait; one whose record fails goes on waiting, and the next call tries again."""
        if not self.waiting:
            return
        with self._recording:
            for _ in range(len(self.waiting)):
                accepted = self.waiting[0]
                known = accepted.known
                accepted.listeners = [
                    listener for listener in accepted.listeners if not self._notify(listener, Outcome.ACCEPTED, known)
                ]
                if accepted.listeners:
                    accepted.failed = True
                    self.waiting.rotate(-1)
                    continue
                with self._lock:
                    self._counts[Outcome.ACCEPTED] += 1
                self._accepted_budget.log(_log.info, "handshake_accepted", known["peer"], **known)
                self.waiting.popleft()  # only now: nobody may find nothing waiting before all is recorded

    def require_recorded(self, fingerprint: str) -> None:
        """Record what waits; raise PeerNotLive if that fails for a handshake of this key, which must not be served."""
        self.record()
        if any(key.failed and key.known["fingerprint"] == fingerprint for key in tuple(self.waiting)):
            raise PeerNotLive(
                "the handshake of this connection can't be recorded, so nothing is answered; free space on the "
                "agent's volume, and read its log"
            )

    def refused(self, outcome: Outcome, **fields: str) -> None:
        """Record a refusal; `fields` (address, fingerprint) have what is known of the peer."""
        self.record()  # in the order in which they came
        with self._lock:
            self._counts[outcome] += 1
        for listener in self._listeners:
            self._notify(listener, outcome, fields)
        self._budget.log(_log.warning, "handshake_refused", outcome, cause=outcome.value, **fields)

    def _notify(self, listener: HandshakeListener, outcome: Outcome, fields: Mapping[str, str]) -> bool:
        try:
            listener(outcome, fields)
        except Exception:  # noqa: BLE001 - boundary: a listener's fault must not end the ZAP handler, nor the monitor
            self._budget.log(_log.exception, "handshake_listener_fault", "handshake_listener_fault")
            return False
        return True


class FailedHandshakes:
    """Records the failures that occur before ZAP is asked, with their address; on the monitor's thread only.

    libzmq's event of a failure has no descriptor; the event of the connection's end, which follows, has one. Of
    what does not begin as ZMTP 3 there is the end alone.
    """

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes
        self._failed: Outcome | None = None

    def observe(
        self, event: SocketEvent, address: str | None, *, caused_here: bool, unfinished_since: float | None = None
    ) -> None:
        """Note a server's event.

        Args:
            address: of the connection that has ended.
            caused_here: this side caused and recorded a failure.
            unfinished_since: when the connection that has ended was noticed, if its handshake was under way.
        """
        if self._failed is not None:  # without an address if another event came in between
            self._handshakes.refused(self._failed, **({} if address is None else {"address": address}))
        elif (
            unfinished_since is not None
            and address is not None
            and not caused_here
            and not self._handshakes.judged_since(address, unfinished_since)
        ):
            self._handshakes.refused(Outcome.NOT_ZMTP, address=address)
        self._failed = None if caused_here else failure_of(event)


def failure_of(event: SocketEvent) -> Outcome | None:
    """Return the refusal that a server's event reports, where ZAP was not asked; None for every other event."""
    match event.kind:
        case EventKind.WRONG_KEYS:
            return Outcome.WRONG_KEYS
        case EventKind.MECHANISM_MISMATCH:
            return Outcome.MECHANISM_MISMATCH
        case EventKind.NOT_ZMTP:
            return Outcome.NOT_ZMTP
        case EventKind.BROKEN_OFF:
            return Outcome.TIMED_OUT if event.value == errno.ETIMEDOUT else Outcome.BROKEN_OFF
        case EventKind.CONNECTED | EventKind.ACCEPTED | EventKind.SUCCEEDED | EventKind.DISCONNECTED:
            pass
        case EventKind.RETRIED:  # by a client only
            pass
        case EventKind.REFUSED:  # by the ZAP handler, which records it
            pass
        case _:
            assert_never(event.kind)
    return None
