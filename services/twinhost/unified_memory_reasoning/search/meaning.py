"""Search by meaning: the vectors of stored texts are made in the background, and those of queries beside the loop.

One thread makes the vectors of passages that have none, and pauses while queries wait: those of the first passages of
all texts, the newest first, each writer's in turn, and then the others. The loop stores them. Another makes the vector
of a query and compares it with all. The loop never waits for them: the reply to a search is completed when the
comparison is there, or at its deadline by the words alone.
"""

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Literal, NotRequired, TypedDict, TypeVar

from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from twinhost.network_config.model import Embeddings
from twinhost.secure_zmq.actions import Completed
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.embed_threads import (
    MOST_UNSTORED,
    MOST_WAITING,
    Call,
    Channels,
    Queries,
    Query,
    Recalled,
    Shared,
    Texts,
)
from twinhost.unified_memory_reasoning.search.embedding import Embedder, embedder_of
from twinhost.unified_memory_reasoning.search.filters import Filters
from twinhost.unified_memory_reasoning.search.vectors import StoredVectors, numpy

__all__ = ["Channels", "Meaning", "MeaningCollector", "MeaningDocument", "Recalled", "meaning_of", "with_meaning"]

T = TypeVar("T")

_RETRY_S = 5.0  # after vectors could not be stored


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

    def __init__(self, database: Database, settings: Embeddings, embedder: Embedder) -> None:
        """Prepare the threads; `start()` runs them."""
        self._database = database
        self.deadline_s = settings.deadline_s
        self.model = f"{settings.model} {settings.text_prefix}".strip()  # with another prefix, vectors are others
        self._shared = Shared()
        self._store_at = 0.0  # monotonic
        self._stored = StoredVectors(database, self.model)
        self._of_queries, self._of_texts = Call(embedder, is_query=True), Call(embedder, is_query=False)
        self._queries = Queries(database.path, self.model, self._of_queries, self._shared)
        self._texts = Texts(database.path, self.model, self._of_texts, self._shared)

    def start(self) -> None:
        self._queries.start()
        self._texts.start()

    def stop(self) -> None:
        self._queries.request_stop()
        self._texts.request_stop()
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
        if time.monotonic() < self._store_at:
            return
        unstored = self._shared.unstored
        some = [unstored[place] for place in range(min(len(unstored), MOST_UNSTORED))]
        if some:
            self._store_at = time.monotonic() + _RETRY_S  # if it fails: what follows in a tick must have its turn
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
        """Return what an operator should know: that calls fail."""
        return [
            f"{what}: {call.fault} ({call.state} circuit breaker); check recall.embeddings, and what it names"
            for what, call in (
                ("searches are by words alone", self._of_queries),
                ("stored texts get no vectors", self._of_texts),
            )
            if call.fault is not None and call.state != "closed"
        ]

    def recall(self, query: str, filters: Filters) -> "Future[Recalled]":
        """Return what will be near to a query; at once where no call can be made."""
        found: Future[Recalled] = Future()
        if self._of_queries.state == "open":
            found.set_result(Recalled(missing=f"the model is not called after failures: {self._of_queries.fault}"))
            return found
        until = time.monotonic() + self.deadline_s
        try:
            self._queries.ask(Query(query, filters, until, found))
        except queue.Full:
            found.set_result(Recalled(missing=f"{MOST_WAITING} queries wait for the model"))
        return found

    def complete(self, found: Recalled | None) -> Recalled:
        """Return what was found of what is still stored; on the thread that owns the database, also without it."""
        if found is None:
            return Recalled(missing=f"the model did not answer within {self.deadline_s:.1f} s")
        nearest = found.nearness.nearest
        stored = self._stored.of([passage for passage, _ in nearest])
        return found._replace(nearness=replace(found.nearness, nearest=[near for near in nearest if near[0] in stored]))


def with_meaning(
    meaning: Meaning | None, query: str, filters: Filters, reply: Callable[[Recalled], T]
) -> "T | Future[T]":
    """Return the reply to a query, now or later; `reply` makes it, on the server's loop, of what is near in meaning."""
    if meaning is None:
        return reply(Recalled(asked=False))
    found = meaning.recall(query, filters)
    if found.done():
        return reply(meaning.complete(found.result()))
    return Completed(found, lambda part: reply(meaning.complete(part)), meaning.deadline_s)


def meaning_of(settings: Embeddings | None, database: Database) -> tuple[Meaning | None, str | None]:
    """Return the search by meaning that the configuration names, or why there is none.

    Raises:
        ConfigurationError: what it needs is not installed, or a file can't be read; not if the settings are optional.
    """
    if settings is None:
        return None, "recall.embeddings is off"
    try:
        numpy()
        return Meaning(database, settings, embedder_of(settings)), None
    except ConfigurationError as error:
        if not settings.optional:
            raise
        return None, str(error)


class MeaningCollector(Collector):
    """Shows the search by meaning in `/metrics`."""

    def __init__(self, document: Callable[[], MeaningDocument]) -> None:
        self._document = document

    def collect(self) -> Iterator[Metric]:
        document = self._document()
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
