"""The tables of memories and tombstones, and the quotas of their writers."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import msgspec

from twinhost.secure_zmq.errors import LimitReached
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.details import ENDS_ALL, ENDS_OWN, NONE, decode_details
from twinhost.unified_memory_reasoning.memories.model import DAY_S, Fading, Idle, Kept, Memory, folded_key
from twinhost.unified_memory_reasoning.search.index_tables import define_passages
from twinhost.unified_memory_reasoning.search.upkeep import noted_as_gone


class Shares:
    """How many rows each writer has, counted in memory and rolled back with a transaction.

    `total` is the number of all rows, for any thread to read.
    """

    def __init__(self, database: Database, counted: Iterable[tuple[str, int]]) -> None:
        self._database = database
        self._rows = dict(counted)
        self.total = sum(self._rows.values())

    def of(self, writer: str) -> int:
        """Return how many rows a writer has."""
        return self._rows.get(writer, 0)

    def move(self, before: str | None, after: str | None, rows: int = 1) -> None:
        """Count rows that moved from one writer to another; None: they were added, or removed."""
        self._shift(before, after, rows)
        self._database.on_rollback(self._shift, after, before, rows)

    def _shift(self, before: str | None, after: str | None, rows: int) -> None:
        self._add(before, -rows)
        self._add(after, rows)

    def _add(self, writer: str | None, change: int) -> None:
        if writer is None:
            return
        self.total += change
        rows = self.of(writer) + change
        if rows:
            self._rows[writer] = rows
        else:
            self._rows.pop(writer, None)


MIGRATION = """
CREATE TABLE memories (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    strength REAL NOT NULL,
    created REAL NOT NULL,
    last_accessed REAL NOT NULL,
    forgotten INTEGER NOT NULL,
    written_by TEXT NOT NULL,
    source TEXT NOT NULL,
    keywords BLOB NOT NULL,
    content TEXT NOT NULL
) STRICT;
CREATE INDEX memories_by_number ON memories (number, strength, forgotten, written_by);
CREATE INDEX memories_by_source ON memories (source, number, strength, forgotten, written_by);
CREATE INDEX memories_by_writer ON memories (written_by, number);
CREATE INDEX memories_by_access ON memories (last_accessed) WHERE forgotten = 0;
CREATE TABLE memory_keywords (
    keyword TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES memories (number) ON DELETE CASCADE,
    PRIMARY KEY (keyword, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_keywords_by_memory ON memory_keywords (number);
CREATE TABLE memory_tombstones (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    strength REAL NOT NULL,
    created REAL NOT NULL,
    last_accessed REAL NOT NULL,
    written_by TEXT NOT NULL
) STRICT;
CREATE INDEX memory_tombstones_by_writer ON memory_tombstones (written_by, number);
CREATE TABLE memory_changes (
    change INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    revised REAL NOT NULL
) STRICT;
CREATE TABLE memory_decay_pass (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ran REAL NOT NULL,
    decayed INTEGER NOT NULL,
    forgotten INTEGER NOT NULL
) STRICT;
"""
GRAPH, GRAPH_SOURCE = "graph", "mcp-graph"  # how keys and keywords of the knowledge graph begin, and its source
# A text is looked for in all parts of the graph; they may lie anywhere among the other memories.
GRAPH_MIGRATION = (
    f"CREATE INDEX memories_of_graph ON memories (number, written_by, content) WHERE source = '{GRAPH_SOURCE}'"
)
MOST = 100_000  # memories, and tombstones
MOST_OF_A_WRITER = 20_000  # of each; an operator, who imports other stores, may have all

_COLUMNS = "number, id, strength, created, last_accessed, written_by"
_BODY = "content, keywords, source"
_WRITTEN = f"id, {_BODY}, strength, created, last_accessed, forgotten, written_by"
_REVISED = "(SELECT revised FROM memory_changes WHERE memory_changes.id = {}.id)"
DETAILS_OF_ROW = "(SELECT details FROM memory_details WHERE memory_details.number = memories.number) AS details"
_LIVE = (
    f"SELECT {_COLUMNS}, {_BODY}, {DETAILS_OF_ROW}, "  # noqa: S608
    f"coalesce({_REVISED.format('memories')}, last_accessed) AS revised FROM memories"
)
_TOMBSTONE = (
    f"SELECT {_COLUMNS}, '' AS content, '[]' AS keywords, '' AS source, TRUE AS deleted, "  # noqa: S608
    f"{_REVISED.format('memory_tombstones')} AS revised FROM memory_tombstones"
)
_LIVE_AMONG = "SELECT id FROM memories WHERE id IN (SELECT value FROM json_each(?))"
_keywords = msgspec.json.Decoder(tuple[str, ...])
_PINNED = "EXISTS (SELECT 1 FROM memory_details WHERE pinned = 1 AND memory_details.number = {}.number)"
_IDLE = f"SELECT last_accessed, number, id, strength, {_PINNED.format('memories')} FROM memories"  # noqa: S608

Place = tuple[float, int]  # last access and number of a memory


def strength_now(fading: Fading, row: str, moment: str) -> str:
    """Return the expression for how strong a row of memories is; `Fading.strength` in SQL.

    Args:
        fading: the rule.
        row: the name of the row.
        moment: the expression for the present time.
    """
    if fading.half_life_days is None:
        return f"{row}.strength"
    half_life_s = f"({fading.half_life_days * DAY_S!r} * {row}.strength)"
    faded = f"{row}.strength * pow(0.5, max(0.0, {moment} - {row}.last_accessed) / {half_life_s})"
    return f"iif({_PINNED.format(row)}, {row}.strength, coalesce({faded}, 0.0))"


class DecayPass(msgspec.Struct, frozen=True):
    """A decay pass that began at `ran` (seconds since the epoch): how many memories it weakened, and forgot."""

    ran: float
    decayed: int = 0
    forgotten: int = 0


class MemoryRows:
    """Memories and tombstones by id."""

    def __init__(
        self, database: Database, most: int, most_of_a_writer: int, forgotten: Callable[[Memory], bool]
    ) -> None:
        define_passages(database)
        self._database = database
        self._forgotten = forgotten
        self._most, self._most_of_a_writer = most, most_of_a_writer
        by_writer = "SELECT written_by, count(*) FROM {} GROUP BY written_by"
        self._live = Shares(database, database.execute(by_writer.format("memories")))
        self._gone = Shares(database, database.execute(by_writer.format("memory_tombstones")))

    @property
    def count(self) -> int:
        """The number of memories, forgotten ones too; kept in memory, for any thread to read."""
        return self._live.total

    def find(self, memory_id: str) -> Kept | None:
        """Return a memory, or its tombstone, or None."""
        return self._select(f"{_LIVE} WHERE id = ?", memory_id) or self._select(f"{_TOMBSTONE} WHERE id = ?", memory_id)

    def read(self, number: int) -> Kept | None:
        """Return a memory by its number."""
        return self._select(f"{_LIVE} WHERE number = ?", number)

    def written_by(self, name: str, before: int, limit: int) -> list[Kept]:
        """Return a caller's memories with numbers below `before`, quarantined or not, newest first."""
        return self._database.select(
            _kept, f"{_LIVE} WHERE written_by = ? AND number < ? ORDER BY number DESC LIMIT ?", (name, before, limit)
        )

    def write(self, memory: Memory, written_by: str, before: Kept | None, *, of_an_operator: bool = False) -> Kept:
        """Store a memory, or a tombstone, replacing what `find` returned; it is a change.

        Raises:
            LimitReached: there are too many memories, or too many of this writer; an operator has no quota.
        """
        was = before.memory if before is not None else None
        live_of = before.written_by if before is not None and not before.memory.deleted else None
        gone_of = before.written_by if before is not None and before.memory.deleted else None
        most_of_writer = self._most_of(of_an_operator=of_an_operator)
        ends = ENDS_ALL if of_an_operator else ENDS_OWN
        if memory.deleted:
            self._live.move(live_of, None)
            self._gone.move(gone_of, written_by)
            with noted_as_gone(self._database, _length(was)):
                number = self._write_tombstone(memory, written_by, most_of_writer)
            self._note_changes([memory])
        elif live_of is None or was is None:
            (number,) = self.insert([memory], written_by, of_an_operator=of_an_operator)
            self._gone.move(gone_of, None)
            if gone_of is not None:
                self._database.execute("DELETE FROM memory_tombstones WHERE id = ?", (memory.id,))
        else:
            if live_of != written_by:
                self._require_room(written_by, 1, most_of_writer)
            self._live.move(live_of, written_by)
            same_writer = live_of == written_by
            with noted_as_gone(
                self._database, 0 if same_writer and _indexed(memory) == _indexed(was) else _length(was)
            ):
                number = self._update(memory, written_by, was, ends, same_writer=same_writer)
            self._note_changes([memory])
        return Kept(memory, number, written_by)

    def insert(self, memories: Sequence[Memory], written_by: str, *, of_an_operator: bool = False) -> range:
        """Store memories that have no rows yet, and return their numbers; each is a change.

        Raises:
            LimitReached: there would be too many memories, or too many of this writer; an operator has no quota.
        """
        self.require_room(written_by, len(memories), of_an_operator=of_an_operator)
        self._live.move(None, written_by, len(memories))
        first = 1 + (self._database.value("SELECT seq FROM sqlite_sequence WHERE name = 'memories'") or 0)
        numbers = range(first, first + len(memories))
        numbered = list(zip(numbers, memories, strict=True))
        self._insert(
            f"memories (number, {_WRITTEN})",
            [(number, *self._columns(memory, written_by)) for number, memory in numbered],
        )
        self._index(numbered)
        self._write_details(numbered, written_by, ENDS_ALL if of_an_operator else ENDS_OWN)
        self._note_changes(memories)
        return numbers

    def touch(self, moments: Sequence[tuple[str, float]]) -> None:
        """Store when memories were last accessed, by id; each is a change."""
        for memory_id, moment in moments:
            later = self._database.execute(
                "UPDATE memories SET last_accessed = ? WHERE id = ? AND last_accessed < ?", (moment, memory_id, moment)
            ).rowcount
            if later:
                self._database.execute(
                    "INSERT OR REPLACE INTO memory_changes (id, revised) "
                    "SELECT id, revised FROM memory_changes WHERE id = ?",
                    (memory_id,),
                )

    def idle(self, idle_since: float, after: Place, limit: int) -> list[Idle]:
        """Return the next `limit` idle memories that are not forgotten, by their last access, then by their number.

        Args:
            idle_since: the last access, in seconds since the epoch, at or before which a memory is idle.
            after: where the last call ended.
            limit: the most memories.
        """
        rows = self._database.execute(
            f"{_IDLE} WHERE forgotten = 0 AND last_accessed <= ? AND (last_accessed, number) > (?, ?) "
            "ORDER BY last_accessed, number LIMIT ?",
            (idle_since, *after, limit),
        )
        return [Idle(*row) for row in rows]

    def size(self, number: int) -> int:
        """Return how many bytes a memory's content has."""
        return int(
            self._database.value("SELECT length(CAST(content AS BLOB)) FROM memories WHERE number = ?", (number,))
        )

    def fade(self, faded: Iterable[tuple[float, bool, int]], leaving: int = 0) -> None:
        """Store the strength of memories, and whether they are forgotten, by number; `changed_since` omits that.

        Args:
            faded: of each memory.
            leaving: how many bytes the contents of those have together that are forgotten now.
        """
        with noted_as_gone(self._database, leaving):
            self._database.execute_many("UPDATE memories SET strength = ?, forgotten = ? WHERE number = ?", faded)

    def recover(self, forgotten: Callable[[Idle], bool]) -> None:
        """Recover the forgotten memories for which `forgotten` is false, in a transaction of its own."""
        rows = self._database.execute(f"{_IDLE} WHERE forgotten = 1")
        again = [(idle.strength, False, idle.number) for idle in (Idle(*row) for row in rows) if not forgotten(idle)]
        if again:
            with self._database.transaction():
                self.fade(again)

    def note_pass(self, done: DecayPass) -> None:
        """Store what a decay pass has done so far."""
        self._database.execute(
            "INSERT OR REPLACE INTO memory_decay_pass VALUES (1, ?, ?, ?)", (done.ran, done.decayed, done.forgotten)
        )

    def last_pass(self) -> DecayPass | None:
        """Return what the last decay pass did."""
        return self._database.select_one(DecayPass, "SELECT ran, decayed, forgotten FROM memory_decay_pass")

    def _select(self, query: str, key: str | int) -> Kept | None:
        return self._database.select_one(_kept, query, (key,))

    def _update(self, memory: Memory, written_by: str, was: Memory, ends: int, *, same_writer: bool) -> int:
        places = ", ".join(["?"] * _WRITTEN.count(","))
        number: int = self._database.value(
            f"UPDATE memories SET ({_WRITTEN}) = ({places}, ?) WHERE id = ? RETURNING number",  # noqa: S608 - constants
            (*self._columns(memory, written_by), memory.id),
        )
        if was.keywords != memory.keywords:
            self._database.execute("DELETE FROM memory_keywords WHERE number = ?", (number,))
            self._index([(number, memory)])
        if was.details != NONE:
            if same_writer and _ending(memory) == _ending(was):  # it ends what it did
                ends = self._database.value("SELECT ends FROM memory_details WHERE number = ?", (number,))
            self._database.execute("DELETE FROM memory_details WHERE number = ?", (number,))
        self._write_details([(number, memory)], written_by, ends)
        return number

    def _columns(self, memory: Memory, written_by: str) -> tuple[Any, ...]:
        keywords = msgspec.json.encode(memory.keywords)
        times = (memory.created, memory.last_accessed)
        forgotten = self._forgotten(memory)
        return (
            *(memory.id, memory.content, keywords, memory.source),
            *(memory.strength, *times, forgotten, written_by),
        )

    def _write_details(self, numbered: Sequence[tuple[int, Memory]], written_by: str, ends: int) -> None:
        detailed = [(number, memory) for number, memory in numbered if memory.details != NONE]
        self._insert(
            "memory_details (number, id, written_by, starts, details, folded_key, ends)",
            [
                (
                    *(number, memory.id, written_by, memory.starts, msgspec.json.encode(memory.details).decode()),
                    folded_key(memory.details.key),
                    ends,
                )
                for number, memory in detailed
            ],
        )
        superseded = [(memory_id, number) for number, memory in detailed for memory_id in memory.details.supersedes]
        if superseded:
            self._database.execute_many("INSERT OR IGNORE INTO memory_supersedes VALUES (?, ?)", superseded)

    def _insert(self, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows with one statement: before each that has triggers, FTS5 writes what it has to disk."""
        if rows:
            values = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * len(rows))
            self._database.execute(f"INSERT INTO {into} VALUES {values}", list(chain.from_iterable(rows)))  # noqa: S608

    def _index(self, numbered: Sequence[tuple[int, Memory]]) -> None:
        self._database.execute_many(
            "INSERT INTO memory_keywords VALUES (?, ?)",
            [
                (keyword, number)
                for number, memory in numbered
                for keyword in sorted({keyword.casefold() for keyword in memory.keywords})
            ],
        )

    def _note_changes(self, memories: Sequence[Memory]) -> None:
        self._database.execute_many(
            "INSERT OR REPLACE INTO memory_changes (id, revised) VALUES (?, ?)",
            [(memory.id, memory.revised) for memory in memories],
        )

    def live(self, memory_ids: Iterable[str]) -> set[str]:
        """Return those ids that are of memories."""
        rows = self._database.execute(_LIVE_AMONG, (msgspec.json.encode(list(memory_ids)).decode(),))
        return {memory_id for (memory_id,) in rows}

    def room(self, written_by: str, *, of_an_operator: bool) -> int:
        """Return how many more memories of a writer may be stored."""
        of_writer = self._most_of(of_an_operator=of_an_operator) - self._live.of(written_by)
        return min(self._most - self.count, of_writer)

    def require_room(self, written_by: str, more: int, *, of_an_operator: bool) -> None:
        """Raise LimitReached unless so many more memories of a writer may be stored; an operator has no quota."""
        _require_room(self.count + more, self._most, "memories are stored and that is the limit")
        self._require_room(written_by, more, self._most_of(of_an_operator=of_an_operator))

    def _most_of(self, *, of_an_operator: bool) -> int:
        return self._most if of_an_operator else self._most_of_a_writer

    def _require_room(self, written_by: str, more: int, most: int) -> None:
        of_one = f"memories of {written_by[:64]} are stored and that is the limit of one writer"
        _require_room(self._live.of(written_by) + more, most, of_one)

    def _write_tombstone(self, memory: Memory, written_by: str, most_of_writer: int) -> int:
        self._database.execute("DELETE FROM memories WHERE id = ?", (memory.id,))
        number = self._database.value(
            "INSERT OR REPLACE INTO memory_tombstones (id, strength, created, last_accessed, written_by) "
            "VALUES (?, ?, ?, ?, ?) RETURNING number",
            (memory.id, memory.strength, memory.created, memory.last_accessed, written_by),
        )
        if self._gone.of(written_by) > most_of_writer:
            self._evict("SELECT min(number) FROM memory_tombstones WHERE written_by = ?", written_by)
        if self._gone.total > self._most:
            self._evict("SELECT min(number) FROM memory_tombstones")
        return int(number)

    def _evict(self, oldest: str, *values: str) -> None:
        """Remove a tombstone; another store that still has the memory can bring it back."""
        memory_id, writer = self._database.execute(
            f"DELETE FROM memory_tombstones WHERE number = ({oldest}) RETURNING id, written_by",  # noqa: S608 - constants
            values,
        ).fetchone()
        self._database.execute("DELETE FROM memory_changes WHERE id = ?", (memory_id,))
        self._gone.move(writer, None)


def _ending(memory: Memory) -> tuple[object, ...]:
    """Return what decides which memories one ends."""
    return folded_key(memory.details.key), memory.starts, memory.details.supersedes


def _indexed(memory: Memory) -> tuple[object, ...]:
    """Return what of a memory the full-text index has, besides its writer."""
    return memory.content, memory.keywords, memory.created, memory.details.occurred_at


def _length(memory: Memory | None) -> int:
    """Return how many characters of a memory the index has; none of a tombstone."""
    return 0 if memory is None else len(memory.content) + sum(map(len, memory.keywords))


def _require_room(count: int, most: int, of_what: str) -> None:
    if count > most:
        raise LimitReached(f"{most} {of_what}; delete some (`delete_memory`)")


def _kept(
    number: int,
    written_by: str,
    keywords: bytes,
    deleted: bool = False,
    details: str | None = None,
    **columns: Any,
) -> Kept:
    memory = Memory(
        keywords=_keywords.decode(keywords),
        deleted=bool(deleted),
        details=decode_details(details) if details else NONE,
        **columns,
    )
    return Kept(memory, number, written_by)
