"""What the database keeps of the log: the head, the lines that are on their way to a file, and the files."""

from collections.abc import Sequence
from dataclasses import dataclass

from twinhost.store.audit_log.chain import NO_HASH, Anchor, Head, hash_of, make_line, prev_of
from twinhost.store.audit_log.events import Event
from twinhost.store.audit_log.fields import Fields
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT;
INSERT INTO audit_head VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE audit_outbox (
    seq INTEGER PRIMARY KEY,
    line BLOB NOT NULL
) STRICT;
CREATE TABLE audit_files (
    first_seq INTEGER PRIMARY KEY,
    prev TEXT NOT NULL
) STRICT;
"""

MIGRATION_RESTORES = "CREATE TABLE audit_restores (seq INTEGER PRIMARY KEY) STRICT;"


@dataclass(frozen=True, slots=True)
class Pending:
    """A line on its way."""

    seq: int
    line: bytes

    @property
    def head(self) -> Head:
        return Head(self.seq, hash_of(self.line))

    @property
    def before(self) -> Head:
        return Head(self.seq - 1, prev_of(self.line))


class Ledger:
    """The database's side of the log; for the server's thread alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        (row,) = database.execute("SELECT seq, hash FROM audit_head").fetchall()
        self.head = Head(*row)
        self.files: tuple[Anchor, ...] = tuple(
            Anchor(*file) for file in database.execute("SELECT first_seq, prev FROM audit_files ORDER BY first_seq")
        )

    @property
    def anchor(self) -> Anchor:
        """Where the log begins: the first line of the oldest file that is kept."""
        return self.files[0] if self.files else Anchor(1, NO_HASH)

    @property
    def in_transaction(self) -> bool:
        return self._database.in_transaction

    def add(self, entries: Sequence[tuple[str, Event, Fields]]) -> None:
        """Make the next lines durable: with the transaction under way, or else in one of their own.

        Raises:
            StoreUnavailable: none of them was added.
        """
        if self.in_transaction:
            with self._database.savepoint():
                self._add(entries)
        else:
            with self._database.transaction():
                self._add(entries)

    def pending(self, after: int, limit: int) -> list[Pending]:
        """Return the lines after line `after` that are to be written, the oldest first."""
        rows = self._database.execute(
            "SELECT seq, line FROM audit_outbox WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [Pending(*row) for row in rows]

    def clear(self, last: int) -> None:
        """Forget the lines up to `last`: a file has them."""
        with self._database.transaction():
            self._database.execute("DELETE FROM audit_outbox WHERE seq <= ?", (last,))

    def restores(self) -> list[int]:
        """Return the numbers of the lines `restored`; the log's files say what is in them."""
        return [seq for (seq,) in self._database.execute("SELECT seq FROM audit_restores ORDER BY seq")]

    def begin_file(self, first: Pending, keep: int) -> None:
        """Say that a file begins with this line, and which are kept: the newest `keep`, with it."""
        files = (*self.files, Anchor(first.seq, first.before.hash))[-keep:]
        with self._database.transaction():
            self._database.execute("INSERT INTO audit_files VALUES (?, ?)", (first.seq, first.before.hash))
            self._database.execute("DELETE FROM audit_files WHERE first_seq < ?", (files[0].seq,))
        self.files = files

    def _add(self, entries: Sequence[tuple[str, Event, Fields]]) -> None:
        before = self.head

        def undo() -> None:
            self.head = before

        self._database.on_rollback(undo)
        for time, event, fields in entries:
            line = make_line(self.head, time, event, fields)
            self.head = Head(self.head.seq + 1, hash_of(line))
            self._database.execute("INSERT INTO audit_outbox VALUES (?, ?)", (self.head.seq, line))
            if event is Event.RESTORED:
                self._database.execute("INSERT INTO audit_restores VALUES (?)", (self.head.seq,))
        self._database.execute("UPDATE audit_head SET seq = ?, hash = ?", (self.head.seq, self.head.hash))
