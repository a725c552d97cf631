"""How specific a pattern is, and that no message is left out that the pattern knows."""

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.error_pattern_bench import PATTERNS_WITH_MATCHES
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.unified_memory_reasoning.errors.matching import accept, matches
from twinhost.unified_memory_reasoning.errors.specificity import LONGEST_TEXT, requirement_of


@pytest.mark.parametrize(
    ("pattern", "literals", "classes", "anchors"),
    [
        ("", 0, 0, 0),
        (".*", 0, 0, 0),
        ("timeout", 7, 0, 0),
        (r"time\.out", 8, 0, 0),
        (r"\Qa.b\E", 3, 0, 0),
        ("a|bcd", 1, 0, 0),
        ("(abc)?d", 1, 0, 0),
        ("ab{3}", 4, 0, 0),
        ("(ab){2,}", 4, 0, 0),
        ("a{1000}", 1_000, 0, 0),
        (r"port \d+ is", 8, 1, 0),
        (r"[0-9]{4}\s\pL\p{Greek}", 0, 7, 0),
        (r"\S\D[^a]\PL\p{^Greek}", 0, 0, 0),
        ("[.]x[]]", 3, 0, 0),
        ("^a$", 1, 0, 2),
        (r"\Aa\z", 1, 0, 2),
        ("^a|b", 1, 0, 0),
        ("^a|^b", 1, 0, 1),
        (r"\bword\b", 4, 0, 0),
        (r"\x41\x{e9}\101\n", 4, 0, 0),
        ("a{,3}", 5, 0, 0),
        ("(?i)straße", 6, 0, 0),
        ("(?P<host>h+)(?<port>p)", 2, 0, 0),
    ],
)
def test_what_every_match_must_have_is_counted(pattern: str, literals: int, classes: int, anchors: int) -> None:
    """Literal characters, characters of a named set, anchors; each only where no match is without it."""
    accept(pattern)
    assert requirement_of(pattern).specificity == (literals, classes, anchors)


@pytest.mark.parametrize(
    ("general", "specific"),
    [
        (".*", "error"),
        ("error", "error: timeout"),
        ("error|e", "error"),
        ("error.*", r"error\d+"),
        ("error", "^error"),
        ("^error", "^error$"),
        (r"\d+", "e"),
        (r"error \d", r"error \d{3}"),
    ],
)
def test_the_specific_one_is_greater(general: str, specific: str) -> None:
    assert requirement_of(general).specificity < requirement_of(specific).specificity


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("timeout", {"timeout"}),
        ("Time(OUT)", {"timeout"}),
        ("a.*bcde.f", {"bcde"}),
        ("(?:timeout|refused)!", {"timeout", "refused"}),
        ("timeout|no", set()),
        ("(timeout)?", set()),
        ("x{3}y", {"xxxy"}),
        ("x{3,}y", {"xxx"}),
        ("(?i)Größe", {"grösse"}),
        ("(?-i)größe-Fehler", {"grösse-fehler"}),
        ("(?i)Ըստ", set()),
        ("(?-i)Ըստ", {"ըստ"}),
        ("内存不足", {"内存不足"}),
        ("größe", {"grösse"}),
        ("ab", set()),
        (r"\d{9}", set()),
        ("y" + "x" * 100, {"y" + "x" * (LONGEST_TEXT - 1)}),
    ],
)
def test_the_most_specific_text_is_required(pattern: str, texts: set[str]) -> None:
    """The longest one, case-folded, of three characters or more; one of several where the pattern has branches."""
    accept(pattern)
    assert requirement_of(pattern).texts == texts


def test_a_long_repetition_requires_only_what_matches_have() -> None:
    """An exact text that is cut short must not be joined with what follows it."""
    for pattern, message in (("xa{1000}b", "x" + "a" * 1_000 + "b"), ("x(?:ab){200}y", "x" + "ab" * 200 + "y")):
        assert matches(pattern, message.encode())
        assert requirement_of(pattern).may_match(message)


@settings(max_examples=400, deadline=None)
@given(PATTERNS_WITH_MATCHES, st.text(max_size=20), st.text(max_size=20))
@pytest.mark.thorough
def test_no_match_is_left_out(drawn: tuple[str, str], before: str, after: str) -> None:
    """Whatever RE2 finds has a text that is required, and at least as many characters as are counted."""
    pattern, text = drawn
    try:
        accept(pattern)
    except MalformedRequest:
        reject()
    message = before + text + after
    assume(matches(pattern, message.encode()))  # a text may match less than it was drawn for, of (?i) and é
    requirement = requirement_of(pattern)
    assert requirement.may_match(message.casefold())
    assert requirement.specificity.literals + requirement.specificity.classes <= len(message)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab()[]{}|*+?^$\\.,-:0129dpQEiPx<>", max_size=30), st.text(alphabet="ab.-:(0129\\", max_size=12)
)
def test_any_pattern_that_re2_accepts_is_read(pattern: str, message: str) -> None:
    """Made of the syntax's own characters: nothing fails, and nothing that RE2 finds is left out."""
    try:
        accept(pattern)
    except MalformedRequest:
        return
    requirement = requirement_of(pattern)
    if matches(pattern, message.encode()):
        assert requirement.may_match(message.casefold())
        assert requirement.specificity.literals + requirement.specificity.classes <= len(message)


def test_nesting_is_read_without_recursion() -> None:
    pattern = "(" * 400 + "abc" + ")" * 400
    accept(pattern)
    assert requirement_of(pattern).texts == {"abc"}
