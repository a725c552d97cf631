"""`python -m tests.benchmarks.bench_recall`: how well and how fast `search_memory` finds, and what adding costs.

Prints a table for people and then CSV. It asserts nothing: the times are of the machine that it runs on.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.benchmarks.recall_questions import Question, QuestionSet, Text, make_question_set
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.network_config.model import Recall
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations import interactions
from twinhost.unified_memory_reasoning.memories import rows as memory_rows
from twinhost.unified_memory_reasoning.provenance import quarantine
from twinhost.unified_memory_reasoning.search import index as search_index
from twinhost.unified_memory_reasoning.search.actions import Search
from twinhost.unified_memory_reasoning.search.words import words_of

A = TypeVar("A")
R = TypeVar("R")

K = 10
ADDED = 200  # texts whose adding is timed at each size
PLAIN = "plain BM25"
_STORES = [
    *(quarantine.MIGRATION, interactions.MIGRATION, memory_rows.MIGRATION),
    *(interactions.OCCURRED_MIGRATION, memory_rows.DETAILS_MIGRATION),
]
_ADD = (
    "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, tier, "
    "written_by) VALUES (?, ?, 'user_query', ?, x'7b7d', ?, 1.0, ?, 0, 'bench')"
)
_ADD_MEMORY = (
    "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, written_by) "
    "VALUES (?, ?, x'5b5d', '', ?, ?, ?, 0, 'bench')"
)
_PLAIN = "SELECT rowid FROM recall_words WHERE recall_words MATCH ? ORDER BY bm25(recall_words, 1.0, 0.0) LIMIT ?"

Times = tuple[float, float]  # milliseconds by the clock, and of the processor
Answer = list[int | str]  # the ids of at most K results
Ask = Callable[[str], Answer]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; what a row has no figure for is empty."""

    measure: str
    way: str
    texts: int
    samples: int
    recall_at_10: float | str
    p50_ms: float
    p95_ms: float
    cpu_p50_ms: (
        float  # of this process: what p50_ms would be if it had the machine to itself and never waited for a disk
    )


@dataclass(frozen=True, slots=True)
class Store:
    """A database with a question set in it; `answers` is the id that the text of each fact got."""

    database: Database
    answers: dict[int, int | str]


def fill(path: Path, made: QuestionSet, *, indexed: bool = True) -> Store:
    """Make a store of the texts."""
    database = Database(path, [*_STORES, *([search_index.MIGRATION] if indexed else [])])
    answers: dict[int, int | str] = {}
    with database.transaction():
        for number, text in enumerate(made.texts):
            name = _add(database, text, number)
            if text.fact is not None:
                answers[text.fact] = name
    return Store(database, answers)


def ways(database: Database, weights: Recall) -> dict[str, Ask]:
    """Return the ways of asking that are compared; each gives ids, best first."""
    joined, words_alone = Search(database, weights), Search(database, Recall(1, 0, 0, 0, 1))
    plain_words = Search(database, weights, forms=lambda _: ())
    return {
        PLAIN: lambda query: _plain_bm25(database, query),
        "candidates, BM25 alone": lambda query: _ids(words_alone, query),
        "without Filipino forms": lambda query: _ids(plain_words, query),
        "search_memory": lambda query: _ids(joined, query),
    }


def measure_recall(store: Store, questions: Sequence[Question], weights: Recall, texts: int) -> Iterable[Row]:
    """Ask every question in every way; all together, and by language."""
    for way, ask in ways(store.database, weights).items():
        took: list[Times] = []
        found: list[bool] = []
        for question in questions:
            answer, times = _timed(ask, question.query)
            took.append(times)
            found.append(store.answers[question.fact] in answer)
        for language in ("all", "english", "filipino"):
            asked = [place for place, each in enumerate(questions) if language in ("all", each.language)]
            recall = sum(found[place] for place in asked) / len(asked)
            yield _row(f"questions, {language}", way, texts, [took[place] for place in asked], recall)


def measure_common(store: Store, weights: Recall, texts: int) -> Iterable[Row]:
    """Ask with nothing but words that thousands of texts have; there is no right answer."""
    queries = [
        "server status",
        "error log",
        "update the report",
        "trabaho oras",
        "the what and",
        "ang mga",
        "ulat umaga",
    ]
    for way, ask in ways(store.database, weights).items():
        times = [_timed(ask, query)[1] for query in queries for _ in range(5)]
        yield _row("common words", way, texts, times, "")


def measure_adding(folder: Path, sizes: Iterable[int], seed: int, now: float) -> Iterable[Row]:
    """Add one text in one durable transaction, again and again, to stores of these sizes, with and without index."""
    extra = make_question_set(1_000, seed + 1, now).texts
    for size in sizes:
        made = make_question_set(size, seed, now) if size else QuestionSet([], [])
        for indexed in (False, True):
            way = "with the index" if indexed else "without the index"
            store = fill(folder / f"adding-{size}-{indexed}.db", made, indexed=indexed)
            add = partial(_add_durably, store.database)
            times = [_timed(add, text)[1] for text in [each for each in extra if not each.memory][:ADDED]]
            store.database.close()
            yield _row("adding one", way, size, times, "")


def measure(size: int, seed: int, folder: Path, weights: Recall, add_to: Sequence[int]) -> list[Row]:
    """Return all rows."""
    now = time.time()
    made = make_question_set(size, seed, now)
    store = fill(folder / "recall.db", made)
    rows = [
        *measure_recall(store, made.questions, weights, len(made.texts)),
        *measure_common(store, weights, len(made.texts)),
    ]
    store.database.close()
    return [*rows, *measure_adding(folder, add_to, seed, now)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_recall", description=__doc__)
    parser.add_argument("--interactions", type=int, default=100_000, help="texts in the store")
    parser.add_argument("--seed", type=int, default=1, help="of the question set")
    for name in asdict(weights := load_network_config(DEFAULT_PATH, {}).recall):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help="in place of the configured one")
    arguments = vars(parser.parse_args())
    size, seed = arguments.pop("interactions"), arguments.pop("seed")
    weights = replace(weights, **{name: value for name, value in arguments.items() if value is not None})
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(size, seed, Path(folder), weights, sorted({0, min(10_000, size), size}))
    print(f"seed {seed}, {weights}\n")
    print(f"{'':<45} {'texts':>7} {'n':>5} {'recall@10':>9} {'p50 ms':>8} {'p95 ms':>8} {'p50 CPU':>8}")
    for row in rows:
        recall = f"{row.recall_at_10:.3f}" if isinstance(row.recall_at_10, float) else ""
        cells = f"{row.measure:<20} {row.way:<24} {row.texts:>7} {row.samples:>5} {recall:>9}"
        print(f"{cells} {row.p50_ms:>8.2f} {row.p95_ms:>8.2f} {row.cpu_p50_ms:>8.2f}")
    print()
    writer = csv.DictWriter(sys.stdout, list(asdict(rows[0])))
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)


def _row(measure: str, way: str, texts: int, times: list[Times], recall: float | str) -> Row:
    wall = [each for each, _ in times]
    p95, cpu = statistics.quantiles(wall, n=20)[-1], statistics.median(each for _, each in times)
    recall = round(recall, 4) if isinstance(recall, float) else recall
    return Row(measure, way, texts, len(times), recall, round(statistics.median(wall), 3), round(p95, 3), round(cpu, 3))


def _timed(do: Callable[[A], R], argument: A) -> tuple[R, Times]:
    started, cpu_started = time.perf_counter(), time.process_time()
    result = do(argument)
    return result, (1_000 * (time.perf_counter() - started), 1_000 * (time.process_time() - cpu_started))


def _ids(search: Search, query: str) -> Answer:
    return [search.read(row, score, 16_384)["id"] for row, score in search.rank(query).rows[:K]]


def _plain_bm25(database: Database, query: str) -> Answer:
    """Every word of the query that is no stop word, joined by OR, ordered by BM25 alone."""
    words, _ = words_of(query)
    match = "words : ({})".format(" OR ".join(f'"{word}"' for word in words))
    rows = database.execute(_PLAIN, (match, K)).fetchall()
    first = search_index.MEMORY_ROWS
    return [row if row < first else f"memory-{row - first}" for (row,) in rows]


def _add(database: Database, text: Text, number: int) -> int | str:
    if not text.memory:
        values = (text.session_id, text.speaker, text.content, text.importance, text.created)
        return int(database.execute(_ADD, values).lastrowid or 0)
    moments = (text.created, text.last_accessed)
    place = database.execute(_ADD_MEMORY, (f"of-text-{number}", text.content, text.strength, *moments)).lastrowid
    database.execute("UPDATE memories SET id = ? WHERE number = ?", (f"memory-{place}", place))
    return f"memory-{place}"


def _add_durably(database: Database, text: Text) -> None:
    with database.transaction():
        _add(database, text, 0)


if __name__ == "__main__":
    main()
