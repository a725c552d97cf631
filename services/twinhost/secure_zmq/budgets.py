"""Budgets: what one identity may use, all its keys and connections together, so that it harms nobody but itself.

A budget is set for everybody, for a role, and for a name, in `limits.budgets` of the configuration. Whoever holds a
resource asks `Budgets.require` before it gives more of it, and tells `Usage` how much each identity has: `status`, the
metrics and the page show that beside the budget. What exceeds a budget is refused with `OverBudget`, or the oldest of
the same identity gives way, or its connection is closed; nothing of another identity is deleted for it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import OverBudget

_MIB, _GIB = 2**20, 2**30
_MOST = 2**63 - 1  # as in SQLite

Amount = Annotated[int, Meta(gt=0, le=_MOST, description="a whole number, more than 0")]
Share = Annotated[float, Meta(gt=0, le=1, description="a share: a number more than 0 and at most 1")]
Weight = Annotated[float, Meta(gt=0, le=1_000, description="a weight: a number more than 0 and at most 1000")]
Level = Annotated[int, Meta(ge=0, le=1_000, description="a whole number from 0 to 1000")]
Duration = Annotated[float, Meta(gt=0, le=366 * 86_400, description="a number of seconds, more than 0, up to a year")]


@dataclass(frozen=True, slots=True)
class Budget:
    """What one identity may use of each agent; the names have the units.

    `unsent_bytes` are replies that wait to be read by it (events are bounded for all together, see `feed`),
    `unhandled_bytes` requests that wait for the agent. `stored_bytes` is what its rows of every kind take on disk. Of
    events and of errors as many are kept.
    `names` is how many sessions, twins, keywords and the like it may have created. Leases: `lease_share` of what may be
    leased on each card and of each machine's RAM, each for `lease_s` at the longest unless it is renewed, with a
    priority of at most `lease_priority`. A claim of an operation lasts for `lease_s` too, and it and what is forwarded
    have at most that priority. `turns` is its part of the agent's time beside others who ask at the same moment.
    `at_once_bytes` is what it may store within a minute by requests that store several memories as a whole, during
    which nobody else is served. `vector_bytes` is the memory that the vectors of its texts take; further texts get
    none.
    """

    unsent_bytes: Amount = 16 * _MIB
    unhandled_bytes: Amount = 16 * _MIB
    stored_bytes: Amount = 4 * _GIB
    events: Amount = 10_000
    errors: Amount = 10_000
    names: Amount = 500_000
    lease_share: Share = 0.95
    lease_s: Duration = 86_400.0
    lease_priority: Level = 100
    turns: Weight = 1.0
    at_once_bytes: Amount = 16 * _MIB
    vector_bytes: Amount = 48 * _MIB


LIMITS_OF_BUDGET = tuple(limit.name for limit in fields(Budget))
UNBOUNDED = Budget(  # of operators, and of the open link, whose callers are all one
    stored_bytes=_MOST,
    events=_MOST,
    errors=_MOST,
    names=_MOST,
    lease_share=1.0,
    lease_priority=1_000,
    at_once_bytes=_MOST,
    vector_bytes=_MOST,
)


@dataclass(frozen=True, slots=True)
class BudgetTable:
    """The budgets of the configuration: everybody's, and what a role or a name has instead, by limit."""

    everybody: Budget = Budget()
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Budgets:
    """The budget of each caller, as the configuration has it now."""

    def __init__(self, table: Callable[[], BudgetTable] = BudgetTable) -> None:
        """Take a function that returns the table in effect; equal tables may be one object or several."""
        self._table = table
        self._held: BudgetTable | None = None
        self._known: dict[tuple[str, frozenset[str]], Budget] = {}

    def of(self, caller: Caller) -> Budget:
        """Return a caller's budget: its name's, or else its roles', of which the largest counts, or everybody's."""
        table = self._table()
        if table is not self._held:
            self._held, self._known = table, {}
        who = caller.name, caller.roles
        budget = self._known.get(who)
        if budget is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known = {}
            budget = self._known[who] = _budget_of(caller, table)
        return budget

    def require(
        self, caller: Caller, limit: str, used: float, more: float, remedy: str, until: float | None = None
    ) -> None:
        """Raise OverBudget unless a caller who uses so much may have so much more.

        Args:
            caller: whose budget it is.
            limit: a field of `Budget`.
            used: what the caller has.
            more: what is to be added.
            remedy: what the caller can do, as the end of a sentence.
            until: when there is room again, in seconds since the epoch, if time alone brings it.
        """
        most = getattr(self.of(caller), limit)
        if used + more > most:
            raise over_budget(caller.name, limit, used, most, remedy, until)


class PerMinute:
    """What each identity has had of one limit within the last minute; on the thread of the loop."""

    def __init__(self, budgets: Budgets, limit: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._budgets, self._limit, self._clock = budgets, limit, clock
        self._had: dict[str, deque[tuple[float, float]]] = {}  # by name: when, by the monotonic clock, and how much

    def take(self, caller: Caller, amount: float, remedy: str) -> None:
        """Count what a caller has now, or raise OverBudget; `remedy` is as of `Budgets.require`."""
        used, now = self.used().get(caller.name, 0.0), self._clock.monotonic()
        had = self._had.get(caller.name)
        until = self._clock.time() + had[0][0] + _MINUTE_S - now if had else None
        self._budgets.require(caller, self._limit, used, amount, remedy, until)
        self._had.setdefault(caller.name, deque()).append((now, amount))

    def used(self) -> dict[str, float]:
        """Return how much each identity has had, of those that had some."""
        since = self._clock.monotonic() - _MINUTE_S
        for had in self._had.values():
            while had and had[0][0] <= since:
                had.popleft()
        self._had = {name: had for name, had in self._had.items() if had}
        return {name: sum(amount for _, amount in had) for name, had in self._had.items()}


SHOWN = 20  # rows of use, the largest shares: in a health document, on the page, and as metrics
NEARLY_USED = 0.8  # of a budget: from then on its use is reported
_MOST_KNOWN = 1_024
_MINUTE_S = 60.0
_READ_EVERY_S = 1.0


def over_budget(name: str, limit: str, used: float, most: float, remedy: str, until: float | None = None) -> OverBudget:
    """Return the refusal of what exceeds a budget; the arguments are as of `Budgets.require`."""
    again = f", until {iso_time(until)}" if until is not None else ""
    return OverBudget(
        f"{name[:64]} uses {used:.10g} of its budget {limit} of {most:.10g}, and this would exceed it{again}; {remedy}",
        {"budget": limit, "used": used, "limit": most, "until": None if until is None else iso_time(until)},
    )


def _budget_of(caller: Caller, table: BudgetTable) -> Budget:
    if caller.name in table.names:
        base = UNBOUNDED if caller.operator or not caller.authenticated else table.everybody
        return replace(base, **table.names[caller.name])
    if not caller.authenticated or caller.operator:
        roles = "unauthenticated" if not caller.authenticated else "operator"
        return replace(UNBOUNDED, **table.roles.get(roles, {}))
    of_roles = [replace(table.everybody, **table.roles[role]) for role in caller.roles if role in table.roles]
    if not of_roles:
        return table.everybody
    return Budget(**{limit: max(getattr(budget, limit) for budget in of_roles) for limit in LIMITS_OF_BUDGET})


class Used(NamedTuple):
    """How much of one limit an identity uses."""

    name: str
    limit: str
    used: float
    most: float

    @property
    def share(self) -> float:
        """The used part, of 1."""
        return self.used / self.most


class Usage:
    """What each identity uses, as those who hold the resources say; on the thread of the loop."""

    def __init__(self, budgets: Budgets, caller_named: Callable[[str], Caller | None]) -> None:
        self._budgets = budgets
        self._caller_named = caller_named
        self._readers: dict[str, Callable[[], Mapping[str, float]]] = {}
        self._read_at = -math.inf
        self.newest: Sequence[Used] = ()  # all rows as they were read last, for any thread

    def register(self, limit: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Have a limit's use read by this function, which returns it by identity and takes little time."""
        self._readers[limit] = read

    def rows(self) -> list[Used]:
        """Return who uses how much of which limit, the largest shares first.

        Identities without a key, and those without a limit, are left out.
        """
        rows = [row for limit, read in self._readers.items() for row in self._of(limit, read().items())]
        return sorted(rows, key=lambda row: (-row.share, row.name, row.limit))

    def exhausted(self, limit: str) -> frozenset[str]:
        """Return who uses all of a limit, or more."""
        return frozenset(row.name for row in self._of(limit, self._readers[limit]().items()) if row.share >= 1)

    def refresh(self, now: float) -> Sequence[Used]:
        """Read all rows again, unless that was done within a second; `now` is monotonic."""
        if now - self._read_at >= _READ_EVERY_S:
            self._read_at, self.newest = now, self.rows()
        return self.newest

    def _of(self, limit: str, uses: Iterable[tuple[str, float]]) -> Iterable[Used]:
        for name, used in uses:
            caller = self._caller_named(name)
            if caller is None or used <= 0:
                continue
            if (most := getattr(self._budgets.of(caller), limit)) < _MOST:
                yield Used(name, limit, used, most)
