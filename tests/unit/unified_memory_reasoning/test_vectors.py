"""The vectors of stored texts: which texts get one, what removes it, and what a search by meaning finds."""

import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.embedding_service import DIMENSIONS, EmbeddingService, of_concepts
from tests.new_database import open_database
from tests.unit.unified_memory_reasoning.bench import migrations_before
from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from tests.waiting import PATIENCE_S, wait_until
from twinhost.network_config.model import MAX_EMBEDDING_DEADLINE_S, Embeddings
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable, Usage
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.unified_memory_reasoning.search import index_tables, vectors
from twinhost.unified_memory_reasoning.search import meaning as meaning_module
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.embedding import (
    LEAST_MAGNITUDE,
    MOST_MAGNITUDE,
    OPENS_AFTER,
    Call,
    EmbeddingFailed,
    Service,
)
from twinhost.unified_memory_reasoning.search.filters import Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.meaning import MOST_HITS, Meaning, Turns
from twinhost.unified_memory_reasoning.search.passages import MOST, passages_of
from twinhost.unified_memory_reasoning.search.search import Search
from twinhost.unified_memory_reasoning.search.vector_memory import BESIDE_BYTES
from twinhost.unified_memory_reasoning.search.vectors import Nearness, TextSource

pytest.importorskip("numpy", reason="numpy is not installed: it comes with the extra `meaning`, which `make setup` has")
pytestmark = pytest.mark.thorough  # as a file: threads and a service


class MeaningBench(SearchBench):
    """Searches by meaning, with the vectors of a service."""

    def __init__(self, path: Path, service: EmbeddingService) -> None:
        self.service = service
        super().__init__(path)

    def make(self) -> list[Action[Any]]:
        settings = Embeddings(self.service.url, "concepts", deadline_s=PATIENCE_S)
        self.meaning = Meaning(self.database, settings, Service(settings))
        self.meaning.start()
        return SearchActions(Search(self.database, meaning=self.meaning), self._max_bytes).actions()

    def embed(self, count: int) -> None:
        """Wait until so many texts have a vector, as the loop's ticks store them."""

        def stored() -> bool:
            self.meaning.on_tick()
            return self.meaning.document()["embedded"] == count == self.rows("embedded_texts")

        wait_until(stored, PATIENCE_S, f"{count} texts have a vector")

    def embed_passages(self, count: int) -> None:
        """Wait until so many passages have a vector."""

        def stored() -> bool:
            self.meaning.on_tick()
            return self.rows("embeddings") == count

        wait_until(stored, PATIENCE_S, f"{count} passages have a vector")

    def nearness(self, query: str, **filters: Any) -> Nearness:
        """Return what is near to a query, as a search on the loop sees it."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.meaning.recall(query, Filters(**filters)).result(PATIENCE_S)).missing is not None:
            assert time.monotonic() < deadline, found.missing
        return self.meaning.complete(found).nearness

    def near(self, query: str, least: float = 1.0, **filters: Any) -> list[int]:
        """Return the rows of texts of one passage that exceed the mean by so many deviations, nearest first."""
        found = self.nearness(query, **filters)
        return [number // MOST for number, near in found.nearest if near >= least * found.spread]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MeaningBench]:
    with EmbeddingService() as service:
        bench = MeaningBench(tmp_path / "memory.sqlite3", service)
        yield bench
        bench.meaning.stop()
        bench.database.close()


def test_a_text_is_found_by_its_meaning(bench: MeaningBench) -> None:
    """An interaction, without its speaker, and a memory."""
    car = bench.interaction("the kotse is red", speaker="Ana")
    bench.fill(20)
    bench.memory("m", "her physician lives in Cebu")
    bench.embed(22)
    assert bench.near("automobile")[0] == car
    assert bench.near("doctor")[0] == MEMORY_ROWS + 1
    assert "the kotse is red" in bench.service.texts()


def story(of: str, sentences: int = 20) -> str:
    """Return a text of several passages, each of which is in no other text."""
    return " ".join(f"In part {number} of the story {of} they talk by the river." for number in range(sentences))


def passages(text: str) -> list[str]:
    return [text[begins:ends] for begins, ends in passages_of(text)]


def test_a_long_text_is_found_by_any_of_its_passages(bench: MeaningBench) -> None:
    """And counts as embedded once its first passages are."""
    text = story("of Ana") + " At last somebody saw the kotse." + story("of Ben")
    number, wanted = bench.interaction(text), next(p for p, of in enumerate(passages(text)) if "kotse" in of)
    bench.embed(1)
    bench.embed_passages(len(passages(text)))
    found = bench.nearness("automobile")
    passage, near = found.nearest[0]
    assert (passage, wanted >= vectors.FIRST) == (number * MOST + wanted, True)
    assert found.of_texts([number]) == {number: (passage, near)}


def test_the_first_passages_of_all_texts_precede_the_rest(bench: MeaningBench) -> None:
    """Of interactions and memories; then the rest of each text, the newest text first."""
    older, newer, memory = (story(of) for of in ("of the older", "of the newer", "of the memory"))
    with bench.database.transaction():
        bench.interaction(older)
        bench.interaction(newer)
        bench.memory("m", memory)
    bench.embed(3)
    bench.embed_passages(sum(len(passages(text)) for text in (older, newer, memory)))
    sent = [text for text in bench.service.texts() if "of the story" in text]
    firsts = [passage for text in (older, newer, memory) for passage in passages(text)[: vectors.FIRST]]
    assert sorted(sent[: len(firsts)]) == sorted(firsts)
    rest_of_older, rest_of_newer = (passages(text)[vectors.FIRST :] for text in (older, newer))
    assert max(map(sent.index, rest_of_newer)) < min(map(sent.index, rest_of_older))
    assert len(sent) == len(set(sent))


def test_a_new_text_waits_for_no_rest_of_a_long_one(bench: MeaningBench) -> None:
    """Nor for the next long text of another writer: for the call under way at most."""
    bench.meaning._of_texts.batch = 4
    bench.service.delay_s = 0.2
    with bench.database.transaction():
        for number in range(5):
            bench.interaction(story(f"{number}", 200), written_by="B")
    first, *_, rest = passages(story("4", 200))[: vectors.FIRST + 1]

    def rest_begun() -> bool:
        bench.meaning.on_tick()
        return any(rest in body["input"] for body in bench.service.asked)

    def has_its_call(text: str) -> None:
        bench.interaction(text)
        calls = len(bench.service.asked)
        wait_until(lambda: text in bench.service.texts(), PATIENCE_S, "the new text is embedded")
        assert text in [sent for body in bench.service.asked[: calls + 2] for sent in body["input"]]

    wait_until(lambda: first in bench.service.texts(), PATIENCE_S, "the long texts are being embedded")
    has_its_call("rice is ready")
    wait_until(rest_begun, PATIENCE_S, "the rest of the long texts is being embedded")
    has_its_call("we walked home")


def test_each_writer_has_its_turn() -> None:
    """The newest text of each; one that is added precedes the older ones of that writer."""
    busy, other = (TextSource(is_memory=False, writer=writer) for writer in ("busy", "other"))
    memories = TextSource(is_memory=True, writer="busy")
    texts = {busy: {1, 2, 4, 8}, other: {3, 5}, memories: {MEMORY_ROWS + 1}}

    def find(source: TextSource, after: int, before: int, _: int) -> vectors.UnembeddedText | None:
        rows = [row for row in texts[source] if after < row < before]
        return vectors.UnembeddedText(source, max(rows), "", 0) if rows else None

    turns = Turns(vectors.FIRST)
    for source in texts:
        turns.add(source, MEMORY_ROWS if source.is_memory else 0, 2 * MEMORY_ROWS if source.is_memory else 6)
    taken = [turns.take(find) for _ in range(3)]
    turns.add(busy, 6, 10)
    while (text := turns.take(find)) is not None:
        taken.append(text)
    assert [text.row for text in taken if text] == [4, 5, MEMORY_ROWS + 1, 8, 3, 2, 1]
    assert not turns


def test_vectors_are_stored_only_behind_those_before_them(bench: MeaningBench) -> None:
    """The text has changed meanwhile, which removed the first ones: none of the others is kept."""
    vector = vectors.packed([1.0, 0.0]) or b""
    text = story("of Ana")
    number = bench.interaction(text)
    stored = vectors.StoredVectors(bench.database, "another model")

    def add(first: int) -> list[int]:
        with bench.database.transaction():
            stored.add([vectors.Embedded(number, text, len(passages(text)), first, [vector, vector])])
        rows = bench.database.execute("SELECT row FROM embeddings WHERE model = 'another model' ORDER BY row")
        return [row - number * MOST for (row,) in rows]

    assert [add(first) for first in (2, 0, 2, 2)] == [[], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    bench.database.execute("UPDATE interactions SET content = content || '!' WHERE id = ?", (number,))
    assert [add(first) for first in (4, 0)] == [[], []]


def test_texts_wait_while_queries_do(bench: MeaningBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meaning_module, "_MOST_PAUSE_S", PATIENCE_S)
    bench.interaction("the kotse is red")
    bench.embed(1)
    assert bench.near("automobile") == [1]
    bench.service.delay_query_s = 1.0
    query = bench.meaning.recall("slow", Filters())
    sent: list[bool] = []
    query.add_done_callback(lambda _: sent.append("rice is ready" in bench.service.texts()))
    bench.interaction("rice is ready")
    bench.embed(2)
    assert sent == [False]


def test_queries_that_wait_together_keep_their_meaning(bench: MeaningBench) -> None:
    """They share calls of the service; one that it refuses takes no vector from the others."""
    bench.interaction("the kotse is red")
    bench.embed(1)
    assert bench.near("automobile") == [1]
    bench.service.delay_s, bench.service.refuses = 0.2, "poison"
    bench.meaning.deadline_s = 16 * 0.2  # one call each would take twice as long
    queries = [bench.meaning.recall(f"automobile {number}", Filters()) for number in range(32)]
    missing = {query.result(PATIENCE_S).missing for query in queries}
    assert missing == {None}
    bench.meaning.deadline_s = PATIENCE_S
    queries = [bench.meaning.recall(text, Filters()) for text in ("first", "poison", "automobile")]
    assert [query.result(PATIENCE_S).missing is None for query in queries] == [True, False, True]


def test_32_queries_of_the_builtin_model_keep_their_meaning(tmp_path: Path) -> None:
    """Each costs it the same; together they take more than half of the time that a search waits."""

    class Model:
        batch = 1

        def embed(self, texts: Sequence[str], *, is_query: bool, within_s: float) -> list[list[float]]:
            time.sleep(0.6 * MAX_EMBEDDING_DEADLINE_S / 32 if is_query else 0.0)
            return of_concepts(texts)

    bench = SearchBench(tmp_path / "memory.sqlite3")
    meaning = Meaning(bench.database, Embeddings(None, "m", deadline_s=MAX_EMBEDDING_DEADLINE_S), Model())
    meaning.start()
    wait_until(lambda: meaning.recall("a", Filters()).result(PATIENCE_S).missing is None, PATIENCE_S, "it answers")
    queries = [meaning.recall(f"automobile {number}", Filters()) for number in range(32)]
    assert {query.result(PATIENCE_S).missing for query in queries} == {None}
    meaning.stop()
    bench.database.close()


def test_every_change_that_removes_a_text_removes_its_vector(bench: MeaningBench) -> None:
    """Deleted, forgotten and changed texts are not found; a changed or remembered one is embedded again."""
    first, second = bench.interaction("the kotse is red"), bench.interaction("a physician came")
    bench.memory("a", "the car was sold")
    bench.memory("b", "she bought rice")
    bench.embed(4)
    bench.database.execute("DELETE FROM interactions WHERE id = ?", (first,))
    bench.database.execute("UPDATE memories SET forgotten = 1 WHERE id = 'a'")
    bench.database.execute("UPDATE interactions SET tier = 2 WHERE id = ?", (second,))  # changes no text
    bench.database.execute("DELETE FROM memories WHERE id = 'b'")
    assert bench.database.execute("SELECT row FROM embeddings").fetchall() == [(second * MOST,)]
    assert bench.database.execute("SELECT row FROM embedded_texts").fetchall() == [(second,)]
    assert bench.near("automobile") == []
    bench.database.execute("UPDATE interactions SET content = 'the kotse is blue' WHERE id = ?", (second,))
    assert bench.rows("embeddings") == 0
    bench.meaning._texts._rescan_at = 0.0
    bench.embed(1)
    assert bench.near("automobile") == [second]


def test_a_text_that_changed_meanwhile_keeps_no_old_vector(bench: MeaningBench) -> None:
    number = bench.interaction("the kotse is red")
    wait_until(lambda: len(bench.meaning._shared.unstored) == 1, PATIENCE_S, "a vector waits for the loop")
    bench.database.execute("UPDATE interactions SET content = 'rice is ready' WHERE id = ?", (number,))
    bench.meaning.on_tick()
    assert bench.rows("embeddings") == 0


def test_a_quarantined_writer_is_not_found_by_meaning(bench: MeaningBench) -> None:
    """It comes back with the release, and is not sent before."""
    hidden = bench.interaction("the kotse is red", written_by="mallory")
    bench.fill(20)
    bench.embed(21)
    assert bench.near("automobile") == [hidden]
    bench.quarantine("mallory")
    assert bench.near("automobile") == []
    sent = bench.interaction("another kotse", written_by="mallory")
    bench.meaning._texts._rescan_at = 0.0
    bench.interaction("rice is ready")
    bench.embed(22)
    assert "another kotse" not in bench.service.texts()
    bench.database.execute("DELETE FROM quarantined")
    bench.meaning._texts._rescan_at = 0.0
    bench.embed(23)
    assert set(bench.near("automobile")) == {hidden, sent}


def test_a_text_that_is_hidden_while_others_are_sent_is_not_sent(bench: MeaningBench) -> None:
    """Nor one that was deleted, or that came before a text over which a call failed."""
    wait_until(lambda: bench.meaning._shared.ordinary, PATIENCE_S, "the model has answered")
    bench.service.refuses, bench.service.refusal = "poison", 500
    with bench.database.transaction():
        bench.interaction("an old kotse", written_by="mallory")
        deleted = bench.interaction("rice is ready")
        for number in range(15):
            bench.interaction(f"turn {number}")
            bench.interaction(f"talk {number}", written_by="mallory")
        bench.interaction("poison")
        bench.service.delay_s = 1.0
    wait_until(lambda: "poison" in bench.service.texts(), PATIENCE_S, "the first call is made")
    bench.quarantine("mallory")
    bench.database.execute("DELETE FROM interactions WHERE id = ?", (deleted,))
    bench.service.delay_s = 0.0
    bench.embed(15)
    assert not {"an old kotse", "rice is ready"} & set(bench.service.texts())


def test_what_nobody_expected_ends_no_thread(bench: MeaningBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query is answered, and both threads go on; the log has it once."""

    def fail(*_: object) -> None:
        failed.append(1)
        raise MemoryError("no memory")

    failed: list[int] = []
    bench.interaction("the kotse is red")
    bench.embed(1)
    assert bench.near("automobile") == [1]
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(vectors.Matrix, "nearness", fail)
        patch.setattr(vectors.VectorReader, "newest", fail)
        reply = bench.meaning.recall("automobile", Filters()).result(PATIENCE_S)
        assert "comparison failed" in (reply.missing or "")
        bench.interaction("rice is ready")
        wait_until(lambda: len(failed) > 3, PATIENCE_S, "the thread of the texts fails")
    assert bench.meaning.responsive
    assert [entry["event"] for entry in logs] == ["embedding_thread_failed"] * 2
    bench.embed(2)
    assert bench.near("automobile") == [1]


def test_a_model_that_raises_anything_fails_as_a_service_does(
    bench: MeaningBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the trial after failures: the next trial is still made."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    call = Call(Service(Embeddings(bench.service.url, "m")), is_query=True)
    with monkeypatch.context() as patch:
        patch.setattr(Service, "embed", fail)
        for _ in range(OPENS_AFTER):
            with pytest.raises(EmbeddingFailed, match="RuntimeError"):
                call.embed(["a"], PATIENCE_S)
        assert call.state == "open"
        call._breaker._open_until = 0.0
        with pytest.raises(EmbeddingFailed, match="RuntimeError"):
            call.embed(["a"], PATIENCE_S)
    call._breaker._open_until = 0.0
    assert len(call.embed(["a"], PATIENCE_S)) == 1


def test_a_query_that_waited_for_long_is_not_sent(bench: MeaningBench) -> None:
    """It would be late, and that says nothing of the service."""
    bench.interaction("the kotse is red")
    bench.embed(1)
    assert bench.near("automobile") == [1]
    bench.meaning.deadline_s, bench.service.delay_query_s = 4.0, 2.5
    first = bench.meaning.recall("early", Filters())
    wait_until(lambda: "early" in bench.service.texts(), PATIENCE_S, "the first query is sent")
    second = bench.meaning.recall("late", Filters())
    assert first.result(PATIENCE_S).missing is None
    assert second.result(PATIENCE_S).missing == "earlier queries kept the model busy"
    assert "late" not in bench.service.texts()
    assert "fault" not in bench.meaning.document()


def test_vectors_of_another_length_replace_the_others_once(bench: MeaningBench) -> None:
    """The service has got another model of the same name: all is compared again, without a restart."""

    def shorter(texts: Sequence[str]) -> list[list[float]]:
        return [
            [a + b for a, b in zip(statements[::2], statements[1::2], strict=True)] for statements in of_concepts(texts)
        ]

    bench.interaction("the kotse is red")
    bench.embed(1)
    assert bench.near("automobile") == [1]
    bench.service.vectors = shorter
    assert "another length" in (bench.meaning.recall("automobile", Filters()).result(PATIENCE_S).missing or "")
    bench.interaction("rice is ready")
    wait_until(lambda: len(bench.meaning._shared.ordinary[0]) == DIMENSIONS // 2, PATIENCE_S, "the length is noticed")
    bench.meaning._texts._rescan_at = 0.0

    def replaced() -> bool:
        bench.meaning.on_tick()
        lengths = bench.database.execute("SELECT length(vector) FROM embeddings").fetchall()
        return lengths == [(DIMENSIONS // 2,)] * 2

    wait_until(replaced, PATIENCE_S, "both texts have a shorter vector")
    assert bench.near("automobile") == [1]
    sent = bench.service.texts().count("the kotse is red")
    bench.meaning._texts._rescan_at = 0.0
    bench.interaction("we walked home")
    bench.embed(3)
    assert bench.service.texts().count("the kotse is red") == sent


@pytest.mark.parametrize("magnitude", [LEAST_MAGNITUDE, 1.0, MOST_MAGNITUDE])
def test_a_vector_of_any_magnitude_is_compared(magnitude: float) -> None:
    vector = [0.0, 3 / 5 * magnitude, -4 / 5 * magnitude]
    assert vectors._unit(vectors.numpy(), vector).tolist() == pytest.approx([0.0, 0.6, -0.8])
    assert vectors.packed(vector) == bytes([0, 95, 256 - 127])


def test_long_vectors_are_read_and_compared_in_smaller_parts(
    bench: MeaningBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("the kotse is red", "rice is ready", "we walked home"):
        bench.interaction(text)
    bench.embed(3)
    monkeypatch.setattr(vectors, "_AT_ONCE", 2 * DIMENSIONS)
    matrix, reader = vectors.Matrix(DIMENSIONS), vectors.VectorReader(bench.path, "concepts")
    parts: list[int] = []

    def append(part: Sequence[tuple[int, int, bytes]]) -> bool:
        parts.append(len(part))
        return vectors.Matrix._append(matrix, part)

    monkeypatch.setattr(matrix, "_append", append)
    matrix.follow(reader)
    reader.close()
    assert parts == [2, 1]
    (query,) = of_concepts(["automobile"])
    assert matrix.nearness(query, of_concepts(["a b", "c d"]), [], None, 1).nearest[0][0] == 1 * MOST


def test_a_store_that_fails_is_not_tried_on_every_tick(bench: MeaningBench) -> None:
    """What follows in a tick would never have its turn; the vectors are kept until it works."""
    bench.interaction("the kotse is red")
    wait_until(lambda: len(bench.meaning._shared.unstored) == 1, PATIENCE_S, "a vector waits for the loop")
    bench.database.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable):
        bench.meaning.on_tick()
    bench.meaning.on_tick()
    bench.database.execute("PRAGMA query_only = OFF")
    bench.meaning.on_tick()
    assert bench.rows("embeddings") == 0
    bench.meaning._store_at -= 5.0
    bench.embed(1)


def test_filters_leave_no_place_to_what_they_exclude(bench: MeaningBench) -> None:
    """However many others are nearer: the filter applies before the number of the nearest is limited."""
    wanted = bench.interaction("a red automobile", session_id="s", speaker="Ana")
    bench.memory("m", "a red automobile", keywords=("Cars",))
    with bench.database.transaction():
        for _ in range(300):
            bench.interaction("kotse", session_id="t")
    bench.fill(300)
    bench.embed(602)
    assert len(bench.near("car", -9.0)) == MOST_HITS
    assert wanted not in bench.near("car", -9.0)
    assert bench.near("car", -9.0, session_id="s") == [wanted]
    assert bench.near("car", -9.0, speakers=("ana", "Ana")) == [wanted]
    assert bench.near("car", -9.0, session_id="s", speakers=("Ben",)) == []
    assert bench.near("car", -9.0, keyword="cars") == [MEMORY_ROWS + 1]
    assert bench.near("car", -9.0, keyword="car") == []
    assert bench.near("car", -9.0, until=time.time() - 3_600) == []
    details = f'{{"occurred_at": {time.time() - 7_200}}}'
    bench.database.execute("INSERT INTO memory_details VALUES (1, 'm', 'A', 0, ?, NULL, 0)", (details,))
    assert bench.near("car", -9.0, until=time.time() - 3_600) == [MEMORY_ROWS + 1]


@pytest.mark.parametrize("refusal", [400, 500])
def test_a_text_that_the_service_refuses_holds_up_no_other(bench: MeaningBench, refusal: int) -> None:
    """Nor do several of them, whether or not the status says that it is because of the text."""
    bench.service.refuses, bench.service.refusal = "poison", refusal
    with bench.database.transaction():
        for text in ("one", "two", "poison", "another poison", "poison again", "last poison"):
            bench.interaction(text)
    bench.embed(2)
    wait_until(lambda: bench.meaning.document()["refused"] == 4, PATIENCE_S, "the others are refused")
    assert bench.meaning.document()["text_state"] == "closed"
    bench.interaction("poison alone")
    wait_until(lambda: bench.meaning.document()["refused"] == 5, PATIENCE_S, "a single one is refused")


def test_no_text_is_refused_while_the_service_is_down(bench: MeaningBench) -> None:
    """And none that it refuses keeps it from coming back."""
    bench.embed(0)
    wait_until(lambda: bench.meaning._shared.ordinary, PATIENCE_S, "the model has answered")
    bench.service.refuses, bench.service.refusal, bench.service.status = "poison", 500, 500
    with bench.database.transaction():
        for text in ("one", "two", "poison"):
            bench.interaction(text)
    wait_until(lambda: bench.meaning.document()["text_state"] == "open", PATIENCE_S, "the circuit breaker is open")
    assert bench.meaning.document()["refused"] == 0
    bench.service.status = 200
    bench.embed(2)


def test_vectors_of_whole_texts_are_made_again(tmp_path: Path) -> None:
    """Those of a database of the version before."""
    with EmbeddingService() as service:
        older = open_database(tmp_path / "memory.sqlite3", migrations_before(index_tables.PASSAGES_MIGRATION))
        older.execute(
            "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, "
            "tier, written_by) VALUES ('s', '', 'code', 'the kotse is red', x'7b7d', 0.5, 1.0, 0.0, 0, 'A')"
        )
        older.execute("INSERT INTO embeddings (row, model, vector) VALUES (1, 'concepts', x'01')")
        older.close()
        bench = MeaningBench(tmp_path / "memory.sqlite3", service)
        bench.embed(1)
        assert bench.database.execute("SELECT row FROM embeddings").fetchall() == [(MOST,)]
        assert bench.near("automobile") == [1]
        bench.meaning.stop()
        bench.database.close()


def matrix_of(texts: dict[int, str]) -> vectors.Matrix:
    """Return a matrix of passages, by number."""
    matrix = vectors.Matrix(DIMENSIONS)
    made = zip(texts, of_concepts(list(texts.values())), strict=True)
    matrix._append([(place, row, vectors.packed(vector) or b"") for place, (row, vector) in enumerate(made, 1)])
    matrix._arrange()
    return matrix


def test_few_texts_are_compared_with_ordinary_sentences() -> None:
    """The only text is near to a query with its words, and not near to any other."""
    matrix = matrix_of({MOST: "red car"})
    (right, other), ordinary = of_concepts(["automobile", "rice"]), of_concepts(["a b", "c d", "e f"])
    near, far = (matrix.nearness(query, ordinary, [], None, 10) for query in (right, other))
    assert near.nearest[0][1] > 1.5 * near.spread
    assert far.nearest[0][1] < 0.5 * far.spread


@pytest.mark.parametrize("vector", [[], [0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0]])
def test_a_vector_without_a_direction_is_not_stored(vector: list[float]) -> None:
    assert vectors.packed(vector) is None


def test_a_nearness_is_the_cosine_less_the_mean_over_all() -> None:
    """Also of passages that are not among the nearest; without those of hidden texts in the mean."""
    texts = {3 * MOST: "red car", MOST + 1: "the automobile", MOST: "rice and fish", 2 * MOST: "a kotse"}
    ordinary = of_concepts(["a b", "c d", "e f"])
    matrix, (query,) = matrix_of(texts), of_concepts(["car"])
    np = matrix._np
    unit = [vectors._unit(np, vector) for vector in of_concepts(list(texts.values()))]
    asked = vectors._unit(np, query)
    cosines = {number: float(vector @ asked) for number, vector in zip(texts, unit, strict=True)}
    others = [float(vectors._unit(np, vector) @ asked) for vector in ordinary]
    counted = [cosine for number, cosine in cosines.items() if number != 2 * MOST] + others
    found = matrix.nearness(query, ordinary, hidden=[2], only=[1, 2], most=1)
    centred = {number: cosine - float(np.mean(counted)) for number, cosine in cosines.items()}
    assert found
    assert dict(found.nearest) == pytest.approx({MOST + 1: centred[MOST + 1]}, abs=0.005)
    assert found.of([*texts, 0, MOST + 2, 9 * MOST]) == pytest.approx(centred, abs=0.005)
    assert found.spread == pytest.approx(float(np.std(counted)), abs=0.005)
    best = found.of_texts([9, 3, 1, 2, 0])
    assert {row: number for row, (number, _) in best.items()} == {1: MOST + 1, 2: 2 * MOST, 3: 3 * MOST}
    assert all(near == found.of([number])[number] for number, near in best.values())
    assert (found.of([]), found.of_texts([]), found.of_texts([7])) == ({}, {}, {})


def by_words(bench: MeaningBench, query: str) -> list[int | str]:
    bench.serve(SearchBench.make(bench))
    return bench.ids(query)


def test_a_writers_texts_beyond_its_share_get_no_vectors(bench: MeaningBench) -> None:
    """They are found by their words, other writers' get theirs, and what is deleted makes room for others."""
    memory, budget = bench.meaning.memory, Budget(vector_bytes=2 * (DIMENSIONS + BESIDE_BYTES))
    callers = {name: Caller(name, "pc2", frozenset({"agent"}), name) for name in "AB"}
    usage = Usage(Budgets(lambda: BudgetTable(budget)), callers.get)
    usage.register("vector_bytes", memory.held)
    first = bench.interaction("the kotse is red", written_by="B")
    bench.interaction("rice is ready", written_by="B")
    bench.embed(2)
    memory.full = usage.exhausted("vector_bytes")
    assert memory.full == {"B"}
    assert "B has used up its budget vector_bytes" in bench.meaning.warnings()[0]
    beyond = bench.interaction("her physician lives in Cebu", written_by="B")
    bench.interaction("we walked home", written_by="A")
    bench.embed(3)
    assert "her physician lives in Cebu" not in bench.service.texts()
    assert by_words(bench, "physician Cebu") == [beyond]
    bench.database.execute("DELETE FROM interactions WHERE id = ?", (first,))
    bench.meaning._texts._rescan_at = 0.0
    wait_until(lambda: not usage.exhausted("vector_bytes"), PATIENCE_S, "the deleted text's vector counts no more")
    memory.full = usage.exhausted("vector_bytes")
    bench.meaning._texts._rescan_at = 0.0
    bench.embed(3)
    assert bench.near("doctor") == [beyond]
    assert bench.meaning.warnings() == []


def test_all_vectors_take_a_part_of_the_memory(bench: MeaningBench) -> None:
    """Those of all databases together: where there is no room, texts are found by words alone, and get no vectors."""
    memory = bench.meaning.memory
    memory._most = 2_000 * (DIMENSIONS + BESIDE_BYTES)
    bench.interaction("the kotse is red")
    bench.embed(1)
    assert bench.near("automobile") == [1]
    other, reader = vectors.Matrix(DIMENSIONS, memory), vectors.VectorReader(bench.path, "concepts")
    other.follow(reader)
    assert other._count == 0
    assert memory.crowded
    assert "found by words alone" in bench.meaning.warnings()[0]
    beyond = bench.interaction("her physician lives in Cebu")
    texts = bench.meaning._texts
    wait_until(lambda: texts._newest[0] == beyond and not texts._firsts, PATIENCE_S, "the text has had its turn")
    assert "her physician lives in Cebu" not in bench.service.texts()
    assert by_words(bench, "physician Cebu") == [beyond]
    del other
    assert not memory.crowded
    bench.meaning._texts._rescan_at = 0.0
    bench.embed(2)
    other = vectors.Matrix(DIMENSIONS, memory)
    memory._most *= 2
    other.follow(reader)
    reader.close()
    assert (other._count, memory.crowded) == (2, False)


def test_a_share_of_vectors_takes_less_than_64_mb() -> None:
    """As many as the shipped budget allows, of the builtin model; while they are read, too."""
    dimensions, part = 384, 1_000
    matrix = vectors.Matrix(dimensions)
    tracemalloc.start()
    try:
        for first in range(1, Budget().vector_bytes // (dimensions + BESIDE_BYTES), part):
            matrix._append([(number, number * MOST, bytes(dimensions)) for number in range(first, first + part)])
        matrix._arrange()
        matrix.nearness([1.0] * dimensions, [[1.0] * dimensions], [], None, MOST_HITS)
        most_mb = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert matrix._count > 100_000
    assert most_mb < 64


def test_of_equal_passages_the_first_stands_for_its_text() -> None:
    matrix = matrix_of({MOST + place: "red car" for place in (2, 0, 1)})
    found = matrix.nearness(of_concepts(["car"])[0], of_concepts(["a b"]), [], None, 1)
    assert found.of_texts([1])[1][0] == MOST


def test_without_vectors_there_is_no_meaning() -> None:
    for nothing in (
        Nearness(),
        vectors.Matrix(DIMENSIONS).nearness(of_concepts(["car"])[0], of_concepts(["a b"]), [], None, 1),
    ):
        assert not nothing
        assert (nothing.of([MOST]), nothing.of_texts([1]), list(nothing.nearest)) == ({}, {}, [])


def test_a_text_whose_rest_is_refused_is_sent_once(bench: MeaningBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if so many were refused that no more are noted."""
    monkeypatch.setattr(meaning_module, "_MOST_REFUSED", 0)
    bench.service.refuses = "poison"
    bench.interaction(f"{story('of Ana')} poison")
    bench.interaction("rice is ready")
    bench.embed(2)
    wait_until(lambda: any("poison" in text for text in bench.service.texts()), PATIENCE_S, "the rest is sent")
    time.sleep(3 * meaning_module._POLL_S)
    assert sum("poison" in text for text in bench.service.texts()) <= 3
