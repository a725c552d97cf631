"""The store of error patterns: who is found, who is first, in what time, and that memory and disk say the same."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.error_pattern_bench import (
    ALICE,
    BOB,
    ENDLESS_S,
    PATTERNS_WITH_MATCHES,
    ErrorPatternBench,
)
from twinhost.secure_zmq.errors import LimitReached, MalformedRequest
from twinhost.unified_memory_reasoning.errors.matching import (
    BUDGET_S,
    MAX_MESSAGE_BYTES,
    Entry,
    PatternIndex,
    accept,
    matches,
)
from twinhost.unified_memory_reasoning.errors.specificity import requirement_of

STALL_S = 1.0  # of the processor; nothing that anybody sends may take longer. Measured: 0.3 s at the worst
HOSTILE = [
    r"(a+)+$",
    r"(.*)*",
    r"(.*)*x$",
    r"(a|aa)+$",
    r"(a|a)*b",
    r"([ab]*)*c",
    r"[ab]*a[ab]{900}c",
    r"[ab]*a[ab]{100}c",
    r"(?:[ab]*a){40}[ab]{40}c",
    r"(?:.*a){12}c",
    r".*a.{400}c",
    r"(?:(?:a?){30}){30}c",
    r"(?i)\pL+\pN+$",
    "(" * 300 + "a+" + ")+" * 300 + "$",
    "a?" * 300 + "a" * 300 + "b",
    "|".join(f"{letter}+b+a+" for letter in "abcdefgh" * 10),
]
REFUSED = [
    ("a{1000}{1000}", "bad repetition operator"),
    ("(a{1000}){1000}", "invalid repetition size"),
    ("((a{100}){100}){100}", "invalid repetition size"),
    ("a{1001}", "invalid repetition size"),
    (r"(a)\1", "invalid escape sequence"),
    (r"(?=a)b", "invalid perl operator"),
    (r"(?<!a)b", "invalid"),
    (r"(?>a)", "invalid perl operator"),
    ("(a", "missing )"),
    ("[a", "missing ]"),
    ("*a", "no argument for repetition operator"),
    (r"a\Z", "invalid escape sequence"),
    (r"\pL" * 300, ""),
    (r"(?:\pL{30}){30}", ""),
    (".{1000}", "8004 instructions"),
]
_random = random.Random(7)
LONG = [
    "a" * MAX_MESSAGE_BYTES,
    "ab" * (MAX_MESSAGE_BYTES // 2),
    "".join(_random.choice("ab") for _ in range(MAX_MESSAGE_BYTES)),
    "é" * (MAX_MESSAGE_BYTES // 2),
    "\n" * MAX_MESSAGE_BYTES,
    "error: " * (MAX_MESSAGE_BYTES // 7),
]


bench = bench_of(lambda path: ErrorPatternBench(path, cpu_s=ENDLESS_S))


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:24])
@pytest.mark.thorough
def test_a_hostile_pattern_stalls_nothing(bench: ErrorPatternBench, pattern: str) -> None:
    """Whatever it would cost a backtracking engine: added and searched for in 64 KiB it takes less than a second."""
    began = time.thread_time()
    bench.add(pattern)
    assert time.thread_time() - began < STALL_S
    for message in LONG:
        began = time.thread_time()
        assert bench.look_up(message)["status"] == "ok"
        assert time.thread_time() - began < STALL_S, (pattern, message[:8])


@pytest.mark.parametrize(("pattern", "said"), REFUSED, ids=lambda it: it[:24])
def test_what_re2_refuses_is_refused_with_its_message(
    bench: ErrorPatternBench, pattern: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """And with what is allowed; nothing of it is kept, nor written past the log."""
    with pytest.raises(MalformedRequest, match=r"at `\$\.pattern`") as caught:
        bench.patterns.add("E", pattern, "Alice")
    assert said in str(caught.value)
    assert "no backreference, no look-around" in str(caught.value)
    assert (bench.rows(), bench.patterns.count) == (0, 0)
    assert capfd.readouterr().err == ""


@pytest.mark.thorough
def test_5000_patterns_and_a_hostile_message_stall_nothing(tmp_path: Path) -> None:
    """With words of every pattern in 64 KiB, and with 100 patterns that must be searched for in any message."""
    words = ["".join(_random.choice("abcdefghijklmnop") for _ in range(_random.randint(3, 9))) for _ in range(3_000)]
    with ErrorPatternBench(tmp_path / "db", cpu_s=ENDLESS_S, most_of_a_writer=5_000) as bench:
        with bench.database.transaction():
            for number in range(4_900):
                pattern = rf"{words[number % 3_000]}\s+{words[number * 7 % 3_000]} \d+ no{number}"
                bench.patterns.add("E", pattern, "Alice")
            for number in range(100):
                bench.patterns.add("E", rf"[ab]*a[ab]{{{90 + number}}}c", f"writer {number % 5}")
        for message in (*LONG, (" ".join(words) * 4)[:MAX_MESSAGE_BYTES]):
            began = time.thread_time()
            assert bench.look_up(message)["status"] == "ok"
            assert time.thread_time() - began < STALL_S, message[:8]
        assert bench.look_up(f"{words[5]} {words[35]} 12 no5")["pattern_id"] == 6


def test_most_patterns_are_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 patterns, the two that share a required text with the message: what a look-up costs hangs on those."""
    index = PatternIndex()
    for number in range(5_000):
        pattern = rf"failure {number:05d}: .*"
        index.add(Entry(number, pattern, requirement_of(pattern), "Alice"))
    searched: list[str] = []

    def counted(pattern: str, message: bytes, *, ignores_case: bool) -> bool:
        searched.append(pattern)
        return matches(pattern, message, ignores_case=ignores_case)

    monkeypatch.setattr("twinhost.unified_memory_reasoning.errors.matching.matches", counted)
    result = index.search("failure 01234: and failure 04321: of a part", lambda _: False)
    assert [entry.pattern_id for entry in result.entries] == [4321, 1234]
    assert len(searched) == 2


def test_a_timeout_is_reported_in_the_answer(tmp_path: Path) -> None:
    """Not that nothing is known; and the message is not counted as one that nobody knows."""
    with ErrorPatternBench(tmp_path / "db", budget_s=0.0) as bench:
        bench.add("timeout", "wait")
        reply = bench.look_up("timeout in worker")
        assert (reply["solution"], reply["error_type"], reply["complete"]) == (None, None, False)
        assert bench.rows("unknown_errors") == 0
        assert bench.look_up("nothing that any pattern requires")["complete"]


def test_other_programs_time_is_not_charged_to_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a busy machine would find fewer patterns, and give the newest solution for the one that helped most."""
    index = PatternIndex()
    for number in range(3):
        index.add(Entry(number, "timeout", requirement_of("timeout"), "Alice"))

    def interrupted(pattern: str, message: bytes, *, ignores_case: bool) -> bool:
        time.sleep(2 * BUDGET_S)
        return matches(pattern, message, ignores_case=ignores_case)

    monkeypatch.setattr("twinhost.unified_memory_reasoning.errors.matching.matches", interrupted)
    result = index.search("timeout", lambda _: False)
    assert (len(result.entries), result.complete) == (3, True)


@settings(max_examples=150, deadline=None)
@given(st.lists(PATTERNS_WITH_MATCHES, max_size=8), st.data())
def test_the_index_finds_what_trying_every_pattern_finds(drawn: list[tuple[str, str]], data: st.DataObject) -> None:
    """The most specific of them, all of the same specificity, after some were taken out again."""
    index = PatternIndex(budget_s=60.0)
    entries: list[Entry] = []
    for number, (pattern, _) in enumerate(drawn):
        try:
            accept(pattern)
        except MalformedRequest:
            continue
        entries.append(Entry(number, pattern, requirement_of(pattern), "Alice"))
        index.add(entries[-1])
    for entry in data.draw(st.lists(st.sampled_from(entries), unique=True)) if entries else []:
        entries.remove(index.remove(entry.pattern_id))
    assert len(index) == len(entries)
    assert index.general == sum(entry.requirement.general for entry in entries)
    message = data.draw(st.sampled_from(["", *(text for _, text in drawn)])) + data.draw(st.text(max_size=5))
    known = [entry for entry in entries if matches(entry.pattern, message.encode())]
    best = max((entry.requirement.specificity for entry in known), default=None)
    expected = [entry for entry in reversed(known) if entry.requirement.specificity == best]
    assert list(index.search(message, lambda _: False).entries) == expected


def test_specific_beats_general_whatever_the_order(bench: ErrorPatternBench) -> None:
    general = bench.add("error", "restart")
    specific = bench.add(r"error \d+: disk full", "delete something")
    anchored = bench.add("^error", "look at it")
    bench.add(".*", "pray")
    assert bench.look_up("error 28: disk full")["pattern_id"] == specific
    assert bench.look_up("error of another kind")["pattern_id"] == anchored
    assert bench.look_up("an error")["pattern_id"] == general
    assert bench.look_up("fine")["solution"] == "pray"


def test_equally_specific_patterns_rank_by_success_then_age(bench: ErrorPatternBench) -> None:
    first, second = bench.add("timeout", "wait"), bench.add("timeout", "restart", caller=BOB)
    assert bench.look_up("timeout")["pattern_id"] == second
    bench.report(first, success=True)
    assert bench.look_up("timeout")["solution"] == "wait"
    bench.report(first, success=False, times=2)
    assert bench.look_up("timeout")["solution"] == "restart"


def test_success_is_smoothed(bench: ErrorPatternBench) -> None:
    """By Laplace: (s + 1) / (n + 2); one success does not beat 8 of 9."""
    once, often = bench.add("timeout", "wait"), bench.add("timeout", "restart", caller=BOB)
    assert bench.report(once, success=True)["success_rate"] == 0.667
    bench.report(often, success=False)
    assert bench.report(often, success=True, times=8) == {
        "status": "ok", "pattern_id": often, "success_rate": 0.818, "successes": 8, "failures": 1
    }  # fmt: skip
    assert bench.look_up("timeout")["pattern_id"] == often


def test_a_solution_is_stored_as_it_was_sent(bench: ErrorPatternBench) -> None:
    bench.add("timeout", "  wait:\n\tsleep 5\n")
    assert bench.look_up("timeout")["solution"] == "  wait:\n\tsleep 5\n"


def test_the_same_writer_has_a_pattern_once(bench: ErrorPatternBench) -> None:
    """Another type or writer is another row; a new solution begins without outcomes, none leaves the old one."""
    first = bench.add("timeout", "wait")
    bench.report(first, success=True)
    assert bench.add("timeout") == first
    assert bench.add("timeout", "wait") == first
    kept = bench.look_up("timeout")
    assert (kept["solution"], kept["successes"]) == ("wait", 1)
    assert bench.add("timeout", "restart") == first
    changed = bench.look_up("timeout")
    assert (changed["solution"], changed["successes"], changed["success_rate"]) == ("restart", 0, 0.5)
    assert len({first, bench.add("timeout", caller=BOB), bench.add("timeout", error_type="F")}) == 3
    assert bench.rows() == bench.patterns.count == 3


def test_everything_is_there_after_a_restart(bench: ErrorPatternBench) -> None:
    kept = bench.add("disk full", "delete something")
    bench.add("disk", "buy one", caller=BOB)
    bench.report(kept, success=True)
    before = bench.look_up("disk full")
    bench.reopen()
    assert bench.patterns.count == 2
    after = bench.look_up("disk full")
    assert {**before, "occurrence_count": 2, "last_seen": after["last_seen"]} == after


def test_a_stored_pattern_that_re2_refuses_spoils_no_look_up(bench: ErrorPatternBench) -> None:
    """As after a restore of what another version accepted: it knows nothing, and can be deleted."""
    number = bench.add("timeout")
    with bench.database.transaction():
        bench.database.execute("UPDATE error_patterns SET pattern = '(timeout' WHERE id = ?", (number,))
    bench.reopen()
    assert bench.look_up("(timeout")["pattern_id"] is None
    assert bench.ask("delete_error_pattern", pattern_id=number)["status"] == "ok"


def test_what_is_undone_leaves_no_trace_in_memory(bench: ErrorPatternBench) -> None:
    """Neither an addition nor a deletion: the index and the count are those of the disk."""
    kept = bench.add("timeout", "wait")

    def change_and_fail() -> None:
        with bench.database.transaction():
            bench.patterns.add("E", "disk full", "Alice")
            bench.patterns.add("E", r"\d", "Alice")
            bench.patterns.remove(kept)
            assert bench.patterns.count == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()
    assert bench.patterns.count == bench.rows() == 1
    assert bench.look_up("timeout")["pattern_id"] == kept
    assert bench.look_up("disk full 7")["pattern_id"] is None


def test_a_quarantined_writers_patterns_and_outcomes_are_hidden(bench: ErrorPatternBench) -> None:
    """Neither their patterns, in a look-up or a list, nor their outcomes; nothing is deleted."""
    mine, theirs = bench.add("timeout", "wait"), bench.add("timeout in worker", "format the disk", caller=BOB)
    bench.report(mine, BOB, success=False, times=3)
    bench.report(mine, ALICE, success=True)
    bench.hide(BOB)
    seen = bench.look_up("timeout in worker 3")
    assert (seen["solution"], seen["successes"], seen["failures"]) == ("wait", 1, 0)
    assert [pattern["pattern_id"] for pattern in bench.ask("list_error_patterns")["patterns"]] == [mine]
    assert bench.report(theirs, success=True)["code"] == "not_found"
    assert [each["pattern_id"] for each in bench.patterns.written_by("Bob", None, 10)] == [theirs]
    assert [each["score"]["failures"] for each in bench.patterns.outcomes.written_by("Bob", None, 10)] == [3]
    bench.show(BOB)
    assert bench.look_up("timeout in worker 3")["solution"] == "format the disk"
    assert bench.patterns.find(mine)["failures"] == 3


def test_one_writer_leaves_room_for_others_general_patterns(tmp_path: Path) -> None:
    """Of those that every message is searched for, a writer has a part, whose size the refusal says."""
    with ErrorPatternBench(tmp_path / "db", most_general=3, most_general_of_a_writer=2) as bench:
        own = [bench.add(pattern) for pattern in (r"\d\d", r"\w")]
        with pytest.raises(LimitReached, match="2 patterns of Alice require no text of three characters"):
            bench.patterns.add("E", r"\s", "Alice")
        bench.add(".", caller=BOB)
        with pytest.raises(LimitReached, match=r"^3 patterns require no text of three characters"):
            bench.patterns.add("E", "..", "Bob")
        bench.ask("delete_error_pattern", pattern_id=own[0])
        bench.add(r"\s")


def test_the_number_of_patterns_is_bounded(tmp_path: Path) -> None:
    """Of everybody, of one writer, and of those that are searched for in every message; deleting makes room."""
    with ErrorPatternBench(tmp_path / "db", most=4, most_of_a_writer=2, most_general=1) as bench:
        first = bench.add("first one")
        bench.add(r"\d\d")
        with pytest.raises(LimitReached, match="Alice has 2 error patterns"):
            bench.patterns.add("E", "third one", "Alice")
        assert bench.add("first one", "a solution takes no room") == first
        with pytest.raises(LimitReached, match="require no text of three characters"):
            bench.patterns.add("E", ".", "Bob")
        bench.add("third one", caller=BOB)
        bench.add("fourth one", caller=BOB)
        with pytest.raises(LimitReached, match="4 error patterns are stored"):
            bench.patterns.add("E", "fifth one", "Carol")
        bench.ask("delete_error_pattern", pattern_id=first)
        bench.add("fifth one")
        assert (bench.patterns.count, bench.rows()) == (4, 4)
