"""The tokenizer: the stated rule, counted again in another way, and an exact cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhost.unified_memory_reasoning.conversations.context_text import LINE_BREAKS, beginning, count

TEXTS = st.text() | st.text(alphabet="ab1 _.,\n\r\t\u2028\u00e9\u0301\u4e2d\u200b")


def counted_again(text: str) -> int:
    """Count by the rule as its sentence has it, character by character."""
    tokens, run = 0, 0
    for place, character in enumerate(text):
        if character.isalnum():
            tokens += run % 4 == 0
            run += 1
            continue
        run = 0
        if character in LINE_BREAKS:
            tokens += not (character == "\n" and text[place - 1 : place] == "\r")
        elif not character.isspace():
            tokens += 1
    return tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("abcd", 1),
        ("abcde", 2),
        ("ab cd", 2),
        ("a.b", 3),
        ("snake_case", 4),
        ("   \t ", 0),
        ("a\nb", 3),
        ("a\r\nb", 3),
        ("a\n\nb", 4),
        ("\u4e2d\u6587\u5b57\u7b26\u4e32", 2),
        ("\u2026\u0000\u200b", 3),
    ],
)
def test_the_count_is_as_stated(text: str, tokens: int) -> None:
    """Runs by four, line breaks and other characters by one."""
    assert count(text) == tokens


@given(TEXTS)
def test_the_count_agrees_with_the_rule_read_aloud(text: str) -> None:
    """Another reading of the same sentence counts the same."""
    assert count(text) == counted_again(text)


@given(TEXTS, st.integers(0, 40))
def test_the_beginning_is_the_longest_that_fits(text: str, most: int) -> None:
    """One character more would be over, unless it is the whole text."""
    begun = beginning(text, most)
    assert text.startswith(begun.text)
    assert count(begun.text) == begun.tokens <= most
    assert begun.whole == (begun.text == text)
    if not begun.whole:
        assert all(count(text[:end]) > most for end in range(len(begun.text) + 1, len(text) + 1))
        assert begun.tokens == most


@given(TEXTS, TEXTS)
def test_two_texts_together_have_no_more_than_both(one: str, other: str) -> None:
    """And no fewer than the first alone."""
    assert count(one) <= count(one + other) <= count(one) + count(other)
