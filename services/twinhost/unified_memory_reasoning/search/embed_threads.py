"""The threads that call the embedding service or the builtin model, for stored texts and for queries."""

import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from twinhost.unified_memory_reasoning.search.embedding import Breaker, Embedder, EmbeddingFailed, State, Vector
from twinhost.unified_memory_reasoning.search.index import Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.vectors import (
    NOTHING_NEAR,
    Embedded,
    Matrix,
    Nearness,
    UnembeddedText,
    VectorReader,
    packed,
)
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

MOST_HITS = 200  # texts that are nearest to a query
MOST_WAITING = 64  # queries
_TEXTS_S = 30.0  # for the vectors of some texts
_BATCH_CHARACTERS = 8_000  # of the texts in one call
MOST_UNSTORED = 256  # vectors that wait for the loop
_POLL_S = 0.5
_COUNT_S = 1.0  # between two looks at how many there are
_RESCAN_S = 60.0  # then older texts are looked at again: changed ones, and those of a released writer
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
    """What is near to a query's meaning: by row, how near. Or why that is not known."""

    nearness: Nearness
    missing: str | None = None
    asked: bool = True  # False: embeddings are off

    @property
    def channels(self) -> Channels:
        """What the search goes by."""
        return ["words", "meaning"] if self.asked and self.missing is None else ["words"]


@dataclass(slots=True)
class Shared:
    """What both threads and the loop read; each field but `doubted` is written by one thread."""

    ordinary: Sequence[Vector] = ()  # vectors, once the model has answered
    doubted: threading.Event = field(default_factory=threading.Event)  # a call failed, or vectors changed their length
    embedded: int = 0
    texts: int = 0
    unstored: "deque[Embedded]" = field(default_factory=deque)
    refused: set[int] = field(default_factory=set)


class _Failures:
    """Logs what nobody expected of a thread, or that the store can't be read: each kind once, with its trace."""

    def __init__(self) -> None:
        self._logged: set[type[Exception]] = set()

    def log(self, error: Exception) -> None:
        if type(error) not in self._logged:
            self._logged.add(type(error))
            _log.error("embedding_thread_failed", reason=str(error), exc_info=error)


class Call:
    """Calls an embedder through a circuit breaker."""

    def __init__(self, embedder: Embedder, *, is_query: bool) -> None:
        self._embedder = embedder
        self._is_query = is_query
        self._breaker = Breaker()
        self._has_worked = False
        self._failures = _Failures()
        self.batch = embedder.batch
        self.fault: str | None = None

    @property
    def state(self) -> State:
        return self._breaker.state

    def embed(self, texts: Sequence[str], within_s: float) -> Sequence[Vector]:
        """Return the vectors.

        Raises:
            EmbeddingFailed: there are none, or no call is made because of earlier failures.
        """
        if not self._breaker.allows():
            raise EmbeddingFailed(f"no call is made for a while after failures; the last one: {self.fault}")
        try:
            vectors = self._embedder.embed(texts, is_query=self._is_query, within_s=within_s)
        except EmbeddingFailed as error:
            if error.refused and self._has_worked:
                self._breaker.succeeded()
            else:
                self.fault = str(error)
                self._breaker.failed()
                _log.warning("embedding_failed", reason=self.fault, queries=self._is_query, breaker=self.state)
            raise
        except Exception as error:
            self.fault = f"the model failed ({type(error).__name__}); the agent's log says why"
            self._breaker.failed()
            self._failures.log(error)
            raise EmbeddingFailed(self.fault) from error
        self._breaker.succeeded()
        self._has_worked, self.fault = True, None
        return vectors


class Query(NamedTuple):
    text: str
    filters: Filters
    until: float  # monotonic
    send_until: float  # later, a call would hardly be answered in time
    found: "Future[Recalled]"


class Queries(Worker):
    """Makes the vectors of queries, and compares them with those of the texts."""

    def __init__(self, path: Path, model: str, call: Call, shared: Shared) -> None:
        super().__init__("embed-queries", self._work, join_timeout_s=2.0)
        self._path, self._model = path, model
        self._call, self._shared = call, shared
        self._failures = _Failures()
        self.waiting: queue.Queue[Query | None] = queue.Queue(MOST_WAITING)

    def _interrupt(self) -> None:
        try:
            self.waiting.put_nowait(None)
        except queue.Full:  # the thread sees the stop request after the next one
            return

    def _work(self) -> None:
        reader, matrix = VectorReader(self._path, self._model), None
        try:
            while not self.stopping:
                try:
                    query = self.waiting.get(timeout=_POLL_S)
                except queue.Empty:
                    query = None
                try:
                    ordinary = self._shared.ordinary
                    if ordinary and (matrix is None or matrix.dimensions != len(ordinary[0])):
                        matrix = Matrix(len(ordinary[0]))
                    if query is not None:
                        query.found.set_result(self._find(query, matrix, ordinary, reader))
                    elif matrix is not None:
                        matrix.follow(reader)  # so that a query finds most of it read
                except Exception as error:  # noqa: BLE001 - boundary: the agent ends with this thread
                    self._failures.log(error)
                    matrix = None  # it may be half changed
                    if query is not None and not query.found.done():
                        query.found.set_result(
                            Recalled(NOTHING_NEAR, "the comparison failed; the agent's log says why")
                        )
                    self.wait(_POLL_S)
        finally:
            reader.close()

    def _find(self, query: Query, matrix: Matrix | None, ordinary: Sequence[Vector], reader: VectorReader) -> Recalled:
        if matrix is None:
            return Recalled(NOTHING_NEAR, "the model has not answered yet")
        if time.monotonic() > query.send_until:
            return Recalled(NOTHING_NEAR, "earlier queries kept the model busy")
        try:
            (vector,) = self._call.embed([query.text], query.until - time.monotonic())
            if len(vector) != matrix.dimensions:
                self._shared.doubted.set()
                return Recalled(NOTHING_NEAR, _OTHER_LENGTH)
            matrix.follow(reader)
            only = reader.filtered(query.filters)
            nearest = matrix.nearest(vector, ordinary, reader.hidden(), only, MOST_HITS)
        except EmbeddingFailed as error:
            return Recalled(NOTHING_NEAR, str(error))
        except sqlite3.Error as error:
            return Recalled(NOTHING_NEAR, f"the store can't be read ({error})")
        return Recalled(dict(nearest))


class Texts(Worker):
    """Makes the vectors of stored texts that have none, the newest first."""

    def __init__(self, path: Path, model: str, call: Call, shared: Shared) -> None:
        super().__init__("embed-texts", self._work, join_timeout_s=2.0)
        self._path, self._model = path, model
        self._call, self._shared = call, shared
        self._failures = _Failures()
        self._done = _NOTHING  # the rows up to which every text has a vector, or is refused
        self._rescan_at = self._count_at = 0.0  # monotonic
        self._version = -1

    def _work(self) -> None:
        reader = VectorReader(self._path, self._model)
        try:
            while not self.wait(_POLL_S):
                if self._call.state == "open":
                    continue
                try:
                    self._embed_new(reader)
                except EmbeddingFailed:  # has been logged; the breaker says when the next call is made
                    self._version = -1
                    self._shared.doubted.set()
                except Exception as error:  # noqa: BLE001 - boundary: the agent ends with this thread
                    self._version = -1
                    self._failures.log(error)
        finally:
            reader.close()

    def _embed_new(self, reader: VectorReader) -> None:
        """Embed what is new since the last call; all texts without a vector, if that was long ago."""
        if self._shared.doubted.is_set() or not self._shared.ordinary:
            self._shared.doubted.clear()
            self._shared.ordinary = self._call.embed(_ORDINARY, _TEXTS_S)  # which no service refuses
        version, now = reader.version(), time.monotonic()
        if version == self._version and now < self._rescan_at:
            return
        if now >= self._rescan_at:
            self._done, self._rescan_at = _NOTHING, now + _RESCAN_S
        newest = reader.newest()
        self._count(reader)
        for after, upto in zip(self._done, newest, strict=True):
            before = singly = upto + 1  # texts from `singly` on failed together
            # Each call's texts are read just before it: some may be hidden, changed or deleted meanwhile.
            while found := reader.without(self._dimensions, after, before, self._call.batch if before <= singly else 1):
                batch = _batch([text for text in found if text.row not in self._shared.refused])
                if batch and not self._embed(batch):
                    singly = batch[-1].row
                    continue
                before = (batch or found)[-1].row
                if self.stopping:
                    return
                if time.monotonic() >= self._count_at:
                    self._count(reader)
        self._done, self._version = newest, version

    @property
    def _dimensions(self) -> int:
        return len(self._shared.ordinary[0])

    def _count(self, reader: VectorReader) -> None:
        self._count_at = time.monotonic() + _COUNT_S
        self._shared.embedded, self._shared.texts = reader.counts()

    def _embed(self, texts: Sequence[UnembeddedText]) -> bool:
        """Embed some texts. One that fails alone, while another sentence works, is refused.

        Returns:
            False if they failed together, and are to be tried singly.
        """
        try:
            made = self._call.embed([each.text for each in texts], _TEXTS_S)
        except EmbeddingFailed as error:
            if not error.refused:
                self._call.embed(_ORDINARY[:1], _TEXTS_S)
            if len(texts) > 1:
                return False
            vectors: list[bytes | None] = [None]
        else:
            if len(made[0]) != self._dimensions:
                _log.warning("embedding_length_changed", before=self._dimensions, now=len(made[0]))
                raise EmbeddingFailed(_OTHER_LENGTH)
            vectors = [packed(vector) for vector in made]
        for (row, text), vector in zip(texts, vectors, strict=True):
            if vector is not None:
                self._shared.unstored.append(Embedded(row, text, vector))
            elif len(self._shared.refused) < _MOST_REFUSED:
                self._shared.refused.add(row)
        while len(self._shared.unstored) >= MOST_UNSTORED and not self.wait(_STORED_POLL_S):
            pass
        return True


def _batch(texts: Sequence[UnembeddedText]) -> Sequence[UnembeddedText]:
    """Return the first of some texts, as many as one call should have."""
    characters = 0
    for count, each in enumerate(texts):
        characters += len(each.text)
        if count and characters > _BATCH_CHARACTERS:
            return texts[:count]
    return texts
