"""What a search finds beyond its words: speakers, dates, turns nearby, the other language."""

import time
from datetime import UTC, date, datetime
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.search_bench import SearchBench, filled
from twinhost.secure_zmq.actions import wholly
from twinhost.unified_memory_reasoning.language import asked_in
from twinhost.unified_memory_reasoning.language.dates import dates_of
from twinhost.unified_memory_reasoning.search.filters import EVERYTHING
from twinhost.unified_memory_reasoning.search.index import SearchIndex
from twinhost.unified_memory_reasoning.search.ranking import SHORT

DAY_S = 86_400.0


bench = bench_of(filled)


def days_ago(moment: datetime) -> float:
    return (time.time() - moment.timestamp()) / DAY_S


def test_an_answer_is_found_by_its_question(bench: SearchBench) -> None:
    """It has none of the words, which the question before it has."""
    question = bench.interaction("Where is the spare gateway key?", session_id="a")
    answer = bench.interaction("In my shed, second drawer", session_id="a")
    bench.interaction("In my shed, second drawer", session_id="b")
    assert set(bench.ids("spare gateway key")) == {answer, question}


def similarities(bench: SearchBench, query: str, **fields: Any) -> dict[int | str, float]:
    return {result["id"]: result["similarity"] for result in bench.ask(query=query, limit=100, **fields)["results"]}


def test_turns_lend_to_those_around_them(bench: SearchBench) -> None:
    """Most to the next one, half of that to each further one; three turns after it and two before it get something."""
    *before, said = [bench.interaction(text, session_id="a") for text in ("Dan", "Eva", "Finn", "the spare key")]
    after = [bench.interaction(text, session_id="a") for text in ("Gil", "Hugo", "Ida", "Jan")]
    found = similarities(bench, "spare key")
    shares = [found.get(number, 0.0) / found[said] for number in (*before, *after)]
    assert shares == pytest.approx([0, 0.1, 0.2, 0.4, 0.2, 0.1, 0], abs=0.001)


def test_a_long_turn_gets_nothing_from_its_neighbours(bench: SearchBench) -> None:
    """It is no result, and what it says itself counts as before."""
    talk = "We talked of the weather, and of nothing else that matters. "
    said = bench.interaction("the spare key", session_id="a")
    bench.interaction(talk * 11, session_id="a")
    bench.interaction(f"{talk * 10} A key.", session_id="b")
    alone = similarities(bench, "key")
    assert len(alone) == 2
    bench.interaction("the key", session_id="b")
    assert similarities(bench, "spare key").keys() >= {said}
    assert len(similarities(bench, "spare key")) == 3
    short = bench.interaction(talk * 10, session_id="a")
    assert len(talk * 10) <= SHORT < len(talk * 11)
    assert short in similarities(bench, "spare key")


def test_a_short_question_is_below_a_statement(bench: SearchBench) -> None:
    """That has as much of the words."""
    statement = bench.interaction("a spare key there", age_days=1)
    question = bench.interaction("a spare key there?")
    assert bench.ids("spare key") == [statement, question]


def test_what_fits_more_than_wholly_is_still_in_order(bench: SearchBench) -> None:
    """By words and neighbours together: `similarity` is at most 1, and a newer one that fits less stays below."""
    best = [bench.interaction("spare key, spare key", session_id="a", age_days=9) for _ in range(7)][4]
    newer = [bench.interaction("spare key, spare key", session_id="b") for _ in range(3)]
    found = bench.ask(query="spare key", limit=100)["results"]
    assert found[0]["id"] == best
    assert {each["similarity"] for each in found if each["id"] in (best, newer[1])} == {1.0}


def test_a_quarantined_turn_makes_no_other_findable(bench: SearchBench) -> None:
    bench.interaction("Where is the spare key?", session_id="a", written_by="Mallory")
    answer = bench.interaction("In my shed, second drawer", session_id="a")
    assert answer in bench.ids("spare key")
    bench.quarantine("Mallory")
    assert bench.ids("spare key") == []


def test_a_deleted_turn_makes_no_other_findable(bench: SearchBench) -> None:
    question = bench.interaction("Where is the spare key?", session_id="a")
    bench.interaction("In my shed, second drawer", session_id="a")
    bench.database.execute("DELETE FROM interactions WHERE id = ?", (question,))
    assert bench.ids("spare key") == []


def test_a_speakers_name_is_a_word(bench: SearchBench) -> None:
    other = bench.interaction("I want the window seat", speaker="Ben")
    hers = bench.interaction("I want the window seat", speaker="Ana Cruz")
    assert bench.ids("What seat does Ana want?") == [hers, other]
    assert bench.ids("cruz") == [hers]
    assert bench.ids("What did Ana say?") == [hers]
    reply = bench.ask(query="Ana at the gateway")
    assert (reply["words"], reply["words_left_out"]) == (["ana"], ["at", "the", "gateway"])


def test_a_speakers_name_counts_with_an_accent_and_without(bench: SearchBench) -> None:
    bench.interaction("I want the window seat", speaker="Ben")
    his = bench.interaction("I want the window seat", speaker="Be\u00f1ing", age_days=1)
    bench.interaction("I want the window seat", speaker="Cleo")
    for query in ("which seat does be\u00f1ing want", "which seat does bening want"):
        assert bench.ids(query)[0] == his


WORDS = "C3PO \u00c5ngstr\u00f6m na\u00efve stra\u00dfe \ufb01nance \u0440\u0435\u043a\u0430 \u65e5\u672c\u8a9e \u4e2d "
WORDS += "\u03bf\u03b4\u03cc\u03c2 \u039f\u0394\u039f\u03a3 \ud55c\uad6d\uc5b4 \u304c\u304e \u0e44\u0e17\u0e22"


@pytest.mark.parametrize("word", WORDS.split())
def test_a_word_of_any_script_counts_as_one(bench: SearchBench, word: str) -> None:
    """It finds a text, in either case, and has its share of the score, as an English one has."""
    plain = bench.interaction("the gateway is here")
    other = bench.interaction(f"the {word} is here")
    expected = similarities(bench, "gateway")
    assert similarities(bench, word) == {other: expected[plain]}
    for same in (word.lower(), word.upper()):
        assert len(same) > len(word) or similarities(bench, same) == {other: expected[plain]}


def test_a_stop_word_counts_half(bench: SearchBench) -> None:
    """And alone, it finds what has it."""
    both = bench.interaction("who am I, and xylophone")
    terms = wholly(SearchIndex(bench.database).find(asked_in("who xylophone", date(2026, 1, 1)), EVERYTHING, 10)).terms
    weights = {term.text: term.weight for term in terms}
    assert weights["who"] == pytest.approx(weights["xylophone"] / 2)
    assert bench.ids("Who am I?") == [both]


@pytest.mark.parametrize(
    "query",
    ["March 14", "on 14 March 2026", "noong ika-14 ng Marso", "2026-03-14", "Mar. 14th"],
)
def test_a_day_is_found_however_it_is_written(bench: SearchBench, query: str) -> None:
    said = bench.interaction("we spoke", age_days=days_ago(datetime(2026, 3, 14, 9, tzinfo=UTC)))
    bench.interaction("we spoke", age_days=days_ago(datetime(2026, 3, 15, 9, tzinfo=UTC)))
    assert bench.ids(query) == [said]


def test_relative_days_count_from_when_they_are_said(bench: SearchBench) -> None:
    """Those of a text from the text, in both languages; those of a query from `as_of`."""
    saturday = datetime(2026, 3, 14, 9, tzinfo=UTC)
    texts = ["dumating siya kahapon", "she came last Friday", "we met yesterday"]
    numbers = [bench.interaction(text, age_days=days_ago(saturday)) for text in texts]
    assert set(bench.ids("March 13")) == set(numbers)
    day_after = {"as_of": "2026-03-15T08:00:00"}
    assert set(bench.ids("what was said yesterday?", **day_after)) == set(numbers)
    assert bench.ids("what was said on March 12?", **day_after) == []


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("what did she say yesterday", ("d20260505",)),
        ("anong sinabi niya kamakalawa", ("d20260504",)),
        ("last monday", ("d20260504",)),
        ("noong miyerkules", ("d20260429",)),
        ("3 days ago", ("d20260503",)),
        ("three days ago", ("d20260503",)),
        ("noong apat na araw na ang nakalipas", ("d20260502",)),
        ("2 araw ang nakaraan", ("d20260504",)),
        ("last month", ("m202604",)),
        ("in february", ("o02",)),
        ("february 2025", ("m202502",)),
        ("last week", (*(f"d202604{day}" for day in range(27, 31)), *(f"d2026050{day}" for day in range(1, 4)))),
    ],
)
def test_date_words_name_terms_of_the_index(query: str, terms: tuple[str, ...]) -> None:
    """Asked on Wednesday, 2026-05-06."""
    (asked,) = dates_of(query, date(2026, 5, 6))
    assert set(asked.terms) == set(terms)


@pytest.mark.parametrize("query", ["may i come", "the march of time", "it will be 14"])
def test_other_words_are_no_dates(query: str) -> None:
    assert dates_of(query, date(2026, 5, 6)) == []


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("the house by the river", "bahay"), ("nagbayad na siya", "paid"), ("how much was the ferry", "bangka")],
)
def test_a_word_is_found_in_the_other_language(bench: SearchBench, stored: str, asked: str) -> None:
    """Unless the configuration says otherwise."""
    number = bench.interaction(stored)
    assert bench.ids(asked) == [number]
    bench.configure(word_pairs=False)
    assert bench.ids(asked) == []


@pytest.mark.parametrize(
    ("asked", "stored"), [("lottery", "the loft"), ("dishwasher", "the dish"), ("rest", "the rent")]
)
def test_a_word_that_begins_alike_is_another(bench: SearchBench, asked: str, stored: str) -> None:
    bench.interaction(stored)
    assert bench.ids(asked) == []


def test_a_word_that_occurs_is_not_taken_for_another(bench: SearchBench) -> None:
    number = bench.interaction("the horse is in the stable")
    bench.interaction("the house is in the street")
    assert bench.ids("horse") == [number]


@pytest.mark.parametrize(
    ("fields", "excluded", "kept"),
    [
        ({"since": "2026-03-10"}, {"day": 1}, {"new"}),
        ({"until": "2026-03-10T00:00:00+00:00"}, {"day": 20}, {"old"}),
        ({"since": "2026-03-02", "until": "2026-03-10"}, {"day": 1}, {"old"}),
        ({"since": 1_772_409_600.0}, {"day": 1}, {"old", "new"}),  # 2026-03-02
        ({"as_of": "2026-03-10"}, {"day": 20}, {"old"}),
        ({"type": "error"}, {"kind": "code"}, {"new"}),
        ({"type": "error", "since": "2026-04-01"}, {"day": 20}, set()),
    ],
)
def test_filters_lose_nothing_to_better_texts(
    bench: SearchBench, fields: dict[str, Any], excluded: dict[str, Any], kept: set[str]
) -> None:
    """What a filter excludes takes no place among the candidates, however well it fits."""
    for name, day, kind in (("old", 5, "code"), ("new", 15, "error")):
        age = days_ago(datetime(2026, 3, day, tzinfo=UTC))
        bench.interaction(f"somebody spoke of a gateway, {name}", age_days=age, kind=kind)
    age = days_ago(datetime(2026, 3, excluded.get("day", 20), tzinfo=UTC))
    bench.fill(300, "gateway", age_days=age, kind=excluded.get("kind", "error"))
    found = bench.ask(query="gateway", limit=100, **fields)["results"]
    assert {each["content"].split()[-1] for each in found} == kept


@pytest.mark.parametrize(
    "fields", [{"speaker": "Ben"}, {"type": "error"}, {"since": 86_400.0}, {"speaker": "Ben", "since": 86_400.0}]
)
@pytest.mark.parametrize("among", [20, 50])
def test_filters_keep_the_answer_to_a_question(bench: SearchBench, fields: dict[str, Any], among: int) -> None:
    """If they exclude the question, which alone has the words; also if its words are common."""
    long_ago = days_ago(datetime(1970, 1, 1, 12, tzinfo=UTC))
    bench.fill(among, "does the ferry leave for Mindoro", speaker="Lena", age_days=long_ago)
    bench.interaction("When does the ferry leave for Mindoro?", speaker="Ana", age_days=long_ago, session_id="a")
    answer = bench.interaction("At 6 in the morning, pier 3", session_id="a", speaker="Ben", kind="error")
    bench.interaction("The morning was fine", session_id="b", speaker="Ben", kind="error")
    reply = bench.ask(query="When does the ferry leave for Mindoro?", **fields)
    assert [result["id"] for result in reply["results"]] == [answer]
    assert reply["words"] == ["ferry", "leave", "mindoro"]


def test_what_is_later_makes_nothing_findable_before(bench: SearchBench) -> None:
    """With `as_of` and a speaker, a question that was asked later counts for nothing."""
    for day, text in ((1, "At 6 in the morning"), (9, "So the ferry leaves at 6?")):
        age = days_ago(datetime(2026, 3, day, tzinfo=UTC))
        bench.interaction(text, session_id="a", speaker="Ben", age_days=age)
    assert len(bench.ids("ferry", speaker="Ben")) == 2
    assert bench.ids("ferry", speaker="Ben", as_of="2026-03-05") == []


def test_what_is_later_lends_nothing(bench: SearchBench) -> None:
    """To what `as_of` and `until` keep."""
    early, late = (days_ago(datetime(2026, 3, day, tzinfo=UTC)) for day in (1, 9))
    said = bench.interaction("the ferry to Mindoro", session_id="a", age_days=early)
    alone = similarities(bench, "ferry", as_of="2026-03-05")
    later = bench.interaction("a ferry, the ferry", session_id="a", age_days=late)
    assert similarities(bench, "ferry", as_of="2026-03-05").keys() == {said}
    assert similarities(bench, "ferry", until="2026-03-05")[said] == pytest.approx(alone[said], rel=0.05)
    assert similarities(bench, "ferry")[said] > 1.1 * alone[said]
    assert later in similarities(bench, "ferry")


def test_the_memories_of_a_day_leave_room_for_its_turns(bench: SearchBench) -> None:
    """However many there are; of what fits alike, the newest comes first."""
    said = bench.interaction("we spoke", age_days=days_ago(datetime(2026, 3, 14, 10, tzinfo=UTC)))
    for number in range(100):
        bench.memory(f"m-{number}", "somebody noted it", age_days=days_ago(datetime(2026, 3, 14, 9, tzinfo=UTC)))
    assert bench.ids("What was on March 14?")[0] == said


def test_a_memory_is_bounded_by_time_too(bench: SearchBench) -> None:
    bench.memory("m", "gateway", age_days=days_ago(datetime(2026, 3, 5, tzinfo=UTC)))
    assert bench.ids("gateway", until="2026-03-06") == ["m"]
    assert bench.ids("gateway", since="2026-03-06") == bench.ids("gateway", type="code") == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"since": "yesterday"}, "got 'yesterday' - at `$.since`"),
        ({"as_of": "2026-13-01"}, "at `$.as_of`"),
        ({"until": -1}, "at `$.until`"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "`since` is later than `until`"),
        ({"type": "poem"}, "at `$.type`"),
        ({"min_similarity": 1.5}, "at `$.min_similarity`"),
    ],
)
def test_a_wrong_filter_is_named(bench: SearchBench, fields: dict[str, Any], sentence: str) -> None:
    reply = bench.ask(query="gateway", **fields)
    assert reply["code"] == "malformed_request"
    assert sentence in reply["error"]
