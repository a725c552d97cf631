"""The vectors of stored texts: their table, how threads read it, and the matrix that they are compared in.

There is one for each passage of a text (see `passages`), under the passage's number. It is stored with the model that
made it, and is derived from one text alone: what hides or deletes a text hides or deletes its vectors with it, and a
change of the text deletes them. `embedded_texts` has how many passages of a text, the first ones, have a vector, so
that what lacks one is found without reading texts. The server's loop writes the tables. Each thread of `meaning` reads
with a connection of its own.

A component takes one byte: the vector is divided by its largest component. Cosines differ by less than 0.002 from those
of the whole numbers, and 100,000 vectors take an eighth of the memory (decision 0052).
"""

import importlib
import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.provenance.quarantine import VISIBLE
from twinhost.unified_memory_reasoning.search.filters import HIDDEN, Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.passages import MOST
from twinhost.unified_memory_reasoning.search.vector_memory import BESIDE_BYTES, VectorMemory

MIGRATION = f"""
CREATE TABLE embeddings (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL UNIQUE,
    model TEXT NOT NULL,
    vector BLOB NOT NULL
) STRICT;
CREATE INDEX embeddings_by_model ON embeddings (model, number);
CREATE TRIGGER embedding_interaction_removed AFTER DELETE ON interactions BEGIN
    DELETE FROM embeddings WHERE row = old.id;
END;
CREATE TRIGGER embedding_interaction_changed AFTER UPDATE OF id, speaker, content ON interactions
WHEN (old.id, old.speaker, old.content) IS NOT (new.id, new.speaker, new.content) BEGIN
    DELETE FROM embeddings WHERE row = old.id;
END;
CREATE TRIGGER embedding_memory_removed AFTER DELETE ON memories BEGIN
    DELETE FROM embeddings WHERE row = old.number + {MEMORY_ROWS};
END;
CREATE TRIGGER embedding_memory_changed AFTER UPDATE OF number, content, forgotten ON memories
WHEN (old.number, old.content, old.forgotten) IS NOT (new.number, new.content, new.forgotten) BEGIN
    DELETE FROM embeddings WHERE row = old.number + {MEMORY_ROWS};
END;
"""  # noqa: S608 - of a constant alone


def _passages_migration() -> str:
    def forget(row: str) -> str:
        return (
            f"DELETE FROM embeddings WHERE row BETWEEN ({row}) * {MOST} AND ({row}) * {MOST} + {MOST - 1}; "  # noqa: S608
            f"DELETE FROM embedded_texts WHERE row = {row};"
        )

    interaction, memory = forget("old.id"), forget(f"old.number + {MEMORY_ROWS}")
    return f"""
DROP TRIGGER embedding_interaction_removed;
DROP TRIGGER embedding_interaction_changed;
DROP TRIGGER embedding_memory_removed;
DROP TRIGGER embedding_memory_changed;
DELETE FROM embeddings;
CREATE TABLE embedded_texts (
    row INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    embedded INTEGER NOT NULL,
    passages INTEGER NOT NULL
) STRICT;
CREATE TRIGGER embedding_interaction_removed AFTER DELETE ON interactions BEGIN
    {interaction}
END;
CREATE TRIGGER embedding_interaction_changed AFTER UPDATE OF id, content ON interactions
WHEN (old.id, old.content) IS NOT (new.id, new.content) BEGIN
    {interaction}
END;
CREATE TRIGGER embedding_memory_removed AFTER DELETE ON memories BEGIN
    {memory}
END;
CREATE TRIGGER embedding_memory_changed AFTER UPDATE OF number, content, forgotten ON memories
WHEN (old.number, old.content, old.forgotten) IS NOT (new.number, new.content, new.forgotten) BEGIN
    {memory}
END;
"""  # noqa: S608 - of constants alone


PASSAGES_MIGRATION = _passages_migration()  # the vectors before it were of whole texts
DERIVED = ("embeddings", "embedded_texts")  # made again from the other tables

FIRST = 3  # passages of a text that are embedded before those of older texts; the others, when nothing else waits
_AT_ONCE = 800_000  # numbers of the matrix that are compared, or read, together: what a processor's cache holds
_COLUMNS = ("_vectors", "_numbers", "_passages", "_lengths")  # of a matrix

_TABLES = (("interactions", "id", 0, "TRUE"), ("memories", "number", MEMORY_ROWS, "forgotten = 0"))
_OF_MODEL = "e.row = {row} AND e.model = ?1 AND e.dimensions = ?2"
# All but the text that is found is read from the index of writers, and from `embedded_texts`.
_WITHOUT = tuple(
    f"SELECT {number} + {offset}, content, coalesce((SELECT embedded FROM embedded_texts AS e "  # noqa: S608 - constants
    f"WHERE {_OF_MODEL.format(row=f'{number} + {offset}')}), 0) FROM {table} "
    f"WHERE written_by = ?3 AND {number} > ?4 - {offset} AND {number} < ?5 - {offset} AND {is_text} AND {VISIBLE} "
    f"AND NOT EXISTS (SELECT 1 FROM embedded_texts AS e WHERE {_OF_MODEL.format(row=f'{number} + {offset}')} "
    f"AND e.embedded >= min(e.passages, ?6)) ORDER BY {number} DESC LIMIT 1"
    for table, number, offset, is_text in _TABLES
)
_SET_EMBEDDED = tuple(
    "INSERT OR REPLACE INTO embedded_texts (row, model, dimensions, embedded, passages) "  # noqa: S608 - as above
    f"SELECT ?3, ?1, ?2, ?4, ?5 WHERE EXISTS (SELECT 1 FROM {table} WHERE {number} = ?3 - {offset} AND {is_text} "
    f"AND content = ?7) AND ?6 = coalesce((SELECT embedded FROM embedded_texts AS e "
    f"WHERE {_OF_MODEL.format(row='?3')}), 0)"
    for table, number, offset, is_text in _TABLES
)
_WRITERS = tuple(
    f"WITH RECURSIVE writers (name) AS (SELECT min(written_by) FROM {table} UNION ALL SELECT "  # noqa: S608 - as above
    f"(SELECT min(written_by) FROM {table} WHERE written_by > name) FROM writers WHERE name IS NOT NULL) "
    f"SELECT name FROM writers WHERE (SELECT max({number}) FROM {table} WHERE written_by = name) > ?"
    for table, number, _, _ in _TABLES
)
_NEWEST = "SELECT coalesce((SELECT max(id) FROM interactions), 0), coalesce((SELECT max(number) FROM memories), 0)"
_COUNTS = (
    f"SELECT (SELECT count(*) FROM embedded_texts WHERE model = ? AND embedded >= min(passages, {FIRST})), "  # noqa: S608
    "(SELECT count(*) FROM interactions) + (SELECT count(*) FROM memories WHERE forgotten = 0)"
)
_HELD = "SELECT written_by, sum(bytes) FROM ({}) GROUP BY written_by".format(  # noqa: S608 - as above
    " UNION ALL ".join(
        f"SELECT written_by, sum(e.embedded * (e.dimensions + {BESIDE_BYTES})) AS bytes FROM {table} "  # noqa: S608
        f"CROSS JOIN embedded_texts AS e ON e.row = {number} + {offset} WHERE e.model = ?1 GROUP BY written_by"
        for table, number, offset, _ in _TABLES
    )
)
_OF_ROWS = (  # the + keeps SQLite from reading all vectors of the model
    "SELECT row FROM embeddings WHERE row IN (SELECT value FROM json_each(?)) AND +model = ?"
)
_STORED = "SELECT number, row, vector FROM embeddings WHERE model = ? AND number > ? ORDER BY number"


class TextSource(NamedTuple):
    """Who wrote texts, and whether they are memories or interactions."""

    is_memory: bool
    writer: str


class UnembeddedText(NamedTuple):
    """A text with passages that lack a vector; `row` is its number in the index.

    The first `embedded` passages have one.
    """

    source: TextSource
    row: int
    content: str
    embedded: int


class Embedded(NamedTuple):
    """A text of so many `passages`, and the vectors of some of them, as they are stored, from the place `first` on."""

    row: int
    content: str
    passages: int
    first: int
    vectors: Sequence[bytes]


def numpy() -> Any:
    """Return the library, which is no dependency of the agent.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module("numpy")
    except (ImportError, RuntimeError) as error:  # the latter: it is for another processor
        raise ConfigurationError(
            f"recall.embeddings needs numpy, which can't be loaded ({' '.join(str(error).split())[:200]}); "
            "in the project's folder, `pip install '.[meaning]'` installs it, and the default image has it; "
            "or set it to off"
        ) from None


class StoredVectors:
    """The table, on the thread that owns the database."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model

    def add(self, embedded: Iterable[Embedded]) -> None:
        """Store vectors, in the transaction under way, of texts that are still the same and lack these next."""
        for row, content, passages, first, vectors in embedded:
            of_model = (self._model, len(vectors[0]))
            values = (*of_model, row, first + len(vectors), passages, first, content)
            if self._database.execute(_SET_EMBEDDED[row >= MEMORY_ROWS], values).rowcount:
                self._database.execute_many(
                    "INSERT OR REPLACE INTO embeddings (row, model, vector) VALUES (?, ?, ?)",
                    [(row * MOST + place, self._model, vector) for place, vector in enumerate(vectors, first)],
                )

    def of(self, passages: Collection[int]) -> set[int]:
        """Return those of some passages, by number, that have a vector now."""
        rows = self._database.execute(_OF_ROWS, (json.dumps(list(passages)), self._model))
        return {number for (number,) in rows}


class VectorReader:
    """Reads the committed texts and vectors, on the thread that opened it."""

    def __init__(self, path: Path, model: str) -> None:
        self._connection = connect_to_read(path)
        self._model = model

    def close(self) -> None:
        """Close the connection."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def version(self) -> int:
        """Return a number that changes with every commit of another connection."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def next_without(
        self, source: TextSource, dimensions: int, after: int, before: int, passages: int
    ) -> UnembeddedText | None:
        """Return the newest visible text of a source that lacks vectors of the model; None if there is none.

        Args:
            source: whose text.
            dimensions: how many numbers a vector has.
            after: the text's row is above this one,
            before: and below this one.
            passages: so many, the first ones, should have a vector.
        """
        values = (self._model, dimensions, source.writer, after, before, passages)
        row = self._connection.execute(_WITHOUT[source.is_memory], values).fetchone()
        return None if row is None else UnembeddedText(source, *row)

    def sources(self, after: tuple[int, int]) -> list[TextSource]:
        """Return who has texts in rows above these: of interactions, and of memories."""
        interaction, memory = after
        return [
            TextSource(is_memory, name)
            for is_memory, number in ((False, interaction), (True, memory - MEMORY_ROWS))
            for (name,) in self._connection.execute(_WRITERS[is_memory], (number,))
        ]

    def newest(self) -> tuple[int, int]:
        """Return the row of the newest interaction, and that of the newest memory."""
        interaction, memory = self._connection.execute(_NEWEST).fetchone()
        return interaction, memory + MEMORY_ROWS

    def counts(self) -> tuple[int, int]:
        """Return of how many texts the first passages have a vector of the model, and how many texts there are."""
        embedded, texts = self._connection.execute(_COUNTS, (self._model,)).fetchone()
        return embedded, texts

    def held(self) -> dict[str, int]:
        """Return how much memory the vectors of each writer's texts take, in bytes."""
        return dict(self._connection.execute(_HELD, (self._model,)))

    def filtered(self, filters: Filters) -> list[int] | None:
        """Return the rows that are as the filters say; None for all of them."""
        if filters.everything:
            return None
        return [row for (row,) in self._connection.execute(filters.selecting(), filters.values)]

    def count(self) -> int:
        """Return how many vectors of the model there are."""
        row = self._connection.execute("SELECT count(*) FROM embeddings WHERE model = ?", (self._model,)).fetchone()
        return int(row[0])

    def numbers(self) -> list[int]:
        """Return the numbers of all vectors of the model, ascending."""
        rows = self._connection.execute("SELECT number FROM embeddings WHERE model = ? ORDER BY number", (self._model,))
        return [number for (number,) in rows]

    def hidden(self, filters: Filters) -> list[int]:
        """Return the rows that nobody finds as of the filters' time, whatever is asked."""
        return [row for (row,) in self._connection.execute(HIDDEN, filters.values)]

    def vectors(self, after: int, most: int) -> Iterator[list[tuple[int, int, bytes]]]:
        """Yield the vectors with higher numbers, in parts of so many, ascending: number, passage, vector."""
        rows = self._connection.execute(_STORED, (self._model, after))
        while part := rows.fetchmany(most):
            yield part


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near passages are to the meaning of a query; false if none has a vector, or the meaning is not known.

    A passage's nearness is the cosine of its vector with the query's, less the mean over all that are visible. What a
    cosine says by itself differs by model.

    `nearest` has the passages that are as the filters say, by number, nearest first, and how near they are. `spread` is
    the standard deviation of all cosines.
    """

    nearest: Sequence[tuple[int, float]] = ()
    spread: float = 0.0
    _passages: Any = ()  # the numbers of all, ascending
    _cosines: Any = ()  # less the mean, in the same order

    def __bool__(self) -> bool:
        return len(self._passages) > 0

    def of(self, passages: Iterable[int]) -> dict[int, float]:
        """Return how near passages are, by number, without those that have no vector; visible or not."""
        if not self:
            return {}
        np = numpy()
        asked = np.fromiter(passages, np.int64)
        places = np.minimum(np.searchsorted(self._passages, asked), len(self._passages) - 1)
        exist = self._passages[places] == asked
        return dict(zip(asked[exist].tolist(), self._cosines[places[exist]].tolist(), strict=True))

    def of_texts(self, rows: Iterable[int]) -> dict[int, tuple[int, float]]:
        """Return of each text, by row, the number of its nearest passage, and how near that is."""
        if not self:
            return {}
        texts = numpy().fromiter(rows, numpy().int64)
        firsts, ends = (self._passages.searchsorted(edge * MOST).tolist() for edge in (texts, texts + 1))
        nearest = dict[int, tuple[int, float]]()
        for row, first, end in zip(texts.tolist(), firsts, ends, strict=True):
            if first < end:
                place = first + int(self._cosines[first:end].argmax())
                nearest[row] = int(self._passages[place]), float(self._cosines[place])
        return nearest


NOTHING_NEAR = Nearness()


class Matrix:
    """The vectors of one model and length, in memory, as many as there is room for; for one thread."""

    def __init__(self, dimensions: int, memory: VectorMemory | None = None) -> None:
        np = self._np = numpy()
        self.dimensions = dimensions
        self._memory = memory or VectorMemory()
        self._part = max(1, _AT_ONCE // dimensions)  # vectors
        self._last = 0  # the highest number that was read, of whatever length
        self._read = 0  # how many were read
        self._version: int | None = None
        self._count = 0
        self._room = 0
        self._vectors = np.empty((0, dimensions), np.int8)
        self._numbers = np.empty(0, np.int64)
        self._passages = np.empty(0, np.int64)
        self._lengths = np.empty(0, np.float32)
        self._order = np.empty(0, np.int64)  # places by the passage's number
        self._ascending = np.empty(0, np.int64)  # the passages in that order; never changed, for other threads

    def follow(self, reader: VectorReader) -> None:
        """Read what was added, and drop what was removed, since the last call."""
        version = reader.version()
        if version == self._version:
            return
        before = self._last, self._count
        whole = all(self._append(part) for part in reader.vectors(self._last, self._part))
        self._memory.note(self, whole=whole)
        if reader.count() != self._read:
            self._keep(reader.numbers())
        if before != (self._last, self._count):
            self._arrange()
        self._version = version

    def _append(self, part: Sequence[tuple[int, int, bytes]]) -> bool:
        """Add vectors; return False if there is no room for them."""
        np = self._np
        fitting = [stored for stored in part if len(stored[2]) == self.dimensions]
        count = self._count + len(fitting)
        if count > self._room and not self._resize(count + max(1_024, count // 16)):
            return False
        self._last, self._read = part[-1][0], self._read + len(part)
        if not fitting:
            return True
        numbers, passages, vectors = zip(*fitting, strict=True)
        new = slice(self._count, count)
        self._numbers[new], self._passages[new] = numbers, passages
        self._vectors[new] = np.frombuffer(b"".join(vectors), np.int8).reshape(len(fitting), self.dimensions)
        self._lengths[new] = np.maximum(np.linalg.norm(self._vectors[new].astype(np.float32), axis=1), 1.0)
        self._count = count
        return True

    def _resize(self, room: int) -> bool:
        """Have room for so many vectors; return False if they may not take as much memory."""
        if not self._memory.take(self, room * (self.dimensions + BESIDE_BYTES)):
            return False
        for name in _COLUMNS:  # in their places: a copy would take as much again
            column = getattr(self, name)
            column.resize((room, *column.shape[1:]), refcheck=False)
        self._room = room
        return True

    def _keep(self, numbers: list[int]) -> None:
        kept = self._np.flatnonzero(self._np.isin(self._numbers[: self._count], numbers))
        for name in _COLUMNS:
            values = getattr(self, name)
            values[: len(kept)] = values[kept]
        self._count, self._read = len(kept), len(numbers)
        self._resize(self._count)

    def _arrange(self) -> None:
        passages = self._passages[: self._count]
        self._order = self._np.argsort(passages, kind="stable")
        self._ascending = passages[self._order]

    def nearness(
        self,
        vector: Sequence[float],
        others: Sequence[Sequence[float]],
        hidden: Sequence[int],
        only: Sequence[int] | None,
        most: int,
    ) -> Nearness:
        """Compare the vector of a query with all.

        Args:
            vector: of the query.
            others: vectors of texts that have nothing to do with it, so that few stored texts have a mean too.
            hidden: rows of texts that count for nothing.
            only: rows of the texts whose passages may be among the nearest; None: all but the hidden ones.
            most: how many passages are the nearest.
        """
        np, passages = self._np, self._passages[: self._count]
        query = _unit(np, vector)
        cosines = np.empty(self._count, np.float32)
        for start in range(0, self._count, self._part):
            part = slice(start, min(start + self._part, self._count))
            # And not `dot`: the threads of a BLAS wait for each other, for long where others keep the processor busy.
            np.einsum("ij,j->i", self._vectors[part].astype(np.float32), query, out=cosines[part])
        cosines /= self._lengths[: self._count]
        texts = passages // MOST if hidden or only is not None else passages
        shown = ~np.isin(texts, hidden) if hidden else np.ones(self._count, bool)
        ordinary = np.asarray([_unit(np, other) for other in others], np.float32).reshape(-1, self.dimensions) @ query
        every = np.concatenate([cosines[shown], ordinary])
        cosines -= every.mean()
        places = np.flatnonzero(shown if only is None else shown & np.isin(texts, only))
        if len(places) > most:
            places = places[np.argpartition(-cosines[places], most)[:most]]
        places = places[np.argsort(-cosines[places])]
        nearest = list(zip(passages[places].tolist(), cosines[places].tolist(), strict=True))
        return Nearness(nearest, float(every.std()), self._ascending, cosines[self._order])


def _unit(np: Any, vector: Sequence[float]) -> Any:
    values = np.asarray(vector, np.float64)  # the squares of float32 may be too large, or too small
    return (values / (float(np.linalg.norm(values)) or 1.0)).astype(np.float32)


def packed(vector: Sequence[float]) -> bytes | None:
    """Return a vector as it is stored, one byte for each number; None if it has no direction."""
    np = numpy()
    values = np.asarray(vector, np.float32)
    largest = float(np.abs(values).max()) if len(values) else 0.0
    if not np.isfinite(largest) or largest <= 0.0:
        return None
    packed_values: bytes = np.rint(values * (127.0 / largest)).astype(np.int8).tobytes()
    return packed_values
