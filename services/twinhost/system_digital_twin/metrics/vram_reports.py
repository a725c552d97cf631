"""What agents say their models take of the VRAM, kept per agent; beside what the driver measures, never instead."""

import time

import msgspec

from twinhost.store.database import Database

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
