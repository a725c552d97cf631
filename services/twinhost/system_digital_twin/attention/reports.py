"""What the hosts' agents say of themselves in their heartbeats: their conditions, their clocks, and their memory.

Only agents of the configuration are heard, so that the reports are as few as those; in memory, since the next heartbeat
says it again.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from twinhost.agent.clocks import ClockReport, SetClock
from twinhost.agent.conditions import Condition
from twinhost.agent.memory_figures import MemoryFigures
from twinhost.moments import Clock
from twinhost.system_digital_twin.registry.actions import Heartbeat


@dataclass(frozen=True, slots=True)
class HeardClock:
    """A report of a clock, and by how much mainpc's own had been set when it answered the heartbeat reported on."""

    report: ClockReport
    own_set_by_s: float


@dataclass(frozen=True, slots=True)
class HeardMemory:
    """What an agent said of its memory, and when; in seconds since the epoch."""

    figures: MemoryFigures
    at: float


class Reports:
    """The newest report of each host's agent; on the thread that owns the database."""

    def __init__(self, agents: Callable[[], Collection[str]], clock: Clock) -> None:
        """Hear the agents that `agents` returns, by their names."""
        self._agents = agents
        self.own = SetClock(clock)
        self._conditions: dict[str, Sequence[Condition]] = {}
        self._clocks: dict[str, HeardClock] = {}
        self.memories: dict[str, HeardMemory] = {}  # by agent
        self._clock = clock
        self._answered: dict[str, float] = {}  # by how much mainpc's clock had been set at the last answer

    def take(self, heartbeat: Heartbeat) -> None:
        """Keep what a heartbeat reports; a later one without a report withdraws it."""
        name = heartbeat.agent_name
        if name not in self._agents():
            return
        own_set_by_s = self.own.set_by_s
        if heartbeat.clock is None:
            self._clocks.pop(name, None)
        else:
            self._clocks[name] = HeardClock(heartbeat.clock, self._answered.get(name, own_set_by_s))
        self._answered[name] = own_set_by_s
        self._conditions[name] = heartbeat.conditions or ()
        if heartbeat.memory is not None:  # it is shown with its time, also of an agent that stops
            self.memories[name] = HeardMemory(heartbeat.memory, self._clock.time())

    def conditions(self, name: str) -> Sequence[Condition]:
        """Return what an agent said last of itself."""
        return self._conditions.get(name, ())

    def clock(self, name: str) -> HeardClock | None:
        """Return how an agent's clock differed last; None where it is not known."""
        return self._clocks.get(name)

    def has_reported(self, name: str) -> bool:
        """Return whether an agent is of a version that reports."""
        return name in self._clocks
