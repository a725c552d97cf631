"""The importance of a text: the stated sum, in English and Filipino, by whole words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhost.unified_memory_reasoning.language.decisions import DECIDING_CHARACTERS
from twinhost.unified_memory_reasoning.language.importance import KEYWORDS, REQUESTS, importance_of


@pytest.mark.parametrize(
    ("text", "importance"),
    [
        ("The fan is on.", 0.5),
        ("The fan is on?", 0.5),
        ("The fan costs 40 euros.", 0.6),
        ("Ang alis ay sa Lunes", 0.6),
        ("Remember the fan.", 0.7),
        ("remember what is important and critical", 0.7),
        ("Tandaan mo ito.", 0.7),
        ("MAHALAGA ito", 0.7),
        ("Don\u2019t forget the key", 0.7),
        ("We agreed on the red fan.", 0.7),
        ("Sa Pila na lang tayo.", 0.7),
        ("We agreed on 3 fans.", 0.8),
        ("Important: we agreed on 3 fans.", 1.0),
        ("Turn it on, please. We agreed on the red fan.", 0.7),
        ("", 0.5),
    ],
)
def test_the_sum_is_as_stated(text: str, importance: float) -> None:
    """Each part counts once."""
    assert importance_of(text) == importance


def test_the_beginning_is_read() -> None:
    assert importance_of(f"{'x' * (DECIDING_CHARACTERS - 9)} remember") == 0.7
    assert importance_of(f"{'x' * DECIDING_CHARACTERS} remember") == 0.5


def test_an_answer_that_decides_is_important() -> None:
    """By the question before it."""
    assert importance_of("The blue one.", "Shall we take the red or the blue one?") == 0.7
    assert importance_of("The blue one.") == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "Is it important to come at 9 on Friday?",
        "Which of the 3 fans did we agree on?",
        "Turn the 3 fans on, please.",
        "Could you remember these 3 numbers",
        "Gusto ko ng 2 kape",
        "Kailangan ko ng 2 kape",
        "Paki bukas ang 2 ilaw",
        "paki-bukas ang ilaw",
        "Pakibuksan ang 2 ilaw",
        "Ang pinto, PAKISARA sa Lunes!",
        "Pakiuwi ito",
        "i  would  like 2 teas",
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
    ],
)
def test_a_question_a_request_and_length_do_not_count(text: str) -> None:
    """Not even with a number, a day, or a keyword."""
    assert importance_of(text) == 0.5


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


def written(phrase: str) -> tuple[str, ...]:
    """Return a phrase in any case, alone, between others, and between punctuation."""
    return phrase, phrase.upper(), f"x {phrase.title()} y", f"({phrase})"


@pytest.mark.parametrize("phrase", KEYWORDS)
def test_every_keyword_counts(phrase: str) -> None:
    assert {importance_of(text) for text in written(phrase)} == {0.7}


@pytest.mark.parametrize("phrase", REQUESTS)
def test_no_sentence_with_a_request_counts(phrase: str) -> None:
    assert {importance_of(f"{text} remember 3") for text in written(phrase)} == {0.5}


@given(st.text())
def test_importance_is_bounded(text: str) -> None:
    """Any text has 0.5 to 1.0, in tenths."""
    assert importance_of(text) in {0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
