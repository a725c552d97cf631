"""How many bytes the rows of each writer take, and how many names they create, table by table.

Triggers keep the numbers in the transaction that changes the rows. So they are right after a rollback, a crash and a
restore, whoever writes, and no row is read at the start. What is counted are the texts of a row, and ROW_BYTES for its
numbers and its places in indexes; the words and vectors of a search come on top.
"""

from typing import Any, NamedTuple

from twinhost.store.database import Database

ROW_BYTES = 256
KINDS = {"agents": "registrations", "happenings": "events and errors"}  # where the table's name does not say it
NOT_DELETED = frozenset({"happenings", "replies"})  # tables whose rows no caller deletes
_TABLE = """
CREATE TABLE stored_bytes (
    writer TEXT NOT NULL,
    of TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    names INTEGER NOT NULL,
    PRIMARY KEY (writer, of)
) STRICT, WITHOUT ROWID;
"""
_ADD = "ON CONFLICT (writer, of) DO UPDATE SET bytes = bytes + excluded.bytes, names = names + excluded.names;"


class Counted(NamedTuple):
    """A table whose rows are counted: the columns with texts, whose they are, and how many names a row creates.

    In SQL, with `{0}` for the row. A writer that is no column of its own is an expression of the columns with texts.
    """

    table: str
    columns: tuple[str, ...] = ()
    writer: str = "{0}.written_by"
    names: str = "0"

    def migration(self) -> str:
        """Return the SQL that counts the rows that there are, and has triggers count what changes."""
        table, written_by = self.table, self.writer.removeprefix("{0}.")
        columns = ", ".join((*self.columns, *([written_by] if written_by.isidentifier() else [])))
        added, removed = self._values("new", "+"), self._values("old", "-")
        return f"""
INSERT INTO stored_bytes SELECT {self.writer.format(table)} AS writer, '{table}', sum({self.size(table)}),
    sum({self.names.format(table)}) FROM {table} GROUP BY writer;
CREATE TRIGGER stored_bytes_of_added_{table} AFTER INSERT ON {table} BEGIN
    INSERT INTO stored_bytes VALUES {added} {_ADD}
END;
CREATE TRIGGER stored_bytes_of_removed_{table} AFTER DELETE ON {table} BEGIN
    INSERT INTO stored_bytes VALUES {removed} {_ADD}
END;
CREATE TRIGGER stored_bytes_of_changed_{table} AFTER UPDATE OF {columns} ON {table}
WHEN ({self._amounts("old")}) IS NOT ({self._amounts("new")}) BEGIN
    INSERT INTO stored_bytes VALUES {removed}, {added} {_ADD}
END;
"""  # noqa: S608 - of constants alone

    def size(self, row: str) -> str:
        """Return the expression for the bytes that a row counts."""
        texts = (f"coalesce(length(CAST({row}.{column} AS BLOB)), 0)" for column in self.columns)
        return " + ".join((str(ROW_BYTES), *texts))

    def _amounts(self, row: str) -> str:
        return f"{self.writer.format(row)}, {self.size(row)}, {self.names.format(row)}"

    def _values(self, row: str, sign: str) -> str:
        names = self.names.format(row)
        return f"({self.writer.format(row)}, '{self.table}', {sign}({self.size(row)}), {sign}({names}))"


def counting(*tables: Counted) -> str:
    """Return the migration that creates the numbers of these tables."""
    return _TABLE + "".join(table.migration() for table in tables)


class Stored(NamedTuple):
    """What a writer has stored."""

    bytes: int = 0
    names: int = 0


class StoredBytes:
    """The numbers of one database; all 0 where its migrations count nothing."""

    def __init__(self, database: Database, owner: str | None = None) -> None:
        """Count each row for its writer, or all of them for the database's owner."""
        self._database, self._owner = database, owner
        self._counts = database.value("SELECT 1 FROM sqlite_schema WHERE name = 'stored_bytes'") is not None

    @property
    def changes(self) -> int:
        """A number that grows with every change of a row."""
        return self._database.total_changes

    def of(self, name: str) -> Stored:
        """Return what one identity has stored."""
        return Stored(*self._select("coalesce(sum(bytes), 0), coalesce(sum(names), 0)", name, (0, 0))[0])

    def by_table(self, name: str) -> list[tuple[str, Stored]]:
        """Return what one identity has stored, by table."""
        rows = self._select("of, sum(bytes), sum(names)", name, end="GROUP BY of")
        return [(table, Stored(*sums)) for table, *sums in rows]

    def all(self) -> dict[str, Stored]:
        """Return what every identity has stored."""
        if self._owner is not None:
            return {self._owner: self.of(self._owner)}
        rows = (
            self._database.execute("SELECT writer, sum(bytes), sum(names) FROM stored_bytes GROUP BY writer")
            if self._counts
            else ()
        )
        return {writer: Stored(*sums) for writer, *sums in rows}

    def _select(self, what: str, name: str, *missing: tuple[int, int], end: str = "") -> list[tuple[Any, ...]]:
        if not self._counts or self._owner not in (None, name):
            return list(missing)
        whose, values = ("", ()) if self._owner else ("WHERE writer = ?", (name,))
        return self._database.execute(f"SELECT {what} FROM stored_bytes {whose} {end}", values).fetchall()  # noqa: S608
