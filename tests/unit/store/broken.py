"""Databases as a killed process leaves them, and ways to break them."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from twinhost.store.database import Database
from twinhost.store.files import part

SERVICES = Path(__file__).resolve().parents[3] / "services"
NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"
FRAME_BYTES = 24 + 4_096
_WRITER = """
import os, signal, sys
from pathlib import Path
from twinhost.store.database import Database
database = Database(Path(sys.argv[1]), [sys.argv[2]])
for number in range(int(sys.argv[3])):
    with database.transaction():
        database.execute("INSERT INTO notes (text) VALUES (?)", (f"{number} " + "x" * 3_000,))
if sys.argv[4]:
    database.execute("PRAGMA wal_checkpoint(" + sys.argv[4] + ")")
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_after(path: Path, notes: int, checkpoint: str = "") -> None:
    """Let a process store notes, each in a transaction of its own, and be killed: they lie in the log."""
    command = [sys.executable, "-c", _WRITER, str(path), NOTES, str(notes), checkpoint]
    subprocess.run(command, env={"PYTHONPATH": str(SERVICES)}, check=False)
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
