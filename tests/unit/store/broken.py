"""Databases as a killed process leaves them, and ways to break them."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests import fork_server
from twinhost.store.database import Database
from twinhost.store.files import part

NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"
FRAME_BYTES = 24 + 4_096


def killed_after(path: Path, notes: int, checkpoint: str = "") -> None:
    """Let a process store notes, each in a transaction of its own, and be killed: they lie in the log."""
    done = fork_server.run([__name__, str(path), str(notes), checkpoint])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert part(path, "-wal").exists()


def whole(path: Path, notes: int) -> None:
    """Make a database with some notes, closed in order."""
    with closing(Database(path, [NOTES])) as database, database.transaction():
        for number in range(notes):
            database.execute("INSERT INTO notes (text) VALUES (?)", (f"{number} " + "x" * 3_000,))


def count(path: Path) -> int:
    """Return how many notes there are, as a start of an agent would."""
    with closing(Database(path, [NOTES])) as database:
        return int(database.execute("SELECT count(*) FROM notes").fetchone()[0])


def flip(path: Path, offset: int) -> None:
    """Change every bit of one byte; a negative offset counts from the end."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def files_of(path: Path) -> dict[str, bytes]:
    """Return the content of a database's files, but for the log's index, which SQLite rebuilds at any read."""
    return {suffix: part(path, suffix).read_bytes() for suffix in ("", "-wal") if part(path, suffix).exists()}


@contextmanager
def no_file_beyond(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: what does fails as on a full volume."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _store_and_die(path: str, notes: str, checkpoint: str) -> None:
    database = Database(Path(path), [NOTES])
    for number in range(int(notes)):
        with database.transaction():
            database.execute("INSERT INTO notes (text) VALUES (?)", (f"{number} " + "x" * 3_000,))
    if checkpoint:
        database.execute(f"PRAGMA wal_checkpoint({checkpoint})")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _store_and_die(*sys.argv[1:])
