"""The metrics of every host: the newest samples in memory, and their means and maxima in SQLite.

mainpc's clock dates a sample when it arrives, so the hosts' clocks need not agree. Whether a sample is current is
decided by the monotonic clock; the last sample of a host that has stopped reporting is not shown as current. If
mainpc's clock is set back, the samples in memory are dated again, and keep their order; rows on disk keep their time.

A sample that has a time of its own is counted once, even if it is sent again, and is on disk before the reply. A late
one, from a host that was disconnected, enters the history and is never current.
"""

from collections import deque
from collections.abc import Sequence
from typing import Literal, TypedDict

import msgspec

from twinhost.agent.host_metrics import ContainerSample, GpuSample, HostSample, MachineSample
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import LimitReached, NotFound, StoreUnavailable
from twinhost.store.database import Database
from twinhost.system_digital_twin.deduplication import Deduplication
from twinhost.system_digital_twin.metrics.history import (
    COLUMNS,
    MINUTE_S,
    Bucket,
    MetricsHistory,
    Resolution,
    TimeSeries,
    rounded,
)

KEPT_IN_MEMORY = 60  # samples of a host
STALE_AFTER = 3  # intervals
MAX_HOSTS = 64
_STEP_S = 1.0  # of the clock; less is how it is corrected gradually
_RETRY_S = 5.0  # until a failed write of the history is retried
_MAX_WAITING = 10_000  # minutes, while the database can't be written


class HostMetrics(TypedDict):
    """A host's current metrics: those of its machine, and under `container` those of the agent's container, if any.

    They are null and `stale` if the host stopped reporting. `same_machine` names the other hosts that are on the same
    machine: their figures describe one capacity, not two. `limited`: an older host, whose CPU and RAM are those of its
    container.
    """

    cpu_usage: float | None
    ram_usage_mb: float | None
    ram_available_mb: float | None
    ram_total_mb: float | None
    vram_usage_mb: float | None
    vram_total_mb: float | None
    network_latency_ms: float | None
    timestamp: str
    stale: bool
    limited: bool | None
    gpus: list[GpuSample]
    machine: MachineSample | None
    container: ContainerSample | None
    same_machine: list[str]


class _Host(msgspec.Struct, frozen=True):
    """One host in memory. It is replaced as a whole, so that a rollback can restore it."""

    samples: tuple[HostSample, ...] = ()  # late ones too
    newest: HostSample | None = None  # of those that were not late
    received_at: float = 0.0  # monotonic
    measured_since: float = 0.0  # monotonic: the newest sample was taken later
    minute: Bucket | None = None

    def moved_by(self, step_s: float) -> "_Host":
        """Return it with its samples dated by a clock that was set by a step."""
        samples = tuple(_moved(sample, step_s) for sample in self.samples)
        return msgspec.structs.replace(self, samples=samples, newest=self.newest and _moved(self.newest, step_s))


class Metrics:
    """Samples by host, for one thread; the sampler's thread adds those of this host with `queue()`."""

    def __init__(self, database: Database, interval_s: float, own_host: str, hosts: Sequence[str]) -> None:
        """Expect a sample of each host every `interval_s`; `hosts` are known before they report."""
        self._database = database
        self._clock = database.clock
        self.stale_after_s = STALE_AFTER * interval_s
        self.own_host = own_host  # which measures itself
        self._hosts: dict[str, _Host] = {}
        self.expect(hosts)
        self._clock_offset = self._clock.time() - self._clock.monotonic()
        self.dated_since = 0.0  # rows from this time on are of one clock; in seconds since the epoch
        self._closed: tuple[tuple[str, Bucket], ...] = ()  # complete minutes, not yet on disk
        self._write_due = 0.0
        self._queue: deque[tuple[HostSample, float]] = deque(maxlen=KEPT_IN_MEMORY)
        self._queued_at = 0.0  # used by the sampler's thread only
        self.history_on_disk = MetricsHistory(database)
        self._once = Deduplication(database)

    def expect(self, hosts: Sequence[str]) -> None:
        """Know these hosts before they report; one that is known stays as long as there is room."""
        self._configured = {name: place for place, name in enumerate(dict.fromkeys((self.own_host, *hosts)))}
        self._hosts |= {name: _Host() for name in self._configured if name not in self._hosts}

    def hosts(self) -> list[str]:
        """Return every host: the own one, then the others of the configuration in its order, then the rest."""
        return sorted(self._hosts, key=lambda name: (self._configured.get(name, len(self._configured)), name))

    def is_configured(self, host: str) -> bool:
        return host in self._configured

    def queue(self, sample: HostSample) -> None:
        """Keep a sample of this host for the next tick; called by the sampler's thread."""
        self._queue.append((sample, self._queued_at))
        self._queued_at = self._clock.monotonic()

    def ingest(self, host: str, sample: HostSample, since: float | None = None) -> None:
        """Add a sample that was measured after the monotonic moment `since`, by default the previous sample's arrival.

        Raises:
            LimitReached: it is a new host's, and MAX_HOSTS others report.
        """
        self._follow_clock()
        dated = msgspec.structs.replace(sample, wall=self._clock.time())
        if host == self.own_host and sample.latency_ms is None:
            dated = msgspec.structs.replace(dated, latency_ms=self._latency_to_others())
        known = self._add(host, dated, since)
        minute, complete = (known.minute or Bucket.at(dated.wall)).add(dated)
        self._hosts[host] = msgspec.structs.replace(self._hosts[host], minute=minute)
        if complete is not None:
            self._close_minute(host, complete)

    def ingest_once(self, host: str, sample: HostSample, late_by_s: float | None = None) -> bool:
        """Add a sample that has a time of its own, and write it; return False if it was added before.

        Args:
            host: where it was measured.
            sample: `wall` is its time by the host's clock; to the millisecond it identifies the sample.
            late_by_s: the age of a late sample in seconds; it does not become the current one.

        Raises:
            LimitReached: as for `ingest`; never for a late sample.
        """
        scope, key = f"sample of {host}", round(sample.wall * 1_000).to_bytes(8, "big", signed=True)
        if self._once.find(scope, key) is not None:
            return False
        self._once.record(scope, key, 0)
        self._follow_clock()
        # A host with a wrong clock may give an age before the epoch, which no reader could format.
        dated = msgspec.structs.replace(sample, wall=max(0.0, self._clock.time() - (late_by_s or 0.0)))
        self.history_on_disk.add(host, Bucket.at(dated.wall).add(dated)[0], late_by_s or 0.0)
        if late_by_s is None:
            self._add(host, dated, None)
        else:
            self._add_late(host, dated)
        return True

    def _follow_clock(self) -> None:
        """Date the samples in memory again after the clock was set back: they must stay before those that follow.

        Rows from before a step, in either direction, have times that do not fit the rows after it.
        """
        now = self._clock.time()
        offset = now - self._clock.monotonic()
        step_s, self._clock_offset = offset - self._clock_offset, offset
        if abs(step_s) >= MINUTE_S:
            self.dated_since = max(now, now - step_s)
        if step_s <= -_STEP_S:
            self._hosts = {name: host.moved_by(step_s) for name, host in self._hosts.items()}

    def _add(self, host: str, sample: HostSample, since: float | None) -> _Host:
        """Make a sample the current one; return what was in memory before."""
        before = self._hosts.get(host)
        if before is None:
            self._make_room()
        known = before or _Host()
        self._database.restore_on_rollback(self._hosts, host)
        self._hosts[host] = msgspec.structs.replace(
            known,
            samples=(*known.samples, _past(sample))[-KEPT_IN_MEMORY:],
            newest=sample,
            received_at=self._clock.monotonic(),
            measured_since=known.received_at if since is None else since,
        )
        return known

    def _add_late(self, host: str, sample: HostSample) -> None:
        """Insert a sample by its time among those in memory, if the host is known."""
        before = self._hosts.get(host)
        if before is None:
            return
        samples = sorted((*before.samples, _past(sample)), key=lambda sample: sample.wall)
        self._database.restore_on_rollback(self._hosts, host)
        self._hosts[host] = msgspec.structs.replace(before, samples=tuple(samples[-KEPT_IN_MEMORY:]))

    def _close_minute(self, host: str, minute: Bucket) -> None:
        self._database.on_rollback(setattr, self, "_closed", self._closed)
        self._closed = (*self._closed, (host, minute))[-_MAX_WAITING:]

    def stale(self, host: str) -> bool:
        """Return whether a host has sent no sample within STALE_AFTER intervals."""
        known = self._get(host)
        return known.newest is None or self._clock.monotonic() - known.received_at > self.stale_after_s

    def current(self, host: str) -> HostSample | None:
        """Return a host's current sample, or None if it is stale; NotFound for an unknown host."""
        return None if self.stale(host) else self._get(host).newest

    def last(self, host: str) -> HostSample | None:
        """Return a host's newest sample, however old it is; None: it never sent one."""
        return self._get(host).newest

    def last_received(self, host: str) -> float | None:
        """Return when a host's newest sample arrived, in seconds since the epoch; None: never."""
        newest = self._get(host).newest
        return newest.wall if newest else None

    def measured_since(self, host: str) -> float:
        """Return a monotonic moment that is certainly before a host's newest sample."""
        return self._get(host).measured_since

    def machine_of(self, host: str) -> str | None:
        """Return the boot id of the machine that a host was last on; None if it is not known."""
        newest = self._get(host).newest
        return newest.machine.boot_id if newest is not None and newest.machine is not None else None

    def same_machine(self, host: str) -> list[str]:
        """Return the other hosts that are on the same machine, also those that are stale."""
        machine = self.machine_of(host)
        return [name for name in self.hosts() if name != host and machine and self.machine_of(name) == machine]

    def samples(self, host: str) -> tuple[HostSample, ...]:
        """Return the samples in memory, oldest first."""
        return self._get(host).samples

    def now(self, host: str) -> HostMetrics:
        """Return a host's current metrics as a reply has them."""
        sample, received = self.current(host), self.last_received(host)
        return {
            "cpu_usage": rounded(sample.cpu_percent) if sample else None,
            "ram_usage_mb": rounded(sample.ram_used_mb) if sample else None,
            "ram_available_mb": rounded(max(0.0, sample.ram_total_mb - sample.ram_used_mb)) if sample else None,
            "ram_total_mb": rounded(sample.ram_total_mb) if sample else None,
            "vram_usage_mb": rounded(sample.vram_used_mb) if sample else None,
            "vram_total_mb": rounded(sample.vram_total_mb) if sample else None,
            "network_latency_ms": rounded(sample.latency_ms, 3) if sample else None,
            "timestamp": iso_time(self._clock.time() if received is None else received),  # of the newest sample, if any
            "stale": sample is None,
            "limited": sample.limited if sample else None,
            "gpus": [*sample.gpus] if sample else [],
            "machine": sample.machine if sample else None,
            "container": sample.container if sample else None,
            "same_machine": self.same_machine(host),
        }

    def series(self, host: str, resolution: Literal["sample"] | Resolution = "sample") -> TimeSeries:
        """Return a host's samples in memory, or its means per minute or hour on disk; NotFound for an unknown host."""
        samples = self.samples(host)
        if resolution != "sample":
            return self.history_on_disk.series(host, resolution)
        return {
            "timestamps": [iso_time(sample.wall) for sample in samples],
            **{  # type: ignore[typeddict-item] # they are the keys of TimeSeries
                column.title: [rounded(column.of(sample), column.digits) for sample in samples] for column in COLUMNS
            },
        }

    def rows(self, host: str, resolution: Resolution, newest_s: float) -> list[bytes]:
        """Return a host's rows on disk of the newest seconds, each a `Bucket`; NotFound for an unknown host."""
        self._get(host)
        return self.history_on_disk.rows(host, resolution, newest_s)

    def on_tick(self) -> None:
        """Add the samples of this host, and write complete minutes.

        Raises:
            StoreUnavailable: they can't be written now; the write is retried.
        """
        while self._queue:
            sample, since = self._queue.popleft()
            self.ingest(self.own_host, sample, since)
        self._close_minutes_of_stale_hosts()
        if self._closed and self._clock.monotonic() >= self._write_due:
            self._write(self._closed)

    def close(self) -> None:
        """Write the incomplete minutes too; after a restart, samples are added to them."""
        self._write(
            (*self._closed, *((name, host.minute) for name, host in self._hosts.items() if host.minute is not None))
        )

    def _write(self, minutes: tuple[tuple[str, Bucket], ...]) -> None:
        try:
            with self._database.transaction():
                for host, bucket in minutes:
                    self.history_on_disk.add(host, bucket)
        except StoreUnavailable:
            self._write_due = self._clock.monotonic() + _RETRY_S
            raise
        self._closed = ()

    def _close_minutes_of_stale_hosts(self) -> None:
        wall = self._clock.time()
        for name, host in self._hosts.items():
            if host.minute is not None and not host.minute.holds(wall) and self.stale(name):
                self._close_minute(name, host.minute)
                self._hosts[name] = msgspec.structs.replace(host, minute=None)

    def _latency_to_others(self) -> float | None:
        """Return the largest round trip that another host measured, which is on the same link."""
        others = [self.current(name) for name in self._hosts if name != self.own_host]
        return max((sample.latency_ms for sample in others if sample and sample.latency_ms is not None), default=None)

    def _make_room(self) -> None:
        """Evict the stale host whose last report is oldest, if there are MAX_HOSTS."""
        if len(self._hosts) < MAX_HOSTS:
            return
        stale = [name for name in self._hosts if name not in self._configured and self.stale(name)]
        if not stale:
            raise LimitReached(f"{MAX_HOSTS} hosts report their metrics, which is the limit; stop one of them first")
        oldest = min(stale, key=lambda name: self._hosts[name].received_at)
        self._database.restore_on_rollback(self._hosts, oldest)
        del self._hosts[oldest]

    def _get(self, host: str) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            raise NotFound(f"no host {host[:64]!r} is known; there are: {', '.join(self.hosts())}")
        return known


def _moved(sample: HostSample, step_s: float) -> HostSample:
    return msgspec.structs.replace(sample, wall=max(0.0, sample.wall + step_s))


def _past(sample: HostSample) -> HostSample:
    """Return a sample without its GPUs, of which the history has the sums only."""
    return msgspec.structs.replace(sample, gpus=())
