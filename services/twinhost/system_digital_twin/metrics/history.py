"""Downsampled metrics on disk: means and maxima per minute for a day, and per hour for a month.

Each host has a limited number of rows; the first written are deleted first. Rows that are too old are not read. So a
wall clock that was wrong for a while deletes nothing.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.host_metrics import GpuSample, HostSample
from twinhost.moments import iso_time
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE metrics_minute (
    seq INTEGER PRIMARY KEY, host TEXT NOT NULL, start INTEGER NOT NULL, record BLOB NOT NULL, UNIQUE (host, start)
) STRICT;
CREATE TABLE metrics_hour (
    seq INTEGER PRIMARY KEY, host TEXT NOT NULL, start INTEGER NOT NULL, record BLOB NOT NULL, UNIQUE (host, start)
) STRICT;
"""
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
Resolution = Literal["minute", "hour"]
_TABLES: dict[Resolution, tuple[str, int, int]] = {  # the table, seconds per row, seconds of retention
    "minute": ("metrics_minute", MINUTE_S, DAY_S),
    "hour": ("metrics_hour", HOUR_S, 30 * DAY_S),
}
_MAX_CARDS = 64  # of a row
_MAX_ROWS = 64 * (DAY_S // MINUTE_S)  # of a table, over all hosts


class TimeSeries(TypedDict):
    """A host's metrics over time, as lists of one length. A row of a minute or an hour has its mean and its maximum."""

    timestamps: list[str]
    cpu_usage: list[float | None]
    cpu_usage_max: NotRequired[list[float | None]]
    ram_usage_mb: list[float | None]
    ram_usage_mb_max: NotRequired[list[float | None]]
    vram_usage_mb: list[float | None]
    vram_usage_mb_max: NotRequired[list[float | None]]
    network_latency_ms: list[float | None]
    network_latency_ms_max: NotRequired[list[float | None]]
    ram_total_mb: list[float | None]
    ram_total_mb_max: NotRequired[list[float | None]]
    swap_usage_mb: list[float | None]
    swap_usage_mb_max: NotRequired[list[float | None]]
    state_disk_usage_mb: list[float | None]
    state_disk_usage_mb_max: NotRequired[list[float | None]]
    models_disk_usage_mb: list[float | None]
    models_disk_usage_mb_max: NotRequired[list[float | None]]
    container_cpu_usage: list[float | None]
    container_cpu_usage_max: NotRequired[list[float | None]]
    container_ram_usage_mb: list[float | None]
    container_ram_usage_mb_max: NotRequired[list[float | None]]


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of the history: the field of a row, its title in a reply, and how it is read from a sample."""

    field: str
    title: str
    of: Callable[[HostSample], float | None]
    digits: int = 2


COLUMNS = (
    Column("cpu_percent", "cpu_usage", lambda sample: sample.cpu_percent),
    Column("ram_used_mb", "ram_usage_mb", lambda sample: sample.ram_used_mb),
    Column("vram_used_mb", "vram_usage_mb", lambda sample: sample.vram_used_mb),
    Column("latency_ms", "network_latency_ms", lambda sample: sample.latency_ms, 3),
    Column("ram_total_mb", "ram_total_mb", lambda sample: sample.ram_total_mb),
    Column("swap_used_mb", "swap_usage_mb", lambda sample: sample.machine.swap_used_mb if sample.machine else None),
    Column("state_disk_used_mb", "state_disk_usage_mb", lambda sample: sample.disk_used_mb("state")),
    Column("models_disk_used_mb", "models_disk_usage_mb", lambda sample: sample.disk_used_mb("models")),
    Column(
        "container_cpu_percent",
        "container_cpu_usage",
        lambda sample: sample.container.cpu_percent if sample.container else None,
    ),
    Column(
        "container_ram_used_mb",
        "container_ram_usage_mb",
        lambda sample: sample.container.ram_used_mb if sample.container else None,
    ),
)


class Figure(msgspec.Struct, frozen=True):
    """One metric over some time: the number of samples that had it, their sum, and their maximum."""

    count: int = 0
    total: float = 0.0
    greatest: float | None = None

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def add(self, value: float | None) -> "Figure":
        """Return this with one more sample; a sample without the metric changes nothing."""
        return self if value is None else self.merge(Figure(1, value, value))

    def merge(self, other: "Figure") -> "Figure":
        if not other.count:
            return self
        known = [value for value in (self.greatest, other.greatest) if value is not None]
        return Figure(self.count + other.count, self.total + other.total, max(known, default=None))


_NONE = Figure()


class Bucket(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host's samples of one minute, or one hour; `start` is in seconds since the epoch.

    `cards` has the used VRAM of each card, by its UUID or "GPU" and its index. Rows of older versions have only the
    first four figures, and their CPU and RAM may be those of a limited container.
    """

    start: int
    cpu_percent: Figure = _NONE
    ram_used_mb: Figure = _NONE
    vram_used_mb: Figure = _NONE
    latency_ms: Figure = _NONE
    ram_total_mb: Figure = _NONE
    swap_used_mb: Figure = _NONE
    state_disk_used_mb: Figure = _NONE
    models_disk_used_mb: Figure = _NONE
    container_cpu_percent: Figure = _NONE
    container_ram_used_mb: Figure = _NONE
    cards: dict[str, Figure] = {}

    @classmethod
    def at(cls, wall: float) -> "Bucket":
        return cls(int(wall // MINUTE_S) * MINUTE_S)

    def holds(self, wall: float) -> bool:
        return self.start <= wall < self.start + MINUTE_S

    def figure(self, column: Column) -> Figure:
        figure: Figure = getattr(self, column.field)
        return figure

    def add(self, sample: HostSample) -> "tuple[Bucket, Bucket | None]":
        """Return the minute of this sample with it, and, if that is another minute, this one, which is complete."""
        into = self if self.holds(sample.wall) else Bucket.at(sample.wall)
        added = {column.field: into.figure(column).add(column.of(sample)) for column in COLUMNS}
        cards = {card_name(gpu): Figure().add(gpu.used_mb) for gpu in sample.gpus}
        return Bucket(into.start, **added, cards=_merged(into.cards, cards)), None if into is self else self

    def merge(self, other: "Bucket") -> "Bucket":
        """Return both as one, with the start of this one."""
        merged = {column.field: self.figure(column).merge(other.figure(column)) for column in COLUMNS}
        return Bucket(self.start, **merged, cards=_merged(self.cards, other.cards))


def card_name(gpu: GpuSample) -> str:
    """Return the name of a card in a row; a driver's indices may change, its UUIDs don't."""
    return gpu.uuid or f"GPU {gpu.index}"


def _merged(cards: dict[str, Figure], newer: dict[str, Figure]) -> dict[str, Figure]:
    names = itertools.islice({**newer, **cards}, _MAX_CARDS)
    return {name: cards.get(name, _NONE).merge(newer.get(name, _NONE)) for name in names}


class MetricsHistory:
    """The two tables; `add` runs in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Bucket)

    def add(self, host: str, minute: Bucket, age_s: float = 0.0) -> None:
        """Add a minute, or the rest of one, to its row and to its hour's, unless it is older than the retention."""
        for table, length_s, retention_s in _TABLES.values():
            if age_s >= retention_s:
                continue
            start = minute.start - minute.start % length_s
            record = self._database.value(
                f"SELECT record FROM {table} WHERE host = ? AND start = ?",  # noqa: S608 - a constant
                (host, start),
            )
            bucket = (
                self._decoder.decode(record).merge(minute) if record else msgspec.structs.replace(minute, start=start)
            )
            self._database.execute(
                f"INSERT INTO {table} (host, start, record) VALUES (?, ?, ?) "  # noqa: S608
                "ON CONFLICT (host, start) DO UPDATE SET record = excluded.record",
                (host, start, self._encoder.encode(bucket)),
            )
            if record is None:
                self._limit(table, host, retention_s // length_s)

    def read(self, host: str, resolution: Resolution, newest_s: float = DAY_S * 30) -> list[Bucket]:
        """Return a host's rows of the newest seconds within the retention, oldest first."""
        return [self._decoder.decode(record) for record in self.rows(host, resolution, newest_s)]

    def rows(self, host: str, resolution: Resolution, newest_s: float) -> list[bytes]:
        """Return them as they are stored, each a `Bucket`."""
        table, _, retention_s = _TABLES[resolution]
        now = self._clock.time()
        rows = self._database.execute(
            f"SELECT record FROM {table} WHERE host = ? AND start > ? AND start <= ? ORDER BY start",  # noqa: S608
            (host, now - min(retention_s, newest_s), now),
        )
        return [record for (record,) in rows]

    def series(self, host: str, resolution: Resolution) -> TimeSeries:
        rows = self.read(host, resolution)
        series: dict[str, list[float | None]] = {}
        for column in COLUMNS:
            figures = [row.figure(column) for row in rows]
            series[column.title] = [rounded(figure.mean, column.digits) for figure in figures]
            series[f"{column.title}_max"] = [rounded(figure.greatest, column.digits) for figure in figures]
        return {"timestamps": [iso_time(row.start) for row in rows], **series}  # type: ignore[typeddict-item]

    def _limit(self, table: str, host: str, rows: int) -> None:
        self._database.execute(
            f"DELETE FROM {table} WHERE host = ? AND seq <= "  # noqa: S608
            f"(SELECT seq FROM {table} WHERE host = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (host, host, rows),
        )
        self._database.execute(
            f"DELETE FROM {table} WHERE seq <= (SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?)",  # noqa: S608
            (_MAX_ROWS,),
        )


def rounded(value: float | None, digits: int = 2) -> float | None:
    """Return a figure without the digits that no sensor measures; None stays None."""
    return None if value is None else round(value, digits)
