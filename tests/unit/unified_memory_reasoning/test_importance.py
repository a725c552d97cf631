"""The importance of a text: the stated sum, in English and Filipino, by whole words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhost.unified_memory_reasoning.conversations.importance import KEYWORDS, REQUESTS, importance_of


@pytest.mark.parametrize(
    ("text", "importance"),
    [
        ("The fan is on.", 0.5),
        ("The fan is on?", 0.6),
        ("Remember the fan.", 0.7),
        ("remember what is important and critical", 0.7),
        ("Turn it on, please.", 0.6),
        ("Tandaan mo ito.", 0.7),
        ("MAHALAGA ito", 0.7),
        ("Gusto ko ng kape", 0.6),
        ("Kailangan ko ng kape", 0.8),
        ("Paki bukas ang ilaw", 0.6),
        ("paki-bukas ang ilaw", 0.6),
        ("Pakibuksan ang ilaw", 0.6),
        ("Ang pinto, PAKISARA!", 0.6),
        ("Pakiuwi ito", 0.6),
        ("i  would\n like tea", 0.6),
        ("Don\u2019t forget the key", 0.7),
        ("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen", 0.5),
        ("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen", 0.6),
        ("Could you remember this? " + "word " * 20, 1.0),
        ("", 0.5),
    ],
)
def test_the_sum_is_as_stated(text: str, importance: float) -> None:
    """Each part counts once, whatever is between the words of a phrase."""
    assert importance_of(text) == importance


@pytest.mark.parametrize(
    "text",
    [
        "unimportant",
        "Pakistan",
        "Pakistanis",
        "pakinabangan",
        "Walang pakialam",
        "ang pakiramdam",
        "pakikipagtulungan",
        "ipakisara_x_pakisara",
        "paki1234",
        "criticality",
        "remembers",
        "bikini want",
        "can_you",
        "pakika",
    ],
)
def test_parts_of_words_do_not_count(text: str) -> None:
    """A keyword inside another word is another word."""
    assert importance_of(text) == 0.5


@pytest.mark.parametrize("phrase", [*KEYWORDS, *REQUESTS])
def test_every_phrase_counts_in_any_case(phrase: str) -> None:
    """Alone, between others, and between punctuation."""
    for text in (phrase, phrase.upper(), f"x {phrase.title()} y", f"({phrase})"):
        assert importance_of(text) > 0.5


@given(st.text())
def test_importance_is_bounded(text: str) -> None:
    """Any text has 0.5 to 1.0, in tenths."""
    assert importance_of(text) in {0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
