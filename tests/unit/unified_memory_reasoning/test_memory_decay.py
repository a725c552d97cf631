"""How strength falls and rises: the rule in numbers, and that the store's pass does the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.memory_model_bench import MemoryBench, SetableClock
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.unified_memory_reasoning.memories import upkeep as upkeep_module
from twinhost.unified_memory_reasoning.memories.model import (
    IDLE_S,
    PASS_EVERY_S,
    decayed,
    forgotten,
    next_pass_in_s,
    reinforced,
)

DAY_S = 86_400.0
STRENGTHS = st.floats(0.0, 5.0)


bench = bench_of(lambda path: MemoryBench(path, SetableClock()))


def test_the_numbers_are_those_of_the_contract() -> None:
    """24 h, 300 s, a tenth, under 0.1, a fifth, at most 5."""
    assert (IDLE_S, PASS_EVERY_S) == (DAY_S, 300.0)
    assert decayed(1.0) == pytest.approx(0.9)
    assert (forgotten(0.1), forgotten(0.0999)) == (False, True)
    assert reinforced(1.0) == pytest.approx(1.2)
    assert (reinforced(4.9), reinforced(5.0)) == (5.0, 5.0)


@given(STRENGTHS)
def test_one_reinforce_always_brings_a_memory_back(strength: float) -> None:
    """However weak it is; and no reinforce makes it weaker or stronger than 5."""
    stronger = reinforced(strength)
    assert not forgotten(stronger)
    assert strength <= stronger <= 5.0


@given(STRENGTHS)
def test_what_is_forgotten_fades_no_further(strength: float) -> None:
    """And a pass takes a tenth of everything else."""
    assert decayed(strength) == (strength if forgotten(strength) else strength * 0.9)


def test_an_idle_memory_is_forgotten_after_22_passes(bench: MemoryBench) -> None:
    """A memory of strength 1, from the first pass after 24 h; the rule and the table agree at each pass."""
    bench.store()
    bench.clock.let_pass(DAY_S)
    strength = 1.0
    for number in range(1, 25):
        bench.decay()
        strength = decayed(strength)
        (row,) = bench.ask("query_memory", source="", include_forgotten=True)["memories"]
        assert row["strength"] == pytest.approx(strength, rel=1e-12)
        assert row["forgotten"] is forgotten(strength) is (number >= 22)
    assert bench.ids() == []


def test_within_24_hours_nothing_fades(bench: MemoryBench) -> None:
    bench.store()
    bench.clock.let_pass(DAY_S - 400)
    bench.decay()
    assert bench.get()["strength"] == 1.0


@pytest.mark.parametrize("access", [{"memory_id": "m"}, {"id": "m"}, {"ids": ["other", "m"]}])
def test_a_query_by_id_keeps_a_memory_from_fading(bench: MemoryBench, access: dict[str, object]) -> None:
    """To be asked for by name is to be accessed, also when it is not on disk yet; another one fades."""
    bench.store("m")
    bench.store("idle")
    bench.clock.let_pass(DAY_S)
    assert bench.ids(**access) == ["m"]
    bench.decay()
    strengths = {memory["id"]: memory["strength"] for memory in bench.ask("query_memory")["memories"]}
    assert strengths == {"m": 1.0, "idle": pytest.approx(0.9)}


def test_a_query_by_what_it_says_is_no_access(bench: MemoryBench) -> None:
    """A list that somebody looks through keeps nothing alive."""
    bench.store(keywords=["k"], source="s")
    bench.clock.let_pass(DAY_S)
    for fields in ({}, {"keywords": ["k"]}, {"source": "s"}, {"changed_since": 0}):
        assert bench.ids(**fields) == ["m"]
    bench.decay()
    assert bench.ask("query_memory")["memories"][0]["strength"] == pytest.approx(0.9)


def test_an_access_is_on_disk_5_s_later(bench: MemoryBench) -> None:
    """Until then it is returned all the same; it survives a restart."""
    bench.store()
    stored = bench.ask("query_memory")["memories"][0]["last_accessed"]
    bench.clock.let_pass(60)
    accessed = bench.get()["last_accessed"]
    assert accessed > stored
    assert bench.ask("query_memory")["memories"][0]["last_accessed"] == accessed
    bench.clock.let_pass(5)
    bench.memories.upkeep.on_tick()
    bench.reopen()
    assert bench.ask("query_memory")["memories"][0]["last_accessed"] == accessed


def test_passes_that_were_missed_are_not_made_up_for(bench: MemoryBench) -> None:
    """After a week away one pass takes one tenth."""
    bench.store()
    bench.clock.let_pass(7 * DAY_S)
    bench.reopen()
    bench.memories.upkeep.on_tick()
    bench.decay()
    assert bench.ask("query_memory")["memories"][0]["strength"] == pytest.approx(0.9)


def test_two_ticks_within_300_s_are_one_pass(bench: MemoryBench) -> None:
    bench.store()
    bench.clock.let_pass(DAY_S)
    bench.decay()
    bench.clock.let_pass(299)
    bench.memories.upkeep.on_tick()
    assert bench.ask("query_memory")["memories"][0]["strength"] == pytest.approx(0.9)


def test_restarts_do_not_stop_the_passes(bench: MemoryBench) -> None:
    """The rhythm goes on over a restart: an agent that starts every 200 s has a pass at each second start."""
    bench.store()
    bench.clock.let_pass(DAY_S)
    bench.decay()
    for _ in range(4):
        bench.clock.let_pass(200)
        bench.reopen()
        bench.memories.upkeep.on_tick()
    assert bench.ask("query_memory")["memories"][0]["strength"] == pytest.approx(0.9**3)


@pytest.mark.parametrize(
    ("last", "wait_s"), [(None, 300.0), (1_000.0, 300.0), (900.0, 200.0), (0.0, 0.0), (9_000.0, 300.0)]
)
def test_the_first_pass_waits_300_s_at_most(last: float | None, wait_s: float) -> None:
    """Also where the clock was set back since the last one."""
    assert next_pass_in_s(last, now=1_000.0) == wait_s


def test_a_failed_pass_is_retried_and_weakens_nothing_twice(bench: MemoryBench) -> None:
    bench.store()
    bench.clock.let_pass(DAY_S)
    bench.database.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreUnavailable):
        bench.decay()
    bench.database.execute("PRAGMA query_only=OFF")
    bench.clock.let_pass(1.1)
    bench.memories.upkeep.on_tick()
    assert bench.ask("query_memory")["memories"][0]["strength"] == pytest.approx(0.9)
    assert bench.ask("memory_status")["last_decay"]["decayed"] == 1


def test_a_long_pass_is_made_in_slices_and_takes_from_each_once(
    bench: MemoryBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are served between them; a slice that fails is tried again, and one asked for meanwhile is spared."""
    monkeypatch.setattr(upkeep_module, "_BATCH", 2)
    for number in range(5):
        bench.store(f"{number}")
    bench.clock.let_pass(DAY_S)
    bench.decay()
    bench.get("4")
    bench.database.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreUnavailable):
        bench.memories.upkeep.decay_if_due()
    bench.database.execute("PRAGMA query_only=OFF")
    bench.clock.let_pass(1.1)
    for _ in range(9):
        bench.memories.upkeep.on_tick()
    strengths = [memory["strength"] for memory in bench.ask("query_memory")["memories"]]
    assert strengths == [1.0, *[pytest.approx(0.9)] * 4]
    assert bench.ask("memory_status")["last_decay"]["decayed"] == 4


def test_many_accesses_are_written_in_slices(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each at the next turn of the server, and what is left before the agent stops."""
    monkeypatch.setattr(upkeep_module, "_BATCH", 2)
    for number in range(7):
        bench.store(f"{number}")
    bench.clock.let_pass(60)
    moment = bench.clock.time()
    bench.ask("query_memory", ids=[f"{number}" for number in range(7)])
    written = "SELECT count(*) FROM memories WHERE last_accessed > ?"
    for expected in (2, 4):
        bench.memories.upkeep.on_tick()
        assert bench.database.execute(written, (moment - 1,)).fetchone() == (expected,)
    bench.memories.upkeep.on_stop()
    assert bench.database.execute(written, (moment - 1,)).fetchone() == (7,)
