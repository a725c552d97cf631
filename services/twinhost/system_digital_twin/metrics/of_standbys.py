"""The metrics of hosts whose agent stands by there, and is active elsewhere: they come with the log.

So each host is measured by its own agent, whichever part that has; one that is off is stale, wherever its agent is.
"""

from typing import TYPE_CHECKING

import msgspec
import structlog

from twinhost.agent.assembly import Foundation
from twinhost.agent.host_metrics import HostSample
from twinhost.system_digital_twin.metrics.metrics import Metrics

if TYPE_CHECKING:  # only an agent with a log loads it
    from twinhost.store.replication.looks import LogState

_log = structlog.get_logger(__name__)


class MetricsOfStandbys:
    """Adds their samples; on the thread that owns the metrics."""

    def __init__(self, foundation: Foundation, metrics: Metrics) -> None:
        self._watched, self._settings, self._clock = foundation.log, foundation.settings, foundation.clock
        self._metrics = metrics
        self._seen: LogState | None = None
        self._said: dict[str, str] = {}  # by host, what its agent's standby said last

    def on_tick(self) -> None:
        """Add what has come since."""
        state = None if self._watched is None else self._watched.state
        if state is None or state is self._seen:
            return
        self._seen, before, self._said = state, self._said, {}
        for agent in self._settings.config.agents.values():
            of_agent, host = state.agents.get(agent.name), agent.host.name
            if of_agent is None or agent.host_of(of_agent.holder) == host:
                continue
            for standby in of_agent.following:
                if standby.metrics and agent.host_of(standby.name) == host:
                    self._said[host] = standby.metrics
                    # What was there before the first look may have been written long ago, by one that is off now.
                    if before.get(host, standby.metrics) != standby.metrics:
                        self._add(host, standby.metrics)

    def _add(self, host: str, said: str) -> None:
        from twinhost.store.replication.looks import SILENT_AFTER_S  # noqa: PLC0415 - only an agent with a log loads it

        try:
            sample = msgspec.json.decode(said, type=HostSample)
        except ValueError as error:  # of another version
            _log.warning("metrics_of_standby_malformed", host=host, reason=str(error))
            return
        # A standby that has said nothing for longer is not there, so a new sample is no older.
        self._metrics.ingest(host, sample, self._clock.monotonic() - SILENT_AFTER_S)
