"""`make bench-scale`: how the memory grows with the interactions, beside FTS5's plainest query on the same rows.

The agent is assembled as on pc2, and asked through its actions without a socket. The newest interactions are stored by
`add_interaction`; older ones are inserted as rows, in a tenth of the time, and their sessions have no summary. Each
stage runs in a process of its own, so that the memory is that of the agent. Searches and FTS5's queries take turns. It
asserts nothing.
"""

import argparse
import logging
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest import mock

import msgspec
import psutil
import structlog

from tests.benchmarks import scale_plot
from tests.benchmarks.bench_recall import BUDGETS, Agent, clock_at, timed, with_embeddings
from tests.benchmarks.generated_talk import TURNS, talk
from tests.benchmarks.recall_baselines import any_word_of
from tests.benchmarks.recall_set import FOLDERS, Question, Turn, load
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.store.backup import prepare
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, REBUILDS
from twinhost.unified_memory_reasoning.search.embedding import Builtin

QUESTIONS = 200
STORED = 200  # interactions that are timed, one per transaction
EMBED_S = 180.0  # that the model has; the rest of the vectors is generated
BY_ACTION = 20_000  # the newest interactions, whose sessions contexts are asked of
_TOGETHER = 5 * TURNS  # interactions in a transaction of the fill
_VECTORS = 256  # that are generated together
_POLL_S = 0.01
_MB = 1_000_000
_INSERT = (
    "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, tier, "
    "written_by) VALUES (?, ?, 'user_query', ?, CAST('{}' AS BLOB), 0.5, 1.0, ?, 3, 'bench')"
)
_PLAIN = "SELECT rowid, text FROM plain WHERE plain MATCH ? ORDER BY rank LIMIT 10"

P = ParamSpec("P")
R = TypeVar("R")
Milliseconds = list[float]


@dataclass
class Grown:
    """What a store of one size costs; memory and disk in bytes."""

    interactions: int
    rows_per_s: float
    memory: tuple[int, int]  # before the store was opened, and at the end
    disk: int
    open_s: float
    backup_s: float
    search: Milliseconds
    plain: Milliseconds
    context: Milliseconds
    context_of_all: Milliseconds
    store: Milliseconds


@dataclass
class GrownByMeaning:
    """What vectors add to it."""

    interactions: int
    texts: int  # with those that were stored while it was measured
    embedded: int  # of these, by the model; the others have generated vectors
    embed_s: float  # for these
    memory: tuple[int, int]
    disk: int
    search: Milliseconds


def fill(home: Path, config: Path, interactions: int) -> float:
    """Fill an agent's store and a plain one; return how many interactions per second `add_interaction` stored."""
    taken_s, source = 0.0, talk([load(folder) for folder in FOLDERS], interactions, seed=1)
    inserted = _inserted(interactions)
    with Agent(home, config) as agent, closing(sqlite3.connect(_plain(home))) as plain:
        plain.execute("CREATE VIRTUAL TABLE plain USING fts5 (text)")
        for first in range(0, interactions, _TOGETHER):
            turns = list(islice(source, _TOGETHER))
            with plain:
                plain.executemany("INSERT INTO plain (text) VALUES (?)", ((turn.text,) for _, turn in turns))
            if first < inserted:
                rows = ((session_id, turn.speaker, turn.text, turn.at.timestamp()) for session_id, turn in turns)
                with agent.database.transaction():
                    agent.database.execute_many(_INSERT, rows)
                continue
            started = time.perf_counter()
            with agent.database.transaction():
                for session_id, turn in turns:
                    with clock_at(turn.at):
                        agent.add(session_id, turn)
            taken_s += time.perf_counter() - started
        oldest = agent.database.value("SELECT content FROM interactions ORDER BY id LIMIT 1")
        if not agent.read("search_memory", query=oldest, session_id="session 0")["results"]:
            raise RuntimeError("a search does not find what was inserted; the index is not filled by triggers any more")
    return (interactions - inserted) / taken_s


def measure(
    home: Path, config: Path, questions: Sequence[Question], more: Sequence[Turn], interactions: int, rows_per_s: float
) -> Grown:
    """Return the figures of a store that was filled, asked by words."""
    before, started = _memory(), time.perf_counter()
    prepare(_database(home), REBUILDS, len(MIGRATIONS) + 1)
    with Agent(home, config) as agent, closing(sqlite3.connect(_plain(home))) as plain:
        open_s = time.perf_counter() - started
        sessions = range(_inserted(interactions) // TURNS, -(-interactions // TURNS))
        asked = [(question, f"session {sessions[place % len(sessions)]}") for place, question in enumerate(questions)]
        context, context_of_all = (
            [timed(partial(agent.context, session_id, BUDGETS[-1], scope=scope), each)[1] for each, session_id in asked]
            for scope in ("session", "all")
        )
        store = [_stored(agent, turn) for turn in more]

        def plainest(question: Question) -> list[tuple[int, str]]:
            return plain.execute(_PLAIN, (any_word_of(question.question),)).fetchall()

        search, plain_ms = Milliseconds(), Milliseconds()
        for question in questions:
            search.append(timed(partial(agent.search, filters={}), question)[1])
            plain_ms.append(timed(plainest, question)[1])
        return Grown(
            interactions=interactions,
            rows_per_s=rows_per_s,
            memory=(before, _memory()),
            disk=_disk(agent),
            open_s=open_s,
            backup_s=_backup_s(agent),
            search=search,
            plain=plain_ms,
            context=context,
            context_of_all=context_of_all,
            store=store,
        )


def embed(home: Path, config: Path, texts: int, within_s: float) -> tuple[int, float]:
    """Return of how many texts the model made vectors in a time, at least one, and how many seconds it took."""
    with Agent(home, config) as agent:
        started = time.perf_counter()
        embedded = agent.embed(texts, within_s) or agent.embed(1)
        return embedded, time.perf_counter() - started


def generate_vectors(home: Path, config: Path, texts: int) -> None:
    """Give texts without a vector a random one, in place of what the model would take hours for."""
    import numpy as np  # of the extra with the model

    chance = np.random.default_rng(1)
    (one,) = Builtin().embed(["one"], is_query=False, within_s=60.0)

    def random_vectors(_: Builtin, texts: Sequence[str], **__: object) -> Sequence[Sequence[float]]:
        vectors = chance.standard_normal((len(texts), len(one)))
        return list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    with mock.patch.multiple(Builtin, embed=random_vectors, batch=_VECTORS), Agent(home, config) as agent:
        agent.embed(texts)


def measure_meaning(
    home: Path,
    config: Path,
    questions: Sequence[Question],
    interactions: int,
    texts: int,
    embedded: int,
    embed_s: float,
) -> GrownByMeaning:
    """Return the figures of a store whose texts have vectors, asked by meaning too."""
    before = _memory()
    with Agent(home, config) as agent:
        agent.embed(texts)  # until the model has answered
        agent.search(questions[0], {})  # which reads the vectors
        search = [timed(partial(agent.search, filters={}), question)[1] for question in questions]
        return GrownByMeaning(interactions, texts, embedded, embed_s, (before, _memory()), _disk(agent), search)


def _inserted(interactions: int) -> int:
    """Return how many of some interactions are inserted as rows."""
    return max(0, interactions - BY_ACTION) // _TOGETHER * _TOGETHER


def _database(home: Path) -> Path:
    (path,) = home.glob("state/*.sqlite3")
    return path


def _plain(home: Path) -> Path:
    return home / "plain.sqlite3"


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)


def _disk(agent: Agent) -> int:
    agent.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return agent.database.size_bytes


def _stored(agent: Agent, turn: Turn) -> float:
    with clock_at(turn.at):
        started = time.perf_counter()
        with agent.database.transaction():
            agent.add("stored", turn)
        return 1_000 * (time.perf_counter() - started)


def _backup_s(agent: Agent) -> float:
    started = time.perf_counter()
    backup = agent.read("begin_backup")
    while (state := agent.read("backup_status", backup_id=backup["backup_id"]))["state"] == "copying":
        time.sleep(_POLL_S)
    if state["state"] != "ready":
        raise RuntimeError(f"the backup failed: {state['failure']}")
    return time.perf_counter() - started


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def _apart(stage: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Run a stage in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet) as process:
        return process.submit(stage, *arguments, **named).result()


def _both(milliseconds: Milliseconds) -> str:
    p99 = sorted(milliseconds)[int(0.99 * len(milliseconds))]
    return f"{statistics.median(milliseconds):.1f}, {p99:.1f}"


def _in_mb(*sizes: int) -> str:
    return ", ".join(f"{size / _MB:,.0f}" for size in sizes)


def _embed_all(grown: GrownByMeaning) -> str:
    seconds = f"{grown.embed_s / grown.embedded * grown.texts:,.0f}"
    return seconds if grown.embedded >= grown.texts else f"{seconds} (extrapolated)"


COLUMNS: dict[str, Callable[[Grown], str]] = {
    "interactions": lambda grown: f"{grown.interactions:,}",
    "search_memory p50, p99 ms": lambda grown: _both(grown.search),
    "FTS5 p50, p99 ms": lambda grown: _both(grown.plain),
    "search / FTS5": lambda grown: f"{statistics.median(grown.search) / statistics.median(grown.plain):.2f}",
    "get_context p50, p99 ms": lambda grown: _both(grown.context),
    "of all sessions p50, p99 ms": lambda grown: _both(grown.context_of_all),
    "add_interaction p50, p99 ms": lambda grown: _both(grown.store),
    "memory before, after MB": lambda grown: _in_mb(*grown.memory),
    "disk MB": lambda grown: _in_mb(grown.disk),
    "open s": lambda grown: f"{grown.open_s:.2f}",
    "back up s": lambda grown: f"{grown.backup_s:.2f}",
    "stored together per s": lambda grown: f"{grown.rows_per_s:,.0f}",
}
COLUMNS_BY_MEANING: dict[str, Callable[[GrownByMeaning], str]] = {
    "interactions": lambda grown: f"{grown.interactions:,}",
    "embed one ms": lambda grown: f"{1_000 * grown.embed_s / grown.embedded:.1f}",
    "embed all s": _embed_all,
    "generated vectors": lambda grown: f"{grown.texts - grown.embedded:,}",
    "search_memory by meaning p50, p99 ms": lambda grown: _both(grown.search),
    "memory before, after MB": lambda grown: _in_mb(*grown.memory),
    "disk MB": lambda grown: _in_mb(grown.disk),
}


def _header(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def grow(
    folder: Path, arguments: argparse.Namespace, questions: Sequence[Question], more: Sequence[Turn]
) -> Iterator[Grown | GrownByMeaning]:
    """Yield the figures of one size after the other, and with vectors those of each."""
    for interactions in arguments.interactions:
        home = folder / f"{interactions}"
        config = with_embeddings(arguments.config, folder, "off")
        rows_per_s = _apart(fill, home, config, interactions)
        yield _apart(measure, home, config, questions, more, interactions, rows_per_s)
        if arguments.builtin:
            config, texts = with_embeddings(arguments.config, folder, "builtin"), interactions + len(more)
            embedded, embed_s = _apart(embed, home, config, texts, arguments.embed_s)
            if embedded < texts:
                _apart(generate_vectors, home, config, texts)
            yield _apart(measure_meaning, home, config, questions, interactions, texts, embedded, embed_s)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_scale", description=__doc__)
    parser.add_argument("--interactions", type=int, nargs="+", required=True, help="the sizes of the store")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of the written sets, at most")
    parser.add_argument("--config", type=Path, default=DEFAULT_PATH, help="a network_config.yaml")
    parser.add_argument("--builtin", action="store_true", help="also search by meaning, with the builtin model")
    parser.add_argument(
        "--embed-s", type=float, default=EMBED_S, help="seconds that the model has; then vectors are generated"
    )
    parser.add_argument("--plot", type=Path, help="an SVG to draw the growth into")
    arguments = parser.parse_args()
    sets = [load(folder) for folder in FOLDERS]
    end = max(turn.at for of in sets for turn in of.turns().values())
    more = [msgspec.structs.replace(turn, at=end) for _, turn in talk(sets, STORED, seed=2)]
    written = [question for of in sets for question in of.questions]
    questions = [
        msgspec.structs.replace(question, asked_at=max(end, question.asked_at))
        for question in random.Random(1).sample(written, min(arguments.questions, len(written)))
    ]
    words, meaning = list[Grown](), list[GrownByMeaning]()
    print(_header([*COLUMNS]))
    with tempfile.TemporaryDirectory() as folder:
        for grown in grow(Path(folder), arguments, questions, more):
            if isinstance(grown, Grown):
                words.append(grown)
                print(f"| {' | '.join(cell(grown) for cell in COLUMNS.values())} |", flush=True)
            else:
                meaning.append(grown)
    if meaning:
        print(f"\n{_header([*COLUMNS_BY_MEANING])}")
    for with_vectors in meaning:
        print(f"| {' | '.join(cell(with_vectors) for cell in COLUMNS_BY_MEANING.values())} |")
    if arguments.plot:
        lines = {
            "search by words": [(grown.interactions, statistics.median(grown.search)) for grown in words],
            "FTS5's own query": [(grown.interactions, statistics.median(grown.plain)) for grown in words],
            "search by meaning": [(grown.interactions, statistics.median(grown.search)) for grown in meaning],
        }
        title = "Median time of a search by the number of interactions"
        arguments.plot.write_text(scale_plot.svg(title, {name: line for name, line in lines.items() if line}, "ms"))


if __name__ == "__main__":
    main()
