"""The disk: a share for each writer, and a reserve of free space that only some actions may use.

What a request adds is counted by the store (`stored_bytes`) and judged here, once it was executed and before it is
committed. So no action can forget to ask, and one that stores less than before is never refused. Nothing is read where
a caller has room for more than any such request can store.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from twinhost.agent.conditions import BUDGETS, Condition
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.budgets import NEARLY_USED, UNBOUNDED, Budget, Budgets, Used, over_budget
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.database import Database
from twinhost.store.stored_bytes import KINDS, NOT_DELETED, Stored, StoredBytes

LIMITS = ("stored_bytes", "names")  # of a budget, in the order of `Stored`
_LARGEST_PART = 16  # of a volume that the reserve takes is one of so many: small ones must be of use too
_LOOK_EVERY_S = 1.0
_MOST_BYTES, _MOST_NAMES = 2**20, 8  # that a request adds, whatever its size: a patch stores a whole twin, and its past
_BYTES_FOR_ONE = 64  # that it adds for each byte of its own, at most: a short memory has several rows


@dataclass(slots=True)
class _Room:
    """How much an identity may surely add before what it has stored is read again, by the budget that it had then."""

    budget: Budget
    bytes: int
    names: int

    def take(self, most: Stored) -> bool:
        """Take what a request may add; return False if there is less."""
        if self.bytes < most.bytes or self.names < most.names:
            return False
        self.bytes -= most.bytes
        self.names -= most.names
        return True


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume, in bytes: `free` is what users can write, of which the last `reserve` are for some actions only."""

    size: int = 0
    free: int = 0
    reserve: int = 0

    def fault(self, folder: Path) -> str | None:
        """Return why changes of what is in this folder are refused; None while they are not."""
        if self.free >= self.reserve:
            return None
        return (
            f"{self.free} bytes are free on the volume of {folder}, and the last {self.reserve} are for "
            "registrations, revocations and deletions; delete what is not needed, or free space there"
        )


Usage = Callable[[Path], tuple[int, int, int]]  # the size of a folder's volume, and the bytes that are used and free


def volume_of(folder: Path, reserve_bytes: int, usage: Usage = shutil.disk_usage) -> Volume:
    """Look at the volume of a folder.

    Raises:
        OSError: that can't be done now.
    """
    size, _, free = usage(folder)
    return Volume(size, free, int(reserve_of(size, reserve_bytes)))


def reserve_of(size: float, reserve_bytes: float) -> float:
    """Return how much of a volume is a reserve, which is less on a small one."""
    return min(reserve_bytes, size // _LARGEST_PART)


class Counting(Protocol):
    """What says how much each identity has stored, as `StoredBytes` does."""

    @property
    def changes(self) -> int: ...
    def of(self, name: str) -> Stored: ...
    def by_table(self, name: str) -> list[tuple[str, Stored]]: ...
    def all(self) -> dict[str, Stored]: ...


def near(rows: Iterable[Used]) -> list[Used]:
    """Return the shares of the disk that are nearly used up, of rows with the largest shares first."""
    return [row for row in takewhile(lambda row: row.share >= NEARLY_USED, rows) if row.limit in LIMITS]


def budget_warnings(rows: Iterable[Used], agent: str) -> Iterator[Condition]:
    """Yield who has nearly used up a share of an agent, of such rows; each writer is told apart."""
    for row in near(rows):
        yield Condition(
            name=f"{BUDGETS}/{row.name}",
            what=f"{row.name} uses {row.share:.0%} of its budget {row.limit} ({row.used:.0f} of {row.most:.0f}), and "
            "at 100 % is refused more; have it delete something, or raise the limit in network_config.yaml "
            "(limits.budgets)",
            command=f"./twinhost call {agent} health",
        )


class Disk:
    """What each writer stores in the agent's databases, and how much their volume has left."""

    def __init__(
        self,
        folder: Path,
        budgets: Budgets,
        reserve_bytes: int,
        clock: Clock = SYSTEM_CLOCK,
        usage: Usage = shutil.disk_usage,
    ) -> None:
        """Look at the volume of a folder."""
        self._folder, self._budgets = folder, budgets
        self._monotonic, self._usage = clock.monotonic, usage
        self._counted: list[Counting] = []
        self._room: dict[str, _Room] = {}  # by identity, of which there are as many as keys
        self.volume = Volume()  # as it was seen last; on any thread
        self._look_at = 0.0
        self.look(reserve_bytes)

    def count(self, database: Database, owner: str | None = None) -> None:
        """Count the rows of a database: for their writers, or all of them for its owner."""
        self.count_also(StoredBytes(database, owner))

    def count_also(self, counting: Counting) -> None:
        """Count what is stored in databases that are not always open."""
        self._counted.append(counting)

    def look(self, reserve_bytes: int) -> None:
        """Look how much is free, unless that was done within a second; a small volume has a smaller reserve."""
        now = self._monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY_S
        with suppress(OSError):  # then what was known counts, and a write shows what is wrong
            self.volume = volume_of(self._folder, reserve_bytes, self._usage)

    def fault(self) -> str | None:
        """Return why changes are refused; None while they are not. On any thread."""
        return self.volume.fault(self._folder)

    def share_of(self, caller: Caller, payload_bytes: int) -> AbstractContextManager[None] | None:
        """Return what judges a request that changes the store, around it; None where its caller surely has room.

        Raises:
            StoreUnavailable: only the reserve is free.
        """
        if (fault := self.fault()) is not None:
            raise StoreUnavailable(f"{fault}; nothing of this request was stored")
        budget = self._budgets.of(caller)
        if (budget.stored_bytes, budget.names) == (UNBOUNDED.stored_bytes, UNBOUNDED.names):
            return None
        most = Stored(_MOST_BYTES + _BYTES_FOR_ONE * payload_bytes, _MOST_NAMES + payload_bytes)
        room = self._room.get(caller.name)
        if room is None or room.budget is not budget or not room.take(most):
            used = self._stored(caller.name)
            room = self._room[caller.name] = _Room(budget, budget.stored_bytes - used.bytes, budget.names - used.names)
            if not room.take(most):
                return self._judged(caller, budget, used)
        return None

    @contextmanager
    def _judged(self, caller: Caller, budget: Budget, before: Stored) -> Iterator[None]:
        """Raise OverBudget where a caller stores more than before, and more than it may."""
        changes = self._changes()
        yield
        if self._changes() == changes:
            return
        for limit, used, uses in zip(LIMITS, before, self._stored(caller.name), strict=True):
            if uses > used and uses > (most := getattr(budget, limit)):
                raise over_budget(caller.name, limit, used, most, self._remedy(caller.name, limit))

    def stored_bytes(self) -> Mapping[str, float]:
        """Return the bytes of each writer."""
        return {name: stored.bytes for name, stored in self._all().items()}

    def names(self) -> Mapping[str, float]:
        """Return how many names each writer has created."""
        return {name: stored.names for name, stored in self._all().items()}

    def _changes(self) -> int:
        return sum(counted.changes for counted in self._counted)

    def _stored(self, name: str) -> Stored:
        return _together(counted.of(name) for counted in self._counted)

    def _all(self) -> dict[str, Stored]:
        sums: dict[str, Stored] = {}
        for counted in self._counted:
            for name, stored in counted.all().items():
                sums[name] = _together((sums.get(name, Stored()), stored))
        return sums

    def _remedy(self, name: str, limit: str) -> str:
        place = LIMITS.index(limit)
        largest = max(
            (part for counted in self._counted for part in counted.by_table(name)), key=lambda part: part[1][place]
        )
        table, stored = largest
        delete = "" if table in NOT_DELETED else "delete some, or "
        kind = KINDS.get(table, table.replace("_", " "))
        return f"most of it is in {kind} ({stored[place]}): {delete}ask an operator for more (limits.budgets)"


def _together(parts: Iterable[Stored]) -> Stored:
    stored_bytes, names = zip(*parts, strict=True)
    return Stored(sum(stored_bytes), sum(names))
