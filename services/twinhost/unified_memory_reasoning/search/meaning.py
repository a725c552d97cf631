"""Search by meaning: the vectors of stored texts are made in the background, and those of queries beside the loop.

One thread makes the vectors of passages that have none, and pauses while queries wait: those of the first passages of
all texts, the newest first, each writer's in turn, and then the others, as long as there is room for them in memory
(see `vector_memory`). The loop stores them. Another makes the vector of a query and compares it with all. The loop
never waits for them: the reply to a search is completed when the comparison is there, or at its deadline by the words
alone.
"""

import queue
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import structlog
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from twinhost.moments import Clock
from twinhost.network_config.model import Embeddings
from twinhost.secure_zmq.actions import Completed
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.embedding import (
    Call,
    Embedder,
    EmbeddingFailed,
    Failures,
    Vector,
    embedder_of,
)
from twinhost.unified_memory_reasoning.search.filters import Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.passages import MOST, passages_of
from twinhost.unified_memory_reasoning.search.vector_memory import BESIDE_BYTES, VectorMemory
from twinhost.unified_memory_reasoning.search.vectors import (
    FIRST,
    Embedded,
    Matrix,
    Nearness,
    StoredVectors,
    TextSource,
    UnembeddedText,
    VectorReader,
    numpy,
    packed,
)
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)
T = TypeVar("T")

MOST_HITS = 100  # passages that are nearest to a query
MOST_WAITING = 256  # queries
MAX_CHARACTERS = 2_000  # of a passage; the last one of a very long text has all the rest of it
_REST = 16  # passages after the first ones, of a text in its turn
_TEXTS_S = 30.0  # for the vectors of some passages
MOST_UNSTORED = 64  # texts whose vectors wait for the loop
_POLL_S = 0.5
_MOST_PAUSE_S = 1.0  # of the texts' thread before a call, while queries wait
_COUNT_S = 1.0  # between two looks at how many there are
_RESCAN_S = 60.0  # then older texts are looked at again: changed ones, and those of a released writer
_RETRY_S = 5.0  # after vectors could not be stored
_STORED_POLL_S = 0.05
_NOTHING = (0, MEMORY_ROWS)
_MOST_REFUSED = 10_000  # texts that the service refuses; each is tried again after a restart

# Everyday sentences that a query has nothing to do with, so that few stored texts have a mean to be compared with.
_ORDINARY = (
    "The weather was warm and a little windy.", "Please open the window before you leave.",
    "She bought bread and milk at the corner store.", "The bus was late again this morning.",
    "We watched a film about two brothers.", "His new shoes are too tight.", "The meeting starts after lunch.",
    "I forgot where I put my keys.", "The error disappears after a restart.", "Turn left at the second light.",
    "Thank you, that was very kind of you.", "The test failed because of a missing file.",
    "Umuulan na naman sa labas.", "Kumain na ba kayo ng tanghalian?", "Ang ganda ng tanawin mula sa bundok.",
    "Hindi ko pa natatapos ang trabaho ko.", "Pakisara ang pinto paglabas mo.", "May pasok ba bukas ang mga bata?",
    "Masarap ang luto ni Lola kahapon.", "Nawala ang signal sa gitna ng tawag.",
)  # fmt: skip


_OTHER_LENGTH = "the model's vectors have another length than before; all texts are embedded again"

Channels = list[Literal["words", "meaning"]]  # that a search went by


class Recalled(NamedTuple):
    """What is near to a query's meaning, or why that is not known."""

    nearness: Nearness = Nearness()
    missing: str | None = None
    asked: bool = True  # False: embeddings are off

    @property
    def channels(self) -> Channels:
        """What the search goes by."""
        return ["words", "meaning"] if self.asked and self.missing is None else ["words"]


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass(slots=True, eq=False)
class Shared:
    """What both threads and the loop read; each field but the events is written by one thread."""

    memory: VectorMemory  # that of all databases
    ordinary: Sequence[Vector] = ()  # vectors, once the model has answered
    doubted: threading.Event = field(default_factory=threading.Event)  # a call failed, or vectors changed their length
    quiet: threading.Event = field(default_factory=_set_event)  # no query waits
    embedded: int = 0
    texts: int = 0
    held: Mapping[str, int] = field(default_factory=dict)  # bytes of each writer's vectors
    unstored: "deque[Embedded]" = field(default_factory=deque)
    refused: set[int] = field(default_factory=set)


class Query(NamedTuple):
    text: str
    filters: Filters
    until: float  # monotonic
    answer: "Future[Recalled]"


class Queries(Worker):
    """Makes the vectors of queries, and compares them with those of the texts."""

    def __init__(self, path: Path, model: str, call: Call, shared: Shared, clock: Clock) -> None:
        super().__init__("embed-queries", self._work, join_timeout_s=2.0)
        self._path, self._model = path, model
        self._call, self._shared, self._clock = call, shared, clock
        self._failures = Failures()
        self._took_s = 0.0  # the last answer; a tenth less after each query that is not sent
        self._waiting: queue.Queue[Query | None] = queue.Queue(MOST_WAITING)

    def ask(self, query: Query) -> None:
        """Have a query answered; from any thread.

        Raises:
            queue.Full: too many wait.
        """
        self._waiting.put_nowait(query)
        self._shared.quiet.clear()

    def _interrupt(self) -> None:
        try:
            self._waiting.put_nowait(None)
        except queue.Full:  # the thread sees the stop request after the next one
            return

    def _work(self) -> None:
        reader, matrix = VectorReader(self._path, self._model), None
        try:
            while not self.stopping:
                queries = self._next()
                try:
                    ordinary = self._shared.ordinary
                    if ordinary and (matrix is None or matrix.dimensions != len(ordinary[0])):
                        matrix = Matrix(len(ordinary[0]), self._shared.memory)
                    if queries:
                        self._answer(queries, matrix, ordinary, reader)
                    elif matrix is not None:
                        matrix.follow(reader)  # so that a query finds most of it read
                except Exception as error:  # noqa: BLE001 - boundary: the agent ends with this thread
                    self._failures.log(error)
                    matrix = None  # it may be half changed
                    _fail(queries, "the comparison failed; the agent's log says why")
                    self.wait(_POLL_S)
        finally:
            reader.close()

    def _next(self) -> list[Query]:
        """Wait for queries; return as many as one call should have, none after a while."""
        queries: list[Query] = []
        if self._waiting.empty():
            self._shared.quiet.set()
        try:
            query = self._waiting.get(timeout=_POLL_S)
            while query is not None:
                queries.append(query)
                query = self._waiting.get_nowait() if len(queries) < self._call.batch else None
        except queue.Empty:
            pass
        return queries

    def _answer(
        self, queries: Sequence[Query], matrix: Matrix | None, ordinary: Sequence[Vector], reader: VectorReader
    ) -> None:
        if matrix is None:
            _fail(queries, "the model has not answered yet")
            return
        began = self._clock.monotonic()
        timely = [query for query in queries if self._is_timely(query)]
        if not timely:
            return
        try:
            vectors = self._call.embed([query.text for query in timely], max(query.until for query in timely) - began)
        except EmbeddingFailed as error:
            if not error.refused or len(timely) == 1:
                _fail(timely, str(error))
            else:
                for query in timely:  # one that is refused takes no vector from the others
                    self._answer([query], matrix, ordinary, reader)
            return
        for query, vector in zip(timely, vectors, strict=True):
            query.answer.set_result(self._compare(query, vector, matrix, ordinary, reader))
        self._took_s = self._clock.monotonic() - began

    def _is_timely(self, query: Query) -> bool:
        """Return whether a call would be answered in time; one that is late would say nothing of the service."""
        if query.until - self._clock.monotonic() > self._took_s:
            return True
        self._took_s *= 0.9
        _fail([query], "earlier queries kept the model busy")
        return False

    def _compare(
        self, query: Query, vector: Vector, matrix: Matrix, ordinary: Sequence[Vector], reader: VectorReader
    ) -> Recalled:
        if len(vector) != matrix.dimensions:
            self._shared.doubted.set()
            return Recalled(missing=_OTHER_LENGTH)
        try:
            matrix.follow(reader)
            only = reader.filtered(query.filters)
            return Recalled(matrix.nearness(vector, ordinary, reader.hidden(query.filters), only, MOST_HITS))
        except sqlite3.Error as error:
            return Recalled(missing=f"the store can't be read ({error})")


def _fail(queries: Sequence[Query], why: str) -> None:
    for query in queries:
        if not query.answer.done():
            query.answer.set_result(Recalled(missing=why))


Find = Callable[[TextSource, int, int, int], UnembeddedText | None]  # see `VectorReader.next_without`


class Turns:
    """Whose text is next: each writer's interactions and memories have their turn, with the newest text that is left.

    So a writer of many long texts holds up those of the others for one text each.
    """

    def __init__(self, passages: int) -> None:
        self._passages = passages  # of a text, the first ones, that should have a vector
        # The next source first; of a source, the next of the rows between these last.
        self._unseen: dict[TextSource, list[tuple[int, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._unseen)

    def add(self, source: TextSource, after: int, before: int) -> None:
        """Have the rows between these looked at, before the others of that source."""
        self._unseen.setdefault(source, []).append((after, before))

    def clear(self) -> None:
        """Forget all rows."""
        self._unseen.clear()

    def take(self, find: Find) -> UnembeddedText | None:
        """Return the next text, which is not looked at again unless it is added; None if there is none."""
        while self._unseen:
            source = next(iter(self._unseen))
            unseen = self._unseen.pop(source)
            while unseen:
                after, before = unseen.pop()
                if (text := find(source, after, before, self._passages)) is not None:
                    self._unseen[source] = [*unseen, (after, text.row)]
                    return text
        return None


class Texts(Worker):
    """Makes the vectors of stored texts that lack some: of the first passages of all, and then of the others."""

    def __init__(self, path: Path, model: str, call: Call, shared: Shared, clock: Clock) -> None:
        super().__init__("embed-texts", self._work, join_timeout_s=2.0)
        self._path, self._model = path, model
        self._call, self._shared, self._clock = call, shared, clock
        self._failures = Failures()
        self._firsts, self._rests = Turns(FIRST), Turns(MOST)
        self._newest = _NOTHING  # the rows up to which all have been looked at, or will be
        self._rescan_at = self._count_at = 0.0  # monotonic
        self._version = self._counted = -1
        self._singly = 0  # so many of the next calls are for one text each

    def _interrupt(self) -> None:
        self._shared.quiet.set()

    def _work(self) -> None:
        reader = VectorReader(self._path, self._model)
        try:
            while not self.wait(_POLL_S):
                if self._call.state == "open":
                    continue
                try:
                    self._embed_waiting(reader)
                except EmbeddingFailed:  # has been logged; the breaker says when the next call is made
                    self._rescan_at = 0.0
                    self._shared.doubted.set()
                except Exception as error:  # noqa: BLE001 - boundary: the agent ends with this thread
                    self._rescan_at = 0.0
                    self._failures.log(error)
        finally:
            reader.close()

    def _embed_waiting(self, reader: VectorReader) -> None:
        if self._shared.doubted.is_set() or not self._shared.ordinary:
            self._shared.doubted.clear()
            self._shared.ordinary = self._call.embed(_ORDINARY, _TEXTS_S)  # which no service refuses
        # Each call's texts are read just before it: some may be hidden, changed or deleted meanwhile.
        while not self.stopping:
            self._look(reader)
            if texts := self._next_firsts(reader):
                self._embed(texts, FIRST)
            elif (text := self._next_rest(reader)) is not None:
                self._embed([text], text.embedded + _REST, reader)
                if text.made and text.embedded + len(text.made) < len(text.passages):
                    self._rests.add(*text.place)
            else:
                return

    def _look(self, reader: VectorReader) -> None:
        """Look for texts that are new since the last call; at all texts, if that was long ago."""
        version, now = reader.version(), self._clock.monotonic()
        if version != self._counted and now >= self._count_at:
            self._count_at, self._counted = now + _COUNT_S, version
            self._shared.embedded, self._shared.texts = reader.counts()
        if now >= self._rescan_at:
            self._newest, self._rescan_at = _NOTHING, now + _RESCAN_S
            self._shared.held = reader.held()
            self._firsts.clear()
            self._rests.clear()
        elif version == self._version:
            return
        newest = reader.newest()
        for source in reader.sources(self._newest):
            for turns in (self._firsts, self._rests):
                turns.add(source, self._newest[source.is_memory], newest[source.is_memory] + 1)
        self._newest, self._version = newest, version

    @property
    def _dimensions(self) -> int:
        return len(self._shared.ordinary[0])

    def _next_firsts(self, reader: VectorReader) -> list["_Text"]:
        """Return texts whose first passages are next, as many as one call should have."""
        texts: list[_Text] = []
        skipped = self._unstored() | self._shared.refused
        most = 1 if self._singly else self._call.batch
        while not texts or sum(len(text.passages[:FIRST]) for text in texts) + FIRST <= most:
            if (text := self._next(self._firsts, reader, skipped)) is None:
                break
            texts.append(text)
        self._singly = max(0, self._singly - len(texts))
        return texts

    def _next_rest(self, reader: VectorReader) -> "_Text | None":
        """Return the text whose other passages are next; None also if vectors of it wait for the loop."""
        text = self._next(self._rests, reader, self._shared.refused)
        if text is not None and text.row in self._unstored():
            self._rests.add(*text.place)
            return None
        return text

    def _next(self, turns: Turns, reader: VectorReader, skipped: Set[int]) -> "_Text | None":
        memory = self._shared.memory

        def find(source: TextSource, after: int, before: int, passages: int) -> UnembeddedText | None:
            if memory.crowded or source.writer in memory.full:
                return None  # until all texts are looked at again
            return reader.next_without(source, self._dimensions, after, before, passages)

        while (text := turns.take(find)) is not None:
            if text.row not in skipped and text.content.strip():
                return _Text(text)
        return None

    def _unstored(self) -> set[int]:
        return {text.row for text in self._shared.unstored.copy()}

    def _embed(self, texts: Sequence["_Text"], upto: int, reader: VectorReader | None = None) -> None:
        """Embed passages of some texts; if the model refuses them together, each has a turn alone.

        Args:
            texts: as many as one call should have.
            upto: the place in its text that no passage has reached.
            reader: of other texts, for whose first passages these wait; None: they don't wait.
        """
        wanted = [(text, passage) for text in texts for passage in text.passages[text.embedded : upto]]
        for start in range(0, len(wanted), self._call.batch):
            if self.stopping or (start and reader is not None and self._others_wait(reader)):
                break
            part = wanted[start : start + self._call.batch]
            vectors = self._vectors([passage for _, passage in part])
            if vectors is None and len(texts) > 1:
                self._singly = len(texts)
                for text in texts:
                    self._firsts.add(*text.place)
                return
            if vectors is None:
                self._refuse(texts[0].row)
                break
            for (text, _), vector in zip(part, vectors, strict=True):
                text.made.append(vector)
        self._hand_over(texts)

    def _refuse(self, row: int) -> None:
        if len(self._shared.refused) < _MOST_REFUSED:
            self._shared.refused.add(row)

    def _hand_over(self, texts: Sequence["_Text"]) -> None:
        """Give vectors to the loop, which stores them; wait while it has many."""
        self._shared.unstored.extend(
            Embedded(text.row, text.content, len(text.passages), text.embedded, text.made)
            for text in texts
            if text.made
        )
        held = Counter(self._shared.held)
        for text in texts:
            held[text.place[0].writer] += len(text.made) * (self._dimensions + BESIDE_BYTES)
        self._shared.held = held
        while len(self._shared.unstored) >= MOST_UNSTORED and not self.wait(_STORED_POLL_S):
            pass

    def _others_wait(self, reader: VectorReader) -> bool:
        self._look(reader)
        return bool(self._firsts)

    def _vectors(self, passages: Sequence[str]) -> list[bytes] | None:
        """Return the vectors of some passages, once no query waits; None if the model has none of one of them."""
        self._shared.quiet.wait(_MOST_PAUSE_S)
        try:
            made = self._call.embed(passages, _TEXTS_S)
        except EmbeddingFailed as error:
            if not error.refused:
                self._call.embed(_ORDINARY[:1], _TEXTS_S)
            return None
        if len(made[0]) != self._dimensions:
            _log.warning("embedding_length_changed", before=self._dimensions, now=len(made[0]))
            raise EmbeddingFailed(_OTHER_LENGTH)
        vectors = [vector for vector in map(packed, made) if vector is not None]
        return vectors if len(vectors) == len(made) else None


class _Text:
    """A text whose turn it is, and the vectors that were made in it."""

    def __init__(self, text: UnembeddedText) -> None:
        self.row, self.content, self.embedded = text.row, text.content, text.embedded
        self.place = text.source, text.row - 1, text.row + 1  # in the order of turns
        self.made: list[bytes] = []
        bare = text.content.replace("\0", " ")  # a NUL would end the text
        self.passages = [bare[begins:ends][:MAX_CHARACTERS] for begins, ends in passages_of(bare)]


class MeaningDocument(TypedDict):
    """The search by meaning: the model, how many texts are `embedded`, and whether calls are made now.

    A text counts as embedded once its first three passages have vectors, or all if it has fewer.
    `state` is that of the circuit breaker of queries, and `text_state` that of stored texts; `half-open`: the next call
    is a trial. `refused` counts texts that the service refuses. `fault` is why the last call failed, if it did.
    """

    model: str
    state: Literal["closed", "open", "half-open"]
    text_state: Literal["closed", "open", "half-open"]
    embedded: int
    texts: int
    refused: int
    fault: NotRequired[str]


class Meaning:
    """Finds texts by the meaning of a query; a companion of the server."""

    def __init__(
        self, database: Database, settings: Embeddings, embedder: Embedder, memory: VectorMemory | None = None
    ) -> None:
        """Prepare the threads; `start()` runs them."""
        self._database = database
        self._settings, self._embedder = settings, embedder
        self.deadline_s = settings.deadline_s
        self.model = f"{settings.model} {settings.text_prefix}".strip()  # with another prefix, vectors are others
        self.memory = memory or VectorMemory()
        self._shared = Shared(self.memory)
        self._store_at = 0.0  # monotonic
        self._stored = StoredVectors(database, self.model)
        self._clock = database.clock
        self._of_queries, self._of_texts = (Call(embedder, is_query=of, clock=self._clock) for of in (True, False))
        self._queries = Queries(database.path, self.model, self._of_queries, self._shared, self._clock)
        self._texts = Texts(database.path, self.model, self._of_texts, self._shared, self._clock)

    def start(self) -> None:
        self.memory.databases.add(self._shared)
        self._queries.start()
        self._texts.start()

    def beside(self, database: Database) -> "Meaning":
        """Return the search by meaning in another database, with the same model and threads of its own."""
        other = Meaning(database, self._settings, self._embedder, self.memory)
        other._shared.ordinary = self._shared.ordinary  # if it is known by now
        return other

    def request_stop(self) -> None:
        """Have the threads end soon."""
        self.memory.databases.discard(self._shared)
        self._queries.request_stop()
        self._texts.request_stop()

    def stop(self) -> None:
        self.request_stop()
        self._queries.join()
        self._texts.join()

    @property
    def responsive(self) -> bool:
        return self._queries.alive and self._texts.alive

    def on_tick(self) -> None:
        """Store the vectors that have been made; on the thread that owns the database.

        Raises:
            StoreUnavailable: they are not on disk yet; a call in 5 s or later tries again.
        """
        if self._clock.monotonic() < self._store_at:
            return
        unstored = self._shared.unstored
        some = [unstored[place] for place in range(min(len(unstored), MOST_UNSTORED))]
        if some:
            self._store_at = (
                self._clock.monotonic() + _RETRY_S
            )  # if it fails: what follows in a tick must have its turn
            with self._database.transaction():
                self._stored.add(some)
            self._store_at = 0.0
            for _ in some:
                unstored.popleft()

    def document(self) -> MeaningDocument:
        """Return how far the vectors are, and the state of the calls."""
        document: MeaningDocument = {
            "model": self.model,
            "state": self._of_queries.state,
            "text_state": self._of_texts.state,
            "embedded": self._shared.embedded,
            "texts": self._shared.texts,
            "refused": len(self._shared.refused),
        }
        if (fault := self._of_queries.fault or self._of_texts.fault) is not None:
            document["fault"] = fault
        return document

    def warnings(self) -> list[str]:
        """Return what an operator should know: that calls fail, and that vectors have no room."""
        return self.memory.warnings() + [
            f"{what}: {call.fault} ({call.state} circuit breaker); check recall.embeddings, and what it names"
            for what, call in (
                ("searches are by words alone", self._of_queries),
                ("stored texts get no vectors", self._of_texts),
            )
            if call.fault is not None and call.state != "closed"
        ]

    def recall(self, query: str, filters: Filters) -> "Future[Recalled]":
        """Return what will be near to a query; at once where no call can be made."""
        answer: Future[Recalled] = Future()
        if self._of_queries.state == "open":
            answer.set_result(Recalled(missing=f"the model is not called after failures: {self._of_queries.fault}"))
            return answer
        until = self._clock.monotonic() + self.deadline_s
        try:
            filters = replace(filters, as_of=filters.time(self._clock))
            self._queries.ask(Query(query, filters, until, answer))
        except queue.Full:
            answer.set_result(Recalled(missing=f"{MOST_WAITING} queries wait for the model"))
        return answer

    def complete(self, recalled: Recalled | None) -> Recalled:
        """Return what was found of what is still stored; on the thread that owns the database, also without it."""
        if recalled is None:
            return Recalled(missing=f"the model did not answer within {self.deadline_s:.1f} s")
        nearest = recalled.nearness.nearest
        stored = self._stored.of([passage for passage, _ in nearest])
        return recalled._replace(
            nearness=replace(recalled.nearness, nearest=[near for near in nearest if near[0] in stored])
        )


def with_meaning(
    meaning: Meaning | None, query: str, filters: Filters, reply: Callable[[Recalled], T]
) -> "T | Future[T]":
    """Return the reply to a query, now or later; `reply` makes it, on the server's loop, of what is near in meaning."""
    if meaning is None:
        return reply(Recalled(asked=False))
    answer = meaning.recall(query, filters)
    if answer.done():
        return reply(meaning.complete(answer.result()))
    return Completed(answer, lambda part: reply(meaning.complete(part)), meaning.deadline_s)


def meaning_of(settings: Embeddings | None, database: Database) -> tuple[Meaning | None, str | None]:
    """Return the search by meaning that the configuration names, or why there is none.

    Raises:
        ConfigurationError: what it needs is not installed, or a file can't be read; not if the settings are optional.
    """
    if settings is None:
        return None, "recall.embeddings is off"
    try:
        numpy()
        return Meaning(database, settings, embedder_of(settings, database.clock)), None
    except ConfigurationError as error:
        if not settings.optional:
            raise
        return None, str(error)


def meaning_metrics(document: MeaningDocument) -> Iterator[Metric]:
    """Yield the metrics of the search by meaning."""
    for name, text, value in (
        ("texts", "Stored texts.", document["texts"]),
        ("embedded", "Stored texts whose first passages have vectors of the model.", document["embedded"]),
        ("refused", "Stored texts that the embedding service refuses.", document["refused"]),
    ):
        yield GaugeMetricFamily(f"twinhost_meaning_{name}", text, value)
    closed = GaugeMetricFamily(
        "twinhost_meaning_calls_ok", "1 if the circuit breaker of these calls is closed, else 0.", labels=["of"]
    )
    closed.add_metric(["queries"], float(document["state"] == "closed"))
    closed.add_metric(["texts"], float(document["text_state"] == "closed"))
    yield closed
    yield InfoMetricFamily("twinhost_meaning", "The model of the search by meaning.", {"model": document["model"]})
