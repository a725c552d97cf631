"""Who is active: the rules by which one process at a time claims an agent's epoch, holds it, and follows its log.

No clocks are compared. The active process adds a beat to its epoch twice a second, and answers for 2.5 s after it has
asked for the last one that was added: longer than a commit takes on two busy disks. Another process claims the epoch
once it has seen the same beat for 3.25 s. Each counts on its own monotonic clock, so both may answer at one time only
if these run at rates that differ by 23 %.

    Candidate --claim--> Tenure: holds() until 2.5 s after the last beat, and never again after `end`

An epoch that was released is for anybody, or for the process whose turn it is: another one waits 4 s then, too. With
`failover: manual`, it waits for its turn.

A standby repeats transactions only as far as the active one has said that they are durable. One whose commit was
cancelled while it waited for the second database is visible to all, and may still be lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twinhost.secure_zmq.errors import ConfigurationError

BEAT_S = 0.5
HOLDS_S = 2.5
CLAIM_AFTER_S = 3.25


@dataclass(frozen=True, slots=True)
class Epoch:
    """The row of an agent's epoch, as it was read."""

    number: int
    beat: int  # a number that none before it had
    holder: str  # empty if it was released, or never held
    durable: int  # the number of the last transaction that its holder knows to be durable
    log: str = ""  # which log the transactions are of; empty before the first claim
    turn: str = ""  # the process that was last active, or is to be the next one; empty: any


class Candidate:
    """A process that is not active: when it may claim the epoch."""

    def __init__(self, name: str = "", *, manual: bool = False) -> None:
        """Begin.

        Args:
            name: the process's own.
            manual: it claims only if it was the last active one, or was promoted.
        """
        self.name, self.manual = name, manual
        self.seen: Epoch | None = None
        self._since = 0.0

    def saw(self, epoch: Epoch, now: float) -> None:
        """Take the epoch as a query has returned it at `now`, monotonic; of a database that follows, too.

        That one may be late, and then only makes a claim later: what is claimed is compared with the one that takes
        writes, which has each beat that its sender knows of, and no beat comes twice.
        """
        if self.seen is None or (self.seen.number, self.seen.beat) != (epoch.number, epoch.beat):
            self._since = now
        self.seen = epoch

    def may_claim(self, now: float) -> bool:
        """Return whether to claim what was seen, which fails where it has changed meanwhile."""
        if self.seen is None:
            return False
        own_turn = self.seen.turn in ("", self.name)
        return (own_turn and not self.seen.holder) or (self.is_silent(now) and (own_turn or not self.manual))

    def is_silent(self, now: float) -> bool:
        """Return whether nothing has changed for so long that no process answers any more."""
        return self.seen is not None and now - self._since >= CLAIM_AFTER_S

    def silent_s(self, now: float) -> float:
        """Return for how long nothing has changed."""
        return now - self._since


class Tenure:
    """An epoch that this process has claimed, and for how long it may answer."""

    def __init__(self, number: int, claimed_at: float, durable: int = 0) -> None:
        """Begin when the claim is durable.

        Args:
            number: of the epoch.
            claimed_at: when it was asked for, monotonic.
            durable: the last transaction that the epoch before has known to be.
        """
        self.number, self.durable = number, durable
        self.ended: str | None = None  # why; then the process has to
        self._confirmed_at = claimed_at

    def holds(self, now: float) -> bool:
        """Return whether an answer may leave: no other process can be active yet."""
        return self.ended is None and now - self._confirmed_at < HOLDS_S

    @property
    def until(self) -> float:
        """When it ends without another beat, monotonic."""
        return self._confirmed_at + HOLDS_S

    def confirmed(self, asked_at: float) -> None:
        """Take a beat that was added; it was asked for at `asked_at`."""
        self._confirmed_at = max(self._confirmed_at, asked_at)

    def appended(self, number: int) -> None:
        """Take a transaction that both databases have."""
        self.durable = number

    def end(self, why: str) -> None:
        """Answer nothing any more: another process is active, or what happened to a transaction is not known."""
        self.ended = self.ended or why


class Behind(Exception):
    """A database ends before the log begins, which was trimmed."""


class Numbered(Protocol):
    """An entry of the log."""

    @property
    def seq(self) -> int: ...


def require_next(entries: Sequence[Numbered], applied: int) -> None:
    """Check that entries follow, without a gap, on the last that a database has.

    Raises:
        Behind: the first does not.
        ConfigurationError: another one does not.
    """
    for expected, entry in enumerate(entries, applied + 1):
        if entry.seq != expected:
            what = f"the log goes on with transaction {entry.seq} after {expected - 1}"
            raise Behind(what) if entry is entries[0] else ConfigurationError(f"{what}: it has lost some")
