"""What one search may cost, whatever its query and the stored texts are."""

import time
import tracemalloc
from datetime import date
from pathlib import Path

import pytest

from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from twinhost.secure_zmq.actions import wholly
from twinhost.unified_memory_reasoning.language.claims import MOST_PAIRS, contradictions
from twinhost.unified_memory_reasoning.language.dates import MOST_DATES, AskedDate, dates_of
from twinhost.unified_memory_reasoning.search import index
from twinhost.unified_memory_reasoning.search.passages import passages_of
from twinhost.unified_memory_reasoning.search.search import Search

TODAY = date(2026, 5, 6)


@pytest.mark.parametrize("query", ["today " * 600, "in may " * 600, "on 2026-05-04, " * 200])
def test_a_date_that_a_query_repeats_is_looked_up_once(query: str) -> None:
    assert len(dates_of(query, TODAY)) == 1


def test_a_query_of_many_dates_has_some_of_them_looked_up() -> None:
    found = dates_of(" ".join(f"2026-05-{day:02}" for day in range(1, 32)), TODAY)
    assert found == [AskedDate((f"d202605{day:02}",)) for day in range(1, MOST_DATES + 1)]


def divided_in_s(text: str) -> float:
    """Return how much processor time it takes to divide a text, at the best of several times."""
    taken = []
    for _ in range(5):
        started = time.thread_time()
        passages_of(text)
        taken.append(time.thread_time() - started)
    return min(taken)


@pytest.mark.parametrize("sentence", ["\n", "a\n"])
def test_a_text_of_tiny_sentences_is_divided_as_fast_as_prose(sentence: str) -> None:
    """Ten times as slow, a few hundred of them held the agent for seconds in each search."""
    prose = "We talked of the weather. " * 2_500
    tiny = sentence * (len(prose) // len(sentence))
    assert divided_in_s(tiny) < 2 * divided_in_s(prose)


def test_many_texts_that_match_are_ranked_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which one part has them, also of those that fit alike."""
    with SearchBench(tmp_path / "db") as bench:
        for number in range(100):
            bench.interaction(f"the gateway {'is open ' * (number % 5)}")
        in_one = wholly(Search(bench.database).rank("gateway", most=1)).rows
        parts = sum(1 for _ in Search(bench.database).rank("gateway", most=1))
        monkeypatch.setattr(index, "_RANKED_AT_ONCE", 10)
        monkeypatch.setattr(index, "_MOST_PARTS", 100)
        assert sum(1 for _ in Search(bench.database).rank("gateway", most=1)) == parts + 10
        found = wholly(Search(bench.database).rank("gateway", most=1)).rows
        assert 1 < len(found) < 100  # those that fit best, of all parts
        assert found == in_one


def test_a_large_index_is_ranked_in_a_few_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part counts all that match: a part of ten texts, and not of one."""
    monkeypatch.setattr(index, "_RANKED_AT_ONCE", 1)
    with SearchBench(tmp_path / "db") as bench:
        for number in range(80):
            bench.interaction(f"the gateway {number}")
        queries = list[str]()
        bench.database._connection.set_trace_callback(queries.append)
        wholly(Search(bench.database).rank("gateway"))
        assert 8 <= len([query for query in queries if "bm25" in query]) <= 9


def test_a_search_holds_some_of_many_long_texts(tmp_path: Path) -> None:
    """Of each, a character in it that takes four bytes makes it four times as large."""
    text = "\U0001f600" + "We talked of the weather. " * 2_400
    with SearchBench(tmp_path / "db") as bench:
        with bench.database.transaction():
            for number in range(150):
                bench.interaction(f"{text} zygomorphic {number}")
        assert bench.ids("zygomorphic 149")[0] == 150
        tracemalloc.start()
        found = bench.ask(query="zygomorphic", limit=100)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (len(found["results"]) > 6, found["more"]) == (True, True)
    assert peak < 60 * 4 * len(text)


def test_contradictions_are_looked_for_where_texts_begin() -> None:
    """20 texts of 4 KB each, with a value in every third place, took 160 ms."""
    low, high, late = (f"The rent of the box room is now {value} a month." for value in (340, 355, 360))
    assert contradictions([(1, low), (2, high), (3, "We talked of it. " * 100 + late)]) == [[1, 2]]


def test_results_that_all_contradict_each_other_fit_into_a_reply(tmp_path: Path) -> None:
    with SearchBench(tmp_path / "db", max_reply_bytes=65_536) as bench:
        for number in range(20):
            rent = f"The rent of the box room is now {340 + number} a month. "
            bench.memory(f"{number:0128}", rent + "We talked of it. " * 50)
        found = bench.ask(query="the rent of the box room", limit=20)
    assert (found["status"], len(found["contradictions"])) == ("ok", MOST_PAIRS)


@pytest.mark.parametrize("moment", ["0001-01-01", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9999Z"])
@pytest.mark.parametrize("name", ["since", "until", "as_of"])
def test_a_search_at_the_ends_of_time_is_answered(tmp_path: Path, name: str, moment: str) -> None:
    """Also if its query names the day before."""
    with SearchBench(tmp_path / "db") as bench:
        number = bench.interaction("the gateway is open")
        is_all = (name == "since") == (moment < "1970")
        assert bench.ids("gateway yesterday", **{name: moment}) == ([number] if is_all else [])
