"""SystemDigitalTwin's part in the hosts' metrics: measured, told, kept, and looked ahead on."""

import contextlib
from typing import Any

from twinhost.agent.assembly import Foundation
from twinhost.agent.host_metrics.sampler import SamplerThread
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.system_digital_twin.capacity.actions import LoadActions
from twinhost.system_digital_twin.capacity.leases import MIGRATION as LEASES_MIGRATION
from twinhost.system_digital_twin.capacity.leases import Leases
from twinhost.system_digital_twin.metrics.actions import MetricsActions
from twinhost.system_digital_twin.metrics.history import MIGRATION as HISTORY_MIGRATION
from twinhost.system_digital_twin.metrics.metrics import MIGRATION as VRAM_REPORTS_MIGRATION
from twinhost.system_digital_twin.metrics.metrics import Metrics, VramReports

MIGRATIONS = (HISTORY_MIGRATION, VRAM_REPORTS_MIGRATION, LEASES_MIGRATION)


class MetricsAndLeases:
    """The metrics of all hosts and the leases on them, on the agent's database."""

    def __init__(self, foundation: Foundation) -> None:
        settings, database = foundation.settings, foundation.database
        interval_s = settings.config.limits.metrics_interval_s
        self.metrics = Metrics(database, interval_s, settings.agent.host.name, list(settings.config.hosts))
        self.leases = Leases(database)
        self.sampler = SamplerThread(interval_s, self.metrics.queue)
        self._reports = VramReports(database)
        foundation.health.add("metrics", lambda: self.sampler.fault, essential=False)

    def actions(self) -> list[Action[Any]]:
        """Return the actions on metrics, loads, and leases."""
        return [
            *MetricsActions(self.metrics, self._reports).actions(),
            *LoadActions(self.metrics, self.leases).actions(),
        ]

    def on_tick(self) -> None:
        """Take what was measured, and forget leases that have lapsed; on the thread that owns the database."""
        self.metrics.on_tick()
        self.leases.on_tick()

    def close(self) -> None:
        """Write the minute under way."""
        with contextlib.suppress(StoreUnavailable):  # a minute is lost, and the end must come all the same
            self.metrics.close()
