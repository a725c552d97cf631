"""What repeats is written a few times and then counted, so that nobody can fill the log, nor push others out of it.

A kind is an event with the fields that `events.FOLDED` names for it: a cause or code, and a known peer. Of a kind the
first 20 in a minute are written one by one, and 500 in a day; the others become one line
`repeated` for the minute, or, once the day's 500 are used up, for the hour. So a kind takes at
most 500 + 25 + 25 = 550 lines a day: 25 minutes can use up the 500, and then come the hours. Ten causes of a
refused handshake that are all provoked day and night take 5,500 lines, 2 MB at 400 bytes each;
the 512 MiB that are kept hold more than 200 such days.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from twinhost.store.audit_log.chain import iso
from twinhost.store.audit_log.events import FOLDED, Event
from twinhost.store.audit_log.fields import Fields, Value

WRITTEN_PER_MINUTE = 20
WRITTEN_PER_DAY = 500
LINES_PER_DAY = WRITTEN_PER_DAY + WRITTEN_PER_DAY // WRITTEN_PER_MINUTE + 25
SAMPLES = 5  # addresses in a `repeated` line
MAX_KINDS = 1_000  # beyond them all else of an event is one kind
MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
_KEPT = 64  # characters of what tells a kind, and of an address

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
    """Decides which of the events that repeat are written; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[Kind, _Account] = {}
        self._over: list[dict[str, Value]] = []  # `repeated` lines that were not fetched yet

    def admit(self, event: Event, fields: Fields, wall: float) -> bool:
        """Say whether this one is written; where it is not, it was counted. `wall` is in seconds since the epoch."""
        now = self._clock()
        with self._lock:
            kind = self._kind(event, fields)
            account = self._accounts.setdefault(kind, _Account(now + DAY_S))
            self._end_what_is_over(kind, account, now)
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

    def over(self, *, everything: bool = False) -> list[dict[str, Value]]:
        """Return, once each, the fields of the `repeated` lines whose time is over; or of all, at a stop."""
        now = float("inf") if everything else self._clock()
        with self._lock:
            for kind, account in list(self._accounts.items()):
                self._end_what_is_over(kind, account, now)
                if account.window is None and not account.written:
                    del self._accounts[kind]
            lines, self._over = self._over, []
            return lines

    def _kind(self, event: Event, fields: Fields) -> Kind:
        kind = event, tuple(f"{name}={fields[name]}"[:_KEPT] for name in FOLDED[event] if fields.get(name) is not None)
        if kind in self._accounts or len(self._accounts) < MAX_KINDS:
            return kind
        return event, ("cause=others",)

    def _end_what_is_over(self, kind: Kind, account: _Account, now: float) -> None:
        if account.window is not None and now >= account.window.ends:
            if account.window.folded:
                self._over.append(_repeated(kind, account.window))
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
    event, told = kind
    return {
        "of": event.value,
        **dict(part.split("=", 1) for part in told),
        "count": window.folded,
        "first": iso(window.first),
        "last": iso(window.last),
        "addresses": window.addresses,
    }
