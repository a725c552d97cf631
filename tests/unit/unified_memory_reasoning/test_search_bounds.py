"""What one search may cost, whatever its query and the stored texts are."""

import time
from datetime import date

import pytest

from twinhost.unified_memory_reasoning.search.dates import MOST_DATES, AskedDate, dates_of
from twinhost.unified_memory_reasoning.search.passages import passages_of

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
