"""The vectors of stored texts: their table, how threads read it, and the matrix that they are compared in.

A vector is stored with the model that made it, and is derived from one text alone: what hides or deletes a text hides
or deletes its vector with it, and a change of the text deletes the vector. The server's loop writes the table. Each
thread of `meaning` reads with a connection of its own.

A component takes one byte: the vector is divided by its largest component. Cosines differ by less than 0.002 from those
of the whole numbers, and 100,000 vectors take an eighth of the memory (decision 0052).
"""

import importlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from math import log, sqrt
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.conversations.interactions import AT
from twinhost.unified_memory_reasoning.search.index import EVERYTHING, OF_SPEAKERS, Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS

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
DERIVED = ("embeddings",)  # made again from the other tables

MAX_CHARACTERS = 2_000  # of a text, the first ones, that its vector is made of
MANY = 1_000  # texts; the largest of n normal deviates grows with the root of log n
FROM_BEFORE, FROM_AFTER = 0.7, 0.3  # of the nearness of the turns before and after
_AT_ONCE = 4_000_000  # numbers of the matrix that are compared, or read, together
_PACKAGE = "numpy"

_OF_INTERACTION = f"substr(iif(speaker = '', content, speaker || ': ' || content), 1, {MAX_CHARACTERS})"
_OF_MEMORY = f"substr(content, 1, {MAX_CHARACTERS})"
_NOT_BLANK = "trim(content, char(9, 10, 13, 32)) <> ''"
_VISIBLE = "written_by NOT IN (SELECT name FROM quarantined)"
_NO_VECTOR = "NOT EXISTS (SELECT 1 FROM embeddings e WHERE e.row = {row} AND e.model = ?1 AND length(e.vector) = ?2)"
_WITHOUT = (
    f"SELECT id AS row, {_OF_INTERACTION} AS text FROM interactions WHERE id > ?3 AND id < ?4 AND {_VISIBLE} "  # noqa: S608
    f"AND {_NOT_BLANK} AND {_NO_VECTOR.format(row='interactions.id')} ORDER BY id DESC LIMIT ?5",
    f"SELECT number + {MEMORY_ROWS} AS row, {_OF_MEMORY} AS text FROM memories "  # noqa: S608
    f"WHERE number > ?3 - {MEMORY_ROWS} AND number < ?4 - {MEMORY_ROWS} AND forgotten = 0 AND {_VISIBLE} "
    f"AND {_NOT_BLANK} AND {_NO_VECTOR.format(row=f'memories.number + {MEMORY_ROWS}')} ORDER BY number DESC LIMIT ?5",
)
_ADD = (
    "INSERT OR REPLACE INTO embeddings (row, model, vector) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 "  # noqa: S608
    f"FROM interactions WHERE id = ?1 AND {_OF_INTERACTION} = ?4)",
    "INSERT OR REPLACE INTO embeddings (row, model, vector) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 "  # noqa: S608
    f"FROM memories WHERE number = ?1 - {MEMORY_ROWS} AND forgotten = 0 AND {_OF_MEMORY} = ?4)",
)
_NEWEST = "SELECT coalesce((SELECT max(id) FROM interactions), 0), coalesce((SELECT max(number) FROM memories), 0)"
_COUNTS = (
    "SELECT (SELECT count(*) FROM embeddings WHERE model = ?), "
    "(SELECT count(*) FROM interactions) + (SELECT count(*) FROM memories WHERE forgotten = 0)"
)
_OF_ROWS = (  # the + keeps SQLite from reading all vectors of the model
    "SELECT row FROM embeddings WHERE row IN (SELECT value FROM json_each(?)) AND +model = ?"
)
_STORED = (
    "SELECT number, row, vector, (SELECT session_id FROM interactions WHERE id = row) FROM embeddings "
    "WHERE model = ? AND number > ? ORDER BY number"
)
_HIDDEN = (
    "SELECT id FROM interactions WHERE written_by IN (SELECT name FROM quarantined) UNION ALL "  # noqa: S608
    f"SELECT number + {MEMORY_ROWS} FROM memories WHERE written_by IN (SELECT name FROM quarantined)"
)
_PERIOD = "coalesce(?4, 0.0) AND coalesce(?5, 1e11)"
_FILTERED = (
    f"SELECT id FROM interactions WHERE (?1 IS NULL OR session_id = ?1) AND {OF_SPEAKERS} "  # noqa: S608
    f"AND (?3 IS NULL OR type = ?3) AND ?6 IS NULL AND {AT} BETWEEN {_PERIOD} "
    f"UNION ALL SELECT number + {MEMORY_ROWS} FROM memories WHERE ?1 IS NULL AND ?2 IS NULL AND ?3 IS NULL "
    "AND (?6 IS NULL OR number IN (SELECT number FROM memory_keywords WHERE keyword = ?6)) "
    f"AND created BETWEEN {_PERIOD}"
)
_OF_SESSION = _FILTERED.replace("(?1 IS NULL OR session_id = ?1)", "session_id = ?1")  # which the index finds

T = TypeVar("T")


class Nearness:
    """Stand-in."""

    nearest: Sequence[tuple[int, float]] = ()

    def of(self, numbers: Iterable[int]) -> dict[int, float]:
        return {}

    def of_texts(self, rows: Iterable[int]) -> dict[int, tuple[int, float]]:
        return {}


NOTHING_NEAR = Nearness()


class UnembeddedText(NamedTuple):
    """A text without a vector of the model; `row` is its number in the index."""

    row: int
    text: str


class StoredVector(NamedTuple):
    """A row of the table, and the session of the text; None of a memory."""

    number: int
    row: int
    vector: bytes
    session_id: str | None


class Embedded(NamedTuple):
    """A text and its vector, as it is stored."""

    row: int
    text: str
    vector: bytes


def numpy() -> Any:
    """Return the library, which is no dependency of the agent.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module(_PACKAGE)
    except ImportError:
        raise ConfigurationError(
            "recall.embeddings needs the library `numpy`, which is not installed; in the project's folder, "
            "`pip install '.[meaning]'` installs it, and the image target `meaning` has it; or set it to off"
        ) from None


class StoredVectors:
    """The table, on the thread that owns the database."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._model = model

    def add(self, embedded: Iterable[Embedded]) -> None:
        """Store vectors, in the transaction under way, of those texts that are still the same."""
        for each in embedded:
            sql = _ADD[each.row >= MEMORY_ROWS]
            self._database.execute(sql, (each.row, self._model, each.vector, each.text))

    def of(self, rows: Collection[int]) -> set[int]:
        """Return those of some rows that have a vector now."""
        found = self._database.execute(_OF_ROWS, (json.dumps(list(rows)), self._model))
        return {row for (row,) in found}


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

    def without(self, dimensions: int, after: int, before: int, limit: int) -> list[UnembeddedText]:
        """Return visible texts without a vector of the model, the newest first: interactions, or else memories.

        Args:
            dimensions: how many numbers a vector has.
            after: rows above this one; of memories, if it is at least `MEMORY_ROWS`.
            before: rows below this one.
            limit: the most texts.
        """
        values = (self._model, dimensions, after, before, limit)
        return [UnembeddedText(*row) for row in self._connection.execute(_WITHOUT[after >= MEMORY_ROWS], values)]

    def newest(self) -> tuple[int, int]:
        """Return the row of the newest interaction, and that of the newest memory."""
        interaction, memory = self._connection.execute(_NEWEST).fetchone()
        return interaction, memory + MEMORY_ROWS

    def counts(self) -> tuple[int, int]:
        """Return how many texts have a vector of the model, and how many there are."""
        embedded, texts = self._connection.execute(_COUNTS, (self._model,)).fetchone()
        return embedded, texts

    def filtered(self, filters: Filters) -> list[int] | None:
        """Return the rows that are as the filters say; None for all of them."""
        if filters == EVERYTHING:
            return None
        of_turns = filters.session_id, filters.speakers_json, filters.kind
        values = (*of_turns, filters.since, filters.until, filters.keyword)
        sql = _FILTERED if filters.session_id is None else _OF_SESSION
        return [row for (row,) in self._connection.execute(sql, values)]

    def numbers(self) -> list[int]:
        """Return the numbers of all vectors of the model, ascending."""
        found = self._connection.execute(
            "SELECT number FROM embeddings WHERE model = ? ORDER BY number", (self._model,)
        )
        return [number for (number,) in found]

    def hidden(self) -> list[int]:
        """Return the rows that quarantined writers wrote."""
        return [row for (row,) in self._connection.execute(_HIDDEN)]

    def read(self, after: int, most: int, take: Callable[[Sequence["StoredVector"]], None]) -> None:
        """Pass the vectors with higher numbers, in parts of so many, ascending."""
        found = self._connection.execute(_STORED, (self._model, after))
        while part := found.fetchmany(most):
            take([StoredVector(*each) for each in part])


class Matrix:
    """The vectors of one model and length, in memory; for one thread."""

    def __init__(self, dimensions: int) -> None:
        np = self._np = numpy()
        self.dimensions = dimensions
        self._part = _AT_ONCE // dimensions  # rows
        self._last = 0  # the highest number that was read, of whatever length
        self._read = 0  # how many were read
        self._version: int | None = None
        self._sessions: dict[str | None, int] = {None: 0}
        self._count = 0
        self._room = 0
        self._vectors = np.empty((0, dimensions), np.int8)
        self._numbers = np.empty(0, np.int64)
        self._rows = np.empty(0, np.int64)
        self._lengths = np.empty(0, np.float32)
        self._session = np.empty(0, np.int32)
        self._in_order = np.empty(0, np.int64)  # places by session, and in it by row

    def follow(self, reader: VectorReader) -> None:
        """Read what was added, and drop what was removed, since the last call."""
        version = reader.version()
        if version == self._version:
            return
        before = self._last, self._count
        reader.read(self._last, self._part, self._append)
        if reader.counts()[0] != self._read:
            self._keep(reader.numbers())
        if before != (self._last, self._count):
            own = slice(0, self._count)
            self._in_order = self._np.lexsort((self._rows[own], self._session[own]))
        self._version = version

    def _columns(self) -> list[str]:
        return ["_vectors", "_numbers", "_rows", "_lengths", "_session"]

    def _append(self, part: Sequence[StoredVector]) -> None:
        np = self._np
        self._last, self._read = part[-1].number, self._read + len(part)
        fitting = [each for each in part if len(each.vector) == self.dimensions]
        if not fitting:
            return
        count = self._count + len(fitting)
        if count > self._room:
            self._room = count + max(1_024, count // 4)
            for name in self._columns():
                before = getattr(self, name)
                larger = np.empty((self._room, *before.shape[1:]), before.dtype)
                larger[: self._count] = before[: self._count]
                setattr(self, name, larger)
        new = slice(self._count, count)
        self._numbers[new] = [each.number for each in fitting]
        self._rows[new] = [each.row for each in fitting]
        self._session[new] = [self._sessions.setdefault(each.session_id, len(self._sessions)) for each in fitting]
        vectors = np.frombuffer(b"".join(each.vector for each in fitting), np.int8)
        self._vectors[new] = vectors.reshape(len(fitting), self.dimensions)
        self._lengths[new] = np.maximum(np.linalg.norm(self._vectors[new].astype(np.float32), axis=1), 1.0)
        self._count = count

    def _keep(self, numbers: list[int]) -> None:
        kept = self._np.flatnonzero(self._np.isin(self._numbers[: self._count], numbers))
        for name in self._columns():
            values = getattr(self, name)
            values[: len(kept)] = values[kept]
        self._count, self._read = len(kept), len(numbers)

    def nearest(
        self,
        vector: Sequence[float],
        others: Sequence[Sequence[float]],
        hidden: Sequence[int],
        only: Sequence[int] | None,
        most: int,
    ) -> list[tuple[int, float]]:
        """Return the rows whose texts are nearest to a vector, nearest first, and how near each is.

        How near: by how many standard deviations the cosine exceeds the mean over all texts, and a share of that of the
        turns before and after. The nearest of few texts has fewer than that of many, so fewer than MANY texts need
        less. What a cosine of 0.8 says differs by model, so cosines themselves compare with nothing.

        Args:
            vector: of a query.
            others: vectors of texts that have nothing to do with it, so that few stored texts have a mean too.
            hidden: rows that count for nothing.
            only: the rows that may be returned; None: all but the hidden ones.
            most: how many rows.
        """
        np, rows = self._np, self._rows[: self._count]
        query = _unit(np, vector)
        cosines = np.empty(self._count, np.float32)
        for start in range(0, self._count, self._part):
            part = slice(start, min(start + self._part, self._count))
            np.dot(self._vectors[part].astype(np.float32), query, out=cosines[part])
        cosines /= self._lengths[: self._count]
        shown = ~np.isin(rows, hidden) if hidden else np.ones(self._count, bool)
        ordinary = np.asarray([_unit(np, each) for each in others], np.float32).reshape(-1, self.dimensions) @ query
        every = np.concatenate([cosines[shown], ordinary])
        spread = max(float(every.std()), 1e-6) * min(1.0, sqrt(log(max(len(every), 2)) / log(MANY)))
        own = np.where(shown, (cosines - every.mean()) / spread, 0.0)
        near = self._with_neighbours(own)
        allowed = shown if only is None else shown & np.isin(rows, only)
        places = np.flatnonzero(allowed)
        if len(places) > most:
            places = places[np.argpartition(-near[places], most)[:most]]
        places = places[np.argsort(-near[places])]
        return [(int(rows[place]), float(near[place])) for place in places]

    def _with_neighbours(self, own: Any) -> Any:
        """Add the shares of the turns before and after in the same session: an answer has not what its question has."""
        order, session = self._in_order, self._session[: self._count][self._in_order]
        together = (session[1:] == session[:-1]) & (session[1:] > 0)
        positive, near = self._np.maximum(own, 0.0)[order], own.copy()
        near[order[1:]] += FROM_BEFORE * positive[:-1] * together
        near[order[:-1]] += FROM_AFTER * positive[1:] * together
        return near


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
