"""Downsampled metrics on disk: means and maxima per minute for a day, and per hour for a month.

Each host has a limited number of rows; the first written are deleted first. Rows that are too old are not read. So a
wall clock that was wrong for a while deletes nothing.
"""

import time
from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.agent.host_metrics import HostSample
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


class Figure(msgspec.Struct, frozen=True):
    """One metric over some time: the number of samples that had it, their sum, and their maximum."""

    count: int = 0
    total: float = 0.0
    greatest: float | None = None

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def add(self, value: float | None) -> "Figure":
        """Return this and one more sample; a sample without the metric changes nothing."""
        return self if value is None else self.merge(Figure(1, value, value))

    def merge(self, other: "Figure") -> "Figure":
        known = [each for each in (self.greatest, other.greatest) if each is not None]
        return Figure(self.count + other.count, self.total + other.total, max(known, default=None))


class Bucket(msgspec.Struct, frozen=True):
    """A host's samples of one minute, or one hour; `start` is in seconds since the epoch."""

    start: int
    cpu_percent: Figure = Figure()
    ram_used_mb: Figure = Figure()
    vram_used_mb: Figure = Figure()
    latency_ms: Figure = Figure()

    @classmethod
    def at(cls, wall: float) -> "Bucket":
        return cls(int(wall // MINUTE_S) * MINUTE_S)

    def holds(self, wall: float) -> bool:
        return self.start <= wall < self.start + MINUTE_S

    def add(self, sample: HostSample) -> "tuple[Bucket, Bucket | None]":
        """Return the minute of this sample with it, and, if that is another minute, this one, which is complete."""
        into = self if self.holds(sample.wall) else Bucket.at(sample.wall)
        added = Bucket(
            into.start,
            into.cpu_percent.add(sample.cpu_percent),
            into.ram_used_mb.add(sample.ram_used_mb),
            into.vram_used_mb.add(sample.vram_used_mb),
            into.latency_ms.add(sample.latency_ms),
        )
        return added, None if into is self else self

    def merge(self, other: "Bucket") -> "Bucket":
        """Return both as one, with the start of this one."""
        return Bucket(
            self.start,
            self.cpu_percent.merge(other.cpu_percent),
            self.ram_used_mb.merge(other.ram_used_mb),
            self.vram_used_mb.merge(other.vram_used_mb),
            self.latency_ms.merge(other.latency_ms),
        )


class History:
    """The two tables; `add` runs in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
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
        table, _, retention_s = _TABLES[resolution]
        now = time.time()
        rows = self._database.execute(
            f"SELECT record FROM {table} WHERE host = ? AND start > ? AND start <= ? ORDER BY start",  # noqa: S608
            (host, now - min(retention_s, newest_s), now),
        )
        return [self._decoder.decode(record) for (record,) in rows]

    def series(self, host: str, resolution: Resolution) -> TimeSeries:
        rows = self.read(host, resolution)
        return {
            "timestamps": [iso_time(row.start) for row in rows],
            "cpu_usage": _means([row.cpu_percent for row in rows]),
            "cpu_usage_max": _maxima([row.cpu_percent for row in rows]),
            "ram_usage_mb": _means([row.ram_used_mb for row in rows]),
            "ram_usage_mb_max": _maxima([row.ram_used_mb for row in rows]),
            "vram_usage_mb": _means([row.vram_used_mb for row in rows]),
            "vram_usage_mb_max": _maxima([row.vram_used_mb for row in rows]),
            "network_latency_ms": _means([row.latency_ms for row in rows], 3),
            "network_latency_ms_max": _maxima([row.latency_ms for row in rows], 3),
        }

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


def _means(figures: Sequence[Figure], digits: int = 2) -> list[float | None]:
    return [rounded(figure.mean, digits) for figure in figures]


def _maxima(figures: Sequence[Figure], digits: int = 2) -> list[float | None]:
    return [rounded(figure.greatest, digits) for figure in figures]
