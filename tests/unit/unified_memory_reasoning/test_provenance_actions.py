"""`memory_by`: everything that a caller wrote, page by page, whether it is hidden or not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import MAX_REPLY_BYTES, bench_of
from tests.unit.unified_memory_reasoning.safety_bench import ADA, BOB, REVOKED, SafetyBench
from twinhost.unified_memory_reasoning.twins.twins import MAX_TWIN_BYTES

KINDS = ["twins", "interactions", "error_patterns"]


bench = bench_of(SafetyBench)


def pages(bench: SafetyBench, kind: str, limit: int, name: str = ADA.name) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    while True:
        page = bench.ask("memory_by", name=name, kind=kind, limit=limit, **before)["written"][kind]
        entries += page["entries"]
        if not page["more"]:
            assert page["next_before"] is None
            return entries
        before = {"before": page["next_before"]}


def test_it_lists_everything_that_a_caller_wrote(bench: SafetyBench) -> None:
    """With every field, and moments in ISO-8601."""
    for caller in (ADA, BOB):
        bench.update_twin(f"of-{caller.name}", {"by": caller.name}, caller)
        bench.say("s", f"by {caller.name}", caller)
        with bench.database.transaction():
            bench.patterns.add("timeout", f"{caller.name} timed out", caller.name, solution="wait")
    reply = bench.ask("memory_by", name=ADA.name)
    assert (reply["name"], reply["quarantined"], list(reply["written"])) == (ADA.name, False, KINDS)
    ((twin,), (interaction,), (pattern,)) = (reply["written"][kind]["entries"] for kind in KINDS)
    assert (twin["user_id"], twin["data"], twin["revision"]) == ("of-ada", {"by": "ada"}, 1)
    assert (interaction["session_id"], interaction["content"]) == ("s", "by ada")
    assert (pattern["error_type"], pattern["pattern"], pattern["last_seen"]) == ("timeout", "ada timed out", None)
    for moment in (twin["updated"], interaction["created"], pattern["created"]):
        assert moment.startswith("20")
        assert moment.endswith("+00:00")


def test_the_writer_of_a_twin_is_who_wrote_it_last(bench: SafetyBench) -> None:
    bench.update_twin("u", {"a": 1}, ADA)
    bench.update_twin("u", {"b": 2}, BOB)
    assert pages(bench, "twins", 10) == []
    assert [page["data"] for page in pages(bench, "twins", 10, BOB.name)] == [{"b": 2}]


def test_a_hidden_writers_rows_are_shown_to_the_operator(bench: SafetyBench) -> None:
    """It says that they are hidden."""
    bench.update_twin("u", {"a": 1}, REVOKED)
    bench.ask("quarantine_memory", name=REVOKED.name)
    reply = bench.ask("memory_by", name=REVOKED.name)
    assert reply["quarantined"] is True
    assert reply["written"]["twins"]["entries"][0]["data"] == {"a": 1}


def test_nobody_wrote_nothing(bench: SafetyBench) -> None:
    reply = bench.ask("memory_by", name="nobody")
    assert all(page == {"entries": [], "more": False, "next_before": None} for page in reply["written"].values())


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 60_000), max_size=25), limit=st.integers(1, 30))
def test_pages_return_each_row_once_newest_first(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int
) -> None:
    """However large the rows are, and whatever the limit: no page exceeds what a reply may have."""
    with SafetyBench(tmp_path_factory.mktemp("pages") / "db") as bench:
        for number, size in enumerate(sizes):
            bench.say("s", f"{number} " + "x" * size, ADA)
            bench.say("s", "another's", BOB)
        entries = pages(bench, "interactions", limit)
    assert [int(entry["content"].split()[0]) for entry in entries] == list(range(len(sizes)))[::-1]


def test_a_row_too_large_for_a_reply_is_returned_shortened(bench: SafetyBench) -> None:
    """Its short fields, which ones are left out, and its size; those after it are returned too."""
    bench.update_twin("small", {"a": 1}, ADA)
    bench.update_twin("large", {"text": "x" * (MAX_TWIN_BYTES - len('{"text":""}'))}, ADA)
    large, small = pages(bench, "twins", 10)
    assert (large["user_id"], large["left_out"], large["size_bytes"] > MAX_REPLY_BYTES) == ("large", ["data"], True)
    assert small["data"] == {"a": 1}


def test_a_kind_without_room_in_a_reply_can_be_asked_for_alone(bench: SafetyBench) -> None:
    """The kinds before it took it all: it says that there is more, and where to go on."""
    for number in range(3):
        bench.update_twin(f"u{number}", {"text": "x" * 50_000}, ADA)
    bench.say("s", "y" * 60_000, ADA)
    page = bench.ask("memory_by", name=ADA.name)["written"]["interactions"]
    assert (page["entries"], page["more"]) == ([], True)
    alone = bench.ask("memory_by", name=ADA.name, kind="interactions", before=page["next_before"])
    assert len(alone["written"]["interactions"]["entries"]) == 1


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "$.name"),
        ({"name": None}, "$.name"),
        ({"name": "a", "kind": "rumours"}, "Expected one of twins, interactions, error_patterns, got 'rumours'"),
        ({"name": "a", "kind": 5}, "$.kind"),
        ({"name": "a", "before": 7}, "$.before"),
        ({"name": "a", "kind": "twins", "before": 0}, "$.before"),
        ({"name": "a", "kind": "twins", "before": 2**63}, "$.before"),
        ({"name": "a", "limit": 0}, "$.limit"),
        ({"name": "a", "limit": 1_001}, "$.limit"),
        ({"name": "a", "limit": 1.5}, "$.limit"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(bench: SafetyBench, fields: dict[str, Any], path: str) -> None:
    reply = bench.ask("memory_by", **fields)
    assert reply["code"] == "malformed_request"
    assert path in reply["error"]
