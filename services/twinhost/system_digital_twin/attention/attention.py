"""The attention list: what the detectors find, with since when, what is acknowledged, and who was told.

Each trouble is announced once, by an event, when it has lasted SETTLE_S without another one that explains it; its end,
once it has been absent for CALM_S, and for twice as long each time that it comes back soon. A consequence that is
absent ends with its cause. Both survive a restart: rows are written when a trouble begins, changes, and ends. Somebody
who is told by these events hears of one cause once.
"""

import hashlib
from collections.abc import Iterable, Set
from typing import Any

import msgspec
import structlog

from twinhost.agent.troubles import (
    AttentionItem,
    AttentionList,
    Detector,
    Kind,
    Remedy,
    Trouble,
    by_cause,
    item_of,
    list_of,
)
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.system_digital_twin import ITSELF
from twinhost.system_digital_twin.events.events import Events, Topic

_log = structlog.get_logger(__name__)

MIGRATION = """
CREATE TABLE troubles (
    id TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""
BEGAN, CHANGED, ENDED = "trouble_began", "trouble_changed", "trouble_ended"  # types of events
LOOK_EVERY_S = 1.0
REFRESH_EVERY_S = 0.1  # at most, for those who ask
SETTLE_S = 5.0  # in which a cause is found that explains it
CALM_S, MOST_CALM_S = 10.0, 320.0  # without it, until it has ended
SOON_S = 600.0  # after its end: one that comes back by then comes and goes
CHANGES_EVERY_S = 3_600.0  # at most, of one trouble
_SEEN_AT_ONCE = (Kind.HOST_SILENT, Kind.HOST_STOPPED, Kind.AGENTS_SILENT)  # after a start: the registry is on disk

_OF_A_DAY = (Kind.ERRORS, Kind.REFUSALS)  # the first that still counts is a later one with every hour


class _Known(msgspec.Struct, kw_only=True):
    """A trouble since it began; times are in seconds since the epoch."""

    trouble: Trouble
    since: float
    announced: Trouble | None = None  # as it was told last
    announced_at: float = 0.0
    acknowledged: Trouble | None = None  # as it was then
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0

    @property
    def is_acknowledged(self) -> bool:
        return self.acknowledged is not None and not _is_worse(self.trouble, self.acknowledged)


class Attention:
    """What is wrong. Its methods are for the thread that owns the database."""

    def __init__(self, database: Database, events: Events, grace_s: float) -> None:
        """Read what was wrong before a restart; what is not seen at once is kept for `grace_s`, until it can be."""
        self._database, self._events, self._clock = database, events, database.clock
        self._detectors: list[tuple[str, Detector]] = []
        self._known = _stored(database)
        now = self._clock.monotonic()
        # When it was seen first without a cause, and last, by the monotonic clock.
        self._first = dict.fromkeys(self._known, now)
        self._last = dict.fromkeys(self._known, now + grace_s - CALM_S)
        self._look_at = self._looked_at = now
        self._as_of = self._clock.time()
        self._remembered = set(self._known)  # from before the restart, and not found yet
        self._calming: set[str] = set()  # not found at the last look, and not ended yet
        self._calm_s: dict[str, float] = {}  # of those that came back soon
        self._ended: dict[str, tuple[float, float]] = {}  # of those that were told lately: when, and the calm before
        self._unwritten: set[str] = set()
        self._news_since: dict[str, float] = {}  # when each became news that is not announced yet
        self.revision = self._digest()

    @property
    def ids(self) -> Set[str]:
        """The ids of what is wrong now, and of what has ended only a moment ago; for detectors that look at both."""
        return self._known.keys()

    def unacknowledged(self, name: str) -> Trouble | None:
        """Return a trouble as it was found last, if it is on the list, and nobody has acknowledged it."""
        known = self._known.get(name)
        return None if known is None or known.is_acknowledged else known.trouble

    def watch(self, name: str, detector: Detector) -> None:
        """Have a detector asked once a second; what it finds is true at that moment."""
        self._detectors.append((name, detector))

    def on_tick(self) -> None:
        """Look, if it is time to; write and announce what has changed.

        Raises:
            StoreUnavailable: it could not be written, and nothing was announced; the list is right, and it is retried.
        """
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        absent = self._look(now)
        ended = {name for name in absent if now - self._last[name] >= self._calm_s.get(name, CALM_S)}
        roots = set[str]()
        for root, explained in by_cause(known.trouble for known in self._known.values()):
            roots.add(root.id)
            names = {trouble.id for trouble in explained}
            self._first |= dict.fromkeys(names, now)  # without its cause it has to last SETTLE_S anew
            if root.kind is Kind.CLOCKS_DIFFER and root.id in self._remembered and names - absent:
                ended.discard(root.id)  # a host that is silent because of its clock can't say it again
            if root.id in ended:
                ended |= names & absent
        told = {name: event for name in roots - self._remembered if (event := self._news(name, now)) is not None}
        self._news_since = {name: self._news_since.get(name, self._clock.time()) for name in told}
        if self._unwritten or ended or told:
            with self._database.transaction():
                self._write(ended, told)

    def refresh(self) -> None:
        """Look again: who asks after something has changed gets what is true now, and not a second ago."""
        now = self._clock.monotonic()
        if now - self._looked_at >= REFRESH_EVERY_S:
            self._look(now)

    def _look(self, now: float) -> set[str]:
        """Take what is found, and return what is not found any more; nothing, if a detector failed."""
        self._looked_at, self._as_of = now, self._clock.time()
        found, complete = self._find()
        for trouble in found:
            self._see(trouble, now)
        absent = self._known.keys() - {trouble.id for trouble in found} if complete else set()
        for name in absent & self._remembered:
            if self._known[name].trouble.kind in _SEEN_AT_ONCE:
                self._remembered.discard(name)
                self._last[name] = now
        self._calming = absent - self._remembered
        self.revision = self._digest()
        return absent

    def document(self) -> AttentionList:
        """Return the list, as of the last look: what was found then, and a cause whose consequences last longer."""
        items = []
        for root, explained in by_cause(known.trouble for known in self._known.values()):
            there = [self._known[trouble.id] for trouble in explained if trouble.id not in self._calming]
            if there or root.id not in self._calming:
                items.append(self._item(self._known[root.id], there))
        document = list_of(items, iso_time(self._as_of))
        if self._calming:
            document["ending"] = sorted(self._calming)
        return document

    def members(self, kind: Kind) -> int:
        """Return how many members the troubles of a kind have, whoever acknowledged or explains them."""
        return sum(len(known.trouble.members) for known in self._known.values() if known.trouble.kind is kind)

    def acknowledge(self, name: str, by: str) -> None:
        """Acknowledge a trouble as it is now, in the current transaction.

        Raises:
            NotFound: nothing of this id is wrong.
        """
        known = self._known.get(name)
        if known is None:
            raise NotFound(f"no trouble {name[:64]!r} is on the list; see it with: ./twinhost attention")
        before = msgspec.structs.replace(known)
        known.acknowledged, known.acknowledged_by, known.acknowledged_at = known.trouble, by, self._clock.time()
        self._database.on_rollback(self._known.__setitem__, name, before)
        self._put(name)

    def _digest(self) -> str:
        """Return a digest of the list, without the figures in its sentences: it changes where somebody should look."""
        shown = sorted(
            (name, known.trouble.level, known.trouble.members, known.is_acknowledged)
            for name, known in self._known.items()
        )
        return hashlib.blake2b(repr(shown).encode(), digest_size=8).hexdigest()

    def _find(self) -> tuple[list[Trouble], bool]:
        """Return what all detectors find, and whether none of them failed."""
        found: dict[str, Trouble] = {}
        complete = True
        for name, detector in self._detectors:
            try:
                found |= {trouble.id: trouble for trouble in detector()}
            except Exception as error:  # noqa: BLE001 - boundary: the others must go on, and this is shown
                complete = False
                failed = _failed(name, error)
                if failed.id not in self._known:
                    _log.exception("detector_failed", detector=name)
                found[failed.id] = failed
        return list(found.values()), complete

    def _see(self, trouble: Trouble, now: float) -> None:
        self._remembered.discard(trouble.id)
        known = self._known.get(trouble.id)
        if known is None:
            since = self._clock.time() if trouble.since is None else trouble.since
            self._known[trouble.id] = _Known(trouble=trouble, since=since)
            self._first[trouble.id] = now
            self._unwritten.add(trouble.id)
            at, calm_s = self._ended.pop(trouble.id, (0.0, 0.0))
            if calm_s and now - at <= SOON_S:
                self._calm_s[trouble.id] = min(2 * calm_s, MOST_CALM_S)
        else:
            if known.trouble.members != trouble.members or known.trouble.level != trouble.level:
                self._unwritten.add(trouble.id)
            known.trouble = trouble
            if trouble.since is not None:
                known.since = min(known.since, trouble.since) if trouble.kind in _OF_A_DAY else trouble.since
        self._last[trouble.id] = now

    def _news(self, name: str, now: float) -> str | None:
        """Return the type of the event that a root cause is due, if it is due one."""
        known = self._known[name]
        if known.announced is None:
            return BEGAN if min(self._last[name], now) - self._first[name] >= SETTLE_S else None
        if known.is_acknowledged or not _is_worse(known.trouble, known.announced):
            return None
        rose = known.trouble.level > known.announced.level
        return CHANGED if rose or self._clock.time() - known.announced_at >= CHANGES_EVERY_S else None

    def _write(self, ended: Iterable[str], told: dict[str, str]) -> None:
        """Write what has changed, and the events; what is in memory follows once that is on disk."""
        time = self._clock.time()
        for name, event in told.items():
            known = self._known[name]
            self._announce(event, known, time)
            self._database.on_rollback(self._known.__setitem__, name, msgspec.structs.replace(known))
            known.announced, known.announced_at = known.trouble, self._news_since[name]
        for name in {*told, *self._unwritten}:
            self._put(name)
        for name in ended:
            if self._known[name].announced is not None:
                self._announce(ENDED, self._known[name], time)
            self._database.execute("DELETE FROM troubles WHERE id = ?", (name,))
        self._database.after_commit(self._forget, tuple(ended), tuple(self._unwritten))

    def _forget(self, ended: Iterable[str], written: Iterable[str]) -> None:
        self._unwritten.difference_update(written)
        now = self._clock.monotonic()
        self._ended = {name: end for name, end in self._ended.items() if now - end[0] <= SOON_S}
        for name in ended:
            calm_s = self._calm_s.pop(name, CALM_S)
            if self._known[name].announced is not None:
                self._ended[name] = now, calm_s
            del self._known[name], self._first[name], self._last[name]

    def _put(self, name: str) -> None:
        self._database.execute(
            "INSERT INTO troubles VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record",
            (name, msgspec.json.encode(self._known[name])),
        )

    def _announce(self, what: str, known: _Known, time: float) -> None:
        own = ("evidence", "acknowledged", "announced")  # of the list alone
        data: dict[str, Any] = {name: value for name, value in self._item(known, []).items() if name not in own}
        if what == ENDED:
            data["lasted_s"] = round(max(0.0, time - known.since), 1)
        event = {
            "event_id": f"{what}-{known.trouble.id}-{iso_time(time)}",
            "event_type": what,
            "source_agent": ITSELF,
            "data": data,
            "propagate": True,
            "ttl": None,
        }
        self._events.add(Topic.EVENT, event, ITSELF)

    def _item(self, known: _Known, explained: Iterable[_Known]) -> AttentionItem:
        item = item_of(known.trouble, known.since, [(other.trouble, other.since) for other in explained])
        announced_at = known.announced_at if known.announced is not None else None
        if (news_at := self._news_since.get(known.trouble.id, announced_at)) is not None:
            item["announced"] = iso_time(news_at)  # also if the event can't be stored, as on a full disk
        if known.is_acknowledged:
            item["acknowledged"] = {"by": known.acknowledged_by, "at": iso_time(known.acknowledged_at)}
        return item


def _stored(database: Database) -> dict[str, _Known]:
    """Return what was wrong before a restart, but for what another version calls otherwise; it is found again."""
    decoder, known = msgspec.json.Decoder(_Known), {}
    for name, record in database.execute("SELECT id, record FROM troubles").fetchall():
        try:
            known[name] = decoder.decode(record)
        except msgspec.ValidationError as error:
            _log.warning("trouble_of_another_version", id=name, reason=str(error))
    return known


def _is_worse(now: Trouble, before: Trouble) -> bool:
    """Return whether a trouble has risen, or has new members."""
    return now.level > before.level or not set(now.members) <= set(before.members)


def _failed(name: str, error: Exception) -> Trouble:
    return Trouble(
        kind=Kind.DETECTOR_FAILED,
        subject=name,
        what=f"the detector {name} failed, so what it looks for is not shown",
        cause=f"{type(error).__name__}: {error}"[:200],
        remedies=(Remedy("mainpc", "docker compose logs mainpc", "shows its traceback; report it"),),
    )
