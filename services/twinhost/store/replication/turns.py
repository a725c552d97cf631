"""Whose turn it is to be active, as an operator asks for it: while another process is, or while none is.

Both write one column of the epoch. A process that is active and reads another name there sends its last replies, and
ends; the named one then claims at once, and everybody else has to wait.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from twinhost.secure_zmq.errors import Conflict
from twinhost.store.replication.epochs import Candidate, Epoch
from twinhost.store.replication.looks import MOST_BEHIND
from twinhost.store.replication.postgres import Log

_LOOK_S = 0.1
_STANDS_WITHIN_S = 2.5  # a process that stands by says so every second
TAKES_OVER_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Turn:
    """Who is active now, and since how many seconds after it was asked for."""

    holder: str
    epoch: int
    after_s: float


class Turns:
    """What an operator may ask for, of one agent's log."""

    def __init__(
        self,
        log: Log,
        agent: str,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the log of an agent; `agent` is what sentences name it."""
        self._log, self._agent, self._monotonic, self._sleep = log, agent, monotonic, sleep

    def promote(self, name: str) -> Turn:
        """Have a process that stands by be active, if no other one is.

        Raises:
            Conflict: another one may be, or the process does not stand by.
            OutcomeUnknown: the database does not answer.
        """
        seen = self._require_silent()
        self._require_standing(name)
        if not self._log.give_turn(seen, name):
            raise Conflict(f"{self._agent} has become active meanwhile; see: ./twinhost status")
        return self._wait_for(name, seen)

    def switch_over(self, name: str = "") -> Turn:
        """Have a process that stands by be active in place of the one that is.

        Args:
            name: of the process; by default the one that has repeated most.

        Raises:
            Conflict: none is active, or no process stands by and has repeated nearly all.
            OutcomeUnknown: the database does not answer.
        """
        standing = self._standing()
        seen = self._log.look()
        if not seen.holder:
            raise Conflict(f"{self._agent} is active nowhere; run: ./twinhost promote {self._agent}")
        standing.pop(seen.holder, None)
        if name and name not in standing:
            raise Conflict(self._does_not_stand(name, standing))
        if not standing:
            raise Conflict(f"no process of {self._agent} stands by for {seen.holder}; start one")
        name = name or max(standing, key=lambda other: standing[other])
        if (behind := seen.durable - standing[name]) > MOST_BEHIND:
            raise Conflict(f"{name} has {behind} transactions to repeat; ask again once it has {MOST_BEHIND} at most")
        while not self._log.give_turn(seen, name):  # a beat came between
            before, seen = seen, self._log.look()
            if seen.number != before.number:
                raise Conflict(f"{self._agent} became active on {seen.holder} meanwhile; see: ./twinhost status")
        return self._wait_for(name, seen)

    def _require_silent(self) -> Epoch:
        """Return the epoch if it is held by nobody, or was not confirmed for as long as another process waits."""
        candidate = Candidate()
        first = None
        while True:
            candidate.saw(epoch := self._log.look(), self._monotonic())
            if not epoch.holder or candidate.is_silent(self._monotonic()):
                return epoch
            first = first or epoch
            if (epoch.number, epoch.beat) != (first.number, first.beat):
                raise Conflict(
                    f"{self._agent} is active on {epoch.holder}, which has just confirmed it; "
                    f"run: ./twinhost switchover {self._agent}"
                )
            self._sleep(_LOOK_S)

    def _require_standing(self, name: str) -> None:
        if name not in (standing := self._standing()):
            raise Conflict(self._does_not_stand(name, standing))

    def _does_not_stand(self, name: str, standing: dict[str, int]) -> str:
        others = ", ".join(sorted(standing)) or "none does"
        return f"no process named {name} stands by for {self._agent} (who does: {others}); start it, or name another"

    def _standing(self) -> dict[str, int]:
        """Return how far the processes have repeated the log that say so now."""
        before = {standing.name: standing.beat for standing in self._log.standbys()}
        found: dict[str, int] = {}
        until = self._monotonic() + _STANDS_WITHIN_S
        while self._monotonic() < until and before.keys() - found.keys():
            self._sleep(_LOOK_S)
            found |= {now.name: now.applied for now in self._log.standbys() if before.get(now.name, 0) < now.beat}
        return found

    def _wait_for(self, name: str, seen: Epoch) -> Turn:
        began = self._monotonic()
        while (waited_s := self._monotonic() - began) < TAKES_OVER_WITHIN_S:
            if (epoch := self._log.look()).number != seen.number:
                if epoch.holder != name:
                    raise Conflict(f"{self._agent} became active on {epoch.holder}, and not on {name}; see its log")
                return Turn(name, epoch.number, waited_s)
            self._sleep(_LOOK_S)
        self._log.give_turn(epoch, seen.turn)
        raise Conflict(f"{name} did not become active within {TAKES_OVER_WITHIN_S:.0f} s; read its log")
