"""Filters: words, vectors and the turns around a result select the same texts."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from tests.unit.unified_memory_reasoning.search_bench import SearchBench
from twinhost.secure_zmq.actions import wholly
from twinhost.unified_memory_reasoning.language import asked_in
from twinhost.unified_memory_reasoning.search.filters import EVERYTHING, Filters
from twinhost.unified_memory_reasoning.search.index import SearchIndex
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.passages import MOST
from twinhost.unified_memory_reasoning.search.vectors import VectorReader

T = TypeVar("T")
DAY_S = 86_400
TEXTS = 120
SESSIONS, SPEAKERS, KINDS, WRITERS = ("a", "b"), ("", "Ana", "ANA", "Ben"), ("code", "error"), ("A", "B", "mallory")
DAYS = [float(day * DAY_S) for day in range(200, 260, 7)]


class Stored(NamedTuple):
    """A text, and what a filter may ask of it."""

    row: int
    session_id: str | None
    speaker: str | None
    kind: str | None
    keyword: str | None
    at: float
    forgotten: bool
    writer: str

    def fits(self, filters: Filters, quarantined: tuple[str, ...]) -> bool:
        """Return whether it is as the filters say, in the plainest words."""
        return (
            not (self.forgotten or self.writer in quarantined)
            and filters.session_id in (None, self.session_id)
            and (filters.speakers is None or self.speaker in filters.speakers)
            and filters.kind in (None, self.kind)
            and filters.keyword in (None, self.keyword)
            and (filters.since is None or self.at >= filters.since)
            and (filters.until is None or self.at <= filters.until)
        )


def stored_by(chance: random.Random, bench: SearchBench) -> Stored:
    """Put an interaction or a memory in, which occurred at another time than it was stored, or not."""
    created, occurred = chance.choice(DAYS), chance.choice([None, *DAYS])
    at, writer = created if occurred is None else occurred, chance.choice(WRITERS)
    execute = bench.database.execute
    if chance.random() < 0.5:
        session, speaker, kind = chance.choice(SESSIONS), chance.choice(SPEAKERS), chance.choice(KINDS)
        number = bench.interaction("the river", session_id=session, speaker=speaker, kind=kind, written_by=writer)
        execute("UPDATE interactions SET created = ?, occurred_at = ? WHERE id = ?", (created, occurred, number))
        return Stored(number, session, speaker, kind, None, at, forgotten=False, writer=writer)
    keyword, forgotten = chance.choice((None, "water")), chance.random() < 0.2
    name = f"m{chance.random()}"
    keywords = () if keyword is None else (keyword,)
    bench.memory(name, "the river", keywords=keywords, forgotten=forgotten, written_by=writer)
    execute("UPDATE memories SET created = ? WHERE id = ?", (created, name))
    number = int(bench.database.value("SELECT number FROM memories WHERE id = ?", (name,)))
    if occurred is not None:
        details = (number, name, writer, at, json.dumps({"occurred_at": occurred}))
        execute("INSERT INTO memory_details (number, id, written_by, starts, details) VALUES (?, ?, ?, ?, ?)", details)
    return Stored(number + MEMORY_ROWS, None, None, None, keyword, at, forgotten=forgotten, writer=writer)


def filters_by(chance: random.Random) -> Filters:
    def perhaps(values: Sequence[T]) -> T | None:
        return chance.choice(values) if chance.random() < 0.35 else None

    since = perhaps(DAYS)
    until = perhaps([day for day in DAYS if since is None or day >= since])
    speakers = perhaps([("Ana", "ANA"), ("Ben",), ("nobody",)])
    keyword = perhaps(["water", "fire"]) if chance.random() < 0.5 else None
    return Filters(perhaps(SESSIONS), speakers, perhaps(KINDS), since, until, keyword)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("quarantined", [(), ("mallory",)], ids=["all visible", "one quarantined"])
def test_all_ways_to_find_a_text_select_the_same(tmp_path: Path, seed: int, quarantined: tuple[str, ...]) -> None:
    """Words, vectors, the turns around a result, and the filter in plain words."""
    chance = random.Random(seed)
    with SearchBench(tmp_path / "db") as bench:
        with bench.database.transaction():
            texts = [stored_by(chance, bench) for _ in range(TEXTS)]
            bench.quarantine(*quarantined)
        index, asked = SearchIndex(bench.database), asked_in("river", date(2026, 1, 1))
        with closing(VectorReader(tmp_path / "db", "a model")) as reader:

            def by_vectors(filters: Filters) -> set[int]:
                only = reader.filtered(filters)
                embedded = {text.row for text in texts if not text.forgotten}
                return embedded.difference(reader.hidden(filters)).intersection(embedded if only is None else only)

            def by_words(filters: Filters) -> set[int]:
                return {number // MOST for number in wholly(index.find(asked, filters, TEXTS)).passages}

            ways: dict[str, Callable[[Filters], Any]] = {
                "words": lambda filters: {
                    number // MOST for number in wholly(index.find(asked, filters, TEXTS)).passages
                },
                "vectors": by_vectors,
                "turns around": lambda filters: index.fitting({text.row for text in texts}, filters),
            }
            for filters in [EVERYTHING, *(filters_by(chance) for _ in range(40))]:
                expected = {text.row for text in texts if text.fits(filters, quarantined)}
                assert {way: select(filters) for way, select in ways.items()} == dict.fromkeys(ways, expected), filters
