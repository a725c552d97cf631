"""The newest report of each agent about the video memory that it uses."""

import re
from collections.abc import Collection
from typing import NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE vram_reports (
    agent_name TEXT PRIMARY KEY NOT NULL,
    record BLOB NOT NULL
) STRICT;
"""
MAX_REPORTS = 256
_name_of_card = re.compile(r"(?:[A-Za-z]+:)?([0-9]{1,3})")  # cuda:1; an agent may call a machine a device: PC2


class VramReport(TypedDict):
    """The VRAM that an agent's models use; `devices` has the MB per device, `device_totals_mb` their capacities."""

    agent_name: str
    host: str
    total_vram_mb: float
    total_vram_used_mb: float
    devices: dict[str, float]
    models: int
    timestamp: str
    device_totals_mb: NotRequired[dict[str, float]]


class VramRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A report as it is stored; `wall` is when it arrived, in seconds since the epoch.

    `freed_mb` is what it contains of leases that have ended since, `freed_on` the same by the index of the card. `most`
    is the part of a card that it may say is in use: all of it on the host of its writer's key, else the writer's share.
    The writer may be an operator; in a row that an older version wrote it is taken to be the agent.
    """

    agent_name: str
    host: str
    total_vram_mb: float
    total_vram_used_mb: float
    devices: dict[str, float]
    device_totals_mb: dict[str, float] = {}
    models: int
    wall: float = 0.0
    freed_mb: float = 0.0
    freed_on: dict[int, float] = {}
    most: float = 1.0
    written_by: str = ""

    @property
    def writer(self) -> str:
        return self.written_by or self.agent_name

    @property
    def used_mb(self) -> float:
        """What its agent still uses, as far as is known."""
        return max(0.0, max(self.total_vram_used_mb, sum(self.devices.values())) - self.freed_mb)

    def used_on(self, index: int, total_mb: float) -> float:
        """Return what its agent still uses on one of several cards, with what it may use on any of them."""
        on_gpus = {device: mb for device, mb in self.devices.items() if is_gpu(device)}
        elsewhere = sum(mb for device, mb in on_gpus.items() if card_of(device) not in (None, index))
        used_mb = max(self.total_vram_used_mb, sum(on_gpus.values())) - elsewhere
        return min(max(0.0, used_mb - self.freed_on.get(index, 0.0)), self.most * total_mb)


def is_gpu(device: str) -> bool:
    """Return whether a device is a card, and not the processor."""
    return not device.lower().startswith("cpu")


def card_of(device: str) -> int | None:
    """Return the index of the card that a device's name has; None if it names none for certain."""
    match = _name_of_card.fullmatch(device) if is_gpu(device) else None
    return None if match is None else int(match[1])


class VramReports:
    """The newest report of each agent, beside what the driver measures."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clock = database.clock
        decoder = msgspec.json.Decoder(VramRecord)
        self._records: dict[str, VramRecord] = {
            name: decoder.decode(record)
            for name, record in database.execute("SELECT agent_name, record FROM vram_reports")
        }
        self._received_at: dict[str, float] = {}  # monotonic; of the reports since the start

    def put(self, record: VramRecord) -> None:
        """Replace the agent's report. With MAX_REPORTS agents, the oldest report is deleted."""
        record = msgspec.structs.replace(record, wall=self._clock.time())
        if record.agent_name not in self._records and len(self._records) >= MAX_REPORTS:
            self.delete([min(self._records.values(), key=lambda record: record.wall).agent_name])
        self._write(record)
        self._database.restore_on_rollback(self._received_at, record.agent_name)
        self._received_at[record.agent_name] = self._clock.monotonic()

    def delete(self, agent_names: Collection[str]) -> None:
        """Delete agents' reports, in the transaction under way."""
        for name in agent_names:
            if name in self._records:
                self._database.execute("DELETE FROM vram_reports WHERE agent_name = ?", (name,))
                self._database.restore_on_rollback(self._records, name)
                del self._records[name]

    def lease_ended(self, agent_name: str, host: str, gpu: int | None, amount_mb: float, committed_at: float) -> None:
        """Count the memory of a lease on a card as free, if the agent has reported it since that monotonic moment."""
        record = self._records.get(agent_name)
        if record is not None and record.host == host and committed_at <= self.received_at(agent_name):
            on = record.freed_on if gpu is None else {**record.freed_on, gpu: record.freed_on.get(gpu, 0.0) + amount_mb}
            self._write(msgspec.structs.replace(record, freed_mb=record.freed_mb + amount_mb, freed_on=on))

    def agents(self) -> set[str]:
        """Return the names of the agents with a report."""
        return set(self._records)

    def writers(self) -> set[str]:
        """Return who wrote the reports."""
        return {record.writer for record in self._records.values()}

    def written_by(self, names: Collection[str]) -> list[str]:
        """Return the names of the agents whose reports these identities wrote."""
        return [name for name, record in self._records.items() if record.writer in names]

    def of_hosts(self, hosts: Collection[str]) -> list[VramRecord]:
        """Return the reports of the agents on these hosts."""
        return [record for record in self._records.values() if record.host in hosts]

    def received_at(self, agent_name: str) -> float:
        """Return the monotonic moment of an agent's report; 0 where there is none since the start."""
        return self._received_at.get(agent_name, 0.0)

    def _write(self, record: VramRecord) -> None:
        self._database.execute(
            "INSERT INTO vram_reports VALUES (?, ?) ON CONFLICT (agent_name) DO UPDATE SET record = excluded.record",
            (record.agent_name, msgspec.json.encode(record)),
        )
        self._database.restore_on_rollback(self._records, record.agent_name)
        self._records[record.agent_name] = record

    def all(self) -> list[VramReport]:
        """Return the reports, by agent."""
        return [_report(record) for _, record in sorted(self._records.items())]


def _report(record: VramRecord) -> VramReport:
    report: VramReport = {
        "agent_name": record.agent_name,
        "host": record.host,
        "total_vram_mb": record.total_vram_mb,
        "total_vram_used_mb": record.total_vram_used_mb,
        "devices": record.devices,
        "models": record.models,
        "timestamp": iso_time(record.wall),
    }
    if record.device_totals_mb:
        report["device_totals_mb"] = record.device_totals_mb
    return report
