"""Suggestions by meaning: what is found, what has no vector, when a reply waits, and what it says without the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.embedding_service import EmbeddingService
from tests.unit.unified_memory_reasoning.error_pattern_bench import BOB, ENDLESS_S, MAX_BYTES, ErrorPatternBench
from tests.unit.unified_memory_reasoning.error_pattern_bench import MIGRATIONS as OF_ERRORS
from tests.unit.unified_memory_reasoning.search_bench import INDEX, STORES
from tests.waiting import PATIENCE_S, wait_until
from twinhost.network_config.model import Embeddings
from twinhost.secure_zmq.actions import Action
from twinhost.unified_memory_reasoning.errors.actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.errors.patterns import ErrorPatterns
from twinhost.unified_memory_reasoning.errors.proposals import PatternProposals
from twinhost.unified_memory_reasoning.errors.similarity import Similar
from twinhost.unified_memory_reasoning.search import vectors
from twinhost.unified_memory_reasoning.search.embedding import Service
from twinhost.unified_memory_reasoning.search.index import EVERYTHING
from twinhost.unified_memory_reasoning.search.meaning import Meaning

pytest.importorskip("numpy", reason="numpy is not installed: it comes with the extra `meaning`, which `make setup` has")
MIGRATIONS = (*OF_ERRORS, *STORES[1:], *INDEX, vectors.MIGRATION, vectors.PATTERNS_MIGRATION)


class OlderBench(ErrorPatternBench):
    """The actions on the tables of before."""

    MIGRATIONS = MIGRATIONS[:-1]


class MeaningBench(ErrorPatternBench):
    """The actions with the vectors of a service."""

    MIGRATIONS = MIGRATIONS

    def __init__(self, path: Path, service: EmbeddingService) -> None:
        self.service = service
        super().__init__(path, max_bytes=MAX_BYTES, cpu_s=ENDLESS_S)

    def make(self) -> list[Action[Any]]:
        settings = Embeddings(self.service.url, "concepts", deadline_s=PATIENCE_S)
        self.meaning = Meaning(self.database, settings, Service(settings))
        self.meaning.start()
        self.patterns = ErrorPatterns(self.database)
        self.proposals = PatternProposals(self.database, self._publish)
        given = self.patterns, self.proposals, self._max_bytes, self._budget, self.meaning
        return ErrorPatternActions(*given).actions()

    def embed(self, count: int) -> None:
        """Wait until so many patterns have a vector, as the loop's ticks store them."""

        def stored() -> bool:
            self.meaning.on_tick()
            return self.meaning.document()["embedded"] == count == self.rows("embeddings")

        wait_until(stored, PATIENCE_S, f"{count} patterns have a vector")

        def answered() -> bool:
            return self.meaning.recall("warm up", EVERYTHING).result(PATIENCE_S).missing is None

        wait_until(answered, PATIENCE_S, "queries are compared")

    def solutions(self, message: str) -> list[str]:
        return [each["solution"] for each in self.look_up(message)["suggestions"]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MeaningBench]:
    with EmbeddingService() as service, MeaningBench(tmp_path / "db", service) as bench:
        yield bench
        bench.meaning.stop()


def test_a_pattern_without_a_common_word_is_suggested(bench: MeaningBench) -> None:
    """By its pattern, or by its solution; the automatic answer stays null, and the score is 0 to 1."""
    bench.add("kotse stalled", "push")
    bench.add("rash", "ask a physician")
    bench.add("no vector", None)
    bench.embed(2)
    reply = bench.look_up("automobile")
    assert reply["solution"] is None
    assert (reply["channels"], [each["solution"] for each in reply["suggestions"]]) == (["words", "meaning"], ["push"])
    assert 0 < reply["suggestions"][0]["score"] <= 0.6
    assert bench.solutions("manggagamot") == ["ask a physician"]


def test_a_search_finds_no_pattern(bench: MeaningBench) -> None:
    bench.add("kotse stalled", "push")
    bench.embed(1)
    assert bench.meaning.recall("automobile", EVERYTHING).result(PATIENCE_S).nearness == {}


def test_a_pattern_that_matches_is_answered_at_once(bench: MeaningBench) -> None:
    """The model is not asked, and the reply says so."""
    bench.add("kotse stalled", "push")
    bench.embed(1)
    asked = len(bench.service.asked)
    reply = bench.look_up("the kotse stalled")
    assert (reply["solution"], reply["channels"]) == ("push", ["words"])
    assert "a pattern matches" in reply["without_meaning"]
    assert len(bench.service.asked) == asked


def test_suggestions_come_by_words_while_the_model_fails(bench: MeaningBench) -> None:
    bench.add("kotse stalled on the ferry", "push")
    bench.embed(1)
    bench.service.status = 503
    reply = bench.look_up("a kotse is on this ferry")
    assert (reply["channels"], [each["solution"] for each in reply["suggestions"]]) == (["words"], ["push"])
    assert "answered 503" in reply["without_meaning"]


def test_a_changed_or_deleted_pattern_has_no_old_vector(bench: MeaningBench) -> None:
    """That it was seen changes nothing."""
    bench.add("rash", "ask a physician")
    second = bench.add("kotse stalled", "push")
    bench.embed(2)
    bench.look_up("the kotse stalled")
    assert bench.rows("embeddings") == 2
    bench.add("rash", "wait")
    assert bench.rows("embeddings") == 1
    assert bench.solutions("doctor") == []
    bench.ask("delete_error_pattern", pattern_id=second)
    assert bench.rows("embeddings") == 0
    bench.meaning._texts._rescan_at = 0.0
    bench.embed(1)
    assert bench.solutions("doctor") == []


def test_a_hidden_writer_is_not_suggested_by_meaning(bench: MeaningBench) -> None:
    """Nor sent to the service; and not either if hidden while the model was asked."""
    bench.add("kotse stalled", "push", BOB)
    bench.embed(1)
    found = bench.meaning.recall("automobile", EVERYTHING, vectors.PATTERNS).result(PATIENCE_S)
    assert found.nearness
    bench.hide(BOB)
    assert bench.solutions("automobile") == []
    similar = [Similar(1.0, row - vectors.PATTERN_ROWS) for row in found.nearness]
    assert bench.patterns.suggested(similar) == []
    bench.add("another kotse", "pull", BOB)
    bench.add("rice", "eat")
    bench.embed(2)
    assert not any("another kotse" in text for text in bench.service.texts())
    bench.show(BOB)
    assert bench.solutions("automobile") == ["push"]


def test_a_repeated_request_is_counted_once(bench: MeaningBench) -> None:
    """Its reply waited for the model, so that it is not stored; other requests count."""
    bench.add("kotse stalled", "push")
    bench.embed(1)
    for _ in range(5):
        reply = bench.ask("get_error_solution", error_message="boat 7 sank", request_id="r1")
        assert (reply["status"], reply["proposal_id"]) == ("ok", None)
    for number in (2, 3):
        reply = bench.ask("get_error_solution", error_message="boat 7 sank", request_id=f"r{number}")
    assert reply["proposal_id"] is not None


def test_an_older_database_gets_vectors_of_its_patterns(tmp_path: Path) -> None:
    with EmbeddingService() as service:
        older = OlderBench(tmp_path / "db")
        older.add("kotse stalled", "push")
        older.database.close()
        with MeaningBench(tmp_path / "db", service) as bench:
            bench.embed(1)
            assert bench.solutions("automobile") == ["push"]
            bench.meaning.stop()
