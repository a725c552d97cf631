"""Where each agent with a standby is active, and since when; that it moved is an event, and on the page.

The rows are in the database, and so in the log: the machine that takes over knows from which one.
"""

from typing import NamedTuple, NotRequired, TypedDict

from twinhost.agent.assembly import Foundation
from twinhost.agent.health import StandbyDocument, WitnessDocument
from twinhost.moments import iso_time
from twinhost.system_digital_twin import ITSELF
from twinhost.system_digital_twin.events.events import Events, Topic

MIGRATION = """
CREATE TABLE holders (
    agent TEXT PRIMARY KEY NOT NULL,
    epoch INTEGER NOT NULL,
    holder TEXT NOT NULL,
    since REAL NOT NULL,
    moved_from TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
TOOK_OVER = "took_over"  # the type of the event
_SHOWN = 4  # standbys of an agent


class HolderRow(TypedDict):
    """Where an agent is active: `holder` is null if nobody is now; `moved_from` is empty if it was there before."""

    agent: str
    holder: str | None
    epoch: int
    since: str
    moved_from: str
    transactions: int
    standbys: list[StandbyDocument]


class FailoverDocument(TypedDict):
    """What there is of the log; `copies` counts the databases with each commit, null where only their service knows."""

    agents: list[HolderRow]
    copies: int | None
    witness: NotRequired[WitnessDocument]


class _Held(NamedTuple):
    epoch: int = 0
    holder: str = ""
    since: float = 0.0  # in seconds since the epoch
    moved_from: str = ""


class Takeovers:
    """The machines that are active, as the log says; on the thread that owns the database."""

    def __init__(self, foundation: Foundation, events: Events) -> None:
        """Read which they were."""
        self._database, self._log, self._events = foundation.database, foundation.log, events
        self._config = foundation.settings.live
        rows = self._database.execute("SELECT agent, epoch, holder, since, moved_from FROM holders").fetchall()
        self._known = {agent: _Held(*row) for agent, *row in rows}

    def on_tick(self) -> None:
        """Write where an agent is active now, if that has changed.

        Raises:
            StoreUnavailable: it could not be written; it is retried.
        """
        state = None if self._log is None else self._log.state
        for name, log in {} if state is None else state.agents.items():
            known = self._known.get(name, _Held(holder=log.holder))
            if log.holder and (known.epoch, known.holder) != (log.epoch, log.holder):
                moved_from = known.holder if known.holder != log.holder else ""
                self._note(name, _Held(log.epoch, log.holder, self._database.clock.time(), moved_from))

    def document(self) -> FailoverDocument | None:
        """Return what the page shows; None without a log, and before the first look at it."""
        if self._log is None or (state := self._log.state) is None:
            return None
        shown: FailoverDocument = {"agents": [], "copies": state.copies}
        for name, log in state.agents.items():
            known = self._known.get(name, _Held(since=self._database.clock.time()))
            shown["agents"].append(
                {
                    "agent": name,
                    "holder": log.active,
                    "epoch": log.epoch,
                    "since": iso_time(known.since),
                    "moved_from": known.moved_from,
                    "transactions": log.transactions,
                    "standbys": [
                        {"name": one.name, "behind": one.behind, "silent_s": round(one.silent_s)}
                        for one in log.following[:_SHOWN]
                    ],
                }
            )
        if state.witness is not None:
            shown["witness"] = {"name": state.witness, "answers": self._log.witness_fault is None}
        return shown

    def _note(self, name: str, held: _Held) -> None:
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO holders VALUES (?, ?, ?, ?, ?) ON CONFLICT (agent) DO UPDATE SET epoch = excluded.epoch, "
                "holder = excluded.holder, since = excluded.since, moved_from = excluded.moved_from",
                (name, *held),
            )
            if held.moved_from:
                data = {"agent": name, "host": self._host_of(name, held.holder), "from": held.moved_from}
                event = {
                    "event_id": f"{TOOK_OVER}-{name}-{held.epoch}",
                    "event_type": TOOK_OVER,
                    "source_agent": ITSELF,
                    "data": data | {"to": held.holder, "epoch": held.epoch},
                    "propagate": True,
                    "ttl": None,
                }
                self._events.add(Topic.EVENT, event, ITSELF)
            self._database.after_commit(self._known.__setitem__, name, held)

    def _host_of(self, name: str, holder: str) -> str:
        """Return the host of the configuration on which an agent is active."""
        agent = self._config.current.agents.get(name)
        return holder if agent is None else agent.host_of(holder)
