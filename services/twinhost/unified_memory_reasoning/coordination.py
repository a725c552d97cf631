"""Requests that are forwarded to other agents, and claims on operations.

A claim on an operation is won by the highest priority, and among equals by the first, or by an operator. A caller's
priorities are at most its `lease_priority`, as those of its requests for memory are. A claim ends after its holder's
`lease_s`, unless the holder repeats it, and with the holder's last live key. At most 10,000 claims are
kept, 1,000 of each holder; the oldest is evicted. Anybody can claim an operation again whose claim has ended. A
quarantined holder's claim is ignored: any caller can replace it, and it can't replace a visible one.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast

import msgspec

from twinhost.agent.membership.coordination import ForwardedRequest
from twinhost.agent.membership.member import Membership
from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.provenance.quarantine import (
    Quarantine,
    WrittenRow,
    create_visible_views,
    lists_written,
)

MAX_DATA_BYTES = 65_536  # of JSON; it is kept until the other agent replies
_NUMBERS = {"low": 1, "normal": 5, "high": 10}
PRIORITY = Annotated[int, msgspec.Meta(ge=1, le=10)] | Literal["low", "normal", "high"]
# This agent sets these in what it forwards.
_RESERVED = ("action", "request_id", "on_behalf_of", "deadline_s", "traceparent")


class CoordinateMemory(Request, tag="coordinate_memory"):
    """Forward an operation to another agent and wait for its reply; requests with a higher priority go first."""

    agent_name: NAME
    operation: NAME
    data: dict[str, Any]
    priority: PRIORITY = "normal"


class OtherAgentsAnswer(TypedDict):
    """The other agent's reply, unchanged."""

    status: str


class ResolveConflict(Request, tag="resolve_conflict"):
    """Claim an operation; `priority` is 1 to 10, or low (1), normal (5), or high (10).

    The claim lasts for as long as the caller's budget allows (`lease_s`, by default a day); repeat it to renew it. With
    the grant `{resolve_conflict: own}`, a claim never displaces another caller's.
    """

    op_id: NAME
    priority: PRIORITY


class ConflictResolved(TypedDict):
    """Whether the claim won (`resolved`), and who holds the operation, with which priority (1 to 10), since when."""

    status: Literal["ok"]
    op_id: str
    resolved: bool
    holder: str
    priority: int
    since: str


def number_of(priority: int | str, caller: Caller, budgets: Budgets) -> int:
    """Return the priority as a number; OverBudget if the caller may not have as high a one."""
    number = priority if isinstance(priority, int) else _NUMBERS[priority]
    budgets.require(caller, "lease_priority", 0, number, "ask with a lower `priority`")
    return number


class CoordinationActions(Feature):
    """Forwards requests to other agents."""

    def __init__(self, member: Membership, own_name: str, budgets: Budgets) -> None:
        self._member = member
        self._own_name = own_name
        self._budgets = budgets

    @action()
    def coordinate(self, request: CoordinateMemory, caller: Caller) -> "Future[OtherAgentsAnswer]":
        if request.agent_name == self._own_name:
            raise MalformedRequest(
                f"this is {self._own_name}; send {request.operation[:64]} to it directly - at `$.agent_name`"
            )
        priority = number_of(request.priority, caller, self._budgets)
        size = len(msgspec.json.encode(request.data))
        if size > MAX_DATA_BYTES:
            raise MessageTooLarge(
                f"`data` has {size} bytes of JSON, and at most {MAX_DATA_BYTES} are forwarded; split the operation"
            )
        for name in _RESERVED:
            if name in request.data:
                raise MalformedRequest(f"`{name}` is set by {self._own_name}; leave it out - at `$.data.{name}`")
        answer = self._member.send(
            ForwardedRequest(
                agent_name=request.agent_name,
                operation=request.operation,
                fields=request.data,
                priority=priority,
                caller=caller.name,
                on_behalf=caller.authenticated,
                request_id=request.request_id,
            )
        )
        return cast("Future[OtherAgentsAnswer]", answer)


MIGRATION = """
CREATE TABLE operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    op_id TEXT NOT NULL UNIQUE,
    priority INTEGER NOT NULL,
    since REAL NOT NULL,
    written_by TEXT NOT NULL
) STRICT;
CREATE INDEX operations_by_holder ON operations (written_by, number);
"""
# Claims of before last for a day from the migration on, the default of `lease_s`.
MIGRATION_ENDS = """
ALTER TABLE operations ADD COLUMN ends REAL NOT NULL DEFAULT 0.0;
UPDATE operations SET ends = strftime('%s', 'now') + 86400.0;
"""
MOST = 10_000
MOST_OF_A_HOLDER = 1_000  # so that nobody can evict the claims of others with many of its own
_HELD = "SELECT op_id, priority, since, written_by AS holder FROM visible_operations WHERE op_id = ? AND ends > ?"
_WRITTEN = (
    "SELECT number, op_id, priority, since, written_by AS holder FROM operations "
    "WHERE written_by = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3"
)


class Claim(msgspec.Struct, frozen=True):
    """Who holds an operation; `priority` is 1 to 10, `since` in seconds since the epoch."""

    op_id: str
    priority: int
    since: float
    holder: str


class WrittenClaim(WrittenRow):
    """A claim on an operation, listed by its holder."""

    op_id: NotRequired[str]
    priority: int
    since: str
    holder: str


class Conflicts:
    """The claims on operations, by the operation's id."""

    def __init__(
        self,
        database: Database,
        is_live: Callable[[str], bool],
        *,
        most: int = MOST,
        most_of_a_holder: int = MOST_OF_A_HOLDER,
    ) -> None:
        """`is_live` says whether a key of a holder is authorised now."""
        create_visible_views(database, "operations")
        self._database = database
        self._is_live = is_live
        self._quarantine = Quarantine(database)
        self._most = most
        self._most_of_a_holder = most_of_a_holder

    def resolve(self, op_id: str, priority: int, caller: Caller, lasts_s: float) -> tuple[bool, Claim]:
        """Claim an operation for some seconds; return whether the claim won, and the claim that holds now.

        The first claim wins, and after it only a strictly higher priority, or an operator's equal one. This applies to
        the holder too: a second claim of its own with the same priority doesn't win, and it still holds the operation,
        for `lasts_s` seconds from now. A caller that may change its own claims only never displaces another's.
        """
        now = self._database.clock.time()
        held = self._database.select_one(Claim, _HELD, (op_id, now))
        if held is not None and self._is_live(held.holder):
            own = held.holder == caller.name
            wins = priority > held.priority or (priority == held.priority and caller.operator and not own)
            if own:
                self._database.execute("UPDATE operations SET ends = ? WHERE op_id = ?", (now + lasts_s, op_id))
            if not wins or self._quarantine.hides(caller.name) or not caller.may_change(held.holder):
                return False, held
        self._database.execute(
            "INSERT OR REPLACE INTO operations (op_id, priority, since, written_by, ends) VALUES (?, ?, ?, ?, ?)",
            (op_id, priority, now, caller.name, now + lasts_s),
        )
        self._evict(caller.name)
        return True, Claim(op_id, priority, now, caller.name)

    written_by = lists_written(WrittenClaim, _WRITTEN)

    @property
    def count(self) -> int:
        """The number of claims; on the thread that owns the database."""
        return int(self._database.value("SELECT count(*) FROM operations"))

    def _evict(self, holder: str) -> None:
        self._database.execute(
            "DELETE FROM operations WHERE written_by = ? AND number <= "
            "(SELECT number FROM operations WHERE written_by = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (holder, holder, self._most_of_a_holder),
        )
        self._database.execute(
            "DELETE FROM operations WHERE number <= "
            "(SELECT number FROM operations ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._most,),
        )


class ConflictActions(Feature):
    """Claims operations for callers."""

    def __init__(self, conflicts: Conflicts, budgets: Budgets) -> None:
        self._conflicts = conflicts
        self._budgets = budgets

    @action(mutates=True)
    def resolve(self, request: ResolveConflict, caller: Caller) -> ConflictResolved:
        priority, lasts_s = number_of(request.priority, caller, self._budgets), self._budgets.of(caller).lease_s
        resolved, claim = self._conflicts.resolve(request.op_id, priority, caller, lasts_s)
        return {
            "status": SUCCESS,
            "op_id": claim.op_id,
            "resolved": resolved,
            "holder": claim.holder,
            "priority": claim.priority,
            "since": iso_time(claim.since),
        }
