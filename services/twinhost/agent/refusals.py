"""Refused connections of the last day, by cause, address and known peer; they survive a restart.

They are counted where they are refused, with dictionary look-ups, and written every few seconds. However many addresses
a flood comes from, MOST_KEPT are kept apart: where there are more, those that were refused least are counted together
from then on.

Once a peer is accepted, what was refused at the same address because of its old key, of a wrong pin, or of a lack of
CURVE is settled and forgotten, as is a lack of CURVE at an address that is not known. `doctor` makes some of each. So
is a lack of CURVE right after that: an agent that was paused finds a peer's attempts of the meantime with the last one.
"""

import threading
from collections.abc import Callable, Mapping

import msgspec

from twinhost.secure_zmq.peers import Outcome
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE refusals (
    cause TEXT NOT NULL,
    address TEXT NOT NULL,
    peer TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (cause, address, peer)
) STRICT, WITHOUT ROWID;
"""
OTHERS = ""  # the address of those that are not kept apart
UNKNOWN = "an unknown address"  # that of a connection which had ended before a busy agent looked at it
MOST_KEPT = 200
_MERGED = 50  # at once, so that a flood from many addresses does not look for the least at each refusal
_OLD_KEY = (Outcome.KEY_REVOKED, Outcome.KEY_EXPIRED, Outcome.KEY_NOT_YET_VALID)
_WITHOUT_CURVE = (Outcome.MECHANISM_MISMATCH, Outcome.BROKEN_OFF, Outcome.NOT_ZMTP)  # of somebody without a key
_HOURS = 24
_HOUR_S = 3_600.0
_SAVE_EVERY_S = 5.0
LATE_S = 5.0  # after a peer was accepted, as above

_Key = tuple[Outcome, str, str]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Connections that were refused and are not settled; `count` is that of the last day, `first` and `last` moments.

    `peer` is the owner of the key, where that is known; `fingerprint` is that of the newest key.
    """

    cause: Outcome
    address: str
    peer: str
    fingerprint: str
    count: int
    first: float
    last: float


class _Row(msgspec.Struct):
    first: float
    last: float
    hours: dict[int, int]  # since the epoch: the counts
    fingerprint: str = ""


class Refusals:
    """Counts refused connections: `note` on any thread, everything else on the one that owns the database."""

    def __init__(self, database: Database, owner_of: Callable[[str], str]) -> None:
        """Read those of before a restart; `owner_of` returns the name of a key's owner, or "", on any thread."""
        self._database, self._owner_of, self._clock = database, owner_of, database.clock
        self._lock = threading.Lock()
        decode = msgspec.json.Decoder(_Row).decode
        self._rows: dict[_Key, _Row] = {
            (Outcome(cause), address, peer): decode(record)
            for cause, address, peer, record in database.execute("SELECT cause, address, peer, record FROM refusals")
            if cause in Outcome.__members__.values()
        }
        self._accepted: dict[str, float] = {}  # by address: when a peer was accepted last, by the monotonic clock
        self._unsaved: set[_Key] = set()
        self._save_at = 0.0
        self.changes = 0  # grows with each

    def note(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        """Count a handshake that was refused; an accepted one settles those before it."""
        if outcome is Outcome.ACCEPTED:
            self._settle(fields["address"], fields["peer"])
            return
        now, fingerprint = self._clock.time(), fields.get("fingerprint", "")
        peer = fields.get("peer") or (self._owner_of(fingerprint) if fingerprint else "")
        key = outcome, fields.get("address", UNKNOWN), peer
        with self._lock:
            if outcome in _WITHOUT_CURVE and self._is_late(key[1]):
                return
            if key not in self._rows and len(self._rows) >= MOST_KEPT:
                self._merge_the_least(now)
            row = self._rows.setdefault(key, _Row(now, now, {}))
            _add(row, {int(now // _HOUR_S): 1}, now, now)
            row.fingerprint = fingerprint
            self._unsaved.add(key)
            self.changes += 1

    def recent(self) -> list[Refused]:
        """Return those of the last day, most frequent first."""
        now = self._clock.time()
        with self._lock:
            found = [
                Refused(
                    cause=cause,
                    address=address,
                    peer=peer,
                    fingerprint=row.fingerprint,
                    count=count,
                    first=row.first,
                    last=row.last,
                )
                for (cause, address, peer), row in self._rows.items()
                if (count := _counted(row.hours, now))
            ]
        return sorted(found, key=lambda refused: -refused.count)

    def on_tick(self) -> None:
        """Write what has changed, and forget what is a day old, every few seconds.

        Raises:
            StoreUnavailable: it is kept in memory, and is written with the next ones.
        """
        now = self._clock.monotonic()
        if now >= self._save_at:
            self._save_at = now + _SAVE_EVERY_S
            self.save()

    def save(self) -> None:
        """Write what has changed."""
        now = self._clock.time()
        with self._lock:
            old = [key for key, row in self._rows.items() if not _counted(row.hours, now)]
            for key in old:
                del self._rows[key]
                self._unsaved.add(key)
            unsaved, self._unsaved = self._unsaved, set()
            records = {key: msgspec.json.encode(self._rows[key]) for key in unsaved if key in self._rows}
        if not unsaved:
            return
        try:
            with self._database.transaction():
                self._database.execute_many(
                    "DELETE FROM refusals WHERE cause = ? AND address = ? AND peer = ?",
                    [(cause.value, address, peer) for cause, address, peer in unsaved],
                )
                self._database.execute_many(
                    "INSERT INTO refusals VALUES (?, ?, ?, ?)",
                    [(cause.value, address, peer, record) for (cause, address, peer), record in records.items()],
                )
        except BaseException:
            with self._lock:
                self._unsaved |= unsaved
            raise

    def _is_late(self, address: str) -> bool:
        return self._clock.monotonic() - self._accepted.get(address, -LATE_S) < LATE_S

    def _settle(self, address: str, peer: str) -> None:
        with self._lock:
            for where in (address, UNKNOWN):
                self._accepted.pop(where, None)
                self._accepted[where] = self._clock.monotonic()
            if len(self._accepted) > MOST_KEPT:
                del self._accepted[next(iter(self._accepted))]
            for key in (
                *((cause, address, peer) for cause in _OLD_KEY),
                *((cause, where, "") for cause in _WITHOUT_CURVE for where in (address, UNKNOWN)),
                (Outcome.WRONG_KEYS, address, ""),
            ):
                if self._rows.pop(key, None) is not None:
                    self._unsaved.add(key)
                    self.changes += 1

    def _merge_the_least(self, now: float) -> None:
        """Count the addresses that were refused least, and longest ago, among the others of their cause."""
        named = [(_counted(row.hours, now), row.last, key) for key, row in self._rows.items() if key[1] != OTHERS]
        for _, _, least in sorted(named)[:_MERGED]:
            row = self._rows.pop(least)
            others = least[0], OTHERS, ""
            _add(self._rows.setdefault(others, _Row(row.first, row.last, {})), row.hours, row.first, row.last)
            self._unsaved |= {least, others}


def _counted(hours: Mapping[int, int], now: float) -> int:
    newest = int(now // _HOUR_S)
    return sum(count for hour, count in hours.items() if abs(newest - hour) < _HOURS)  # a clock may go back


def _add(row: _Row, hours: Mapping[int, int], first: float, last: float) -> None:
    row.first, row.last = min(row.first, first), max(row.last, last)
    for hour, count in hours.items():
        row.hours[hour] = row.hours.get(hour, 0) + count
    newest = max(row.hours, default=0)
    for hour in [hour for hour in row.hours if hour <= newest - _HOURS]:
        del row.hours[hour]
