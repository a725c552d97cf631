"""Refusals that an operator announces before provoking them, so that they are counted apart from attacks.

An announcement changes a number and nothing else: every refusal is logged and audited under its cause as before, and
the line names who announced it. It is for few attempts and a short time. A key is claimed by its fingerprint alone,
which nobody but the announcer knows before. What shows no key is claimed by the announcer's own address, and each
attempt once, so that whoever takes one leaves one of the announcer's own among the refusals.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from twinhost.secure_zmq.errors import LimitReached

MAX_ATTEMPTS = 16  # of one announcement
WINDOW_S = 15.0
_MOST_PER_HOUR = 60  # announcements, whoever makes them
_HOUR_S = 3_600.0


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
        self._made: deque[float] = deque()

    def note_session(self, fingerprint: str, address: str) -> None:
        """Note from where a key was accepted."""
        with self._lock:
            self._addresses[fingerprint] = _bare(address)

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
            now = self._clock()
            while self._made and now - self._made[0] >= _HOUR_S:
                self._made.popleft()
            if len(self._made) >= _MOST_PER_HOUR:
                raise LimitReached(f"{_MOST_PER_HOUR} probes were announced within an hour; announce fewer")
            self._made.append(now)
            attempts = min(attempts, MAX_ATTEMPTS)
            address = self._addresses.get(own_fingerprint)
            self._open[by] = _Announcement(address, frozenset(fingerprints), attempts, now + WINDOW_S)

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
    return address is None or _bare(address) == announced.address


def _bare(address: str) -> str:
    """Return an address without its scope, which not every source tells."""
    return address.partition("%")[0]
