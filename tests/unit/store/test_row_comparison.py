"""Two databases compared row by row: the rows that a backup adds, keeps, replaces, and lacks."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from twinhost.store.row_comparison import Compared, compare_rows

Rows = list[tuple[object, ...]]


def database(path: Path, schema: str, rows: Rows) -> Path:
    """Make a database with one table."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(schema)
        for row in rows:
            connection.execute(f'INSERT INTO "t t" VALUES ({", ".join("?" * len(row))})', row)
    return path


def compared(tmp_path: Path, schema: str, backup: Rows, other: Rows, *key: str) -> Compared:
    first, second = database(tmp_path / "a", schema, backup), database(tmp_path / "b", schema, other)
    return compare_rows(first, second, {"t t": key} if key else {})["t t"]


def test_a_primary_key_identifies_a_row(tmp_path: Path) -> None:
    schema = 'CREATE TABLE "t t" (id TEXT PRIMARY KEY, "a ""b" TEXT)'
    backup: Rows = [("same", None), ("changed", None), ("more", "x")]
    other: Rows = [("same", None), ("changed", "y"), ("gone", "x"), ("gone too", "x")]
    assert compared(tmp_path, schema, backup, other) == Compared(added=1, kept=1, replaced=1, missing=2)


def test_a_row_is_identified_by_a_unique_column_not_its_number(tmp_path: Path) -> None:
    """Rows with other numbers are the same rows."""
    schema = 'CREATE TABLE "t t" (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, a TEXT)'
    backup: Rows = [(1, "x", "1"), (2, "y", "1")]
    other: Rows = [(1, "y", "1"), (2, "x", "2"), (3, "z", "")]
    assert compared(tmp_path, schema, backup, other) == Compared(added=0, kept=1, replaced=1, missing=1)


@pytest.mark.parametrize(("key", "changed"), [((), (1, 1, 0, 1)), (("id", "a"), (0, 1, 1, 0))])
def test_without_a_unique_key_the_content_identifies_a_row(
    tmp_path: Path, key: tuple[str, ...], changed: tuple[int, int, int, int]
) -> None:
    """All columns, or the named ones; the same number with other content is another row."""
    schema = 'CREATE TABLE "t t" (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, strength REAL)'
    backup: Rows = [(1, "x", 1.0), (2, "y", 1.0)]
    assert compared(tmp_path, schema, backup, [(1, "x", 1.0), (2, "y", 0.5)], *key) == Compared(*changed)
    (tmp_path / "b").unlink()
    other = database(tmp_path / "b", schema, [(1, "x", 1.0), (2, "z", 1.0)])
    assert compare_rows(tmp_path / "a", other, {"t t": key})["t t"] == Compared(1, 1, 0, 1)


def test_columns_and_tables_of_only_one_side_are_ignored(tmp_path: Path) -> None:
    """As with a backup of the previous version."""
    older = database(tmp_path / "a", 'CREATE TABLE "t t" (id TEXT PRIMARY KEY, a TEXT)', [("x", "1")])
    schema = (
        'CREATE TABLE "t t" (id TEXT PRIMARY KEY, b TEXT, a TEXT); CREATE TABLE new (a); INSERT INTO new VALUES (1)'
    )
    newer = database(tmp_path / "b", schema, [("x", "new", "1")])
    assert compare_rows(older, newer, {}) == {"t t": Compared(0, 1, 0, 0), "new": Compared(0, 0, 0, 1)}
    assert compare_rows(newer, older, {}) == {"t t": Compared(0, 1, 0, 0), "new": Compared(1, 0, 0, 0)}


def test_rows_on_damaged_pages_are_not_counted(tmp_path: Path) -> None:
    """Keys that can be read are compared; the number of rows with unreadable content is None."""
    schema = 'CREATE TABLE "t t" (id TEXT PRIMARY KEY, a BLOB)'
    rows: Rows = [(f"{number:03}", b"x" * 3_000) for number in range(100)]
    backup, other = database(tmp_path / "a", schema, rows[:50]), database(tmp_path / "b", schema, rows)
    content = bytearray(other.read_bytes())
    pages = [page for page in range(4_096, len(content), 4_096) if content[page] == 13]  # leaves of the table
    for page in pages:
        content[page : page + 4_096] = b"\xff" * 4_096
    other.write_bytes(content)
    found = compare_rows(backup, other, {}, immutable=True)["t t"]
    assert found == Compared(added=0, kept=None, replaced=None, missing=50)
    other.write_bytes(b"no database")
    assert compare_rows(backup, other, {}, immutable=True) == {"t t": Compared()}
    with pytest.raises(sqlite3.Error):
        compare_rows(backup, other, {})
