"""A session's interactions one by one: pages of them, and what is left of a session after some were deleted."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.memory import OPERATOR
from tests.unit.unified_memory_reasoning.memory_bench import ANN, MALLORY, ContextBench

SAID = st.tuples(
    st.sampled_from([ANN, MALLORY]),
    st.sampled_from(["", "bob", "eve"]),
    st.sampled_from(["plain", "remember this?", "we decided on red", "Agreed."]),
)


bench = bench_of(ContextBench)


def contents(page: dict[str, Any]) -> list[str]:
    return [interaction["content"] for interaction in page["interactions"]]


def test_interactions_are_returned_as_they_were_stored(bench: ContextBench) -> None:
    metadata = {"item": {"b": [1, None], "a": "\u2028"}}
    bench.say("hello", ANN, speaker="bob", metadata=metadata, occurred_at="2026-03-01T08:00:00+00:00")
    bench.say("x = 1", kind="code")
    bench.say("elsewhere", session_id="t")
    page = bench.ask("get_interactions", session_id="s")
    assert (page["more"], page["next_before"]) == (False, None)
    code, hello = page["interactions"]
    assert (code["content"], code["interaction_type"], code["metadata"], code["speaker"]) == ("x = 1", "code", {}, "")
    assert "occurred_at" not in code
    assert (hello["metadata"], hello["speaker"], hello["written_by"]) == (metadata, "bob", "Ann")
    assert hello["occurred_at"] == "2026-03-01T08:00:00.000+00:00"


def test_pages_have_each_interaction_once(bench: ContextBench) -> None:
    """By their number, and by what a reply can hold."""
    for number in range(7):
        bench.say(f"{number}")
    found: list[str] = []
    before: dict[str, int] = {}
    for expected in (3, 3, 1):
        page = bench.ask("get_interactions", None, session_id="s", limit=3, **before)
        assert len(page["interactions"]) == expected
        found += contents(page)
        before = {"before": page["next_before"]}
    assert (found, page["more"]) == ([*"6543210"], False)
    for number in range(20):
        bench.say(f"{number}" + "x" * 30_000)
    page = bench.ask("get_interactions", session_id="s")
    assert (len(page["interactions"]) < 20, page["more"]) == (True, True)


def test_hidden_interactions_are_neither_listed_nor_deleted(bench: ContextBench) -> None:
    bench.say("mine", ANN)
    number = bench.say("hidden", MALLORY)["interaction_id"]
    bench.hide(MALLORY)
    assert contents(bench.ask("get_interactions", session_id="s")) == ["mine"]
    assert bench.ask("delete_interactions", MALLORY, session_id="s", ids=[number])["deleted"] == []
    bench.release(MALLORY)
    assert contents(bench.ask("get_interactions", session_id="s")) == ["hidden", "mine"]


def test_only_its_writer_and_an_operator_delete_an_interaction(bench: ContextBench) -> None:
    """All of the request or nothing; what is not there, or in another session, is left out of the reply."""
    mine, other = (bench.say("x", caller)["interaction_id"] for caller in (ANN, MALLORY))
    elsewhere = bench.say("x", ANN, session_id="t")["interaction_id"]
    refused = bench.ask("delete_interactions", ANN, session_id="s", ids=[mine, other])
    assert refused["code"] == "not_granted"
    assert f"interaction {other} belongs to " in refused["error"]
    assert bench.ask("delete_interactions", ANN, session_id="s", ids=[mine, 99, elsewhere])["deleted"] == [mine]
    assert bench.ask("delete_interactions", ANN, session_id="s", ids=[mine])["deleted"] == []
    assert bench.ask("delete_interactions", OPERATOR, session_id="s", ids=[other])["deleted"] == [other]
    assert bench.context()["stored"] == 0
    assert bench.interactions.session_count == 1


def test_a_deleted_decision_is_in_no_summary(bench: ContextBench) -> None:
    number = bench.say("we decided on red", ANN)["interaction_id"]
    bench.say("we decided on the blue door", ANN)
    assert len(bench.context()["key_decisions"]) == 2
    bench.ask("delete_interactions", ANN, session_id="s", ids=[number])
    assert bench.context()["key_decisions"] == ["we decided on the blue door"]


@settings(max_examples=40)
@given(st.lists(SAID, min_size=1, max_size=40), st.data())
@pytest.mark.thorough
def test_a_context_is_as_if_a_deleted_text_had_not_been_said(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[Any, str, str]], data: st.DataObject
) -> None:
    """Its text, its counts, its windows, and its decisions; also those of each speaker."""
    gone = data.draw(st.sets(st.integers(0, len(said) - 1)))
    folder = tmp_path_factory.mktemp("deleted")
    with ContextBench(folder / "with") as bench, ContextBench(folder / "without") as without:
        ids = [bench.say(content, caller, speaker=speaker)["interaction_id"] for caller, speaker, content in said]
        for number, (caller, speaker, content) in enumerate(said):
            if number not in gone:
                without.say(content, caller, speaker=speaker)
        if gone:
            wanted = [ids[number] for number in gone]
            assert bench.ask("delete_interactions", OPERATOR, session_id="s", ids=wanted)["deleted"] == sorted(wanted)
        for view in (None, "bob", "eve"):
            seen, expected = bench.context(speaker=view), without.context(speaker=view)
            for name in ("text", "stored", "dropped", "window"):
                assert seen[name] == expected[name], name
        assert contents(bench.ask("get_interactions", session_id="s")) == contents(
            without.ask("get_interactions", session_id="s")
        )
