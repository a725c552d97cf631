"""Of several claims on one operation only a strictly higher priority wins, durably and within bounds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.memory_model_bench import ANA, BEN, OPERATOR, MemoryBench, SetableClock
from twinhost.agent.membership.member import Membership
from twinhost.secure_zmq.budgets import Budgets, BudgetTable
from twinhost.secure_zmq.errors import OverBudget
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS
from twinhost.unified_memory_reasoning.coordination import (
    MIGRATION_ENDS,
    Claim,
    Conflicts,
    CoordinateMemory,
    CoordinationActions,
)

DAY_S = 86_400.0


@pytest.fixture
def clock() -> SetableClock:
    return SetableClock()


@pytest.fixture
def bench(tmp_path: Path, clock: SetableClock) -> Iterator[MemoryBench]:
    with MemoryBench(tmp_path / "db", clock) as bench:
        yield bench


def claim(bench: MemoryBench, priority: Any, caller: Any = ANA, op_id: str = "op") -> tuple[bool, str, int]:
    """Return whether a claim won, who holds the operation then, and with which priority."""
    reply = bench.ask("resolve_conflict", caller, op_id=op_id, priority=priority)
    return reply["resolved"], reply["holder"], reply["priority"]


def test_only_a_strictly_higher_priority_wins(bench: MemoryBench) -> None:
    """The first claim wins; an equal one does not, of nobody."""
    assert claim(bench, 5) == (True, "Ana", 5)
    assert claim(bench, 5, BEN) == (False, "Ana", 5)
    assert claim(bench, 5) == (False, "Ana", 5)
    assert claim(bench, 4, BEN) == (False, "Ana", 5)
    assert claim(bench, 6, BEN) == (True, "Ben", 6)
    assert claim(bench, 6) == (False, "Ben", 6)
    assert claim(bench, 1, op_id="another") == (True, "Ana", 1)


@pytest.mark.parametrize(("word", "number"), [("low", 1), ("normal", 5), ("high", 10)])
def test_a_word_is_a_priority(bench: MemoryBench, word: str, number: int) -> None:
    assert claim(bench, word) == (True, "Ana", number)
    assert claim(bench, number, BEN)[0] is False


def test_a_claim_has_at_most_the_priority_of_its_budget(bench: MemoryBench) -> None:
    """So one that nobody else could displace can be kept from a role; an operator's has no such limit."""
    bench.budgets = BudgetTable(roles={"agent": {"lease_priority": 5}})
    refused = bench.ask("resolve_conflict", op_id="op", priority="high")
    assert (refused["code"], refused["budget"], refused["limit"]) == ("over_budget", "lease_priority", 5)
    assert claim(bench, 5) == (True, "Ana", 5)
    assert claim(bench, 10, OPERATOR) == (True, OPERATOR.name, 10)


def test_so_has_what_is_forwarded() -> None:
    budgets = Budgets(lambda: BudgetTable(roles={"agent": {"lease_priority": 5}}))
    coordination = CoordinationActions(cast(Membership, None), "UMRA", budgets)
    with pytest.raises(OverBudget, match="lease_priority"):
        coordination.coordinate(CoordinateMemory(agent_name="other", operation="o", data={}, priority=6), ANA)


def test_a_claim_survives_a_restart(bench: MemoryBench) -> None:
    claim(bench, "normal")
    bench.reopen()
    assert claim(bench, 5, BEN) == (False, "Ana", 5)


def test_a_retry_gets_the_same_answer(bench: MemoryBench) -> None:
    """With the same request_id: it won, and it still says so."""
    replies = [bench.ask("resolve_conflict", op_id="op", priority=5, request_id="r") for _ in range(2)]
    assert replies[0] == replies[1]
    assert replies[0]["resolved"] is True


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 10), st.sampled_from([ANA, BEN])), min_size=1, max_size=10))
def test_who_holds_it_is_the_first_of_the_highest(bench: MemoryBench, claims: list[tuple[int, Any]]) -> None:
    """In any series of claims."""
    op_id = f"op-{bench.conflicts.count}"
    won = [claim(bench, priority, caller, op_id)[0] for priority, caller in claims]
    highest = max(priority for priority, _ in claims)
    holder = next(caller.name for priority, caller in claims if priority == highest)
    assert claim(bench, 1, BEN, op_id) == (False, holder, highest)
    for number, (priority, _) in enumerate(claims):
        assert won[number] == all(priority > earlier for earlier, _ in claims[:number])


def test_the_oldest_gives_way(tmp_path: Path, clock: SetableClock) -> None:
    """Of all, and of one holder, so that nobody displaces another by many claims of its own."""
    with MemoryBench(tmp_path / "db", clock, most_claims=5, most_of_a_holder=3) as bench:
        claim(bench, 5, BEN, "of Ben")
        for number in range(10):
            claim(bench, 5, ANA, f"{number}")
        assert bench.conflicts.count == 4
        assert [each["op_id"] for each in bench.conflicts.written_by("Ana", None, 10)] == ["9", "8", "7"]
        assert claim(bench, 5, ANA, "of Ben") == (False, "Ben", 5)
        assert claim(bench, 1, ANA, "0")[0] is True
        for number in range(3):
            claim(bench, 5, BEN, f"b{number}")
        assert bench.conflicts.count == 5


def test_a_claim_in_quarantine_counts_for_nobody(bench: MemoryBench) -> None:
    """Anybody takes it over, and its holder is not notified."""
    claim(bench, 10)
    bench.quarantine.add("Ana", "operator")
    assert claim(bench, 1, BEN) == (True, "Ben", 1)


def test_a_writer_in_quarantine_wins_over_no_claim_that_counts(bench: MemoryBench) -> None:
    """With any priority; what nobody holds it may claim, until somebody else does."""
    bench.quarantine.add("Ben", "operator")
    claim(bench, 1)
    assert claim(bench, 10, BEN) == (False, "Ana", 1)
    assert claim(bench, 1) == (False, "Ana", 1)
    assert claim(bench, 10, BEN, "free") == (True, "Ben", 10)
    assert claim(bench, 1, ANA, "free") == (True, "Ana", 1)
    assert claim(bench, 10, BEN, "free") == (False, "Ana", 1)


def test_a_claim_ends_after_a_day_unless_it_is_renewed(bench: MemoryBench, clock: SetableClock) -> None:
    """By its holder, who repeats it; another's attempt renews nothing."""
    for op_id in ("renewed", "left"):
        claim(bench, 10, op_id=op_id)
    clock.let_pass(DAY_S / 2)
    assert claim(bench, 10, op_id="renewed") == (False, "Ana", 10)
    assert claim(bench, 10, BEN, "left") == (False, "Ana", 10)
    clock.let_pass(DAY_S / 2 + 1)
    bench.reopen()
    assert claim(bench, 1, BEN, "left") == (True, "Ben", 1)
    assert claim(bench, 1, BEN, "renewed") == (False, "Ana", 10)


@pytest.mark.sdt_security
def test_a_claim_ends_with_its_holders_key(bench: MemoryBench) -> None:
    """Revoked or expired; and who claims it then holds it, also if the holder comes back."""
    claim(bench, 10)
    bench.gone.add("Ana")
    assert claim(bench, 1, BEN) == (True, "Ben", 1)
    bench.gone.clear()
    assert claim(bench, 1) == (False, "Ben", 1)


def test_an_operator_displaces_a_claim_of_the_highest_priority(bench: MemoryBench) -> None:
    claim(bench, 10)
    assert claim(bench, 9, OPERATOR) == (False, "Ana", 10)
    assert claim(bench, 10, OPERATOR) == (True, "operator", 10)
    assert claim(bench, 10, OPERATOR) == (False, "operator", 10)
    assert claim(bench, 10) == (False, "operator", 10)


def test_claims_of_before_last_for_a_day_from_the_upgrade(tmp_path: Path, clock: SetableClock) -> None:
    before = MIGRATIONS[: MIGRATIONS.index(MIGRATION_ENDS)]
    database = Database(tmp_path / "db", [REPLY_LOG_SCHEMA, *before], clock)
    database.execute("INSERT INTO operations (op_id, priority, since, written_by) VALUES ('op', 10, 1.0, 'Ana')")
    database.close()
    database = Database(tmp_path / "db", [REPLY_LOG_SCHEMA, *MIGRATIONS], clock)
    conflicts = Conflicts(database, lambda _: True)
    assert conflicts.resolve("op", 1, BEN, DAY_S) == (False, Claim("op", 10, 1.0, "Ana"))
    clock.let_pass(DAY_S + 1)
    assert conflicts.resolve("op", 1, BEN, DAY_S)[0] is True
    database.close()


def test_claims_are_listed_by_their_holder(bench: MemoryBench) -> None:
    for number in range(4):
        claim(bench, 5, (ANA, BEN)[number % 2], f"{number}")
    first = bench.conflicts.written_by("Ben", None, 1)
    rest = bench.conflicts.written_by("Ben", first[0]["number"], 10)
    assert [each["op_id"] for each in (*first, *rest)] == ["3", "1"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "missing required field `op_id`"),
        ({"op_id": "x"}, "missing required field `priority`"),
        ({"op_id": "", "priority": 1}, "at `$.op_id`"),
        ({"op_id": 7, "priority": 1}, "Expected `str`, got `int` - at `$.op_id`"),
        ({"op_id": "x", "priority": 0}, "at `$.priority`"),
        ({"op_id": "x", "priority": 11}, "at `$.priority`"),
        ({"op_id": "x", "priority": 1.5}, "at `$.priority`"),
        ({"op_id": "x", "priority": True}, "at `$.priority`"),
        ({"op_id": "x", "priority": "urgent"}, "Invalid enum value 'urgent' - at `$.priority`"),
        ({"op_id": "x", "priority": None}, "at `$.priority`"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_claimed(
    bench: MemoryBench, fields: dict[str, Any], sentence: str
) -> None:
    reply = bench.ask("resolve_conflict", **fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]
    assert bench.conflicts.count == 0


def test_a_store_that_fails_gives_nothing_away(bench: MemoryBench) -> None:
    bench.database.execute("PRAGMA query_only=ON")
    assert bench.ask("resolve_conflict", op_id="op", priority=1)["code"] == "store_unavailable"
    bench.database.execute("PRAGMA query_only=OFF")
    assert claim(bench, 1, BEN) == (True, "Ben", 1)
