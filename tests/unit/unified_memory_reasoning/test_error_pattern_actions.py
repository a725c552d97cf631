"""The actions on error patterns as a client sees them: every field, every bad input, and who may do what."""

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.error_pattern_bench import (
    ALICE,
    BOB,
    ENDLESS_S,
    NOBODY,
    OPERATOR,
    ErrorPatternBench,
)
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.errors.matching import MAX_MESSAGE_BYTES, MAX_STEPS

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("add_error_pattern", {}, "missing required field `error_type`"),
    ("add_error_pattern", {"error_type": "E"}, "missing required field `pattern`"),
    ("add_error_pattern", {"error_type": "", "pattern": "a"}, "at `$.error_type`"),
    ("add_error_pattern", {"error_type": "E" * 257, "pattern": "a"}, "at `$.error_type`"),
    ("add_error_pattern", {"error_type": 7, "pattern": "a"}, "Expected `str`, got `int` - at `$.error_type`"),
    ("add_error_pattern", {"error_type": "E", "pattern": ""}, "at `$.pattern`"),
    ("add_error_pattern", {"error_type": "E", "pattern": "a" * 1_025}, "at `$.pattern`"),
    ("add_error_pattern", {"error_type": "E", "pattern": None}, "at `$.pattern`"),
    ("add_error_pattern", {"error_type": "E", "pattern": "("}, "RE2 reports `missing ): (`"),
    ("add_error_pattern", {"error_type": "E", "pattern": r"(a)\1"}, "no backreference"),
    ("add_error_pattern", {"error_type": "E", "pattern": "(?!a)"}, "RE2 reports `invalid perl operator: (?!`"),
    ("add_error_pattern", {"error_type": "E", "pattern": r"(?:\pL{30}){30}"}, "at `$.pattern`"),
    ("add_error_pattern", {"error_type": "E", "pattern": "a", "solution": ""}, "at `$.solution`"),
    ("add_error_pattern", {"error_type": "E", "pattern": "a", "solution": "x" * 16_385}, "at `$.solution`"),
    ("add_error_pattern", {"error_type": "E", "pattern": "a", "solution": ["x"]}, "at `$.solution`"),
    ("get_error_solution", {}, "missing required field `error_message`"),
    ("get_error_solution", {"error_message": ""}, "at `$.error_message`"),
    ("get_error_solution", {"error_message": 3}, "at `$.error_message`"),
    ("get_error_solution", {"error_message": None}, "at `$.error_message`"),
    ("get_error_solution", {"error_message": "a" * (MAX_MESSAGE_BYTES + 1)}, "at `$.error_message`"),
    ("get_error_solution", {"error_message": "é" * (MAX_MESSAGE_BYTES // 2 + 1)}, "65536 bytes of UTF-8"),
    ("report_solution_outcome", {}, "missing required field `pattern_id`"),
    ("report_solution_outcome", {"pattern_id": 1}, "missing required field `success`"),
    ("report_solution_outcome", {"pattern_id": 0, "success": True}, "at `$.pattern_id`"),
    ("report_solution_outcome", {"pattern_id": 2**63, "success": True}, "at `$.pattern_id`"),
    ("report_solution_outcome", {"pattern_id": "1", "success": True}, "at `$.pattern_id`"),
    ("report_solution_outcome", {"pattern_id": 1, "success": "yes"}, "at `$.success`"),
    ("report_solution_outcome", {"pattern_id": 1, "success": 1}, "at `$.success`"),
    ("report_solution_outcome", {"pattern_id": 1, "success": True, "note": "x" * 1_025}, "at `$.note`"),
    ("list_error_patterns", {"limit": 0}, "at `$.limit`"),
    ("list_error_patterns", {"limit": 201}, "at `$.limit`"),
    ("list_error_patterns", {"limit": 1.5}, "at `$.limit`"),
    ("list_error_patterns", {"before": 0}, "at `$.before`"),
    ("list_error_patterns", {"before": "x"}, "at `$.before`"),
    ("delete_error_pattern", {}, "missing required field `pattern_id`"),
    ("delete_error_pattern", {"pattern_id": -1}, "at `$.pattern_id`"),
    ("get_pattern_proposals", {"limit": 201}, "at `$.limit`"),
    ("get_pattern_proposals", {"before": 2**63}, "at `$.before`"),
    ("dismiss_pattern_proposal", {}, "missing required field `proposal_id`"),
    ("dismiss_pattern_proposal", {"proposal_id": 1.5}, "at `$.proposal_id`"),
]


bench = bench_of(lambda path: ErrorPatternBench(path, cpu_s=ENDLESS_S))


@pytest.mark.parametrize(("action", "fields", "sentence"), REFUSED, ids=lambda it: str(it)[:40])
def test_a_bad_input_is_refused_with_its_path(
    bench: ErrorPatternBench, action: str, fields: dict[str, Any], sentence: str
) -> None:
    reply = bench.ask(action, **fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]
    assert [bench.rows(name) for name in ("error_patterns", "unknown_errors", "solution_outcomes")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("report_solution_outcome", {"pattern_id": 7, "success": True}),
        ("delete_error_pattern", {"pattern_id": 7}),
        ("dismiss_pattern_proposal", {"proposal_id": 7}),
    ],
)
def test_what_is_not_there_is_named_with_where_to_look(
    bench: ErrorPatternBench, action: str, fields: dict[str, Any]
) -> None:
    reply = bench.ask(action, **fields)
    assert reply["code"] == "not_found"
    assert " 7; `" in reply["error"]


def test_an_existing_client_is_served_unchanged(bench: ErrorPatternBench) -> None:
    """The two actions with the fields of the documents alone: ok, solution, error_type."""
    assert (
        bench.ask("add_error_pattern", error_type="Timeout", pattern="timed? ?out", solution="wait")["status"] == "ok"
    )
    known = bench.ask("get_error_solution", error_message="request timed out")
    assert (known["status"], known["solution"], known["error_type"]) == ("ok", "wait", "Timeout")
    unknown = bench.ask("get_error_solution", error_message="disk full")
    assert (unknown["status"], unknown["solution"], unknown["error_type"]) == ("ok", None, None)
    assert set(unknown) <= set(known)


def test_an_addition_says_what_it_is_worth(bench: ErrorPatternBench) -> None:
    """Its number, whether it is new, how specific it is, and how much of a message it is searched for in."""
    assert bench.ask("add_error_pattern", error_type="E", pattern=r"^port \d+") == {
        "status": "ok",
        "pattern_id": 1,
        "new": True,
        "specificity": {"literals": 5, "classes": 1, "anchors": 1},
        "reads_bytes": MAX_MESSAGE_BYTES,
        "settled_proposals": 0,
    }
    assert bench.ask("add_error_pattern", error_type="E", pattern=r"^port \d+")["new"] is False
    large = bench.ask("add_error_pattern", error_type="E", pattern="x" * 1_000)
    assert MAX_STEPS // 1_100 < large["reads_bytes"] <= MAX_STEPS // 1_000
    end = large["reads_bytes"]
    assert bench.look_up(" " * (end - 1_000) + "x" * 1_000)["pattern_id"] == large["pattern_id"]
    assert bench.look_up(" " * (end - 999) + "x" * 1_000)["pattern_id"] is None


def test_every_look_up_is_counted(bench: ErrorPatternBench) -> None:
    """`occurrence_count` and `last_seen` of the pattern that answers, and of no other."""
    number = bench.add("timeout", "wait")
    other = bench.add("out", "look")
    (before,) = (pattern for pattern in bench.ask("list_error_patterns")["patterns"] if pattern["pattern_id"] == number)
    assert (before["occurrence_count"], before["last_seen"]) == (0, None)
    for count in (1, 2, 3):
        known = bench.look_up("timeout")
        assert known["occurrence_count"] == count
    assert datetime.fromisoformat(known["last_seen"]) >= datetime.fromisoformat(before["created"])
    counts = {
        pattern["pattern_id"]: pattern["occurrence_count"] for pattern in bench.ask("list_error_patterns")["patterns"]
    }
    assert counts == {number: 3, other: 0}


def test_a_retry_is_counted_once(bench: ErrorPatternBench) -> None:
    """The same request_id, the same reply: neither occurrences nor outcomes nor sightings are doubled."""
    number = bench.add("timeout", "wait")
    first = bench.ask("get_error_solution", error_message="timeout", request_id="r1")
    assert bench.ask("get_error_solution", error_message="timeout", request_id="r1") == first
    for _ in range(3):
        bench.ask("report_solution_outcome", pattern_id=number, success=True, request_id="r2")
        bench.ask("get_error_solution", error_message="the disk is full", request_id="r3")
    known = bench.look_up("timeout")
    assert (known["occurrence_count"], known["successes"]) == (2, 1)
    assert bench.proposed() == []


def test_a_hostile_message_is_text_like_any_other(bench: ErrorPatternBench) -> None:
    for message in ("'; DROP TABLE error_patterns; --", "\x00", "\u2028\u202e", "%s{}\\1", "𝕏" * 100, "\n" * 1_000):
        assert bench.look_up(message)["status"] == "ok"
    number = bench.add("DROP\x00 'x'; --", "fine\x00\n", error_type="'; --")
    assert bench.look_up("a DROP\x00 'x'; -- b") | {"last_seen": None} == {
        **bench.look_up("nothing of it"),
        "status": "ok",
        "solution": "fine\x00\n",
        "error_type": "'; --",
        "pattern_id": number,
        "pattern": "DROP\x00 'x'; --",
        "written_by": "Alice",
        "occurrence_count": 1,
        "success_rate": 0.5,
        "ignores_case": True,
        "specificity": {"literals": 13, "classes": 0, "anchors": 0},
    } | {
        key: value
        for key, value in bench.ask("list_error_patterns")["patterns"][0].items()
        if key in ("created", "updated")
    }


def test_a_pattern_without_a_solution_has_no_outcome(bench: ErrorPatternBench) -> None:
    """It names the type of the error; whether it helped can't be said."""
    number = bench.add("timeout")
    known = bench.look_up("timeout")
    assert (known["solution"], known["error_type"]) == (None, "E")
    refused = bench.report(number, success=True)
    assert refused["code"] == "malformed_request"
    assert "add_error_pattern" in refused["error"]


@pytest.mark.parametrize(
    ("caller", "code"), [(ALICE, None), (OPERATOR, None), (BOB, "not_granted"), (NOBODY, None)], ids=str
)
def test_only_its_writer_or_an_operator_deletes_a_pattern(
    bench: ErrorPatternBench, caller: Caller, code: str | None
) -> None:
    """And on an open link, where nobody is known, anybody; its outcomes go with it."""
    number = bench.add("timeout", "wait")
    bench.report(number, BOB, success=True)
    reply = bench.ask("delete_error_pattern", caller, pattern_id=number)
    assert reply.get("code") == code
    assert bench.look_up("timeout")["pattern_id"] == (number if code else None)
    assert [bench.rows(), bench.rows("solution_outcomes"), bench.patterns.count] == [1 if code else 0] * 3


def test_a_hidden_pattern_is_deleted_by_an_operator_alone(bench: ErrorPatternBench) -> None:
    number = bench.add("timeout", "wait")
    bench.hide(ALICE)
    assert bench.ask("delete_error_pattern", ALICE, pattern_id=number)["code"] == "not_found"
    assert bench.ask("delete_error_pattern", OPERATOR, pattern_id=number)["status"] == "ok"
    assert bench.rows() == 0


def test_patterns_are_listed_in_pages_that_meet(bench: ErrorPatternBench) -> None:
    numbers = [bench.add(f"error {number}") for number in range(7)]
    seen: list[int] = []
    page: dict[str, Any] = {"more": True}
    before: dict[str, Any] = {}
    while page["more"]:
        page = bench.ask("list_error_patterns", limit=3, **before)
        seen += [pattern["pattern_id"] for pattern in page["patterns"]]
        before = {"before": seen[-1]}
    assert seen == numbers[::-1]
    assert bench.ask("list_error_patterns", before=1) == {"status": "ok", "patterns": [], "more": False}


def test_a_page_is_never_larger_than_a_reply_may_be(tmp_path: Path) -> None:
    """As many as fit, one at the least; the next page goes on from there."""
    with ErrorPatternBench(tmp_path / "db", max_bytes=262_144) as bench:
        for number in range(9):
            bench.add(f"error {number}", "\x01" * 16_000)
        page = bench.ask("list_error_patterns", limit=200)
        assert (len(page["patterns"]), page["more"]) == (1, True)
        rest = bench.ask("list_error_patterns", limit=200, before=page["patterns"][0]["pattern_id"])
        assert rest["patterns"][0]["pattern_id"] == 8


def test_requests_of_one_batch_see_each_other(bench: ErrorPatternBench) -> None:
    pattern = {"error_type": "E", "pattern": "timeout", "solution": "wait"}
    added, refused, known = bench.ask_together(
        ("add_error_pattern", ALICE, pattern),
        ("add_error_pattern", ALICE, {**pattern, "pattern": "("}),
        ("get_error_solution", BOB, {"error_message": "timeout"}),
    )
    assert (added["status"], refused["code"], known["solution"]) == ("ok", "malformed_request", "wait")


NO_REFILL = 1e-6  # of the CPU budget, in seconds per second: how long the batch takes does not matter then


def test_a_batch_of_hostile_look_ups_stalls_nobody_else(tmp_path: Path) -> None:
    """Each ends within 10 ms and one search; who used up its time waits, and others are answered at once."""
    with ErrorPatternBench(tmp_path / "db", refill=NO_REFILL, cpu_s=0.05) as bench:
        for number in range(20):
            bench.add(rf"[ab]*a[ab]{{{100 + number}}}c")
        bench.add("timeout", "wait", caller=BOB)
        message = "".join(random.Random(7).choices("ab", k=MAX_MESSAGE_BYTES))
        look_ups = [("get_error_solution", ALICE, {"error_message": message})] * 40
        addition = ("add_error_pattern", ALICE, {"error_type": "E", "pattern": "disk full"})
        *replies, added = bench.ask_together(*look_ups, addition)
        codes = [reply.get("code") for reply in replies]
        assert codes[0] is None
        assert not replies[0]["complete"]
        assert codes.count("limit_reached") >= 30
        assert "try again in" in replies[-1]["error"]
        assert bench.ask("get_error_solution", BOB, error_message="timeout")["solution"] == "wait"
        assert bench.ask("list_error_patterns")["status"] == "ok"
        assert added["code"] == "limit_reached"


def test_patterns_that_are_slow_to_refuse_stall_nothing(tmp_path: Path) -> None:
    """RE2 takes up to 20 ms to find that one is too large: 256 of them would take 5 s."""
    with ErrorPatternBench(tmp_path / "db", refill=NO_REFILL) as bench:
        pattern = {"error_type": "E", "pattern": r"\pL" * 300}
        replies = bench.ask_together(*[("add_error_pattern", ALICE, pattern)] * 256)
        codes = [reply["code"] for reply in replies]
        assert (codes[0], codes[-1]) == ("malformed_request", "limit_reached")
        assert codes.count("limit_reached") >= 128


def test_who_sends_nothing_hostile_is_never_kept_waiting(tmp_path: Path) -> None:
    """A batch of 256 additions, and one of 256 look-ups, even where 2 ms is all that one may take at once."""
    added = [("add_error_pattern", ALICE, {"error_type": "E", "pattern": f"error {it}:"}) for it in range(256)]
    asked = [("get_error_solution", ALICE, {"error_message": f"error {it}: no disk"}) for it in range(256)]

    def all_are_answered(path: Path) -> bool:
        with ErrorPatternBench(path, cpu_s=0.002) as bench:
            return {reply["status"] for batch in (added, asked) for reply in bench.ask_together(*batch)} == {"ok"}

    assert any(all_are_answered(tmp_path / str(number)) for number in range(5))  # a busy machine takes CPU time too


def test_a_store_that_fails_refuses_and_remembers_nothing(bench: ErrorPatternBench) -> None:
    bench.database.execute("PRAGMA query_only=ON")
    reply = bench.ask("add_error_pattern", error_type="E", pattern="timeout")
    assert reply["code"] == "store_unavailable"
    bench.database.execute("PRAGMA query_only=OFF")
    assert bench.patterns.count == bench.rows() == 0
    assert bench.look_up("timeout")["pattern_id"] is None
