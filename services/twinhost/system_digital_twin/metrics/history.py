"""Downsampled metrics on disk: means and maxima per minute for a day, and per hour for a month.

Rows are bounded per host by their number, in the order in which they came, and by their age when they are
read: a wall clock that was wrong for a while deletes nothing.
"""

import time
from typing import Literal

import msgspec

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
_TABLES: dict[Resolution, tuple[str, int, int]] = {  # the table, seconds a row, seconds kept
    "minute": ("metrics_minute", MINUTE_S, DAY_S),
    "hour": ("metrics_hour", HOUR_S, 30 * DAY_S),
}
_MAX_ROWS = 64 * (DAY_S // MINUTE_S)  # of a table, whatever hosts there were


class Figure(msgspec.Struct, frozen=True):
    """One metric over some time: how many samples had it, their sum, and the greatest."""

    count: int = 0
    total: float = 0.0
    greatest: float | None = None

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def add(self, value: float | None) -> "Figure":
        """Return this and one sample more; one that has not measured it changes nothing."""
        return self if value is None else self.merge(Figure(1, value, value))

    def merge(self, other: "Figure") -> "Figure":
        """Return both as one."""
        known = [each for each in (self.greatest, other.greatest) if each is not None]
        return Figure(self.count + other.count, self.total + other.total, max(known, default=None))


class Bucket(msgspec.Struct, frozen=True):
    """A host's samples of one minute, or one hour, from `start` on, in seconds since the epoch."""

    start: int
    cpu_percent: Figure = Figure()
    ram_used_mb: Figure = Figure()
    vram_used_mb: Figure = Figure()
    latency_ms: Figure = Figure()

    @classmethod
    def at(cls, wall: float) -> "Bucket":
        """Return an empty minute."""
        return cls(int(wall // MINUTE_S) * MINUTE_S)

    def holds(self, wall: float) -> bool:
        """Return whether a moment is in this minute."""
        return self.start <= wall < self.start + MINUTE_S

    def add(self, sample: HostSample) -> "tuple[Bucket, Bucket | None]":
        """Return the minute that has this sample, and this one where it is over."""
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
        """Return both as one that begins where this one does."""
        return Bucket(
            self.start,
            self.cpu_percent.merge(other.cpu_percent),
            self.ram_used_mb.merge(other.ram_used_mb),
            self.vram_used_mb.merge(other.vram_used_mb),
            self.latency_ms.merge(other.latency_ms),
        )


class History:
    """Both tables; `add` runs in the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(Bucket)

    def add(self, host: str, minute: Bucket, age_s: float = 0.0) -> None:
        """Add a minute, or the rest of one, to its row and to its hour's; not where nothing so old is kept."""
        for table, length_s, kept_s in _TABLES.values():
            if age_s >= kept_s:
                continue
            start = minute.start - minute.start % length_s
            row = self._database.execute(
                f"SELECT record FROM {table} WHERE host = ? AND start = ?",  # noqa: S608 - a name of ours
                (host, start),
            ).fetchone()
            bucket = self._decoder.decode(row[0]).merge(minute) if row else msgspec.structs.replace(minute, start=start)
            self._database.execute(
                f"INSERT INTO {table} (host, start, record) VALUES (?, ?, ?) "  # noqa: S608
                "ON CONFLICT (host, start) DO UPDATE SET record = excluded.record",
                (host, start, self._encoder.encode(bucket)),
            )
            if row is None:
                self._bound(table, host, kept_s // length_s)

    def read(self, host: str, resolution: Resolution) -> list[Bucket]:
        """Return a host's rows of the time for which they are kept, oldest first."""
        table, _, kept_s = _TABLES[resolution]
        now = time.time()
        rows = self._database.execute(
            f"SELECT record FROM {table} WHERE host = ? AND start > ? AND start <= ? ORDER BY start",  # noqa: S608
            (host, now - kept_s, now),
        )
        return [self._decoder.decode(record) for (record,) in rows]

    def _bound(self, table: str, host: str, rows: int) -> None:
        self._database.execute(
            f"DELETE FROM {table} WHERE host = ? AND seq <= "  # noqa: S608
            f"(SELECT seq FROM {table} WHERE host = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
            (host, host, rows),
        )
        self._database.execute(
            f"DELETE FROM {table} WHERE seq <= (SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?)",  # noqa: S608
            (_MAX_ROWS,),
        )
