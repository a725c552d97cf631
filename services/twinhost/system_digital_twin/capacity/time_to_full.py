"""When the memory and the disks of a host will be full, from the trend of the last hour; and an event shortly before.

An episode begins when something will be full within FULL_SOON_S, with one event. It ends when, for CALM_S, it has not
been growing, or would be full only after CALM_AFTER_S. While nothing is measured the episode stays as it is. Episodes
are on disk, so a restart announces none of them again. Hosts on one machine have one episode of what they share.
"""

import itertools
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, cast, get_args

import msgspec

from twinhost.agent.host_metrics import GpuSample, HostSample
from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.database import Database
from twinhost.system_digital_twin import ITSELF, SUCCESS, Success
from twinhost.system_digital_twin.capacity.trend import trend_of
from twinhost.system_digital_twin.events.events import Events, Topic
from twinhost.system_digital_twin.metrics.history import DAY_S, MINUTE_S, Bucket, card_name, rounded
from twinhost.system_digital_twin.metrics.metrics import Metrics

MIGRATION = """
CREATE TABLE full_soon (
    host TEXT NOT NULL,
    gauge TEXT NOT NULL,
    announced REAL NOT NULL,
    calm_since REAL,
    PRIMARY KEY (host, gauge)
) STRICT, WITHOUT ROWID;
"""
# Of the host's machine: its boot id, and the size of the resource; null where they are not known.
MIGRATION_MACHINE = """
ALTER TABLE full_soon ADD COLUMN machine TEXT;
ALTER TABLE full_soon ADD COLUMN total_mb REAL;
"""
FULL_SOON = "resource_full_soon"  # the type of the event
FULL_SOON_S = 3_600.0
CALM_AFTER_S = 5_400.0
CALM_S = 600.0
WINDOW_S = 3_900.0  # of history, with the minutes at its ends; a trend that begins is found after about 20 minutes
LEAST_S = 3_600.0
_LEAST_POINTS = 30  # in it
_SHORTEST_S = 60.0  # a row is a minute, so nothing shorter is known
TOO_SHORT = "less than an hour of history"
NOT_MEASURED = "not measured now"
NOT_GROWING = "not growing"
ENDED = "below its trend: memory was freed, or the growth has ended"
UNCERTAIN = "the interval of the growth includes none"
_EVERY_S = 60.0  # for each host: the history has a row per minute
_SILENT_EVERY_S = 5.0  # for one that is not measured: its first sample may arrive any time
_KEPT_S = 30 * DAY_S  # episodes of hosts that have left

GrowingResource = Literal["ram", "vram", "disk"]
_ONE_SIZE_MB = 1.0  # sizes that differ by less are one size: the parts of a disk's are rounded apart


class Interval(TypedDict):
    """The bounds of a 95 % interval, in seconds."""

    low: float
    high: float


class ResourceForecast(TypedDict):
    """When a resource of a host will be full; if that is null, `reason` says why.

    `name` is that of a disk, or of a card such as `GPU 1`, if the host has several. `basis_s` is the length of the
    history that it is based on, in seconds.
    """

    host: str
    resource: GrowingResource
    name: str | None
    used_mb: float | None
    total_mb: float | None
    growth_mb_per_hour: float | None
    time_to_full_s: float | None
    interval: Interval | None
    reason: str | None
    basis_s: NotRequired[float]


class _Gauge(msgspec.Struct, frozen=True):
    """One column of the history, `<field>_used_mb`: `ram`, `vram`, and a `<name>_disk` for each disk; or one `card`."""

    field: str
    resource: GrowingResource
    card: GpuSample | None = None

    @property
    def key(self) -> str:
        """What identifies it among the episodes of a host."""
        return self.field if self.card is None else f"{self.field} {card_name(self.card)}"

    @property
    def name(self) -> str | None:
        if self.card is not None:
            return f"GPU {self.card.index}"
        return self.field.removesuffix(self.resource).rstrip("_") or None

    def used_mb(self, row: Bucket) -> float | None:
        figure = getattr(row, f"{self.field}_used_mb") if self.card is None else row.cards.get(card_name(self.card))
        return figure.mean if figure else None

    def now_mb(self, sample: HostSample) -> tuple[float | None, float | None]:
        """Return what is used, and what that can grow to: of a disk, what users can write."""
        if self.card is not None:
            return self.card.used_mb, self.card.total_mb
        if self.resource == "disk":
            disks = sample.machine.disks if sample.machine is not None else ()
            sizes = ((disk.used_mb, disk.used_mb + disk.free_mb) for disk in disks if disk.name == self.name)
            return next(sizes, (None, None))
        return getattr(sample, f"{self.field}_used_mb"), getattr(sample, f"{self.field}_total_mb")

    def by_card(self, sample: HostSample | None) -> "list[_Gauge]":
        """Return a gauge for each of several cards, since one may be full while another is free; else this one."""
        if self.field != "vram" or sample is None or len(sample.gpus) < 2:
            return [self]
        return [_Gauge(self.field, self.resource, gpu) for gpu in sample.gpus]


def _gauges() -> tuple[_Gauge, ...]:
    fields = [name.removesuffix("_used_mb") for name in Bucket.__struct_fields__ if name.endswith("_used_mb")]
    return tuple(
        _Gauge(field, resource)
        for resource in cast("tuple[GrowingResource, ...]", get_args(GrowingResource))
        for field in fields
        if field == resource or (resource == "disk" and field.endswith("_disk"))
    )


class _Episode(NamedTuple):
    host: str  # which began it
    calm_since: float | None


class Filling(NamedTuple):
    """What will be full soon: the host that began the episode, the resource, and the newest forecast."""

    host: str
    gauge: str
    forecast: ResourceForecast


class Forecasts:
    """Forecasts of every host, and the episodes."""

    def __init__(self, database: Database, metrics: Metrics, events: Events) -> None:
        self._database = database
        self._clock = database.clock
        self._metrics = metrics
        self._events = events
        self._gauges = _gauges()
        self._due: dict[str, float] = {}
        self._newest: dict[str, list[ResourceForecast]] = {}
        self._filling: dict[str, list[Filling]] = {}  # by the host whose forecast it is

    def of(self, host: str) -> list[ResourceForecast]:
        """Return the forecasts of a host now; NotFound for an unknown host."""
        return list(self._by_gauge(host).values())

    def _by_gauge(self, host: str) -> dict[str, ResourceForecast]:
        sample = self._metrics.current(host)
        rows = self._metrics.history_on_disk.read(host, "minute", WINDOW_S) if sample else []
        rows = [row for row in rows if row.start >= self._metrics.dated_since]
        gauges = itertools.chain.from_iterable(gauge.by_card(sample) for gauge in self._gauges)
        return {gauge.key: self._forecast(host, gauge, sample, rows) for gauge in gauges}

    def newest(self, host: str) -> list[ResourceForecast]:
        """Return the forecasts of a host, up to a minute old."""
        return self._newest.get(host, [])

    def filling(self) -> list[Filling]:
        """Return what will be full soon, each resource of a machine once; what has stopped growing is not among it."""
        found = {(one.host, one.gauge): one for known in self._filling.values() for one in known}
        return list(found.values())

    def on_tick(self) -> None:
        """Update the forecasts of one host, the one that has waited longest; begin and end its episodes.

        Raises:
            StoreUnavailable: an episode could not be written, and was not announced; this is retried.
        """
        clock, hosts = self._clock.monotonic(), self._metrics.hosts()
        host = min(hosts, key=lambda name: self._due.get(name, 0.0))
        if clock < self._due.get(host, 0.0):
            return
        self._due[host] = clock + (_SILENT_EVERY_S if self._metrics.stale(host) else _EVERY_S)
        self._newest = {name: known for name, known in self._newest.items() if name in hosts}
        self._filling = {name: known for name, known in self._filling.items() if name in hosts}
        by_gauge = self._by_gauge(host)
        self._newest[host] = list(by_gauge.values())
        with self._database.transaction():
            for gauge, forecast in by_gauge.items():
                self._step(gauge, forecast)
            self._filling[host] = [
                Filling(episode.host, gauge, forecast)
                for gauge, forecast in by_gauge.items()
                if forecast["reason"] in (None, UNCERTAIN, NOT_MEASURED) and (episode := self._episode(gauge, forecast))
            ]

    def _forecast(self, host: str, gauge: _Gauge, sample: HostSample | None, rows: list[Bucket]) -> ResourceForecast:
        middle = MINUTE_S / 2  # a row is the mean of its minute
        points = [(row.start + middle, used) for row in rows if (used := gauge.used_mb(row)) is not None]
        used_mb, total_mb = (None, None) if sample is None else gauge.now_mb(sample)
        basis_s = points[-1][0] - points[0][0] + MINUTE_S if points else 0.0
        forecast: ResourceForecast = {
            "host": host,
            "resource": gauge.resource,
            "name": gauge.name,
            "used_mb": rounded(used_mb),
            "total_mb": rounded(total_mb),
            "growth_mb_per_hour": None,
            "time_to_full_s": None,
            "interval": None,
            "reason": None,
            "basis_s": basis_s,
        }
        if used_mb is None or total_mb is None:
            return {**forecast, "reason": NOT_MEASURED}
        trend = trend_of(points) if basis_s >= LEAST_S and len(points) >= _LEAST_POINTS else None
        if trend is None:
            return {**forecast, "reason": TOO_SHORT}
        forecast["growth_mb_per_hour"] = rounded(trend.slope * 3_600)
        now = self._clock.time()
        seconds = trend.seconds_to(total_mb, now, used_mb)
        if trend.has_ended(used_mb, now):
            return {**forecast, "reason": ENDED}
        if seconds is None:
            return {**forecast, "reason": UNCERTAIN if trend.slope > 0 else NOT_GROWING}
        expected, low, high = (round(max(_SHORTEST_S, left_s), 0) for left_s in seconds)
        return {**forecast, "time_to_full_s": expected, "interval": {"low": low, "high": high}}

    def _step(self, gauge: str, forecast: ResourceForecast) -> None:
        now, left_s = self._clock.time(), forecast["time_to_full_s"]
        episode = self._episode(gauge, forecast)
        if episode is None:
            if left_s is not None and left_s <= FULL_SOON_S:
                self._announce(gauge, forecast, now)
            return
        if forecast["reason"] in (NOT_MEASURED, TOO_SHORT):
            return
        begun_by, calm_since = episode
        if left_s is not None and left_s <= CALM_AFTER_S:
            calm_since = None
        elif calm_since is None or calm_since > now:
            calm_since = now
        elif now - calm_since >= CALM_S:
            self._database.execute("DELETE FROM full_soon WHERE host = ? AND gauge = ?", (begun_by, gauge))
            return
        if (begun_by, calm_since) != episode:
            self._database.execute(
                "UPDATE full_soon SET calm_since = ? WHERE host = ? AND gauge = ?", (calm_since, begun_by, gauge)
            )

    def _episode(self, gauge: str, forecast: ResourceForecast) -> _Episode | None:
        """Return the episode of a resource: the host that began it, on the same machine, and since when it is calm."""
        host, machine, total_mb = forecast["host"], self._metrics.machine_of(forecast["host"]), forecast["total_mb"]
        return self._database.select_one(
            _Episode,
            "SELECT host, calm_since FROM full_soon WHERE gauge = ? "
            "AND (host = ? OR machine = ? AND abs(total_mb - ?) < ?) ORDER BY host = ? DESC LIMIT 1",
            (gauge, host, machine, total_mb, _ONE_SIZE_MB, host),
        )

    def _announce(self, gauge: str, forecast: ResourceForecast, now: float) -> None:
        self._database.execute("DELETE FROM full_soon WHERE announced < ?", (now - _KEPT_S,))
        host, total_mb = forecast["host"], forecast["total_mb"]
        self._database.execute(
            "INSERT INTO full_soon VALUES (?, ?, ?, NULL, ?, ?)",
            (host, gauge, now, self._metrics.machine_of(host), total_mb),
        )
        event: dict[str, Any] = {
            "event_id": f"{host}-{gauge}-{iso_time(now)}",
            "event_type": FULL_SOON,
            "source_agent": ITSELF,
            "data": forecast,
            "propagate": True,
            "ttl": None,
        }
        self._events.add(Topic.EVENT, event, ITSELF)


class GetForecast(Request, tag="get_forecast"):
    """Return when memory and disks will be full, of one host or all, from the trend of the last hour."""

    host: NAME | None = None
    resource: GrowingResource | None = None


class ForecastList(Success):
    """One forecast for each resource that the history has."""

    forecasts: list[ResourceForecast]


class ForecastActions(Feature):
    """The action that returns the forecasts."""

    def __init__(self, forecasts: Forecasts, metrics: Metrics) -> None:
        self._forecasts = forecasts
        self._metrics = metrics

    @action(forwardable=True)
    def forecast(self, request: GetForecast, _: Caller) -> ForecastList:
        hosts = self._metrics.hosts() if request.host is None else [request.host]
        forecasts = [forecast for host in hosts for forecast in self._forecasts.of(host)]
        wanted = [forecast for forecast in forecasts if request.resource in (None, forecast["resource"])]
        return {"status": SUCCESS, "forecasts": wanted}
