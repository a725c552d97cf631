"""What an active process shows of the log: who follows, how many databases have each commit, and the witness.

Only an agent with a log loads this.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from twinhost.agent.health import RoleDocument, StandbyDocument
from twinhost.moments import Clock, iso_time
from twinhost.network_config.load import process_name
from twinhost.store.replication.looks import LOOK_EVERY_S, Follower, LogState, Looks
from twinhost.store.replication.postgres import Log, OutcomeUnknown, witness_fault
from twinhost.store.replication.replica import Active, monotonic
from twinhost.worker import Worker

if TYPE_CHECKING:
    from twinhost.agent.settings import Settings

_log = structlog.get_logger(__name__)

_ASK_EVERY_S = 5.0


class LogWatch(Worker):
    """The newest state, for any thread. The beats' thread looks at the database; this one asks the witness."""

    def __init__(self, active: Active, settings: "Settings", clock: Clock) -> None:
        """Look after each beat of the active process."""
        super().__init__("log watch", self._ask_witness, join_timeout_s=1.0)
        self._dsn, self._agent = settings.database or "", settings.agent.name
        self._looks, self._looked_at, self._failed = Looks(), float("-inf"), ""
        self._active, self._since = active, iso_time(clock.time())
        self.holder = process_name()
        self.state: LogState | None = None  # before the first look
        self.witness_fault: str | None = None
        self._witness: str | None = None  # which the state has once it was asked
        self._asked = False
        active.on_beat = self._look

    @property
    def replaceable(self) -> bool:
        """Whether a standby follows that can be the agent at once, as this process is."""
        own = self.state.agents.get(self._agent) if self.state else None
        return own is not None and any(not (one.differences or one.lags) for one in own.following)

    def document(self) -> RoleDocument:
        """Return the part of the health document."""
        shown: RoleDocument = {
            "role": "active",
            "since": self._since,
            "epoch": self._active.tenure.number,
            "holder": self.holder,
            "transactions": self._active.tenure.durable,
        }
        if (state := self.state) is not None:
            own = state.agents.get(self._agent)
            shown["standbys"] = [standby_document(one) for one in own.following] if own else []
            shown["copies"] = state.copies
            if state.witness is not None:
                shown["witness"] = {"name": state.witness, "answers": self.witness_fault is None}
        return shown

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of the log."""
        yield from role_metrics(active=True, transactions=self._active.tenure.durable)
        epoch = self._active.tenure.number
        yield GaugeMetricFamily("twinhost_epoch", "The epoch of the agent's log that this process holds.", epoch)
        if (state := self.state) is None:
            return
        lag = GaugeMetricFamily(
            "twinhost_log_standby_lag", "Transactions that a standby is behind.", labels=["standby"]
        )
        own = state.agents.get(self._agent)
        for standby in own.following if own else ():
            lag.add_metric([standby.name], standby.behind)
        yield lag
        text = "How many standbys follow the agent's log."
        yield GaugeMetricFamily("twinhost_log_standbys", text, len(own.following) if own else 0)
        if state.copies is not None:
            yield GaugeMetricFamily("twinhost_log_copies", "How many databases have each commit.", state.copies)
        if state.witness is not None:
            answers = float(self.witness_fault is None)
            yield GaugeMetricFamily("twinhost_log_witness", "1 if the databases' witness answers.", answers)

    def _look(self, log: Log) -> None:
        """Look, if it is time to: on the thread that confirms the epoch, and so no longer than for three reads."""
        now = monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            state, self._failed = self._looks.take(log.look_around(), now), ""
            self._witness = state.witness
            self.state = state if self._asked else replace(state, witness=None)
        except OutcomeUnknown as error:  # the next beat says whether the database is there
            if str(error) != self._failed:
                _log.warning("log_not_looked_at", reason=str(error))
            self._failed = str(error)

    def _ask_witness(self) -> None:
        while not self.wait(_ASK_EVERY_S if self._asked else LOOK_EVERY_S):
            if (witness := self._witness) is None:
                continue
            fault = witness_fault(witness, self._dsn)
            if fault != self.witness_fault:
                _log.warning("witness_changed", answers=fault is None, reason=fault)
            self.witness_fault, self._asked = fault, True


def standby_document(standby: Follower) -> StandbyDocument:
    """Return what is shown of a standby."""
    return {"name": standby.name, "behind": standby.behind, "silent_s": round(standby.silent_s, 1)}


def role_metrics(*, active: bool, transactions: int) -> Iterator[Metric]:
    """Yield what either process of an agent shows."""
    text = "1: this process is the agent; 0: it stands by."
    yield GaugeMetricFamily("twinhost_log_active", text, float(active))
    text = "Transactions of the agent's log that this process has."
    yield GaugeMetricFamily("twinhost_log_transactions", text, transactions)
