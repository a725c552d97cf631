"""Repeated events are written a few times and then counted, so that nobody can fill the log or displace other lines.

A kind is an event with the fields that `FOLDED` names for it, such as a cause and a known peer. The first 20 events of
a kind in a minute are written, and at most 500 in a day. The others become one line `repeated` per minute, or per hour
once the day's 500 are used up. So a kind takes at most 500 + 25 + 25 = 550 lines a day: 25 minutes can use up the 500,
then hours follow. Ten causes of refused handshakes, all provoked day and night, take 5,500 lines, 2 MB at 400 bytes
each; the 512 MiB that are kept hold more than 200 such days.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from twinhost.store.audit_log.chain import FOLDED, Event, Fields, Value, iso

WRITTEN_PER_MINUTE = 20
WRITTEN_PER_DAY = 500
LINES_PER_DAY = WRITTEN_PER_DAY + WRITTEN_PER_DAY // WRITTEN_PER_MINUTE + 25
SAMPLES = 5  # addresses in a `repeated` line
MAX_KINDS = 1_000  # further ones of an event count as one kind
MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
_KEPT = 64  # characters of a kind's field, and of an address

Kind = tuple[Event, tuple[str, ...]]


@dataclass(slots=True)
class _Window:
    ends: float
    came: int = 0
    folded: int = 0
    first: float = 0.0
    last: float = 0.0
    addresses: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Account:
    day_ends: float
    written: int = 0  # one by one, this day
    window: _Window | None = None


class Repetition:
    """Decides which repeated events are written; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[Kind, _Account] = {}
        self._finished: list[dict[str, Value]] = []  # `repeated` lines to be fetched

    def admit(self, event: Event, fields: Fields, wall: float) -> bool:
        """Return whether to write this event; otherwise it was counted. `wall` is in seconds since the epoch."""
        now = self._clock()
        with self._lock:
            kind = self._kind(event, fields)
            account = self._accounts.setdefault(kind, _Account(now + DAY_S))
            self._end_window(kind, account, now)
            if account.window is None:
                spent = account.written >= WRITTEN_PER_DAY
                account.window = _Window(now + (HOUR_S if spent else MINUTE_S))
            window = account.window
            window.came += 1
            if window.came <= WRITTEN_PER_MINUTE and account.written < WRITTEN_PER_DAY:
                account.written += 1
                return True
            _fold(window, fields, wall)
            return False

    def finished(self, *, everything: bool = False) -> list[dict[str, Value]]:
        """Return, once each, the fields of the `repeated` lines of finished windows; at a stop, of all windows."""
        now = float("inf") if everything else self._clock()
        with self._lock:
            for kind, account in list(self._accounts.items()):
                self._end_window(kind, account, now)
                if account.window is None and not account.written:
                    del self._accounts[kind]
            lines, self._finished = self._finished, []
            return lines

    def _kind(self, event: Event, fields: Fields) -> Kind:
        kind = event, tuple(f"{name}={fields[name]}"[:_KEPT] for name in FOLDED[event] if fields.get(name) is not None)
        if kind in self._accounts or len(self._accounts) < MAX_KINDS:
            return kind
        return event, ("cause=others",)

    def _end_window(self, kind: Kind, account: _Account, now: float) -> None:
        if account.window is not None and now >= account.window.ends:
            if account.window.folded:
                self._finished.append(_repeated(kind, account.window))
            account.window = None
        if now >= account.day_ends and account.window is None:
            account.day_ends, account.written = now + DAY_S, 0


def _fold(window: _Window, fields: Fields, wall: float) -> None:
    window.folded += 1
    window.first = window.first or wall
    window.last = wall
    address = fields.get("address")
    if isinstance(address, str) and len(window.addresses) < SAMPLES and address[:_KEPT] not in window.addresses:
        window.addresses.append(address[:_KEPT])


def _repeated(kind: Kind, window: _Window) -> dict[str, Value]:
    event, fields = kind
    return {
        "of": event.value,
        **dict(part.split("=", 1) for part in fields),
        "count": window.folded,
        "first": iso(window.first),
        "last": iso(window.last),
        "addresses": window.addresses,
    }
