"""What a search may use of texts that were hidden after the nearness of its query was found."""

from collections.abc import Callable, Iterable
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.memory import SDT
from tests.unit.unified_memory_reasoning.memory_bench import MALLORY, ContextBench
from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from twinhost.secure_zmq.actions import Action, wholly
from twinhost.unified_memory_reasoning.conversations.actions import GetContext
from twinhost.unified_memory_reasoning.search.actions import SearchActions, SearchMemory
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
        assert len(wholly(search.rank("automobile", nearness=near_to(hidden))).rows) == 3
        bench.quarantine("mallory")
        assert wholly(search.rank("automobile", nearness=near_to(hidden))).rows == []


def answers_with(change: Callable[[], object], actions: Iterable[Action[Any]], request: Any, *, undo: Any) -> list[Any]:
    """Return the replies to a request, in parts, with a change after the first part, the second, and so on."""
    (handle,) = (action.handle for action in actions if action.request is type(request))
    answers: list[Any] = []
    for parts in count(1):
        answer: Any = handle(request, SDT)
        done = len(list(islice(answer, parts)))
        change()
        answers.append(wholly(answer) if done == parts else None)
        undo()
        if done < parts:
            return answers[:-1]
    raise AssertionError


@pytest.mark.parametrize(
    "request_of",
    [
        SearchMemory(query="the kotse is red"),
        GetContext(session_id="s", query="the kotse is red", scope="all"),
        GetContext(session_id="s"),
    ],
    ids=["search", "context with a question", "context"],
)
def test_no_reply_has_what_was_hidden_between_its_parts(tmp_path: Path, request_of: Any) -> None:
    with ContextBench(tmp_path / "db") as bench:
        bench.say("is the kotse red, and where is it?")
        bench.say("the kotse is red, secretly", MALLORY)
        bench.remember("m", "the kotse is secretly red", MALLORY)
        bench.remember("n", "the kotse is red")
        search = Search(bench.database)
        actions = [*bench.make(), *SearchActions(search, 10_000).actions()]
        replies = answers_with(lambda: bench.hide(MALLORY), actions, request_of, undo=lambda: bench.release(MALLORY))
        assert len(replies) > 2
        assert not [reply for reply in replies if "secretly" in str(reply)]


def test_what_is_deleted_between_the_parts_ends_no_search(tmp_path: Path) -> None:
    with ContextBench(tmp_path / "db") as bench:
        bench.say("is the kotse red, and where is it?")
        bench.say("the kotse is red")
        bench.remember("n", "the kotse is red")
        bench.database.execute("CREATE TABLE kept_i AS SELECT * FROM interactions")
        bench.database.execute("CREATE TABLE kept_m AS SELECT * FROM memories")

        def delete() -> None:
            bench.database.execute("DELETE FROM interactions")
            bench.database.execute("DELETE FROM memories")

        def put_back() -> None:
            bench.database.execute("INSERT INTO interactions SELECT * FROM kept_i")
            bench.database.execute("INSERT INTO memories SELECT * FROM kept_m")

        actions = [*bench.make(), *SearchActions(Search(bench.database), 10_000).actions()]
        for request in (SearchMemory(query="kotse red"), GetContext(session_id="s", query="kotse", scope="all")):
            assert len(answers_with(delete, actions, request, undo=put_back)) > 2
