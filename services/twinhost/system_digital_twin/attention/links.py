"""Notices the silent hosts from which handshakes of the other kind come: their link is open, or ours is."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from twinhost.secure_zmq.peers import Outcome

RECENT_S = 15.0  # a host that can't connect tries every second
ENOUGH = 3  # handshakes of the other kind, since one alone may be a port scan
LOOK_UP_EVERY_S = 30.0
_MOST_ADDRESSES = 256
_OTHER_KIND = frozenset({Outcome.MECHANISM_MISMATCH, Outcome.BROKEN_OFF})


class OtherKind:
    """Notices which addresses only send handshakes of the other kind: plain ones to CURVE, or CURVE to an open link.

    `observe` is called by the threads that record handshakes.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._last: dict[str, Sequence[float]] = {}  # by address: its newest handshakes of the other kind
        self.address_of: dict[str, str] = {}  # by the name of a peer: where it connected from last

    def observe(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        """Note how a handshake ended."""
        address = fields.get("address", "")
        if outcome in _OTHER_KIND and address:
            if address not in self._last and len(self._last) >= _MOST_ADDRESSES:
                self._last.pop(next(iter(self._last)), None)
            self._last[address] = [*self._last.get(address, [])[1 - ENOUGH :], self._monotonic()]
        elif outcome is Outcome.ACCEPTED and len(self.address_of) < _MOST_ADDRESSES:
            self.address_of[fields["peer"]] = address
            self._last.pop(address, None)
        elif address:
            self._last.pop(address, None)  # it speaks the same: something else is wrong

    def sends(self, addresses: Iterable[str]) -> bool:
        """Return whether one of some addresses sends such handshakes, and no other kind."""
        for address in addresses:
            times = self._last.get(address, ())
            if len(times) == ENOUGH and self._monotonic() - times[-1] <= RECENT_S:
                return True
        return False


class Addresses:
    """The addresses of host names. A name server may take seconds, so it is asked on a thread of its own."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._known: dict[str, frozenset[str]] = {}
        self._due: dict[str, float] = {}

    def of(self, host: str) -> frozenset[str]:
        """Return what is known of a host, and have it looked up again if that is older than LOOK_UP_EVERY_S."""
        now = self._monotonic()
        if now >= self._due.get(host, now):
            self._due[host] = now + LOOK_UP_EVERY_S
            threading.Thread(target=self._look_up, args=(host,), name="address-lookup", daemon=True).start()
        return self._known.get(host, frozenset())

    def _look_up(self, host: str) -> None:
        with suppress(OSError):
            self._known[host] = frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None))
