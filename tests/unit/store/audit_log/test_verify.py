"""Whatever is done to a chain is found, and said at which line."""

import hashlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.store.audit_log.books import BEFORE_ALL, GENESIS, chain, head_of
from twinhost.store.audit_log.chain import Anchor, Head
from twinhost.store.audit_log.verify import MAX_FINDINGS, ChainFindings, verify

LINES = chain(12)
HEAD = head_of(LINES)


def found(lines: list[str], anchor: Anchor = GENESIS, head: Head = HEAD) -> ChainFindings:
    return verify(iter(lines), anchor, head)


def sentences(lines: list[str]) -> list[str]:
    return [finding.sentence for finding in found(lines).findings]


def resealed(line: str) -> str:
    """Give a line that was changed a hash that fits, as one would who knows how the chain is made."""
    body = line[:-75] + "}"
    return f'{body[:-1]},"hash":"{hashlib.sha256(body.encode()).hexdigest()}"}}'


def rechained(lines: list[str]) -> list[str]:
    """Recompute all hashes from the first line on."""
    made: list[str] = []
    prev = "0" * 64
    for line in lines:
        made.append(resealed(line[:-140] + prev + line[-76:]))
        prev = made[-1][-66:-2]
    return made


def test_a_whole_chain_is_whole() -> None:
    """Nothing is found where nothing was done."""
    assert found(LINES) == ChainFindings(12, 1, HEAD, ())
    assert found(LINES).summary() == "lines 1 to 12 are intact and end with the head in the database"


def test_events_that_this_version_does_not_write_are_verified() -> None:
    """As `probes_announced`, of 0.2.0."""
    lines = rechained([re.sub(r'"event":"\w+"', '"event":"probes_announced"', line) for line in LINES])
    assert found(lines, head=head_of(lines)).whole


def test_an_empty_log_is_whole_only_where_the_database_says_so() -> None:
    """All lines taken away is a cut-off tail too."""
    assert found([], head=Head(0, "0" * 64)).whole
    assert sentences([]) == ["lines 1 to 12 are missing at the end: the head is line 12"]


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_cut_off_tail_is_found_by_the_head(cut: int) -> None:
    """What is left is a valid chain; only the head reveals it."""
    missing = "line 12 is" if cut == 1 else f"lines {13 - cut} to 12 are"
    assert sentences(LINES[:-cut]) == [f"{missing} missing at the end: the head is line 12"]
    assert found(LINES[:-cut]).findings[0].seq == 13 - cut


def test_a_cut_off_beginning_is_found_by_the_anchor() -> None:
    """A log that begins later than the database says has lost lines."""
    assert sentences(LINES[3:]) == ["lines 1 to 3 are missing: line 4 is at the beginning"]


def test_a_log_that_was_rotated_begins_at_its_anchor() -> None:
    """The lines before are no loss, and the summary says where it begins."""
    anchor = Anchor(5, json.loads(LINES[4])["prev"])
    result = found(LINES[4:], anchor)
    assert result.whole
    assert result.summary().endswith("; lines 1 to 4 were dropped by rotation")
    forged = found(LINES[4:], Anchor(5, "1" * 64))
    assert [finding.seq for finding in forged.findings] == [5]
    assert forged.summary().startswith("the chain is broken in 1 place, first at line 5: ")


def test_a_removed_line_is_found() -> None:
    """The next one has a number too great."""
    assert sentences(LINES[:4] + LINES[5:]) == ["line 5 is missing: line 6 is after line 4"]


def test_an_exchange_of_two_lines_is_found() -> None:
    """One is missing where it was due, and present where it is not."""
    assert sentences([*LINES[:4], LINES[5], LINES[4], *LINES[6:]]) == [
        "line 5 is missing: line 6 is after line 4",
        "line 5 is after line 6: it was moved",
    ]


def test_a_doubled_line_is_found() -> None:
    """The same line twice is once too often."""
    assert sentences([*LINES[:5], LINES[4], *LINES[5:]]) == [
        "line 5 is after line 5: it is a duplicate, or was inserted"
    ]


def test_a_changed_line_is_found() -> None:
    """A changed word does not fit the hash."""
    changed = LINES[4].replace("agent-4", "agent-9")
    assert sentences([*LINES[:4], changed, *LINES[5:]]) == ["the hash of line 5 does not match its content"]


def test_a_changed_line_with_a_fitting_hash_is_found_at_the_next() -> None:
    """Whoever recomputes the hash must recompute all that follow."""
    changed = resealed(LINES[4].replace("agent-4", "agent-9"))
    assert sentences([*LINES[:4], changed, *LINES[5:]]) == [
        "line 6 does not follow from the line before it: that line was rewritten"
    ]


def test_a_rebuilt_chain_is_detected_by_the_head() -> None:
    """A perfect forgery of every line does not end in the head that the database keeps."""
    forged = rechained([*LINES[:4], LINES[4].replace("agent-4", "agent-9"), *LINES[5:]])
    assert found(forged, head=head_of(forged)).whole
    assert sentences(forged) == ["line 12 is not the head in the database: it was rewritten"]


def test_a_changed_number_with_a_fitting_hash_is_found() -> None:
    """A line that follows by its hash and not by its number is one line, not a gap of a million."""
    changed = resealed(LINES[4].replace('"seq":5,', '"seq":999999,'))
    assert sentences([*LINES[:4], changed, *LINES[5:]])[0] == (
        "the line after line 4 has the number 999999: its number was changed"
    )


def test_a_line_put_in_is_found() -> None:
    """Also where it follows by number and hash: the true one then comes once too often."""
    between = chain(1, head_of(LINES[:4]), word="forged")
    assert sentences([*LINES[:4], *between, *LINES[4:]])[0] == (
        "line 5 is after line 5: it is a duplicate, or was inserted"
    )


def test_a_line_put_in_at_the_end_is_found_by_the_head() -> None:
    """It follows correctly; only the head reveals it."""
    assert sentences(LINES + chain(1, HEAD, word="forged")) == ["line 13 is beyond the head, line 12: lines were added"]


@pytest.mark.parametrize(
    "text", ["", " ", "{}", "null", "[" * 5_000, "é", '{"seq":5,"time":"', LINES[4] + " ", LINES[4][:-1]]
)
def test_what_is_no_line_is_found(text: str) -> None:
    """It is named by its position, and what follows it is judged as before."""
    assert sentences([*LINES[:4], text, *LINES[4:]]) == [
        f"the text after line 4 is not a line of this log: {text[:40]!a}"
    ]


def test_a_line_with_a_false_number_and_hash_is_found() -> None:
    """It takes no line's place."""
    strange = LINES[4].replace('"seq":5,', '"seq":77,')
    assert sentences([*LINES[:4], strange, *LINES[4:]]) == [
        "the line after line 4 has the number 77 and its hash does not match its content"
    ]


def test_findings_are_bounded_and_counted() -> None:
    """A file of garbage makes a short report."""
    result = found(["garbage"] * 1_000 + LINES)
    assert len(result.findings) == MAX_FINDINGS
    assert result.more == 1_000 - MAX_FINDINGS
    assert result.summary().startswith("the chain is broken in 1000 places, first at line 1: the text at the beg")


def mutated(mutation: str, lines: list[str], at: int, to: int) -> list[str]:
    before, line, after = lines[:at], lines[at], lines[at + 1 :]
    rest = before + after
    kinds = {
        "remove": rest,
        "move": [*rest[:to], line, *rest[to:]],
        "exchange": [lines[{at: to, to: at}.get(index, index)] for index in range(len(lines))],
        "double": [*lines[:to], line, *lines[to:]],
        "put in": [*before, *chain(1, head_of(before) if before else BEFORE_ALL, "no"), line, *after],
        "cut": before,
        "behead": after,
        "foreign": [*before, chain(len(lines), word="no")[at], *after],
    }
    return kinds[mutation]


@pytest.mark.parametrize("mutation", ["remove", "move", "exchange", "double", "put in", "cut", "behead", "foreign"])
@given(count=st.integers(2, 12), data=st.data())
@settings(max_examples=60)
def test_any_line_removed_moved_doubled_or_put_in_is_found(mutation: str, count: int, data: st.DataObject) -> None:
    """Anywhere in a chain of any length; and it is said at a line of that chain."""
    lines = chain(count)
    at, to = data.draw(st.permutations(range(count)))[:2]
    changed = mutated(mutation, lines, at, to)
    assert changed != lines
    result = verify(iter(changed), GENESIS, head_of(lines))
    assert not result.whole
    assert all(1 <= finding.seq <= count + 1 for finding in result.findings)


@given(count=st.integers(1, 12), seals=st.booleans(), data=st.data())
def test_any_character_changed_is_found(count: int, seals: bool, data: st.DataObject) -> None:
    """Changed, taken out or put in, in any line; with its hash as it was, or recomputed."""
    lines = chain(count)
    at = data.draw(st.integers(0, count - 1))
    line = lines[at]
    changed = resealed(data.draw(edited(line[:-75])) + line[-75:]) if seals else data.draw(edited(line))
    result = verify(iter([*lines[:at], changed, *lines[at + 1 :]]), GENESIS, head_of(lines))
    assert not result.whole
    assert result.findings[0].seq in {at + 1, at + 2}


def edited(line: str) -> st.SearchStrategy[str]:
    """Change one character of a line, take it out, or put one in."""
    place = st.integers(0, len(line) - 1)
    characters = st.characters()
    return st.one_of(
        st.builds(lambda at, to: line[:at] + to + line[at + 1 :], place, characters),
        st.builds(lambda at, to: line[:at] + to + line[at:], place, characters),
        st.builds(lambda at: line[:at] + line[at + 1 :], place),
    ).filter(lambda changed: changed != line)
