"""Compare the rows of two databases by identity, in SQL: no row is read into this process.

Two rows are the same row if their keys are equal: the columns that the caller names, else those of the table's unique
key, else all columns. A number that SQLite assigned is not a key, since after a restore it may be another row's.
"""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from twinhost.store.backup import number_of, quoted, tables_of
from twinhost.store.damage import connect_to_read, uri_to_read


@dataclass(frozen=True, slots=True)
class Compared:
    """How many rows of a table a backup adds, leaves unchanged, and replaces, and how many are missing in it.

    A number is None if damage makes the rows unreadable.
    """

    added: int | None = None
    kept: int | None = None
    replaced: int | None = None
    missing: int | None = None


def compare_rows(
    backup: Path, other: Path, keys: Mapping[str, Sequence[str]], *, immutable: bool = False
) -> dict[str, Compared]:
    """Compare a backup with another database, table by table, in one snapshot.

    Args:
        backup: a verified copy; of an older schema, as it is before its migration.
        other: the database that it replaces, which may be in use.
        keys: by table, the columns that identify a row, where these are not its unique key.
        immutable: `other` is damaged: ignore its write-ahead log, and touch no file next to it.

    Raises:
        sqlite3.Error: the backup can't be read.
    """
    with closing(connect_to_read(backup)) as connection:
        tables = tables_of(connection)
        try:
            connection.execute("ATTACH ? AS other", (uri_to_read(other, immutable=immutable),))
            connection.execute("BEGIN")
            others = tables_of(connection, "other")
        except sqlite3.Error:
            if not immutable:
                raise
            return {table: Compared() for table in tables}
        return {table: _compare(connection, table, tables, others, keys) for table in {*tables, *others}}


def _compare(
    connection: sqlite3.Connection,
    table: str,
    tables: Sequence[str],
    others: Sequence[str],
    keys: Mapping[str, Sequence[str]],
) -> Compared:
    name = quoted(table)
    own, its = f"SELECT count(*) FROM main.{name} AS a", f"SELECT count(*) FROM other.{name} AS b"  # noqa: S608 - from the schema
    added = kept = replaced = missing = None
    with suppress(sqlite3.Error):  # a damaged page
        if table not in others:
            return Compared(number_of(connection, own), 0, 0, 0)
        if table not in tables:
            return Compared(0, 0, 0, number_of(connection, its))
        columns = _columns(connection, table, "main") & _columns(connection, table, "other")
        key = set(keys.get(table) or _unique_key(connection, table))
        if not key or not key <= columns:
            key = columns
        together = f"{own} JOIN other.{name} AS b ON {_equal(key)}"
        both = number_of(connection, together)
        added, missing = number_of(connection, own) - both, number_of(connection, its) - both
        kept = number_of(connection, f"{together} AND {_equal(key | columns - _assigned(connection, table))}")
        replaced = both - kept
    return Compared(added, kept, replaced, missing)


def _columns(connection: sqlite3.Connection, table: str, schema: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?, ?)", (table, schema))}


def _unique_key(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns of the primary key, if it is no assigned number, or else of another unique constraint."""
    rows = connection.execute(
        "SELECT i.name FROM pragma_index_list(?, 'main') AS i WHERE i.\"unique\" AND i.origin IN ('pk', 'u') "
        "ORDER BY i.origin, i.name LIMIT 1",
        (table,),
    )
    return [
        column
        for (index,) in rows.fetchall()
        for (column,) in connection.execute("SELECT name FROM pragma_index_info(?, 'main')", (index,))
    ]


def _assigned(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the column that SQLite numbers the rows by."""
    rows = connection.execute(
        "SELECT name FROM pragma_table_info(?1, 'main') WHERE pk AND upper(type) = 'INTEGER' "
        "AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk')",
        (table,),
    )
    return {name for (name,) in rows}


def _equal(columns: Collection[str]) -> str:
    return " AND ".join(f"a.{quoted(name)} IS b.{quoted(name)}" for name in sorted(columns))
