"""Forgetting by days: strength depends on the last access, a result is an access, and a pinned memory never fades."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.memory_model_bench import BEN, SearchedBench, SetableClock
from twinhost.unified_memory_reasoning.memories import upkeep as upkeep_module
from twinhost.unified_memory_reasoning.memories.model import Fading
from twinhost.unified_memory_reasoning.memories.rows import strength_now

DAY_S = 86_400.0


@pytest.fixture
def clock() -> SetableClock:
    return SetableClock()


@pytest.fixture
def bench(tmp_path: Path, clock: SetableClock) -> Iterator[SearchedBench]:
    with SearchedBench(tmp_path / "db", clock, half_life_days=30.0) as bench:
        yield bench


def strength(bench: SearchedBench, memory_id: str = "m") -> float:
    """Return how strong a memory is, without an access."""
    page = bench.ask("query_memory", include_forgotten=True)["memories"]
    return float(next(each["strength"] for each in page if each["id"] == memory_id))


@pytest.mark.parametrize(
    ("stored", "days", "left"), [(1, 0, 1), (1, 30, 0.5), (1, 60, 0.25), (2, 60, 1), (0.5, 15, 0.25), (5, 150, 2.5)]
)
def test_strength_halves_every_half_life_times_strength(stored: float, days: float, left: float) -> None:
    assert Fading(30.0).strength(stored, 1e9, 1e9 + days * DAY_S) == pytest.approx(left)
    assert Fading(30.0).strength(stored, 1e9, 1e9 + days * DAY_S, pinned=True) == stored


@given(st.floats(0, 5), st.floats(-1e6, 1e12), st.floats(0.001, 36_500))
def test_strength_never_grows_by_waiting(stored: float, idle_s: float, half_life: float) -> None:
    """Even with a clock that was set back, a memory is never stronger than its stored strength."""
    fading = Fading(half_life)
    left = fading.strength(stored, 1e9, 1e9 + idle_s)
    assert 0 <= fading.strength(stored, 1e9, 1e9 + idle_s + 1) <= left <= stored


@given(st.floats(0, 5), st.floats(-1e6, 1e10), st.floats(0.001, 36_500), st.booleans())
@pytest.mark.thorough
def test_a_query_computes_the_same_strength(stored: float, idle_s: float, half_life: float, pinned: bool) -> None:
    """SQL and the rule agree, even if the strength underflows to 0."""
    rule = Fading(half_life)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE memory_details (number, pinned)")
    connection.execute("INSERT INTO memory_details VALUES (1, ?)", (pinned,))
    row = "(SELECT 1 AS number, ? AS strength, ? AS last_accessed) m"
    query = f"SELECT {strength_now(rule, 'm', repr(1e9 + idle_s))} FROM {row}"
    (computed,) = connection.execute(query, (stored, 1e9)).fetchone()
    assert computed == pytest.approx(rule.strength(stored, 1e9, 1e9 + idle_s, pinned=pinned), abs=1e-12)


def test_a_memory_fades_without_any_pass(bench: SearchedBench) -> None:
    """The shown and selected strength follows the clock; the stored one stays, for a sync to another store."""
    bench.store()
    bench.clock.let_pass(30 * DAY_S)
    assert strength(bench) == 0.5
    (page,) = (bench.ask("query_memory")["memories"],)
    assert page[0]["as_stored"] == {"strength": 1.0, "valid_until": None}
    assert (bench.ids(min_strength=0.49), bench.ids(min_strength=0.51)) == (["m"], [])
    assert bench.ask("memory_status")["strength"]["mean"] == pytest.approx(0.5, rel=1e-3)


def test_after_30_idle_days_a_search_finds_the_same(bench: SearchedBench) -> None:
    """With passes every day; the older rule had forgotten all memories after 26 h."""
    for number in range(10):
        bench.store(f"m{number}", f"the gateway number {number} is open")
    before = [each["id"] for each in bench.search("gateway 7")]
    for _ in range(30):
        bench.clock.let_pass(DAY_S)
        bench.memories.upkeep.on_tick()
    assert [each["id"] for each in bench.search("gateway 7")] == before
    assert len(before) == 10


def test_an_idle_memory_is_forgotten_in_time(bench: SearchedBench) -> None:
    """A memory of strength 1 after 100 days; it is still stored, and one reinforcement recovers it."""
    bench.store("m", "gateway")
    for days, found in ((99.5, ["m"]), (0.5, [])):
        bench.clock.let_pass(days * DAY_S)
        bench.memories.upkeep.on_tick()
        assert bench.ids() == found
    assert bench.search("gateway") == []
    assert bench.get()["forgotten"] is True
    assert bench.get()["forgotten"] is True  # a read by id does not recover it
    assert bench.ask("memory_status")["last_decay"]["forgotten"] == 1
    reply = bench.ask("reinforce_memory", memory_id="m")
    assert (reply["recovered"], reply["forgotten"], reply["strength"]) == (True, False, pytest.approx(1.2))
    assert [each["id"] for each in bench.search("gateway")] == ["m"]


def test_a_search_finds_what_fades_by_passes(tmp_path: Path, clock: SetableClock) -> None:
    with SearchedBench(tmp_path / "passes", clock) as passes:
        passes.store("m", "gateway")
        assert [each["id"] for each in passes.search("gateway")] == ["m"]


def test_a_result_of_a_search_is_an_access(bench: SearchedBench) -> None:
    """The next tick writes the access, and a restart keeps it. A memory that was not found fades."""
    bench.store("found", "gateway")
    bench.store("idle", "talk of the day")
    bench.clock.let_pass(30 * DAY_S)
    with closing(sqlite3.connect(bench.database.path)) as other:
        version = other.execute("PRAGMA data_version").fetchone()
        assert [each["id"] for each in bench.search("gateway")] == ["found"]
        assert other.execute("PRAGMA data_version").fetchone() == version
    assert (strength(bench, "found"), strength(bench, "idle")) == (1.0, 0.5)
    bench.clock.let_pass(5)
    bench.memories.upkeep.on_tick()
    bench.reopen()
    assert strength(bench, "found") == 1.0


def test_a_pinned_memory_never_fades(bench: SearchedBench, tmp_path: Path) -> None:
    """By either rule, until it is unpinned; only its writer or an operator may pin it."""
    bench.store("m", "gateway", pin=True)
    bench.store("n", "gateway")
    assert bench.ask("reinforce_memory", BEN, memory_id="n", pin=True)["code"] == "not_granted"
    assert "pinned" not in bench.get("n")
    bench.memories.upkeep.write_accesses()
    bench.clock.let_pass(1_000 * DAY_S)
    bench.memories.upkeep.on_tick()
    assert (bench.ids(), strength(bench), bench.get()["pinned"]) == (["m"], 1.0, True)
    bench.ask("reinforce_memory", memory_id="m", pin=False)
    bench.clock.let_pass(200 * DAY_S)
    bench.memories.upkeep.on_tick()
    assert bench.ids() == []
    with SearchedBench(tmp_path / "passes", bench.clock) as passes:
        passes.store(pin=True)
        passes.clock.let_pass(2 * DAY_S)
        passes.decay(30)
        assert (passes.ids(), passes.get()["strength"]) == (["m"], 1.0)


def test_another_rule_recovers_what_it_does_not_forget(tmp_path: Path, clock: SetableClock) -> None:
    """At the start after a change of the configuration; strength that a pass removed is not restored."""
    with SearchedBench(tmp_path / "db", clock, half_life_days=1.0) as bench:
        bench.store("m", "gateway")
        bench.ask("sync_memories", memories=[{"id": "weak", "content": "x", "last_accessed": 5, "strength": 0.09}])
        bench.clock.let_pass(10 * DAY_S)
        bench.memories.upkeep.on_tick()
        assert bench.ids() == []
    with SearchedBench(tmp_path / "db", clock, half_life_days=30.0) as bench:
        assert bench.ids() == ["m"]
        assert [each["id"] for each in bench.search("gateway")] == ["m"]


def test_a_pass_that_forgets_nothing_writes_once(bench: SearchedBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads in slices, and records its end; an access that is not on disk yet counts."""
    monkeypatch.setattr(upkeep_module, "_BATCH", 2)
    for number in range(7):
        bench.store(f"{number}", strength=0.11)
    bench.clock.let_pass(5)
    bench.get("6")
    bench.clock.let_pass(300)
    changes = bench.database._connection.total_changes
    for _ in range(3):
        bench.memories.upkeep.decay_if_due()
    assert bench.database._connection.total_changes == changes
    bench.memories.upkeep.decay_if_due()
    assert bench.database._connection.total_changes == changes + 1
    for days in (0.4, 0.3):  # of strength 0.11, they are forgotten after 0.45 days
        bench.clock.let_pass(days * DAY_S)
        bench.get("6")
    for _ in range(5):
        bench.memories.upkeep.decay_if_due()
    assert bench.ids() == ["6"]


def test_a_pass_forgets_no_more_than_50_in_a_tick(bench: SearchedBench) -> None:
    """Each must be removed from the full-text index; requests are answered in between, and the next tick continues."""
    for number in range(120):
        bench.store(f"{number}", f"gateway {number}")
    bench.clock.let_pass(200 * DAY_S)
    left = []
    for _ in range(4):
        bench.memories.upkeep.decay_if_due()
        left.append(len(bench.ids(limit=1_000)))
    assert left == [70, 20, 0, 0]
    assert bench.ask("memory_status")["last_decay"]["forgotten"] == 120


def test_a_pass_forgets_few_long_ones_in_a_tick(bench: SearchedBench) -> None:
    """Some 100 kB, whose words leave the index with a merge."""
    for number in range(5):
        bench.store(f"{number}", f"gateway {number} " * 4_000)
    bench.clock.let_pass(200 * DAY_S)
    left = []
    for _ in range(4):
        bench.memories.upkeep.decay_if_due()
        left.append(len(bench.ids(limit=1_000)))
    assert left == [2, 0, 0, 0]
    assert bench.database.value("SELECT count(*) FROM recall_removed") == 1


def test_a_synced_memory_keeps_its_dates_and_fades(bench: SearchedBench, tmp_path: Path) -> None:
    """`created` and `last_accessed` are the record's; synced again, it fades once, not twice."""
    then = bench.clock.time() - 30 * DAY_S
    record = {"id": "m", "content": "x", "created": then - DAY_S, "last_accessed": then, "occurred_at": then - DAY_S}
    bench.ask("sync_memories", memories=[record])
    shown = bench.ask("query_memory")["memories"][0]
    assert (shown["strength"], shown["occurred_at"], shown["created"] < shown["last_accessed"]) == (
        0.5,
        shown["created"],
        True,
    )
    with SearchedBench(tmp_path / "other", bench.clock, half_life_days=30.0) as other:
        bench.sync_to(other)
        assert strength(other) == 0.5
