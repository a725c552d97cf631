"""What there is of the agents' logs, as looks at the database show it: who is active, and who follows. Pure.

How long somebody is silent counts by the clock of who looks, from when a beat was seen to change.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LOOK_EVERY_S = 2.0
SILENT_AFTER_S = 3 * LOOK_EVERY_S  # whose beat has not changed for so long is not there
MOST_BEHIND = 1_000  # transactions: ten seconds of an agent that writes without a pause
_WAITED_FOR = re.compile(r"\s*(?:ANY|FIRST)?\s*(\d+)\s*\(", re.IGNORECASE)  # else it is a list, of which one is enough


@dataclass(frozen=True, slots=True)
class AgentEpoch:
    """The epoch of an agent, as the database has it."""

    agent: str
    number: int
    beat: int
    holder: str
    durable: int


@dataclass(frozen=True, slots=True)
class Standby:
    """What a standby of an agent wrote last: how far it has followed, and in `fault` what it says of itself, in lines.

    Its beat grows while it runs. It is 0 where `fault` is why it has ended; else it follows all the same.
    """

    agent: str
    name: str
    applied: int
    beat: int
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What the database has at one moment.

    `synchronous` names the databases that a commit waits for, as PostgreSQL's `synchronous_standby_names` does;
    `witness` is where the witness is, None if the database says nothing of one.
    """

    epochs: Sequence[AgentEpoch]
    standbys: Sequence[Standby]
    synchronous: str
    witness: str | None
    other_servers: Sequence[str] = ()  # of the DSN, than the one that was asked


class Difference(StrEnum):
    """What of its machine keeps a standby that follows from being the agent as the active process is."""

    SECRET = "secret"  # noqa: S105 - the word
    CONFIGURATION = "configuration"
    SPACE = "space"


_METRICS = "metrics"


def written(differences: Mapping[Difference, str], metrics: str = "") -> str:
    """Return differences, each with its sentence, and the metrics of the standby's machine, as it writes them."""
    lines = [*differences.items(), *([(_METRICS, metrics)] if metrics else [])]
    return "\n".join(f"{word}: {' '.join(text.split())}" for word, text in lines)


def _read(text: str) -> tuple[dict[Difference, str], str]:
    """Return both; a line of a later version is left out."""
    lines = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)
    return {word: lines[word] for word in Difference if word in lines}, lines.get(_METRICS, "")


@dataclass(frozen=True, slots=True)
class Follower:
    """A standby: how many transactions it is behind, for how long it has said nothing, and why it ended, if it said.

    `differences` and `metrics` are of one that has not ended. Metrics, in JSON, come from the agent's own host only.
    """

    name: str
    behind: int
    silent_s: float
    fault: str = ""
    differences: Mapping[Difference, str] = field(default_factory=dict)
    metrics: str = ""

    @property
    def follows(self) -> bool:
        return not self.fault and self.silent_s < SILENT_AFTER_S

    @property
    def lags(self) -> bool:
        return self.behind > MOST_BEHIND


@dataclass(frozen=True, slots=True)
class AgentLog:
    """An agent's log: who holds its epoch, and for how long that one has not confirmed it; what follows."""

    agent: str
    epoch: int
    holder: str
    transactions: int
    silent_s: float
    standbys: Sequence[Follower]

    @property
    def active(self) -> str | None:
        """The machine that is active; None if none says so now."""
        return self.holder if self.holder and self.silent_s < SILENT_AFTER_S else None

    @property
    def following(self) -> Sequence[Follower]:
        """The standbys that are there."""
        return [standby for standby in self.standbys if standby.follows]


@dataclass(frozen=True, slots=True)
class LogState:
    """All of it. `copies`: how many databases have each commit, None where only the service that runs them knows.

    `settled`: it was looked at for long enough to know who is silent.
    """

    agents: Mapping[str, AgentLog]
    copies: int | None
    witness: str | None = None
    other_servers: Sequence[str] = ()
    settled: bool = True


class Looks:
    """Makes states of looks, one after another."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._changed: dict[tuple[str, ...], tuple[object, float]] = {}  # each beat, and when it was seen first

    def take(self, look: Look, now: float) -> LogState:
        """Return the state, by a look at `now`, monotonic."""
        before, self._changed = self._changed, {}
        self._begun = now if self._begun is None else self._begun

        def silent_s(beat: object, *of: str) -> float:
            known = before.get(of)
            self._changed[of] = known if known is not None and known[0] == beat else (beat, now)
            return now - self._changed[of][1]

        agents = {}
        for epoch in look.epochs:
            standbys = tuple(
                Follower(
                    one.name,
                    max(0, epoch.durable - one.applied),
                    silent_s(one.beat, epoch.agent, one.name),
                    "" if one.beat else one.fault,
                    *(_read(one.fault) if one.beat else ()),
                )
                for one in look.standbys
                if one.agent == epoch.agent and one.name != epoch.holder
            )
            silent = silent_s((epoch.number, epoch.beat), epoch.agent)
            agents[epoch.agent] = AgentLog(epoch.agent, epoch.number, epoch.holder, epoch.durable, silent, standbys)
        return LogState(
            agents,
            copies(look.synchronous, whole=look.witness is not None),
            look.witness,
            look.other_servers,
            settled=now - self._begun >= SILENT_AFTER_S,
        )


def copies(synchronous: str, *, whole: bool) -> int | None:
    """Return how many databases have each commit, by what a commit waits for.

    Args:
        synchronous: `synchronous_standby_names`, which pg_auto_failover empties while there is no second database.
        whole: this setting says all; a service that replicates in another way says nothing by it.
    """
    if not synchronous.strip():
        return 1 if whole else None
    count = _WAITED_FOR.match(synchronous)
    return 1 + (int(count[1]) if count else 1)
