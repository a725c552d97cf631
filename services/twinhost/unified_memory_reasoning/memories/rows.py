"""How many rows each writer has: counted in memory, so that no write counts rows, and undone with its transaction."""

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

import msgspec

from twinhost.secure_zmq.errors import LimitReached
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.model import GONE, LIVE, Kept, Memory, decayed, forgotten, kept


class Shares:
    """Rows by writer; `total` is that of all, for any thread to read."""

    def __init__(self, database: Database, counted: Iterable[tuple[str, int]]) -> None:
        """Begin with what is stored.

        Args:
            counted: every writer once, and how many rows it has.
        """
        self._database = database
        self._rows = dict(counted)
        self.total = sum(self._rows.values())

    def of(self, writer: str) -> int:
        """Return how many rows a writer has."""
        return self._rows.get(writer, 0)

    def move(self, before: str | None, after: str | None) -> None:
        """Count a row that was one writer's and is another's now; None: it was not there, or is not any more."""
        self._shift(before, after)
        self._database.on_rollback(lambda: self._shift(after, before))

    def _shift(self, before: str | None, after: str | None) -> None:
        self._add(before, -1)
        self._add(after, 1)

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
MOST = 100_000  # memories, and tombstones
MOST_OF_A_WRITER = 20_000  # of each; an operator, who carries other stores over, may have all

Place = tuple[float, int]  # last access and number of a memory


class DecayPass(msgspec.Struct, frozen=True):
    """A pass that began at `ran`, in seconds since the epoch: how many it made weaker, and forgotten among them."""

    ran: float
    decayed: int = 0
    forgotten: int = 0


class Slice(NamedTuple):
    """What a part of a pass did; `end` is where it ended, None where nothing is left."""

    decayed: int
    forgotten: int
    end: Place | None


class MemoryRows:
    """Memories and tombstones by id."""

    def __init__(self, database: Database, most: int, most_of_a_writer: int) -> None:
        self._database = database
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
        row = self._database.execute(f"{LIVE} WHERE m.id = ?", (memory_id,)).fetchone()
        if row is not None:
            return kept(row)
        row = self._database.execute(f"{GONE} WHERE t.id = ?", (memory_id,)).fetchone()
        return kept(row, deleted=True) if row is not None else None

    def write(self, memory: Memory, written_by: str, before: Kept | None, *, of_an_operator: bool = False) -> Kept:
        """Store a memory, or a tombstone, in place of what `find` returned; it is a change.

        Args:
            of_an_operator: the writer is one, and has no share that could be full.

        Raises:
            LimitReached: it is new, or new to its writer, and there are as many as may be.
        """
        was = before.memory if before is not None else None
        live_of = before.written_by if before is not None and not before.memory.deleted else None
        gone_of = before.written_by if before is not None and before.memory.deleted else None
        most_of_writer = self._most if of_an_operator else self._most_of_a_writer
        if memory.deleted:
            self._live.move(live_of, None)
            self._gone.move(gone_of, written_by)
            number = self._bury(memory, written_by, most_of_writer)
        else:
            if live_of is None:
                _require_room(self.count, self._most, "memories are stored and no more are taken")
            if live_of != written_by:
                of_one = f"memories are {written_by[:64]}'s and no more are kept of one writer"
                _require_room(self._live.of(written_by), most_of_writer, of_one)
            self._live.move(live_of, written_by)
            self._gone.move(gone_of, None)
            number = self._keep(memory, written_by)
            if gone_of is not None:
                self._database.execute("DELETE FROM memory_tombstones WHERE id = ?", (memory.id,))
            if was is None or was.keywords != memory.keywords:
                self._index(number, memory.keywords)
        self._database.execute(
            "INSERT OR REPLACE INTO memory_changes (id, revised) VALUES (?, ?)", (memory.id, memory.revised)
        )
        return Kept(memory, number, written_by)

    def touch(self, moments: Sequence[tuple[str, float]]) -> None:
        """Note when memories were accessed last, by id; each is a change."""
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

    def decay(self, idle_since: float, after: Place, limit: int, spared: Container[str]) -> Slice:
        """Take from the next `limit` idle memories what a pass takes; they go by their last access, then by number.

        Args:
            spared: ids of those that were accessed since.
        """
        rows = self._database.execute(
            "SELECT last_accessed, number, id, strength FROM memories "
            "WHERE forgotten = 0 AND last_accessed <= ? AND (last_accessed, number) > (?, ?) "
            "ORDER BY last_accessed, number LIMIT ?",
            (idle_since, *after, limit),
        ).fetchall()
        faded = [(decayed(strength), number) for _, number, memory_id, strength in rows if memory_id not in spared]
        self._database.execute_many(
            "UPDATE memories SET strength = ?, forgotten = ? WHERE number = ?",
            [(strength, forgotten(strength), number) for strength, number in faded],
        )
        end = rows[-1][:2] if len(rows) == limit else None
        return Slice(len(faded), sum(forgotten(strength) for strength, _ in faded), end)

    def note_pass(self, done: DecayPass) -> None:
        """Store what a decay pass has done so far."""
        self._database.execute(
            "INSERT OR REPLACE INTO memory_decay_pass VALUES (1, ?, ?, ?)", (done.ran, done.decayed, done.forgotten)
        )

    def last_pass(self) -> DecayPass | None:
        """Return what the last decay pass did."""
        row = self._database.execute("SELECT ran, decayed, forgotten FROM memory_decay_pass").fetchone()
        return DecayPass(*row) if row else None

    def _keep(self, memory: Memory, written_by: str) -> int:
        row = self._database.execute(
            "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
            "written_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET content = excluded.content, "
            "keywords = excluded.keywords, source = excluded.source, strength = excluded.strength, "
            "created = excluded.created, last_accessed = excluded.last_accessed, forgotten = excluded.forgotten, "
            "written_by = excluded.written_by RETURNING number",
            (
                memory.id,
                memory.content,
                msgspec.json.encode(memory.keywords),
                memory.source,
                memory.strength,
                memory.created,
                memory.last_accessed,
                memory.forgotten,
                written_by,
            ),
        ).fetchone()
        return int(row[0])

    def _index(self, number: int, keywords: Sequence[str]) -> None:
        self._database.execute("DELETE FROM memory_keywords WHERE number = ?", (number,))
        folded = sorted({keyword.casefold() for keyword in keywords})
        self._database.execute_many("INSERT INTO memory_keywords VALUES (?, ?)", [(each, number) for each in folded])

    def _bury(self, memory: Memory, written_by: str, most_of_writer: int) -> int:
        self._database.execute("DELETE FROM memories WHERE id = ?", (memory.id,))
        row = self._database.execute(
            "INSERT OR REPLACE INTO memory_tombstones (id, strength, created, last_accessed, written_by) "
            "VALUES (?, ?, ?, ?, ?) RETURNING number",
            (memory.id, memory.strength, memory.created, memory.last_accessed, written_by),
        ).fetchone()
        if self._gone.of(written_by) > most_of_writer:
            self._let_go("SELECT min(number) FROM memory_tombstones WHERE written_by = ?", written_by)
        if self._gone.total > self._most:
            self._let_go("SELECT min(number) FROM memory_tombstones")
        return int(row[0])

    def _let_go(self, oldest: str, *values: str) -> None:
        """Forget a tombstone; another store that has the memory may bring it back."""
        memory_id, writer = self._database.execute(
            f"DELETE FROM memory_tombstones WHERE number = ({oldest}) RETURNING id, written_by",  # noqa: S608 - constants
            values,
        ).fetchone()
        self._database.execute("DELETE FROM memory_changes WHERE id = ?", (memory_id,))
        self._gone.move(writer, None)


def _require_room(count: int, most: int, of_what: str) -> None:
    if count >= most:
        raise LimitReached(f"{most} {of_what}; `delete_memory` those that nobody needs")
