"""A new database for a test: the migrations run once in a process, and every other new database is a copy."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.store.database import Database


def open_database(
    path: Path, migrations: Sequence[str], clock: Clock = SYSTEM_CLOCK, *, logged: bool = False
) -> Database:
    """Open a database like `Database(path, migrations)`, in a tenth of the time if it is a new one."""
    if not path.exists():
        path.write_bytes(_migrated(tuple(migrations)))
    return Database(path, migrations, clock, logged=logged)


@cache
def _migrated(migrations: tuple[str, ...]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "empty"
        Database(path, migrations).close()
        return path.read_bytes()
