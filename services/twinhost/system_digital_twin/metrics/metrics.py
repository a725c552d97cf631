"""The metrics of every host: the newest samples in memory, and their means and maxima in SQLite.

A sample is dated by mainpc's clock when it comes, so that the hosts' clocks need not agree, and it is
current by the monotonic one. What a host measured is never shown as current once it has fallen silent.

A sample that names its own moment is counted once, however often it is told, and is on disk before that is
answered. One that comes late, because its host was cut off, is in the history and never current.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from twinhost.agent.host_metrics.sample import HostSample
from twinhost.secure_zmq.errors import LimitReached, NotFound, StoreUnavailable
from twinhost.store.database import Database
from twinhost.system_digital_twin.deduplication import TakenOnce
from twinhost.system_digital_twin.metrics.history import Bucket, History

MIGRATION = """
CREATE TABLE vram_reports (
    agent_name TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL
) STRICT;
"""
MAX_REPORTS = 256


class VramReport(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's newest report; `devices` is the MB of its models on each device."""

    agent_name: str
    host: str
    total_vram_mb: float
    total_vram_used_mb: float
    devices: dict[str, float]
    models: int
    wall: float = 0.0


class VramReports:
    """The newest report of each agent."""

    def __init__(self, database: Database) -> None:
        self._database = database
        decoder = msgspec.json.Decoder(VramReport)
        self._reports: dict[str, VramReport] = {
            name: decoder.decode(record)
            for name, record in database.execute("SELECT agent_name, record FROM vram_reports")
        }

    def put(self, report: VramReport) -> None:
        """Keep a report in place of the agent's one before; where there are MAX_REPORTS, the oldest goes."""
        before = dict(self._reports)
        report = msgspec.structs.replace(report, wall=time.time())
        if report.agent_name not in before and len(before) >= MAX_REPORTS:
            oldest = min(before.values(), key=lambda each: each.wall).agent_name
            self._database.execute("DELETE FROM vram_reports WHERE agent_name = ?", (oldest,))
            del self._reports[oldest]
        self._database.execute(
            "INSERT INTO vram_reports VALUES (?, ?) ON CONFLICT (agent_name) DO UPDATE SET record = excluded.record",
            (report.agent_name, msgspec.json.encode(report)),
        )
        self._reports[report.agent_name] = report

        def undo() -> None:
            self._reports = before

        self._database.on_rollback(undo)

    def all(self) -> list[VramReport]:
        """Return the reports, by agent."""
        return [self._reports[name] for name in sorted(self._reports)]


KEPT_IN_MEMORY = 60  # samples of a host
STALE_AFTER = 3  # intervals
MAX_HOSTS = 64
_RETRY_S = 5.0  # until a history that could not be written is tried again
_MAX_WAITING = 10_000  # minutes that wait for a store that can be written


class _Host(msgspec.Struct, frozen=True):
    """What is in memory of one host. Replaced as a whole, so that a request that is undone leaves nothing."""

    samples: tuple[HostSample, ...] = ()  # late ones too
    newest: HostSample | None = None  # of those that came in time
    heard: float = 0.0  # monotonic
    measured_since: float = 0.0  # monotonic: the newest sample was taken after that
    minute: Bucket | None = None


class Metrics:
    """Samples by host; one thread reads and writes, and the own host's sampler leaves its own in `queue()`."""

    def __init__(self, database: Database, interval_s: float, own_host: str, hosts: Sequence[str]) -> None:
        """Expect a sample of each host every `interval_s`; `hosts` are those that are known before they report."""
        self._database = database
        self._stale_after_s = STALE_AFTER * interval_s
        self._own_host = own_host
        self._configured = frozenset({own_host, *hosts})
        self._hosts: dict[str, _Host] = {name: _Host() for name in sorted(self._configured)}
        self._closed: tuple[tuple[str, Bucket], ...] = ()  # minutes that are over, not yet on disk
        self._write_due = 0.0
        self._queue: deque[tuple[HostSample, float]] = deque(maxlen=KEPT_IN_MEMORY)
        self._queued_at = 0.0  # the sampler's alone
        self.history_on_disk = History(database)
        self._once = TakenOnce(database)

    @property
    def own_host(self) -> str:
        """The host that this process runs on, which measures itself."""
        return self._own_host

    def hosts(self) -> list[str]:
        """Return every host, the own one first."""
        return sorted(self._hosts, key=lambda name: (name != self._own_host, name))

    def is_configured(self, host: str) -> bool:
        return host in self._configured

    def queue(self, sample: HostSample) -> None:
        """Leave a sample of the own host for the next tick; called by the one thread that takes them."""
        self._queue.append((sample, self._queued_at))
        self._queued_at = time.monotonic()

    def ingest(self, host: str, sample: HostSample, since: float | None = None) -> None:
        """Take a sample that was measured after the monotonic moment `since`, or after the one before had come.

        Raises:
            LimitReached: it is of one host more than MAX_HOSTS, all of which report.
        """
        dated = msgspec.structs.replace(sample, wall=time.time())
        if host == self._own_host and sample.latency_ms is None:
            dated = msgspec.structs.replace(dated, latency_ms=self._latency_to_others())
        known = self._take(host, dated, since)
        minute, over = (known.minute or Bucket.at(dated.wall)).add(dated)
        self._hosts[host] = msgspec.structs.replace(self._hosts[host], minute=minute)
        if over is not None:
            self._close_minute(host, over)

    def ingest_once(self, host: str, sample: HostSample, late_by_s: float | None = None) -> bool:
        """Take a sample that names its moment by its host's clock, and count it on disk; return False where it was.

        Args:
            sample: `wall` is that moment, in seconds since the epoch; to the millisecond no other sample has it.
            late_by_s: how many seconds ago that was, where the sample is told late; it becomes no current one. What
                would be before the epoch is dated to the epoch.

        Raises:
            LimitReached: as of `ingest`; a late one has no limit.
        """
        scope, key = f"sample of {host}", round(sample.wall * 1_000).to_bytes(8, "big", signed=True)
        if self._once.find(scope, key) is not None:
            return False
        self._once.note(scope, key, 0)
        # A host whose clock is wrong may say more than there was since the epoch; no reader is told such a moment.
        dated = msgspec.structs.replace(sample, wall=max(0.0, time.time() - (late_by_s or 0.0)))
        self.history_on_disk.add(host, Bucket.at(dated.wall).add(dated)[0], late_by_s or 0.0)
        if late_by_s is None:
            self._take(host, dated, None)
        else:
            self._take_late(host, dated)
        return True

    def _take(self, host: str, sample: HostSample, since: float | None) -> _Host:
        """Make a sample the current one; return what was known before."""
        before = self._hosts.get(host)
        if before is None:
            self._make_room()
        known = before or _Host()
        self._hosts[host] = msgspec.structs.replace(
            known,
            samples=(*known.samples, sample)[-KEPT_IN_MEMORY:],
            newest=sample,
            heard=time.monotonic(),
            measured_since=known.heard if since is None else since,
        )
        self._undo_with(lambda: self._put_back(host, before))
        return known

    def _take_late(self, host: str, sample: HostSample) -> None:
        """Put a sample in its place among those in memory, where there is one for it."""
        before = self._hosts.get(host)
        if before is None:
            return
        samples = sorted((*before.samples, sample), key=lambda each: each.wall)
        self._hosts[host] = msgspec.structs.replace(before, samples=tuple(samples[-KEPT_IN_MEMORY:]))
        self._undo_with(lambda: self._put_back(host, before))

    def _close_minute(self, host: str, minute: Bucket) -> None:
        before = self._closed
        self._closed = (*before, (host, minute))[-_MAX_WAITING:]

        def undo() -> None:
            self._closed = before

        self._undo_with(undo)

    def _put_back(self, host: str, before: _Host | None) -> None:
        if before is None:
            del self._hosts[host]
        else:
            self._hosts[host] = before

    def _undo_with(self, undo: Callable[[], None]) -> None:
        if self._database.in_transaction:
            self._database.on_rollback(undo)

    def stale(self, host: str) -> bool:
        """Return whether nothing current is known of a host: no sample within three intervals."""
        known = self._get(host)
        return known.newest is None or time.monotonic() - known.heard > self._stale_after_s

    def current(self, host: str) -> HostSample | None:
        """Return how a host is now, or None where that is not known.

        Raises:
            NotFound: there is no such host.
        """
        return None if self.stale(host) else self._get(host).newest

    def last_heard(self, host: str) -> float | None:
        """Return when a host's newest sample came, in seconds since the epoch; None where none has."""
        newest = self._get(host).newest
        return newest.wall if newest else None

    def measured_since(self, host: str) -> float:
        """Return a monotonic moment after which a host's newest sample was taken for certain."""
        return self._get(host).measured_since

    def samples(self, host: str) -> tuple[HostSample, ...]:
        """Return the samples in memory, oldest first."""
        return self._get(host).samples

    def on_tick(self) -> None:
        """Take what the own host has measured, and write minutes that are over.

        Raises:
            StoreUnavailable: they can't be written now; they are kept and tried again.
        """
        while self._queue:
            sample, since = self._queue.popleft()
            self.ingest(self._own_host, sample, since)
        self._close_minutes_of_the_silent()
        if self._closed and time.monotonic() >= self._write_due:
            self._write(self._closed)

    def close(self) -> None:
        """Write the minutes under way too; after a restart they are added to."""
        self._write(
            (*self._closed, *((name, host.minute) for name, host in self._hosts.items() if host.minute is not None))
        )

    def _write(self, minutes: tuple[tuple[str, Bucket], ...]) -> None:
        try:
            with self._database.transaction():
                for host, bucket in minutes:
                    self.history_on_disk.add(host, bucket)
        except StoreUnavailable:
            self._write_due = time.monotonic() + _RETRY_S
            raise
        self._closed = ()

    def _close_minutes_of_the_silent(self) -> None:
        wall = time.time()
        for name, host in self._hosts.items():
            if host.minute is not None and not host.minute.holds(wall) and self.stale(name):
                self._close_minute(name, host.minute)
                self._hosts[name] = msgspec.structs.replace(host, minute=None)

    def _latency_to_others(self) -> float | None:
        """Return the round trip as the other end measured it: it is that of the same link, and the slowest counts."""
        others = [self.current(name) for name in self._hosts if name != self._own_host]
        return max((each.latency_ms for each in others if each and each.latency_ms is not None), default=None)

    def _make_room(self) -> None:
        """Forget the host that has been silent for longest, where there are as many as may be."""
        if len(self._hosts) < MAX_HOSTS:
            return
        silent = [name for name in self._hosts if name not in self._configured and self.stale(name)]
        if not silent:
            raise LimitReached(f"{MAX_HOSTS} hosts report their metrics and no more are taken; stop one of them")
        oldest = min(silent, key=lambda name: self._hosts[name].heard)
        forgotten = self._hosts.pop(oldest)
        self._undo_with(lambda: self._hosts.update({oldest: forgotten}))

    def _get(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            raise NotFound(f"no host {host[:64]!r} is known; there are: {', '.join(self.hosts())}")
        return known
