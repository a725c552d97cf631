"""What one search may cost, whatever its query and the stored texts are."""

from datetime import date

import pytest

from twinhost.unified_memory_reasoning.search.dates import MOST_DATES, AskedDate, dates_of

TODAY = date(2026, 5, 6)


@pytest.mark.parametrize("query", ["today " * 600, "in may " * 600, "on 2026-05-04, " * 200])
def test_a_date_that_a_query_repeats_is_looked_up_once(query: str) -> None:
    assert len(dates_of(query, TODAY)) == 1


def test_a_query_of_many_dates_has_some_of_them_looked_up() -> None:
    found = dates_of(" ".join(f"2026-05-{day:02}" for day in range(1, 32)), TODAY)
    assert found == [AskedDate((f"d202605{day:02}",)) for day in range(1, MOST_DATES + 1)]
