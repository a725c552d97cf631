"""Facts that change: which of two turns holds, and which words say that something was taken back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from twinhost.unified_memory_reasoning.search.updates import read, values_of


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SearchBench]:
    with SearchBench(tmp_path / "db") as bench:
        bench.fill(60)
        yield bench


OLD = "the holiday budget, I would say 900 each, everything in, Bohinj as agreed with Felix"


@pytest.mark.parametrize(
    "new",
    [
        "it is closer to 1,050 each by the later flight, not 900",
        "everything in we go to Tavira, no Bohinj this year",
        "Tavira na tayo, huwag na sa Bohinj, everything in",
        "gawin nating 800 imbes na 900 each",
    ],
)
def test_what_takes_a_value_back_is_above_it(bench: SearchBench, new: str) -> None:
    """In another session too, and without a word of the question."""
    older = bench.interaction(OLD, session_id="a", age_days=40)
    newer = bench.interaction(new, session_id="b", age_days=2)
    assert bench.ids("what is the holiday budget?") == [newer, older]


@pytest.mark.parametrize(
    "new",
    [
        "the garage is closer to 1,050 each by now",  # repeats no value
        "the garage wants 900 each",  # takes nothing back
        "did we say 1,050 each, not 900?",
    ],
)
def test_what_takes_nothing_back_is_not_looked_up(bench: SearchBench, new: str) -> None:
    older = bench.interaction(OLD, session_id="a", age_days=40)
    bench.interaction(new, session_id="b", age_days=2)
    assert bench.ids("what is the holiday budget?") == [older]


def test_a_value_that_many_texts_have_is_no_sign(bench: SearchBench) -> None:
    older = bench.interaction(OLD, session_id="a", age_days=40)
    bench.interaction("it is closer to 1,050 each by the later flight, not 900", session_id="b", age_days=2)
    bench.fill(30, "900 again and Bohinj too, as Felix said")
    assert bench.ids("what is the holiday budget?")[0] == older


def test_of_three_values_the_last_is_first(bench: SearchBench) -> None:
    first = bench.interaction("the deadline of the thesis is 31 August", session_id="a", age_days=60)
    second = bench.interaction("the deadline was moved, not 31 August, 15 September now", session_id="b", age_days=30)
    third = bench.interaction("they moved it again, not 15 September, 2 October now", session_id="c", age_days=3)
    assert bench.ids("what is the deadline of the thesis?") == [third, second, first]


def test_a_later_number_of_one_session_comes_first(bench: SearchBench) -> None:
    """If the question asks for one, and the turn says that something changes, though it repeats nothing."""
    older = bench.interaction("leche flan is 180 from July on, milk is dear", session_id="a", age_days=9)
    between = bench.interaction("nobody will pay that", session_id="a", age_days=8)
    newer = bench.interaction("ok, balik muna sa 165", session_id="a", age_days=7)
    found = bench.ids("how much is one leche flan?")
    assert found.index(newer) < found.index(older)
    assert found.index(newer) < found.index(between)


@pytest.mark.parametrize("asked", ["what was the deadline of the thesis before?", "dating deadline of the thesis"])
def test_a_question_for_what_was_gets_the_older(bench: SearchBench, asked: str) -> None:
    older = bench.interaction("the deadline of the thesis is 31 August", session_id="a", age_days=60)
    newer = bench.interaction("the deadline was moved, not 31 August, 15 September now", session_id="b", age_days=3)
    assert bench.ids("what is the deadline of the thesis?")[:2] == [newer, older]
    assert bench.ids(asked)[0] == older


def test_what_is_looked_up_is_as_the_filters_say(bench: SearchBench) -> None:
    older = bench.interaction(OLD, session_id="a", speaker="Nora", age_days=40)
    bench.interaction("closer to 1,050 each, not 900", session_id="b", speaker="Felix", age_days=2)
    assert bench.ids("what is the holiday budget?", speaker="Nora") == [older]
    assert bench.ids("what is the holiday budget?", session_id="a") == [older]


@pytest.mark.parametrize(
    ("text", "taken_back"),
    [
        ("We begin at eight, not at half past seven.", {"half", "past", "seven"}),
        ("No, it begins at eight", set()),
        ("Pinagbotohan na natin, di ba drum", set()),
        ("not 3e-4: we resume, with 1.8e-4", {"3e-4"}),
        ("no Bohinj. Tavira it is", {"bohinj"}),
    ],
)
def test_a_denial_takes_back_what_follows_it(text: str, taken_back: set[str]) -> None:
    """Within its sentence; one that answers a question takes nothing back."""
    assert read(text).taken_back == taken_back


@pytest.mark.parametrize(
    ("text", "updates"),
    [
        ("Yes. Make it 550 a month.", True),
        ("I take that back, the batch is too big", True),
        ("binabawi ko yung alas-sais", True),
        ("it turns out that the office has it too", True),
        ("the cruise is on Saturday", False),
        ("alas-sais pa lang", False),
    ],
)
def test_words_of_both_languages_say_that_something_changed(text: str, updates: bool) -> None:
    assert read(text).updates == updates


def test_values_are_numbers_names_and_days() -> None:
    assert values_of("Peak lr 3e-4 for Hauke at 8:30, martes, seven of them, 1,050 in all.") == [
        *("peak", "3e-4", "hauke", "8:30", "martes", "seven", "1,050"),
    ]
