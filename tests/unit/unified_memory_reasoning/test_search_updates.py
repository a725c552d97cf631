"""Facts that change: which of two turns holds, and which words say that something was taken back."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twinhost.unified_memory_reasoning.search.updates import Text, corrections, read

from tests.unit.unified_memory_reasoning.search_bench import SearchBench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SearchBench]:
    with SearchBench(tmp_path / "db") as bench:
        bench.fill(60)
        yield bench


OLD = "the holiday budget, I would say 900 each, everything in, Bohinj as agreed with Felix"


@pytest.mark.parametrize(
    "new",
    [
        "the holiday is closer to 1,050 each by the later flight, not 900",
        "everything in for the holiday, and we go to Tavira, no Bohinj this year",
        "holiday, everything in: Tavira na tayo, huwag na sa Bohinj",
        "ang holiday gawin nating 800 imbes na 900 each",
    ],
)
def test_what_takes_a_value_back_is_above_it(bench: SearchBench, new: str) -> None:
    """In another session too, with less of the question."""
    older = bench.interaction(OLD, session_id="a", age_days=40)
    newer = bench.interaction(new, session_id="b", age_days=2)
    assert bench.ids("what is the holiday budget?") == [newer, older]


def test_of_three_values_the_last_is_first(bench: SearchBench) -> None:
    first = bench.interaction("the deadline of the thesis is 31 August", session_id="a", age_days=60)
    second = bench.interaction("the deadline was moved, not 31 August, 15 September now", session_id="b", age_days=30)
    third = bench.interaction(
        "they moved the deadline again, not 15 September, 2 October now", session_id="c", age_days=3
    )
    assert bench.ids("what is the deadline of the thesis?") == [third, second, first]


def test_a_later_number_of_one_session_comes_first(bench: SearchBench) -> None:
    """If the question asks for one, and the speaker says that something changes, though nothing is repeated."""
    older = bench.interaction("leche flan is 180 from July on, dear milk", session_id="a", speaker="Ana", age_days=9)
    between = bench.interaction("nobody will pay that", session_id="a", speaker="Ben", age_days=8)
    newer = bench.interaction("ok, balik muna sa 165", session_id="a", speaker="Ana", age_days=7)
    found = bench.ids("how much is one leche flan?")
    assert found.index(newer) < found.index(older)
    assert found.index(newer) < found.index(between)


RESTATED = [  # the turns of one session in their order, the last one gives the value that holds, and a question
    (("Ines: the dentist is on 4 March at 9:15", "Ines: the dentist is on 11 March at 10:30"), "when is the dentist?"),
    (
        ("Omar: the goalkeeper is Felipe", "Omar: Felipe hurt his knee. Joost is the goalkeeper"),
        "who is the goalkeeper?",
    ),
    (
        ("Lea: a sack of cement costs 8.40", "Lea: a sack of cement costs 9.10, and they deliver it by lunch"),
        "how much is a sack of cement?",
    ),
    (
        (
            "Rosa: the plumber's number is 0555-231-774",
            "Rosa: the plumber's number is 0555-980-112, he lost his phone in the sea",
        ),
        "what is the plumber's number?",
    ),
    (
        (
            "Tim: router password is plum-tree-9",
            "Tim: everybody has plum-tree-9 it seems, so router password is grey-owl-31",
        ),
        "what is the router password?",
    ),
    (
        ("Kim: choir practice is in the library hall", "Kim: library hall is flooded, choir practice in the barn"),
        "where is choir practice?",
    ),
    (
        ("Dario: 14 guests come to the feast", "Dario: 19 guests come to the feast, they bring the kids"),
        "how many guests come to the feast?",
    ),
    (
        ("Ate Nor: 45 ang kilo ng kamatis", "Ate Nor: 52 ang kilo ng kamatis, binagyo ang taniman"),
        "magkano ang kilo ng kamatis?",
    ),
    (("Pia: sa Hunyo 3 ang binyag", "Pia: sa Hunyo 17 ang binyag, may lagnat si baby"), "kailan ang binyag?"),
    (
        ("Mang Ed: si Roel ang drayber ng trak", "Mang Ed: umuwi si Roel. Si Bong ang drayber ng trak"),
        "sino ang drayber ng trak?",
    ),
    (("Gigi: sa likod ng simbahan ang parking", "Gigi: sa plaza ang parking, puno yung simbahan"), "saan ang parking?"),
    (
        ("Jo: meeting natin sa client, Friday 2pm", "Jo: may bagyo so yung meeting sa client, Monday 10am"),
        "when is the meeting with the client?",
    ),
    (
        ("Nico: budget ng outing 1,200 each", "Nico: tumaas ang van so budget ng outing 1,450 each"),
        "how much is the outing budget?",
    ),
]
STANDING = [  # the first turn answers the question, though a newer one has a value of the same kind
    (
        ("Ines: the dentist is on 4 March at 9:15", "Ines: the dentist is on 11 March at 10:30"),
        "when was the dentist originally?",
    ),
    (("Lea: a sack of cement costs 8.40", "Lea: the ladder is 75, it is on sale"), "how much is a sack of cement?"),
    (("Omar: the goalkeeper is Felipe", "Omar: Joost bakes a cake for the team"), "who is the goalkeeper?"),
    (("Ate Nor: 45 ang kilo ng kamatis", "Ate Nor: 52 ang kilo ng sibuyas"), "magkano ang kilo ng kamatis?"),
    (("Pia: sa Hunyo 3 ang binyag ni baby", "Lolo: sa Hunyo 17 ang uwi ko"), "kailan ang binyag?"),
    (
        ("Dario: 14 guests come to the feast", "Rina: did Dario say that 19 guests come?"),
        "how many guests come to the feast?",
    ),
    (
        ("Dario: 14 guests come to the feast", "Rina: 14 guests, feast, understood"),
        "how many guests come to the feast?",
    ),
    (("Jo: the van had 3 flat tires in Vigan", "Jo: the van has 5 seats"), "how many flat tires did the van have?"),
    (
        (
            "Dana: the monthly rent of the flat in Ghent is 640 euros, heating included",
            "Dana: heating oil for the cabin near Ghent costs us 710 euros a year, moved it there with Jonas",
        ),
        "how high is the monthly rent of the flat?",
    ),
]


def _told(bench: SearchBench, turns: tuple[str, ...]) -> list[int]:
    """Put turns in, one a day, with talk between them; return their ids."""
    rows = []
    for day, turn in enumerate(turns):
        speaker, _, content = turn.partition(": ")
        rows.append(bench.interaction(content, session_id="a", speaker=speaker, age_days=9 - day))
        for talk in ("I see", "good morning everybody", "the bus is late", "so it goes", "rain again"):
            bench.interaction(talk, session_id="a", speaker="Sam", age_days=8.5 - day)
    return rows


@pytest.mark.parametrize(("turns", "asked"), RESTATED)
def test_a_value_that_is_stated_again_comes_first(bench: SearchBench, turns: tuple[str, ...], asked: str) -> None:
    """No word says that it has changed."""
    rows = _told(bench, turns)
    assert not any(read(turn).updates for turn in turns)
    assert bench.ids(asked)[0] == rows[-1]


@pytest.mark.parametrize(("turns", "asked"), STANDING)
def test_a_newer_text_about_something_else_stays_below(bench: SearchBench, turns: tuple[str, ...], asked: str) -> None:
    """So do one that repeats the value, one that asks, and any if the query asks for what was."""
    rows = _told(bench, turns)
    assert bench.ids(asked)[0] == rows[0]


@pytest.mark.parametrize("asked", ["what was the deadline of the thesis before?", "dating deadline of the thesis"])
def test_a_question_for_what_was_gets_the_older(bench: SearchBench, asked: str) -> None:
    older = bench.interaction("the deadline of the thesis is 31 August", session_id="a", age_days=60)
    newer = bench.interaction("the deadline was moved, not 31 August, 15 September now", session_id="b", age_days=3)
    assert bench.ids("what is the deadline of the thesis?")[:2] == [newer, older]
    assert bench.ids(asked)[0] == older


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


def test_texts_of_many_words_are_compared_quickly() -> None:
    """The first words of each count: 280 texts with 2,000 words in common and a denial take about 15 ms."""
    content = "not " + " ".join(map("".join, itertools.islice(itertools.product("bcdefghijklmnop", repeat=3), 2_000)))
    texts = [Text(row, "", float(row), content) for row in range(280)]
    statements = dict.fromkeys(range(280), read(content))
    begun = time.thread_time()
    corrections(texts, statements, {row: 280.0 - row / 2 for row in statements}, "how much is it?")
    assert time.thread_time() - begun < 0.15


def test_a_row_of_dots_is_read_quickly() -> None:
    """The work doesn't grow with the square of it: one text takes less than 1 ms."""
    begun = time.thread_time()
    assert read(f"not {'.' * 10_000}x").taken_back == {"x"}
    assert time.thread_time() - begun < 0.1


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("sino ang magluluto? Nasunog yung menudo last year", True),
        ("who cooks?", True),
        ("see https://example.org/menu?day=2 for the list", False),
    ],
)
def test_a_question_may_stand_before_other_sentences(text: str, question: bool) -> None:
    assert read(text).question == question


def test_an_answer_is_above_the_question_before_it(bench: SearchBench) -> None:
    asked = bench.interaction("sino ang magluluto sa pista? hay naku", session_id="a", age_days=1)
    text = "Si Ka Delfin, yung may karinderya sa may tulay, nakausap ko na siya kanina, " * 3
    answer = bench.interaction(text, session_id="a", age_days=1)
    assert bench.ids("sino ang magluluto sa pista?")[:2] == [answer, asked]
