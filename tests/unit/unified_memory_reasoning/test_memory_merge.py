"""The merge is one operation of a lattice, and two stores that sync all they have with each other agree."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.memory_model_bench import BEN, OPERATOR, MemoryBench, SetableClock
from twinhost.agent.request_times import stored_seconds_of
from twinhost.moments import iso_time
from twinhost.unified_memory_reasoning.memories.model import Memory, deleted, merge

TIMES = st.integers(0, 3).map(float)  # few values, so that ties are common


@st.composite
def records(draw: st.DrawFn) -> Memory:
    """A record of the memory `m`, alive or deleted."""
    memory = Memory(
        id="m",
        content=draw(st.sampled_from(["a", "b", "ä"])),
        keywords=tuple(draw(st.lists(st.sampled_from("xy"), max_size=2, unique=True))),
        source=draw(st.sampled_from(["", "s"])),
        strength=draw(st.sampled_from([0.05, 0.1, 1.0, 5.0])),
        created=draw(TIMES),
        last_accessed=draw(TIMES),
        revised=draw(TIMES),
    )
    return deleted(memory, memory.revised) if draw(st.booleans()) else memory


@given(records())
def test_a_record_merged_with_itself_is_itself(one: Memory) -> None:
    assert merge(one, one) == one


@given(records(), records())
def test_the_order_of_two_does_not_matter(one: Memory, other: Memory) -> None:
    assert merge(one, other) == merge(other, one)


@given(records(), records(), records())
@pytest.mark.thorough
def test_the_order_of_merging_does_not_matter(one: Memory, two: Memory, three: Memory) -> None:
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@given(st.lists(records(), min_size=1, max_size=4))
@pytest.mark.thorough
def test_any_order_and_any_repetition_end_with_the_same(records: list[Memory]) -> None:
    """So that a record that comes twice, or late, changes nothing."""
    expected = reduce(merge, records)
    for order in permutations([*records, records[0]]):
        assert reduce(merge, order) == expected


@given(records(), records())
def test_the_newer_access_and_the_greater_strength_win(one: Memory, other: Memory) -> None:
    """As the contract says; the older creation too, and the body that was stored later."""
    merged = merge(one, other)
    assert merged.last_accessed == max(one.last_accessed, other.last_accessed)
    assert merged.strength == max(one.strength, other.strength)
    assert merged.created == min(one.created, other.created)
    assert merged.revised == max(one.revised, other.revised)
    if one.revised != other.revised:
        later = max(one, other, key=lambda each: each.revised)
        assert (merged.content, merged.deleted) == (later.content, later.deleted)
    elif one.deleted or other.deleted:
        assert merged.deleted


@given(st.integers(0, 4_102_444_800_000))
def test_a_moment_comes_back_from_the_wire_as_it_was(milliseconds: int) -> None:
    """A record that goes to another store and back is the same one."""
    moment = round(milliseconds / 1_000, 3)
    assert stored_seconds_of(iso_time(moment), "x") == moment


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "update", "reinforce", "get", "delete", "decay", "sync"]),
        st.sampled_from([0, 1]),  # which of the two stores
        st.sampled_from(["p", "q"]),
        st.sampled_from(["x", "y"]),
        st.sampled_from([0, 0, 0.001, 7, 90_000]),  # seconds that pass before
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
@pytest.mark.thorough
def test_two_stores_agree_once_each_has_synced_with_the_other(steps: list[tuple[str, int, str, str, float]]) -> None:
    """Whatever happened in either, in whichever order they sync; and to sync again changes nothing."""
    clock = SetableClock()
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder, "first")
        pair.mkdir()
        with both_of(pair, clock) as stores:
            for step in steps:
                take(stores, step)
        shutil.copytree(pair, Path(folder, "second"))
        known = []
        for name, order in (("first", (0, 1)), ("second", (1, 0))):
            with both_of(Path(folder, name), clock) as stores:
                for sender in order:
                    reply = stores[sender].sync_to(stores[1 - sender])
                    assert (reply["status"], reply["refused"]) == ("ok", 0)
                known += [store.known() for store in stores]
                for sender in (0, 1):
                    again = stores[sender].sync_to(stores[1 - sender])
                    assert (again["added"], again["changed"]) == (0, 0)
        assert known[0] == known[1] == known[2] == known[3]


@contextmanager
def both_of(folder: Path, clock: SetableClock) -> Iterator[tuple[MemoryBench, MemoryBench]]:
    """Open the two stores of a folder."""
    with MemoryBench(folder / "one", clock) as one, MemoryBench(folder / "two", clock) as two:
        yield one, two


def take(stores: tuple[MemoryBench, MemoryBench], step: tuple[str, int, str, str, float]) -> None:
    what, which, memory_id, content, seconds = step
    store = stores[which]
    store.clock.let_pass(seconds)
    if what == "store":
        store.store(memory_id, content, OPERATOR, keywords=[content], strength=2.0)
    elif what == "update":
        store.store(memory_id, content, OPERATOR)
    elif what == "decay":
        store.decay(12)
    elif what == "sync":
        store.sync_to(stores[1 - which])
    else:
        store.ask(f"{what}_memory", OPERATOR, memory_id=memory_id)


def test_only_what_is_new_is_returned(tmp_path: Path) -> None:
    """From the last change that is known on; decay is no change, since the greater strength wins."""
    with both_of(tmp_path, SetableClock()) as (one, two):
        one.store("a")
        one.store("b")
        page = one.ask("query_memory", changed_since=0)
        assert ([memory["id"] for memory in page["memories"]], page["more"]) == (["a", "b"], False)
        known = page["last_change"]
        assert one.ask("query_memory", changed_since=known)["last_change"] == known
        two.ask("sync_memories", OPERATOR, memories=page["memories"])
        one.store("a", "new text")
        one.ask("delete_memory", memory_id="b")
        news = one.all(known)
        assert [(each["id"], each.get("deleted", False)) for each in news] == [("a", False), ("b", True)]
        two.ask("sync_memories", OPERATOR, memories=news)
        assert two.known() == one.known()
        known = one.ask("query_memory", changed_since=0)["last_change"]
        one.clock.let_pass(86_400)
        one.decay()
        assert one.all(known) == []
        one.get("a")
        one.memories.upkeep.write_accesses()
        assert [each["id"] for each in one.all(known)] == ["a"]


def test_a_page_of_changes_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """By its limit, and by what an answer can hold; each once, in the order of the changes."""
    with MemoryBench(tmp_path / "db", SetableClock()) as bench:
        for number in range(9):
            bench.store(f"{number}", "x" * 40_000)
        bench.store("0", "again")
        first = bench.ask("query_memory", changed_since=0)
        assert (first["count"], first["more"]) == (3, True)
        assert [each["id"] for each in bench.all()] == [*"123456780"]
        assert bench.ask("query_memory", changed_since=0, limit=2)["count"] == 2
        first_of_a_session = bench.ask("query_memory", changed_since=0, limit=2, accepts=["json-seq"], traceparent="")
        assert first_of_a_session["count"] == 2


def test_a_deletion_is_propagated_and_permanent(tmp_path: Path) -> None:
    """A store that still has the memory does not bring it back; what its writer stores again later does."""
    with both_of(tmp_path, SetableClock()) as (one, two):
        one.store("m", "secret", keywords=["k"])
        one.sync_to(two)
        one.clock.let_pass(1)
        one.ask("delete_memory", memory_id="m")
        assert two.sync_to(one)["unchanged"] == 1
        assert one.ids() == []
        assert one.sync_to(two)["changed"] == 1
        assert (two.ids(), two.ids(keywords=["k"]), two.memories.count) == ([], [], 0)
        assert "secret" not in json.dumps([one.all(), two.all()])
        two.store("m", "back")
        two.sync_to(one)
        assert one.get()["content"] == "back"


def test_nobody_changes_what_another_wrote_by_a_sync(tmp_path: Path) -> None:
    """Content, deletion, and creation are refused, and named; an access and a strength are taken."""
    with MemoryBench(tmp_path / "db", SetableClock()) as bench:
        bench.store("m", "of Ana")
        before = bench.get()
        bench.clock.let_pass(10)
        later = {**before, "last_accessed": bench.clock.time(), "revised": bench.clock.time()}
        for change in ({"content": "of Ben"}, {"deleted": True}, {"created": 5}, {"keywords": ["of Ben"]}):
            reply = bench.ask("sync_memories", BEN, memories=[{**later, **change}, {**before, "id": "of-ben"}])
            assert (reply["refused"], reply["refused_ids"]) == (1, ["m"])
            assert bench.ask("query_memory", ids=["m"])["memories"][0]["content"] == "of Ana"
        assert bench.ask("sync_memories", BEN, memories=[{**before, "strength": 3}])["changed"] == 1
        kept = bench.get()
        assert (kept["strength"], kept["written_by"], kept["content"]) == (3, "Ana", "of Ana")
        assert bench.get("of-ben")["written_by"] == "Ben"


def test_written_by_is_the_writer_of_the_winning_record(tmp_path: Path) -> None:
    """The caller, whatever the record says; one whose record lost, or changed the marks alone, wrote nothing."""
    with MemoryBench(tmp_path / "db", SetableClock()) as bench:
        bench.store("m", "of Ana")
        record = {**bench.get(), "written_by": "Ben"}
        bench.ask("sync_memories", OPERATOR, memories=[{**record, "strength": 2}])
        bench.ask("sync_memories", OPERATOR, memories=[{**record, "content": "older", "revised": 5, "created": 5}])
        assert (bench.get()["written_by"], bench.get()["content"]) == ("Ana", "of Ana")
        bench.clock.let_pass(1)
        bench.ask("sync_memories", OPERATOR, memories=[{**record, "content": "new", "revised": bench.clock.time()}])
        assert (bench.get()["written_by"], bench.get()["content"]) == ("operator", "new")


def test_a_record_without_a_revision_is_as_old_as_its_access(tmp_path: Path) -> None:
    """As older stores send it: the newer one wins, and a second sync changes nothing."""
    with MemoryBench(tmp_path / "db", SetableClock()) as bench:
        old = {"id": "m", "content": "old", "last_accessed": "2026-01-01T00:00:00", "forgotten": False}
        new = {"id": "m", "content": "new", "last_accessed": 1_767_225_601, "strength": 0.5}
        assert bench.ask("sync_memories", memories=[new])["added"] == 1
        assert bench.ask("sync_memories", memories=[old])["changed"] == 1  # its strength, and its creation
        for record in (old, new, old):
            assert bench.ask("sync_memories", memories=[record])["unchanged"] == 1
        kept = bench.ask("query_memory")["memories"][0]
        assert (kept["content"], kept["strength"]) == ("new", 1.0)
        assert kept["created"] == "2026-01-01T00:00:00.000+00:00"


def test_a_sync_brings_a_forgotten_memory_back(tmp_path: Path) -> None:
    """Where another store remembers it."""
    with both_of(tmp_path, SetableClock()) as (one, two):
        one.store("m")
        one.sync_to(two)
        one.clock.let_pass(86_400)
        one.decay(22)
        assert (one.ids(), one.get()["forgotten"]) == ([], True)
        two.sync_to(one)
        assert (one.ids(), one.get()["strength"]) == (["m"], 1.0)
