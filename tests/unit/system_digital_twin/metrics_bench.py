"""The actions on metrics, loads, and leases on a real database, without a socket; and a clock that can be set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.configuration import SHIPPED
from tests.new_database import open_database
from tests.unit.asked import DEBTS, Asked
from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, SDT, UMRA, Clock
from twinhost.agent.host_metrics import GpuSample, HostSample
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.framing.inbound import DeferredReply
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.capacity.actions import LoadActions
from twinhost.system_digital_twin.capacity.leases import Leases
from twinhost.system_digital_twin.capacity.reservations import Reservations
from twinhost.system_digital_twin.capacity.time_to_full import ForecastActions, Forecasts
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.metrics.actions import MetricsActions
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.metrics.vram_reports import VramReports
from twinhost.system_digital_twin.state_files import MIGRATIONS

INTERVAL_S = 5.0
NEWCOMER = Caller("newcomer", "pc3", frozenset({"agent"}), "SHA256:of-the-newcomer")
ON_PC2 = Caller("planner", "pc2", frozenset({"agent"}), "SHA256:of-the-planner")


def sample(**changed: Any) -> HostSample:
    """Return a sample of a host with 1,000 MB of RAM and no GPU."""
    fields: dict[str, Any] = {"wall": 0.0, "cpu_percent": 10.0, "ram_used_mb": 300.0, "ram_total_mb": 1_000.0}
    return HostSample(**(fields | changed))


def with_gpu(used_mb: float, total_mb: float, **changed: Any) -> HostSample:
    return with_gpus((used_mb, total_mb), **changed)


def with_gpus(*used_and_total_mb: tuple[float, float], uuids: Sequence[str] = (), **changed: Any) -> HostSample:
    gpus = [
        GpuSample(index=index, name="GPU", used_mb=used_mb, total_mb=total_mb, uuid=uuids[index] if uuids else None)
        for index, (used_mb, total_mb) in enumerate(used_and_total_mb)
    ]
    used_mb, total_mb = (sum(column) for column in zip(*used_and_total_mb, strict=True))
    return sample(vram_used_mb=used_mb, vram_total_mb=total_mb, gpus=tuple(gpus), **changed)


class Pending:
    """A reply that is to come."""

    def __init__(self, dispatcher: Dispatcher, deferred: DeferredReply) -> None:
        self._dispatcher = dispatcher
        self._deferred = deferred

    def reply(self) -> dict[str, Any] | None:
        if not self._deferred.answer.done():
            return None
        reply: dict[str, Any] = json.loads(self._dispatcher.settle(self._deferred))
        return reply

    def disconnect(self) -> None:
        """Do what the loop does once the caller's connection has ended."""
        assert self._deferred.answer.cancel()


class MetricsBench(Asked):
    """The twin's part in metrics and leases; `sent` went to the feed. It can be started again on the same database.

    Everybody may have a whole card, unless a test sets another `budget`.
    """

    CALLER = UMRA

    def __init__(self, path: Path, clock: Clock) -> None:
        self.clock = clock
        self.budget = BudgetTable(Budget(lease_share=1.0))
        self.gone: set[str] = set()  # identities without a live key
        self.sent: list[dict[str, Any]] = []
        self._path = path
        self.logged = False  # whether a standby follows
        self.open()

    def open(self) -> None:
        """Begin as a process does."""
        migrations = [REPLY_LOG_SCHEMA, *MIGRATIONS, DEBTS]
        self.database = open_database(self._path, migrations, self.clock, logged=self.logged)
        self.metrics = Metrics(self.database, INTERVAL_S, "mainpc", ["mainpc", "pc2"])
        self.reports = VramReports(self.database)
        self.leases = Leases(self.database, self.reports.lease_ended)
        self.events = Events(self.database, lambda *_, **fields: self.sent.append(fields))
        self.forecasts = Forecasts(self.database, self.metrics, self.events)
        self.dead: set[str] = set()  # agents that stopped their heartbeats
        self.reservations = Reservations(
            self.database,
            self.metrics,
            self.reports,
            self.leases,
            self.events,
            self.dead.__contains__,
            lambda name: name not in self.gone,
        )
        budgets = Budgets(lambda: self.budget)
        self.answer_to(
            [
                *MetricsActions(
                    self.metrics, self.reports, self.leases.host_of, budgets, lambda: SHIPPED.agents
                ).actions(),
                *LoadActions(self.reservations, self.leases, budgets).actions(),
                *ForecastActions(self.forecasts, self.metrics).actions(),
                self.doom(),
            ],
            Grants({**SHIPPED.grants, "agent": {*SHIPPED.grants["agent"], "doom"}}),
            4 * 2**20,
        )

    def restart(self, *, killed: bool = False) -> None:
        """End and begin again; a killed process writes nothing at its end."""
        if not killed:
            self.metrics.close()
        self.reopen()

    def measured(self, host: str = "mainpc", what: HostSample | None = None) -> None:
        """Let a host have measured itself, the own one through its queue."""
        if host == self.metrics.own_host:
            self.metrics.queue(what or sample())
            self.metrics.on_tick()
        else:
            self.metrics.ingest(host, what or sample())

    def both_measured(self, mainpc: HostSample | None = None, pc2: HostSample | None = None) -> None:
        """Let both hosts have measured themselves, twice, so that what was there before is in the figures."""
        for _ in range(2):
            self.measured("pc2", pc2)
            self.measured("mainpc", mainpc)

    def on_tick(self) -> None:
        self.metrics.on_tick()
        self.reservations.on_tick()
        for _ in self.metrics.hosts():
            self.forecasts.on_tick()

    def ask_and_wait(self, action: str, caller: Caller = UMRA, **fields: Any) -> "Pending":
        """Return the reply to a request that waits, which is to come."""
        pending = self.ask_or_wait(action, caller, **fields)
        assert isinstance(pending, Pending), pending
        return pending

    def ask_or_wait(self, action: str, caller: Caller = UMRA, **fields: Any) -> "dict[str, Any] | Pending":
        """Return the reply to a request, or the one that is to come."""
        replies = self.ask_together((action, caller, fields))
        if replies:
            return replies[0]
        (deferred,) = self._dispatcher.take_deferred().values()
        return Pending(self._dispatcher, deferred)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.database.execute(f"SELECT * FROM {table}").fetchall()
        return rows


def names(leases: Sequence[dict[str, Any]]) -> list[str]:
    return [lease["lease_id"] for lease in leases]


__all__ = ["INTERVAL_S", "NEWCOMER", "NOBODY", "ON_PC2", "OPERATOR", "SDT", "UMRA", "Clock", "MetricsBench"]
