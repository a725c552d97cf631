"""What a search may use of texts that were hidden after the nearness of its query was found."""

from pathlib import Path

import pytest

from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from twinhost.unified_memory_reasoning.search.passages import MOST
from twinhost.unified_memory_reasoning.search.search import Search
from twinhost.unified_memory_reasoning.search.vectors import Nearness

np = pytest.importorskip("numpy", reason="it comes with the extra `meaning`, which `make setup` has")


def near_to(*rows: int) -> Nearness:
    """Return the nearness of texts of one passage."""
    numbers = [row * MOST for row in rows]
    nears = [0.9] * len(rows)
    return Nearness(list(zip(numbers, nears, strict=True)), 0.1, np.asarray(numbers), np.asarray(nears))


def test_a_text_quarantined_during_a_search_lends_nothing(tmp_path: Path) -> None:
    """Nor is it a reason to look at the turns around it."""
    with SearchBench(tmp_path / "db") as bench:
        search = Search(bench.database)
        bench.interaction("before", session_id="s")
        hidden = bench.interaction("the kotse is red", session_id="s", written_by="mallory")
        bench.interaction("after", session_id="s")
        assert len(search.rank("automobile", nearness=near_to(hidden)).rows) == 3
        bench.quarantine("mallory")
        assert search.rank("automobile", nearness=near_to(hidden)).rows == []
