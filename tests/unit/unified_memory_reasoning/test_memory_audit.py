"""Texts that contradict each other, the rule's precision and recall, and the audit of the stored memories."""

import json
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.memory_model_bench import BEN, MemoryBench, SetableClock
from twinhost.moments import iso_time
from twinhost.unified_memory_reasoning.language import claims as claims_module
from twinhost.unified_memory_reasoning.language.claims import Claims, claims_of, contradict, opposite
from twinhost.unified_memory_reasoning.language.values import significant
from twinhost.unified_memory_reasoning.memories import audit as audit_module
from twinhost.unified_memory_reasoning.memories.audit import MemoryAudit
from twinhost.unified_memory_reasoning.memories.validity import Validity

DEVELOPMENT_SET = Path(__file__).parents[2] / "benchmarks/recall"
DAY_S = 86_400.0


bench = bench_of(lambda path: MemoryBench(path, SetableClock(), half_life_days=30.0))


CONTRADICTIONS = [
    ("The rent of the box room is 340 a month.", "Rent of the box room is now 355"),
    ("Box room rent: 340", "the rent of the box room = 355, with bills"),
    ("The staging gateway is 10.0.0.1", "the staging gateway is 10.0.0.2."),
    ("Ana's thesis supervisor is Dr. Reyes", "The supervisor of Ana's thesis is Maria Santos"),
    ("The board meeting is on Monday", "The board meeting is on Tuesday this time"),
    ("The thesis deadline is 31 August", "The thesis deadline is September 30"),
    ("The concert at St Bride's is at 19:30", "The concert at St Bride's is at 8:00 pm"),
    ("Ang renta ng kwarto ni Devin ay 340", "Ang renta ng kwarto ni Devin ay 355"),
    ("Nakatira si Tiyo Berto sa Cebu", "Tiyo Berto lives in Davao"),
    ("Nagtatrabaho si Mang Jose Rizal sa Cebu", "Nagtatrabaho si Mang Jose Rizal sa Davao"),
    ("we pay 340 for the box room", "The box room comes to 355, not 340."),
    ("Ensayo: Martes at Huwebes, sa covered court", "Wag na Martes, Biyernes na ang ensayo"),
    ("limit ng utang 500", "Gawin nating 800 imbes na 500 ang utang"),
]
NO_CONTRADICTIONS = [
    ("The rent of the box room is 340", "The rent of the attic room is 355"),
    ("The rent of the box room is 340", "The rent of the box room is 340.00 with bills"),
    ("The rent of the box room was 340", "The rent of the box room is 355"),
    ("Is the rent of the box room 340?", "The rent of the box room is 355"),
    ("The rent of the box room is not 340", "The rent of the box room is 355"),
    ("If the rent of the box room is 340, we move", "The rent of the box room is 355"),
    ("The board meeting takes place on Monday", "The board meeting is at 10:00"),
    ("The board meeting is 2 hours", "The board meeting is 12 people"),
    ("It is 340", "It is 355"),
    ("Nakatira si Tiyo Berto sa Cebu", "Nakatira si Tiyo Ben sa Davao"),
    ("The key of the shed is in the kitchen", "The key of the shed is on the table"),
    ("Not 340.", "Rent of the room 340"),
    ("The printer costs 355, not 340", "340 people came to the concert"),
    ("The board meeting is on 14 March", "The board meeting is on 2026-03-14"),
]


@pytest.mark.parametrize(("one", "other"), CONTRADICTIONS)
def test_other_values_of_the_same_thing_contradict(one: str, other: str) -> None:
    """In either order, and each can be found by the marks of the other."""
    first, second = claims_of(one), claims_of(other)
    assert contradict(first, second)
    assert contradict(second, first)
    assert {opposite(mark) for mark in first.marks} & set(second.marks)


@pytest.mark.parametrize(("one", "other"), NO_CONTRADICTIONS)
def test_what_may_both_be_true_is_no_contradiction(one: str, other: str) -> None:
    assert not contradict(claims_of(one), claims_of(other))


@pytest.mark.parametrize("sentence", ["cpu: 1 " * 580, "1 is " * 800])
def test_work_on_a_text_grows_with_its_length(monkeypatch: pytest.MonkeyPatch, sentence: str) -> None:
    """Not with the square of it; so long a sentence, a line of metrics, makes no claims."""
    looked_at = 0

    def counted(token: str) -> tuple[str, ...]:
        nonlocal looked_at
        looked_at += 1
        return significant(token)

    monkeypatch.setattr(claims_module, "significant", counted)
    assert claims_module._claims_of.__wrapped__(sentence).marks == []
    assert looked_at <= 20 * len(sentence.split())


def test_contradicting_statements_are_found() -> None:
    """Of pairs as memories are: in either order, by their marks, and without an alarm for what may both be true."""
    lines = Path(__file__).with_name("contradictions.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in lines]
    found = []
    for label, *texts in pairs:
        one, other = map(claims_of, texts)
        assert contradict(one, other) == contradict(other, one)
        if contradict(one, other):
            assert {opposite(mark) for mark in one.marks} & set(other.marks), texts
            found.append(label)
    assert found.count("other") == 0
    assert len(found) / sum(label == "contradict" for label, *_ in pairs) >= 0.95


def test_most_alarms_in_real_talk_are_right() -> None:
    """Precision of all pairs of its turns, and recall of the questions with an outdated and a present turn."""
    turns: dict[tuple[str, int], str] = {}
    changed: list[set[tuple[Any, ...]]] = []
    for path in sorted(DEVELOPMENT_SET.glob("*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            if path.name.startswith("sessions"):
                turns |= {(line["session_id"], turn["turn"]): turn["text"] for turn in line["turns"]}
            elif line.get("kind") == "updated_fact":
                pairs = [(tuple(new), tuple(old)) for new in line["evidence"] for old in line["outdated"]]
                changed.append({tuple(sorted(pair)) for pair in pairs})
    claims = {turn: claims_of(text) for turn, text in turns.items()}
    flagged = {pair for pair in combinations(sorted(turns), 2) if contradict(claims[pair[0]], claims[pair[1]])}
    right = flagged & set().union(*changed)
    found = sum(not pairs.isdisjoint(flagged) for pairs in changed)
    print(f"{len(flagged)} pairs flagged, {len(right)} of them labelled; {found} of {len(changed)} changes found")
    assert len(right) / len(flagged) >= 0.8
    assert found / len(changed) >= 0.15


def test_storing_a_memory_returns_its_conflicts(bench: MemoryBench) -> None:
    """With every writer's memories; the audit lists a conflict until one is superseded, forgotten, or deleted."""
    bench.store("a", "The rent of the box room is 340", BEN)
    reply = bench.store("b", "The rent of the box room is 355")
    assert [(conflict["memory_id"], conflict["written_by"]) for conflict in reply["conflicts"]] == [("a", "Ben")]
    assert bench.store("c", "The rent of the attic is 355")["conflicts"] == []
    (pair,) = bench.ask("memory_audit")["contradictory"]
    assert [each["memory_id"] for each in pair] == ["a", "b"]
    bench.quarantine.add("Ben", "operator")
    assert bench.ask("memory_audit")["contradictory"] == []
    bench.quarantine.lift("Ben")
    bench.store("b", "The rent of the box room is 355", supersedes=["a"])
    assert bench.ask("memory_audit")["contradictory"] == []
    assert bench.store("d", "Rent of the box room is 355")["conflicts"] == []


def test_a_later_value_does_not_contradict(bench: MemoryBench) -> None:
    """The memory that it supersedes is still valid, and the two follow each other like the values of a key."""
    later = iso_time(time.time() + 86_400)
    bench.store("a", "The rent of the box room is 340")
    assert bench.store("b", "The rent of the box room is 355", supersedes=["a"], valid_from=later)["conflicts"] == []
    assert bench.ask("memory_audit")["contradictory"] == []
    found = bench.store("c", "The rent of the box room is 360")["conflicts"]
    assert [each["memory_id"] for each in found] == ["b", "a"]


def test_values_of_a_key_do_not_contradict(bench: MemoryBench) -> None:
    """They follow each other; the same value twice is not a duplicate either."""
    for amount in (340, 355, 340):
        reply = bench.ask("store_memory", content=f"The rent of the box room is {amount}", key="rent")
        assert reply["conflicts"] == []
    audit = bench.ask("memory_audit")
    assert (audit["contradictory"], audit["duplicates"]) == ([], [])


def test_no_more_than_10_conflicts_are_named(bench: MemoryBench) -> None:
    """The newest ones; a long content is truncated."""
    for number in range(60):
        bench.store(f"{number}", f"The rent of the box room is {number + 100}. {'x ' * 500}")
    conflicts = bench.store("new", "The rent of the box room is 99")["conflicts"]
    assert [conflict["memory_id"] for conflict in conflicts] == [f"{number}" for number in range(59, 49, -1)]
    assert all(len(conflict["content"]) <= 200 for conflict in conflicts)


def test_only_some_long_memories_are_compared(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing a memory must not hold up other requests, whatever others stored."""
    for number in range(30):
        bench.store(f"{number}", f"The rent of the box room is 99. {number} {'x ' * 2_000}")
    read = _count_claims(monkeypatch)
    bench.store("new", "The rent of the box room is 99. ")
    assert 5 <= len(read) <= 10


def test_older_memories_are_marked_some_at_a_time(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of long ones fewer in one tick, until all have marks."""
    for number in range(15):
        bench.store(f"{number}", f"The rent of the box room is {number}. {'x ' * 2_000}")
    bench.database.execute("DELETE FROM memory_claims")
    audit = MemoryAudit(bench.database, Validity(bench.database))
    read = _count_claims(monkeypatch)
    audit.index_older()
    assert 4 <= len(read) <= 6
    for _ in range(4):
        audit.index_older()
    assert len(read) == 15
    assert bench.database.value("SELECT count(DISTINCT number) FROM memory_claims") == 15


def test_of_many_long_new_memories_some_are_marked_later(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some in each tick, and all of them after a restart before that."""
    also = [{"content": f"The rent of the box room is {number}. {'x ' * 2_000}"} for number in range(30)]
    read = _count_claims(monkeypatch)
    bench.ask("store_memory", content="The rent of the box room is 99.", key="rent", also=also)
    assert 4 <= len(read) <= 6
    restarted = MemoryAudit(bench.database, Validity(bench.database))
    for _ in range(2):
        bench.memories.upkeep.on_tick()
    assert 12 <= len(read) <= 18
    while bench.database.value("SELECT count(DISTINCT number) FROM memory_claims") < 31:
        restarted.index_older()
    before = len(read)
    bench.memories.upkeep.on_tick()
    bench.memories.upkeep.on_tick()
    assert len(read) == before
    assert len(bench.ask("memory_audit")["contradictory"]) == 20


def _count_claims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that the texts are added to whose claims the audit reads."""
    read: list[str] = []

    def counted(text: str) -> Claims:
        read.append(text)
        return claims_of(text)

    monkeypatch.setattr(audit_module, "claims_of", counted)
    return read


def test_the_audit_lists_what_needs_attention(bench: MemoryBench) -> None:
    """Duplicates except for case and space, never read, expired, and due for a review; each list is bounded."""
    now = bench.clock.time()
    soon = "2999-01-01T00:00:00Z"
    bench.store("a", "The same  text")
    bench.store("b", "the same text", BEN)
    bench.store("read", "another")
    bench.store("old", "x", valid_from="2026-01-01T00:00:00Z", valid_until="2026-02-01T00:00:00Z")
    bench.store("due", "y", review_at="2026-02-01T00:00:00Z")
    bench.store("later", "z", review_at=soon, valid_until=soon)
    bench.clock.let_pass(60)
    for memory_id in ("read", "old", "due", "later"):
        bench.get(memory_id)
    bench.memories.upkeep.write_accesses()
    audit = bench.ask("memory_audit")
    (group,) = audit["duplicates"]
    assert [each["memory_id"] for each in group] == ["a", "b"]
    ids = {name: [each["memory_id"] for each in audit[name]] for name in ("never_read", "expired", "review_due")}
    assert ids == {"never_read": ["a", "b"], "expired": ["old"], "review_due": ["due"]}
    assert (audit["expired"][0]["since"], audit["more"]) == ("2026-02-01T00:00:00.000+00:00", [])
    assert bench.ask("memory_audit", limit=1)["more"] == ["never_read"]
    assert now < bench.clock.time()
