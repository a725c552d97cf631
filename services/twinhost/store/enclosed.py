"""Further databases in a backup: rows of one more table, so that it stays one file, and a complete database."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from twinhost.store.backup import copy_database
from twinhost.store.damage import connect_to_read
from twinhost.store.files import part

TABLE = "enclosed_databases"
_CREATE = (
    f"CREATE TABLE {TABLE} (name TEXT NOT NULL, part INTEGER NOT NULL, content BLOB NOT NULL, "
    "PRIMARY KEY (name, part)) STRICT"
)
_PART_BYTES = 1_048_576


def enclose(copy: Path, databases: Mapping[str, Path]) -> list[str]:
    """Add databases to a finished copy, each as of a moment of its own; return the names of those that there were.

    Raises:
        StoreUnavailable: one of them can't be copied.
        OSError, sqlite3.Error: the copy can't be written.
    """
    enclosed = []
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN")
        connection.execute(_CREATE)
        for name, path in databases.items():
            if not path.exists():  # it is deleted, or has nothing yet
                continue
            file = part(copy, ".enclosed")
            try:
                copy_database(path, file)
                connection.executemany(
                    f"INSERT INTO {TABLE} VALUES (?, ?, ?)",  # noqa: S608 - a constant
                    ((name, number, content) for number, content in enumerate(_parts(file))),
                )
            finally:
                file.unlink(missing_ok=True)
            enclosed.append(name)
        connection.execute("COMMIT")
    return enclosed


def encloses(copy: Path) -> bool:
    """Return whether a file is a database with others in it."""
    try:
        with closing(connect_to_read(copy)) as connection:
            found = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (TABLE,)).fetchone()
    except sqlite3.Error:
        return False
    return found is not None and str(found[0]) == _CREATE  # and no view, nor another table


def take_out(copy: Path, path_for: Callable[[str], Path]) -> dict[str, Path]:
    """Write the databases in a copy to files of their own, and leave the copy without them.

    Args:
        copy: it `encloses` some; nothing of them is left in it.
        path_for: returns a new file for a name; it may refuse the name.

    Returns:
        The files by name, none of them checked.

    Raises:
        OSError, sqlite3.Error: the copy can't be read, or a file not be written.
    """
    files: dict[str, Path] = {}
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        for name, content in connection.execute(f"SELECT name, content FROM {TABLE} ORDER BY name, part"):  # noqa: S608
            if name not in files:
                files[name] = path_for(name)
                files[name].touch(0o600)
            with files[name].open("ab") as stream:
                stream.write(content)
        connection.execute(f"DROP TABLE {TABLE}")
        rest = part(copy, ".rest")
        connection.execute("VACUUM INTO ?", (str(rest),))  # `VACUUM` would need the space where temporary files are
    rest.replace(copy)
    return files


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while content := stream.read(_PART_BYTES):
            yield content
