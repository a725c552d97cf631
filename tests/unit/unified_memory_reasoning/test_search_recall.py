"""What a search finds beyond its words: speakers, dates, turns nearby, the other language, misspelt words, updates."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import MIGRATIONS, migrations_before
from tests.unit.unified_memory_reasoning.search_bench import WORDS_ALONE, SearchBench
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.actions import CANDIDATES, Search
from twinhost.unified_memory_reasoning.search.dates import dates_of
from twinhost.unified_memory_reasoning.search.index_tables import ABOUT_MIGRATION
from twinhost.unified_memory_reasoning.search.words import asked_in, is_spelt_like

DAY_S = 86_400.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[SearchBench]:
    with SearchBench(tmp_path / "db") as bench:
        bench.fill(20)
        yield bench


def days_ago(moment: datetime) -> float:
    return (time.time() - moment.timestamp()) / DAY_S


def test_an_answer_is_found_by_its_question(bench: SearchBench) -> None:
    """It has none of the words; the question, which has them, comes after it."""
    question = bench.interaction("Where is the spare gateway key?", session_id="a")
    answer = bench.interaction("In my shed, second drawer", session_id="a")
    bench.interaction("In my shed, second drawer", session_id="b")
    assert bench.ids("spare gateway key") == [answer, question]


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
    ((asked,), _) = dates_of(query, date(2026, 5, 6))
    assert set(asked.terms) == set(terms)


@pytest.mark.parametrize("query", ["may i come", "the march of time", "it will be 14"])
def test_other_words_are_no_dates(query: str) -> None:
    assert dates_of(query, date(2026, 5, 6))[0] == []


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("the house by the river", "bahay"), ("nagbayad na siya", "paid"), ("how much was the ferry", "bangka")],
)
def test_a_word_is_found_in_the_other_language(bench: SearchBench, stored: str, asked: str) -> None:
    """Unless the configuration says otherwise."""
    number = bench.interaction(stored)
    assert bench.ids(asked) == [number]
    bench.weigh(replace(WORDS_ALONE, word_pairs=False))
    assert bench.ids(asked) == []


@pytest.mark.parametrize("asked", ["certifcate", "certificaet", "cerrificate", "gatway", "Brandstater"])
def test_a_misspelt_word_is_found(bench: SearchBench, asked: str) -> None:
    """If it occurs nowhere; in names too."""
    number = bench.interaction("the certificate of the gateway", speaker="Brandstatter")
    assert bench.ids(asked) == [number]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        *(("Karla", "Carla"), ("Carla", "Karla"), ("Anna", "Ana"), ("Ana", "Anna"), ("Sophia", "Sofia")),
        *(("Katherine", "Catherine"), ("Jon", "John"), ("Kristina", "Cristina"), ("Mikael", "Michael")),
        *(("Benjamin", "Ben"), ("Ben", "Benjamin")),
    ],
)
def test_a_name_is_found_in_another_spelling(bench: SearchBench, asked: str, name: str) -> None:
    """Of a speaker also in a short or a long form; not if it occurs as it is asked for."""
    bench.ids("talk")
    number = bench.interaction("I want the window seat", speaker=name)
    assert bench.ids(asked) == [number]
    other = bench.interaction("I want the window seat", speaker=asked)
    assert bench.ids(asked) == [other]


@pytest.mark.parametrize(("asked", "found"), [("fery", True), ("ferri", True), ("fern", False)])
def test_a_short_word_may_lack_a_letter(bench: SearchBench, asked: str, found: bool) -> None:
    """But another letter in so short a word makes another word."""
    bench.interaction("the ferry of the first day")
    bench.interaction("the firm")
    assert bool(bench.ids(asked)) == found


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
    assert not is_spelt_like("gateway", "getting")


def test_the_newer_value_stands_above_the_older(bench: SearchBench) -> None:
    """Though the older has more of the words, if the newer says that something changed."""
    older = bench.interaction("the rent of the box room is 340 with bills", session_id="a", age_days=9)
    newer = bench.interaction("correction: box room is 355 with bills, so tell Devin", session_id="a", age_days=2)
    assert bench.ids("what is the rent of the box room?")[:2] == [newer, older]


def test_a_long_text_has_its_date_as_a_short_one_has(bench: SearchBench) -> None:
    """Only words count less in a long text: of two texts of a day, the newer comes first, however long it is."""
    age = days_ago(datetime(2026, 3, 14, tzinfo=UTC))
    short = bench.interaction("about 21", age_days=age)
    long = bench.interaction("there is a ground floor place in Tavira, 97 a night, with a ferry " * 4, age_days=age)
    assert bench.ids("2026-03-14") == [long, short]


def test_a_speakers_name_says_little_of_an_answer(bench: SearchBench) -> None:
    """For the similarity: what the name did is what is asked for; alone, the name is what is asked for."""
    bench.interaction("I bought a hose", speaker="Felix")
    bench.interaction("the hose is green", speaker="Nora")

    def similarity(query: str) -> float:
        return float(bench.ask(query=query)["results"][0]["similarity"])

    assert similarity("Felix hose") - similarity("hose") < similarity("hose") / 5
    assert similarity("Felix") > 0.15


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
    bench.fill(3 * CANDIDATES, "gateway", age_days=age, kind=excluded.get("kind", "error"))
    found = bench.ask(query="gateway", limit=100, **fields)["results"]
    assert {each["content"].split()[-1] for each in found} == kept


@pytest.mark.parametrize(
    "fields", [{"speaker": "Ben"}, {"type": "error"}, {"since": 86_400.0}, {"speaker": "Ben", "since": 86_400.0}]
)
@pytest.mark.parametrize("among", [20, 4_000])
def test_filters_keep_the_answer_to_a_question(bench: SearchBench, fields: dict[str, Any], among: int) -> None:
    """If they exclude the question, which alone has the words; also if its words are common."""
    long_ago = days_ago(datetime(1970, 1, 1, 12, tzinfo=UTC))
    bench.fill(among, "does the ferry leave for Mindoro", speaker="Lena", age_days=long_ago)
    bench.interaction("When does the ferry leave for Mindoro?", speaker="Ana", age_days=long_ago, session_id="a")
    answer = bench.interaction("At 6 in the morning, pier 3", session_id="a", speaker="Ben", kind="error")
    bench.interaction("The morning was fine", session_id="b", speaker="Ben", kind="error")
    reply = bench.ask(query="When does the ferry leave for Mindoro?", **fields)
    assert [each["id"] for each in reply["results"]] == [answer]
    assert reply["words"] == ["ferry", "leave", "mindoro"]


@pytest.mark.parametrize("fields", [{"speaker": "Lena"}, {"session_id": "b"}, {"since": "2026-03-10"}])
def test_a_word_that_filters_exclude_is_not_misspelt(bench: SearchBench, fields: dict[str, Any]) -> None:
    """It occurs, so that a word spelt like it is another one."""
    bench.interaction(
        "the gateway is open", session_id="a", speaker="Ana", age_days=days_ago(datetime(2026, 3, 1, tzinfo=UTC))
    )
    bench.interaction("the gatewas is open", session_id="b", speaker="Lena")
    assert bench.ids("gateway", **fields) == []
    assert len(bench.ids("gatewaz", **fields)) == 1


def test_what_is_later_makes_nothing_findable_before(bench: SearchBench) -> None:
    """With `as_of` and a speaker, a question that was asked later counts for nothing."""
    for day, text in ((1, "At 6 in the morning"), (9, "So the ferry leaves at 6?")):
        age = days_ago(datetime(2026, 3, day, tzinfo=UTC))
        bench.interaction(text, session_id="a", speaker="Ben", age_days=age)
    assert len(bench.ids("ferry", speaker="Ben")) == 2
    assert bench.ids("ferry", speaker="Ben", as_of="2026-03-05") == []


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


def test_similarity_is_absolute(bench: SearchBench) -> None:
    """One good result and one bad one both have the best `score`; `min_similarity` tells them apart."""
    bench.interaction("the certificate of the gateway in Tavira expires")
    bench.interaction("the weather in Lisbon")
    (good, *_), (bad, *_) = (
        bench.ask(query=query)["results"]
        for query in ("certificate gateway Tavira expires", "weather forecast tournament ticket")
    )
    assert good["score"] == bad["score"] == 1
    assert 1 > good["similarity"] > 2 * bad["similarity"] > 0
    between = (good["similarity"] + bad["similarity"]) / 2
    assert len(bench.ids("certificate gateway Tavira expires", min_similarity=between)) == 1
    assert bench.ids("weather forecast tournament ticket", min_similarity=between) == []


@pytest.mark.parametrize("others", [0, 1, 20, 900])
def test_a_new_store_has_the_similarity_of_an_old_one(tmp_path: Path, others: int) -> None:
    """What a text has of the query counts, and not how many other texts there are already."""
    with SearchBench(tmp_path / "db") as bench:
        bench.fill(others)
        bench.memory("m", "the ferry leaves at six")
        (found,) = bench.ask(query="ferry", min_similarity=0.3)["results"]
        assert 0.35 < found["similarity"] < 0.45
        (both,) = bench.ask(query="ferry leaves")["results"]
        assert 0.52 < both["similarity"] < 0.62
        (half,) = bench.ask(query="ferry ticket")["results"]
        assert half["similarity"] < found["similarity"]


def test_best_returns_interactions_with_similarity(bench: SearchBench) -> None:
    number = bench.interaction("the gateway is open", session_id="a")
    bench.interaction("the gateway is shut", session_id="b")
    bench.memory("m", "gateway")
    search = Search(bench.database, WORDS_ALONE)
    ((found, similarity),) = search.best("gateway", session_id="a")
    assert (found, 0 < similarity < 1) == (number, True)
    assert len(search.best("gateway")) == 2
    assert len(search.best("gateway", limit=1)) == 1


def test_an_older_index_gets_dates_and_speakers(tmp_path: Path) -> None:
    """At the migration; the rows and the words stay, and removed texts leave the index as before."""
    database = Database(tmp_path / "db", migrations_before(ABOUT_MIGRATION))
    with database.transaction():
        for number in range(1, 51):
            database.execute(
                "INSERT INTO interactions VALUES (?, 's', 'Felix', 'code', 'gateway yesterday', x'7b7d', 0.5, 1.0, "
                "?, 0, 'A', NULL)",
                (number, number * DAY_S),
            )
    database.close()
    database = Database(tmp_path / "db", MIGRATIONS)
    search = Search(database, WORDS_ALONE)
    assert len(search.rank("felix").rows) == len(search.rank("gateway").rows) == 50
    assert {each.row for each in search.rank("1970-01-11").rows[:2]} == {10, 11}  # of the day, and of the one after
    database.execute("DELETE FROM interactions WHERE id > 2")
    database.execute("INSERT INTO recall_words (recall_words) VALUES ('integrity-check')")
    assert {each.row for each in search.rank("felix").rows} == {1, 2}
    database.close()


def test_common_words_of_a_query_are_kept_beside_a_date() -> None:
    """Only words that name the date leave the words of the query."""
    asked = asked_in("What did Felix buy on March 14?", date(2026, 5, 6))
    assert [word.text for word in asked.words] == ["felix", "buy"]
    assert asked.date_words == ["march", "14"]
