"""Errors that no pattern knows: by which shape they are the same, when one is proposed, and what is let go."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import MIGRATIONS, bench_of
from tests.unit.unified_memory_reasoning.error_pattern_bench import (
    ALICE,
    BOB,
    ENDLESS_S,
    OPERATOR,
    ErrorPatternBench,
)
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.errors.matching import MAX_MESSAGE_BYTES, accept, matches
from twinhost.unified_memory_reasoning.errors.proposals import PROPOSED, PatternProposals
from twinhost.unified_memory_reasoning.errors.shapes import FEWEST_LITERALS, shape_of
from twinhost.unified_memory_reasoning.errors.specificity import requirement_of

TIMEOUT = "worker {0} on 10.0.0.{0}: no answer after {0}.5 s"


bench = bench_of(lambda path: ErrorPatternBench(path, cpu_s=ENDLESS_S))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no answer after 5 s", "no answer after 120.25 s"),
        ("connection to 10.0.0.1:7230 refused", "connection to 192.168.100.200:80 refused"),
        ("failed at 12:30:01", "failed at 3:04:05"),
        ("no such file: /var/lib/model.bin", "no such file: ./other"),
        (r"can't open C:\models\a.bin now", r"can't open D:\x now"),
        ("bad pointer 0xdeadBEEF", "bad pointer 0x0"),
        ("no commit 1234abcd5678 here", "no commit deadbeef0 here"),
        ("task 0a1b2c3d-0000-4000-8000-00000000000f lost", "task ffffffff-1111-2222-3333-444444444444 lost"),
        ("unknown model 'llama 3'", "unknown model ''"),
        ('key "a b" is missing', 'key "c" is missing'),
        ("key `a` is missing", "key `b c` is missing"),
        ("GET http://mainpc:8120/status failed", "GET https://pc2/x?y=1 failed"),
        ("out  of \t memory", "out of memory"),
        ("\n\n  out of memory  \nmore", "out of memory\r\nother"),
        (
            "Traceback (most recent call last):\n  File 'a', line 3\nKeyError: 'a missing key'",
            "Traceback (most recent call last):\n  File 'b', line 77\n    x()\nKeyError: 'b'\n",
        ),
    ],
)
def test_what_differs_in_numbers_names_and_places_has_one_shape(one: str, other: str) -> None:
    """One that is found in both."""
    shape = shape_of(one)
    assert shape is not None
    assert shape == shape_of(other)
    assert matches(shape, one.encode())
    assert matches(shape, other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no answer after 5 s", "no reply after 5 s"),
        ("cannot open file", "can't open file"),
        ("user's disk is full", "users' disk is full"),
        (
            "Traceback (most recent call last):\nKeyError: missing",
            "Traceback (most recent call last):\nOSError: missing",
        ),
    ],
)
def test_other_words_are_another_shape(one: str, other: str) -> None:
    assert shape_of(one) != shape_of(other)
    assert None not in (shape_of(one), shape_of(other))


@pytest.mark.parametrize("message", ["", " ", "\n", "12345", "a 1", "'quoted text alone'", "/a/path/alone", "\x00" * 5])
def test_a_message_with_few_characters_of_its_own_has_no_shape(message: str) -> None:
    assert shape_of(message) is None


def test_a_shape_escapes_special_characters() -> None:
    assert shape_of("a+b (c) [d] {e} ^f $g |h *i ?j .k") == (
        r"(?m)^\s*a\+b\s+\(c\)\s+\[d\]\s+\{e\}\s+\^f\s+\$g\s+\|h\s+\*i\s+\?j\s+\.k\s*$"
    )
    assert shape_of("what is here \\ or there") == r"(?m)^\s*what\s+is\s+here\s+\\\s+or\s+there\s*$"


@pytest.mark.parametrize("line", ["a long line of words " * 40, "part 1 " * 70])
def test_the_shape_of_a_long_line_is_cut(line: str) -> None:
    """So it fits whatever follows."""
    shape = shape_of(line)
    assert shape is not None
    assert not shape.endswith("$")
    assert matches(shape, f"{line}and so on".encode())


@pytest.mark.parametrize(
    "unit", ["1 ", "'", '"a" ', "/a", "(", "\\", "word ", "0x", "a-", "é", "\r", "::", "http://", "ab1 "]
)
def test_a_hostile_message_has_its_shape_in_time(unit: str) -> None:
    began = time.thread_time()
    shape_of(unit * (MAX_MESSAGE_BYTES // len(unit.encode())))
    assert time.thread_time() - began < 1.0


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "error",
                "disk",
                "'a b'",
                '"x"',
                "/var/x",
                "0xff",
                "12",
                "3.5",
                "10.0.0.1:80",
                "(",
                "[",
                "+",
                "?",
                "é",
                "K",
            ]
        )
        | st.text(max_size=8),
        max_size=30,
    ),
    st.sampled_from([" ", "", "\t", "\n", ": "]),
)
def test_a_shape_is_a_pattern_that_is_found_in_its_message(words: list[str], between: str) -> None:
    """And that `add_error_pattern` would take; it requires a text, and eight characters at the least."""
    message = between.join(words)
    shape = shape_of(message)
    if shape is None:
        return
    accept(shape)
    requirement = requirement_of(shape)
    assert matches(shape, message.encode())
    assert requirement.may_match(message.casefold())
    assert not requirement.general
    assert requirement.specificity.literals >= FEWEST_LITERALS


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["error", "disk full", "of part", "(worker)", "c++", "{x}"]), min_size=2, max_size=8),
    st.lists(st.integers(0, 10**6), min_size=16, max_size=16),
)
def test_numbers_never_make_another_shape(words: list[str], numbers: list[int]) -> None:
    def message(some: list[int]) -> str:
        return " ".join(f"{word} {number}" for word, number in zip(words, some, strict=False))

    assert shape_of(message(numbers[:8])) == shape_of(message(numbers[8:]))


def test_the_third_time_is_a_proposal_reported_once(bench: ErrorPatternBench) -> None:
    """After it is on disk; whoever saw it, under one number, with the newest example."""
    for number, caller in ((1, ALICE), (2, BOB)):
        assert bench.look_up(TIMEOUT.format(number), caller)["proposal_id"] is None
    assert (bench.proposed(), bench.published) == ([], [])
    third = bench.look_up(TIMEOUT.format(3))
    assert (third["solution"], third["error_type"]) == (None, None)
    (proposal,) = bench.ask("get_pattern_proposals")["proposals"]
    assert proposal["proposal_id"] == third["proposal_id"]
    assert (proposal["seen"], proposal["written_by"]) == (3, ["Alice", "Bob"])
    assert proposal["example"] == TIMEOUT.format(3)
    assert bench.published == [
        (PROPOSED, {"proposal_id": third["proposal_id"], "pattern": proposal["pattern"], "seen": 3})
    ]
    bench.look_up(TIMEOUT.format(4))
    assert len(bench.published) == 1


def test_what_is_rolled_back_is_neither_counted_nor_reported(bench: ErrorPatternBench) -> None:
    for number in range(2):
        bench.look_up(TIMEOUT.format(number))

    def count_and_fail() -> None:
        with bench.database.transaction():
            bench.proposals.count(TIMEOUT.format(3), "Alice")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        count_and_fail()
    assert (bench.proposed(), bench.published) == ([], [])


def test_a_known_error_is_not_counted(bench: ErrorPatternBench) -> None:
    bench.add("no answer", "wait")
    for number in range(5):
        bench.look_up(TIMEOUT.format(number))
    assert bench.rows("unknown_errors") == 0


def test_a_pattern_that_knows_everything_ends_no_proposal(bench: ErrorPatternBench) -> None:
    """`.*` distinguishes no errors: what it alone knows is counted, and it settles nothing."""
    for number in range(3):
        bench.look_up(TIMEOUT.format(number))
    assert bench.ask("add_error_pattern", error_type="Any", pattern=".*", solution="restart")["settled_proposals"] == 0
    assert len(bench.proposed()) == 1
    for number in range(3):
        assert bench.look_up(f"disk {number} is broken")["solution"] == "restart"
    assert len(bench.proposed()) == 2


def test_an_accepted_proposal_leaves(bench: ErrorPatternBench) -> None:
    """Accepted as it is, or by another pattern that knows its example; others stay."""
    for number in range(3):
        for message in (TIMEOUT, "disk {0} is broken", "no model {0} there"):
            bench.look_up(message.format(number))
    model, disk, timeout = bench.proposed()
    assert bench.ask("add_error_pattern", error_type="T", pattern=timeout)["settled_proposals"] == 1
    assert bench.proposed() == [model, disk]
    assert bench.ask("add_error_pattern", error_type="D", pattern=r"disk \d is")["settled_proposals"] == 1
    assert bench.proposed() == [model]
    assert bench.look_up(TIMEOUT.format(9))["error_type"] == "T"


def test_a_dismissed_proposal_does_not_come_back(bench: ErrorPatternBench) -> None:
    """Unless who dismissed it is in quarantine."""
    for number in range(3):
        bench.look_up(TIMEOUT.format(number))
    (proposal,) = bench.ask("get_pattern_proposals")["proposals"]
    number = proposal["proposal_id"]
    assert bench.ask("dismiss_pattern_proposal", BOB, proposal_id=number)["pattern"] == proposal["pattern"]
    assert bench.ask("dismiss_pattern_proposal", proposal_id=number)["code"] == "not_found"
    for again in range(4):
        assert bench.look_up(TIMEOUT.format(again))["proposal_id"] is None
    assert (bench.proposed(), len(bench.published)) == ([], 1)
    bench.hide(BOB)
    assert bench.proposed() == [proposal["pattern"]]


def test_what_a_quarantined_writer_sent_counts_for_nothing(bench: ErrorPatternBench) -> None:
    """Neither towards a proposal, nor as its example, nor as a pattern that settles one; until it is released."""
    for number in range(3):
        bench.look_up(TIMEOUT.format(number), BOB)
    bench.hide(BOB)
    assert bench.proposed() == []
    for number in range(3):
        assert bench.proposed() == []
        bench.look_up(TIMEOUT.format(number), ALICE)
    bench.look_up(TIMEOUT.format(7), BOB)
    (proposal,) = bench.ask("get_pattern_proposals")["proposals"]
    assert (proposal["seen"], proposal["written_by"]) == (3, ["Alice"])
    assert proposal["example"] == TIMEOUT.format(2)
    bench.add("no answer after", caller=BOB)
    assert len(bench.proposed()) == 1
    (report,) = bench.proposals.written_by("Bob", None, 10)
    assert (report["seen"], report["written_by"]) == (4, "Bob")
    bench.show(BOB)
    assert bench.ask("get_pattern_proposals")["proposals"][0]["seen"] == 7


def test_the_store_of_unknown_errors_is_bounded(tmp_path: Path) -> None:
    """What was seen least gives way, and of that the oldest; a dismissed one is the last to go."""
    database = Database(tmp_path / "db", MIGRATIONS)
    proposals = PatternProposals(database, propose_after=2, most=3)

    def see(word: str) -> int | None:
        with database.transaction():
            return proposals.count(f"the {word} of {word}s", "Alice")

    see("first")
    number = see("first")
    assert number is not None
    with database.transaction():
        proposals.dismiss(number, OPERATOR)
    for word in ("second", "second", "third", "fourth", "fifth"):
        see(word)
    kept = {row[0] for row in database.execute("SELECT pattern FROM unknown_errors")}
    assert kept == {shape_of(f"the {word} of {word}s") for word in ("first", "second", "fifth")}
    assert database.execute("SELECT count(*) FROM unknown_error_reports").fetchone()[0] == 3
    assert [each["pattern"] for each in proposals.newest(None, 10)] == [shape_of("the second of seconds")]
    with pytest.raises(NotFound, match="get_pattern_proposals"):
        proposals.dismiss(number, OPERATOR)
    for word in ("second", "fifth", "fifth", "sixth"):
        see(word)
    kept = {row[0] for row in database.execute("SELECT pattern FROM unknown_errors")}
    assert kept == {shape_of(f"the {word} of {word}s") for word in ("first", "fifth", "sixth")}
    database.close()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[ErrorPatternBench, PatternProposals]]:
    """A store of 4 shapes, 2 of a writer."""
    with ErrorPatternBench(tmp_path / "db") as bench:
        yield bench, PatternProposals(bench.database, most=4, most_of_a_writer=2)


def _see(kept: tuple[ErrorPatternBench, PatternProposals], words: str, writer: str) -> None:
    bench, proposals = kept
    for word in words.split():
        with bench.database.transaction():
            proposals.count(f"the {word} of {word}s", writer)


def _shapes(kept: tuple[ErrorPatternBench, PatternProposals]) -> str:
    rows = kept[0].database.execute("SELECT pattern FROM unknown_errors ORDER BY id")
    return " ".join(row[0].split(r"\s+")[1] for row in rows)


def test_a_writer_has_a_share_of_the_shapes(kept: tuple[ErrorPatternBench, PatternProposals]) -> None:
    """Its own least seen gives way to its new one; what another has seen too stays, and counts for that one alone."""
    _see(kept, "first first second", "Alice")
    _see(kept, "first other", "Bob")
    _see(kept, "third", "Alice")
    assert _shapes(kept) == "first other third"
    _see(kept, "third third fourth", "Alice")
    assert _shapes(kept) == "first other third fourth"
    worth = kept[0].database.execute("SELECT seen FROM unknown_errors ORDER BY id").fetchall()
    assert [seen for (seen,) in worth] == [1, 1, 3, 1]
    assert [report["written_by"] for report in kept[1].written_by("Bob", None, 9)] == ["Bob", "Bob"]


def test_what_only_a_quarantined_writer_saw_gives_way_first(
    kept: tuple[ErrorPatternBench, PatternProposals],
) -> None:
    """However often it was seen, so that honest errors come to be proposed; what another saw too does not."""
    _see(kept, "both both mine mine mine", "Bob")
    _see(kept, "both", "Alice")
    _see(kept, "one two", "Carol")
    kept[0].hide(BOB)
    _see(kept, "three", "Alice")
    assert _shapes(kept) == "both one two three"


def test_nothing_gives_way_to_a_quarantined_writer(kept: tuple[ErrorPatternBench, PatternProposals]) -> None:
    """Where there are as many shapes as may be, a new one is not counted."""
    _see(kept, "one two", "Alice")
    _see(kept, "three four", "Carol")
    kept[0].hide(BOB)
    _see(kept, "five one", "Bob")
    assert _shapes(kept) == "one two three four"
    assert [report["pattern"].split(r"\s+")[1] for report in kept[1].written_by("Bob", None, 9)] == ["one"]


def test_proposals_are_returned_in_pages(bench: ErrorPatternBench) -> None:
    for word in ("first", "second", "third"):
        for _ in range(3):
            bench.look_up(f"the {word} of the errors", OPERATOR)
    page = bench.ask("get_pattern_proposals", limit=2)
    assert ([proposal["pattern"].split(r"\s+")[1] for proposal in page["proposals"]], page["more"]) == (
        ["third", "second"],
        True,
    )
    rest = bench.ask("get_pattern_proposals", limit=2, before=page["proposals"][-1]["proposal_id"])
    assert ([proposal["pattern"].split(r"\s+")[1] for proposal in rest["proposals"]], rest["more"]) == (
        ["first"],
        False,
    )


def test_the_tables_are_strict(bench: ErrorPatternBench) -> None:
    names = ("error_patterns", "solution_outcomes", "unknown_errors", "unknown_error_reports")
    for name in names:
        (strict,) = bench.database.execute("SELECT strict FROM pragma_table_list WHERE name = ?", (name,)).fetchone()
        assert strict == 1, name


@pytest.mark.parametrize(
    ("messages", "shape"),
    [
        (
            ["can't reach db.lan today", "can't reach cache-two.lan today", "can't reach db.lan today"],
            r"can't\s+reach\s+\S+\s+today",
        ),
        (
            [
                "the worker Ana stopped by itself",
                "the worker Ben stopped by itself",
                "the worker Cleo stopped by itself",
            ],
            r"the\s+worker\s+\S+\s+stopped\s+by\s+itself",
        ),
        (
            [
                "job red on host.one stopped at noon",
                "job blue on host.two stopped at noon",
                "job red on host.two stopped at noon",
            ],
            r"job\s+\S+\s+on\s+\S+\s+stopped\s+at\s+noon",
        ),
    ],
)
def test_names_and_bare_words_become_variables(bench: ErrorPatternBench, messages: list[str], shape: str) -> None:
    """At the third message, which makes the shape a proposal; it is reported once, and matches the next message."""
    replies = [bench.look_up(message, caller) for message, caller in zip(messages, (ALICE, BOB, ALICE), strict=True)]
    assert [reply["proposal_id"] is None for reply in replies] == [True, True, False]
    (proposal,) = bench.ask("get_pattern_proposals")["proposals"]
    assert (proposal["pattern"], proposal["seen"]) == (rf"(?m)^\s*{shape}\s*$", 3)
    assert (proposal["example"], proposal["written_by"]) == (messages[2], ["Alice", "Bob"])
    assert bench.look_up(messages[0])["proposal_id"] == proposal["proposal_id"]
    assert (len(bench.published), bench.rows("unknown_errors")) == (1, 1)
    bench.add(proposal["pattern"], "look at it")
    assert [bench.look_up(message)["solution"] for message in messages] == ["look at it"] * 3


@pytest.mark.parametrize(
    "messages",
    [
        ["no answer from Ana", "no answer from Ben", "no answer from Ana"],
        ["disk one broke", "disk two fell", "fan one broke"],
        ["cannot open it now", "cannot open it now at all", "cannot open it"],
    ],
)
def test_other_differences_stay_in_the_shape(bench: ErrorPatternBench, messages: list[str]) -> None:
    """Two different words are too few; more than a third of the words, or another number of words, don't qualify."""
    for message in messages:
        bench.look_up(message)
    assert bench.proposed() == []
    assert not bench.rows("unknown_errors WHERE instr(pattern, '\\S+')")


def test_hidden_and_dismissed_shapes_make_no_variable(bench: ErrorPatternBench) -> None:
    """A quarantined writer's message does not count; a dismissed shape is not proposed again with a variable."""
    bench.look_up("no answer from a.lan today", BOB)
    bench.look_up("no answer from b.lan today", BOB)
    bench.hide(BOB)
    bench.look_up("no answer from c.lan today")
    bench.look_up("no answer from d.lan today", BOB)
    assert bench.rows("unknown_errors") == 4
    for host in "efg":
        bench.look_up(f"no answer from {host}.lan today")
    (proposal,) = bench.ask("get_pattern_proposals")["proposals"]
    assert proposal["written_by"] == ["Alice"]
    bench.ask("dismiss_pattern_proposal", proposal_id=proposal["proposal_id"])
    for host in "hijk":
        assert bench.look_up(f"no answer from {host}.lan today")["proposal_id"] is None
    assert bench.proposed() == []


LIMITED, THROTTLED = "429 Too Many Requests", "rate limit exceeded for key {0}"


def test_two_agents_errors_in_two_shapes_become_one(bench: ErrorPatternBench) -> None:
    """At the third report of both together: one proposal, which matches both shapes, and counts both from then on."""
    replies = [bench.look_up(LIMITED), bench.look_up(THROTTLED.format(1), BOB), bench.look_up(LIMITED)]
    assert [reply["proposal_id"] is None for reply in replies] == [True, True, False]
    assert bench.look_up(THROTTLED.format(2), BOB)["proposal_id"] == replies[2]["proposal_id"]
    (proposal,) = bench.ask("get_pattern_proposals")["proposals"]
    assert (proposal["seen"], proposal["written_by"]) == (4, ["Alice", "Bob"])
    assert (len(bench.published), bench.rows("unknown_errors")) == (1, 1)
    bench.add(proposal["pattern"], "slow down")
    known = [bench.look_up(message)["solution"] for message in (LIMITED, THROTTLED.format(3), f"{LIMITED}: try later")]
    assert known == ["slow down", "slow down", None]


@pytest.mark.parametrize(
    ("other", "caller"),
    [("certificate has expired", BOB), ("rate limit exceeded: connection refused", BOB), (THROTTLED.format(1), ALICE)],
    ids=["another kind", "one kind more", "the same writer"],
)
def test_errors_of_other_kinds_or_one_writer_stay_apart(bench: ErrorPatternBench, other: str, caller: Caller) -> None:
    for message, sender in ((LIMITED, ALICE), (other, caller), (LIMITED, ALICE)):
        bench.look_up(message, sender)
    assert (bench.proposed(), bench.rows("unknown_errors")) == ([], 2)


def test_a_dismissed_union_is_not_proposed_in_parts(bench: ErrorPatternBench) -> None:
    """And a quarantined writer's message unites nothing."""
    bench.look_up(LIMITED)
    bench.look_up(LIMITED)
    bench.hide(BOB)
    bench.look_up(THROTTLED.format(1), BOB)
    assert (bench.proposed(), bench.rows("unknown_errors")) == ([], 2)
    bench.show(BOB)
    number = bench.look_up(THROTTLED.format(3), BOB)["proposal_id"]
    bench.ask("dismiss_pattern_proposal", proposal_id=number)
    for message in [LIMITED, THROTTLED.format(4)] * 3:
        assert bench.look_up(message)["proposal_id"] is None
    assert bench.proposed() == []


def test_a_union_is_found_by_its_exact_parts(bench: ErrorPatternBench) -> None:
    """Characters that stand between its parts, in a message, are no part."""
    bench.look_up("429 too many requests for a|^b")
    bench.look_up("rate limit at a|", BOB)
    bench.look_up("429 too many requests for a|^b")
    assert len(bench.proposed()) == 1
    for message in ("b", "429 too many requests for a", "rate limit at a", "rate limit at a||^b"):
        assert bench.look_up(message)["proposal_id"] is None
    assert bench.look_up("rate limit at a|")["proposal_id"] is not None


def test_many_similar_shapes_are_compared_in_time(bench: ErrorPatternBench) -> None:
    """A full store of shapes with the same number of words: a further message takes a bounded time."""
    words = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz"]
    with bench.database.transaction():
        for number, word in enumerate(words):
            other = words[-number]
            shape = rf"(?m)^\s*{word}\s+of\s+the\s+{other}\s+is\s+not\s+there\s+today\s*$"
            bench.database.execute("INSERT INTO unknown_errors (pattern, seen, last_seen) VALUES (?, 1, 1)", (shape,))
    began = time.thread_time()
    bench.look_up("another of the others is not there today")
    assert time.thread_time() - began < 0.2
