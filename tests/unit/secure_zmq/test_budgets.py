"""What one identity may use: whose budget counts, what is refused, and who uses most."""

import pytest

from tests.unit.unified_memory_reasoning.memory_model_bench import SetableClock
from twinhost.secure_zmq.budgets import UNBOUNDED, Budget, Budgets, BudgetTable, PerMinute, Usage
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.errors import OverBudget, error_from_reply

_ALICE = Caller("alice", "pc2", frozenset({"agent"}), "f1")
_LENT = Caller("lent", "pc2", frozenset({"agent", "indexer"}), "f2")
_ROOT = Caller("root", "pc2", frozenset({"operator"}), "f3")


def _budgets(**table: object) -> Budgets:
    held = BudgetTable(**table)  # type: ignore[arg-type]
    return Budgets(lambda: held)


def test_everybody_has_the_budget_of_the_configuration() -> None:
    budgets = _budgets(everybody=Budget(events=7))
    assert budgets.of(_ALICE).events == 7
    assert budgets.of(_ALICE).errors == Budget().errors


def test_a_name_has_its_budget_before_its_roles() -> None:
    budgets = _budgets(roles={"agent": {"events": 10}, "indexer": {"events": 30}}, names={"alice": {"events": 2}})
    assert budgets.of(_ALICE).events == 2
    assert budgets.of(_LENT).events == 30


def test_operators_and_the_open_link_are_bounded_only_by_choice() -> None:
    assert _budgets().of(_ROOT) == _budgets().of(UNAUTHENTICATED) == UNBOUNDED
    bounded = _budgets(roles={"operator": {"events": 3}, "unauthenticated": {"events": 4}})
    assert (bounded.of(_ROOT).events, bounded.of(UNAUTHENTICATED).events) == (3, 4)


def test_another_table_counts_at_once() -> None:
    tables = [BudgetTable(Budget(events=1))]
    budgets = Budgets(lambda: tables[-1])
    assert budgets.of(_ALICE).events == 1
    tables.append(BudgetTable(Budget(events=2)))
    assert budgets.of(_ALICE).events == 2


def test_a_refusal_says_which_budget_how_much_and_what_to_do() -> None:
    budgets = _budgets(everybody=Budget(events=10))
    budgets.require(_ALICE, "events", 9, 1, "publish fewer")
    with pytest.raises(OverBudget, match=r"alice uses 9 of its budget events of 10.*; publish fewer") as refused:
        budgets.require(_ALICE, "events", 9, 2, "publish fewer", until=0.0)
    fields = refused.value.reply_fields
    assert fields == {"budget": "events", "used": 9, "limit": 10, "until": "1970-01-01T00:00:00.000+00:00"}
    again = error_from_reply("over_budget", "sentence", fields)
    assert isinstance(again, OverBudget)
    assert again.reply_fields == fields


def test_the_largest_share_is_listed_first() -> None:
    usage = Usage(_budgets(everybody=Budget(events=10, errors=100)), {"alice": _ALICE, "lent": _LENT}.get)
    usage.register("events", lambda: {"alice": 5, "lent": 9, "gone": 10})
    usage.register("errors", lambda: {"alice": 20, "lent": 0})
    assert [(row.name, row.limit, row.share) for row in usage.rows()] == [
        ("lent", "events", 0.9),
        ("alice", "events", 0.5),
        ("alice", "errors", 0.2),
    ]


def test_what_was_had_counts_for_a_minute() -> None:
    """Then there is room again, as the refusal says; nothing is kept of an identity that has had nothing since."""
    clock = SetableClock()
    had = PerMinute(_budgets(everybody=Budget(at_once_bytes=10)), "at_once_bytes", clock)
    had.take(_ALICE, 6, "wait")
    clock.let_pass(30)
    had.take(_ALICE, 4, "wait")
    had.take(_LENT, 10, "wait")
    with pytest.raises(OverBudget, match="at_once_bytes of 10") as refusal:
        had.take(_ALICE, 1, "wait")
    assert refusal.value.used == 10
    clock.let_pass(30)
    had.take(_ALICE, 6, "wait")
    assert had.used() == {"alice": 10, "lent": 10}
    clock.let_pass(60)
    assert had.used() == {}
