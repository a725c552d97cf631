"""Some of the agent's actions on a real database, without a socket, as a client of them would see it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.new_database import open_database
from tests.unit.asked import Asked
from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import EVERY_ACTION, Grants
from twinhost.store.reply_log import SCHEMA
from twinhost.unified_memory_reasoning import __main__ as agent

MAX_REPLY_BYTES = 262_144
MIGRATIONS = (SCHEMA, *agent.MIGRATIONS)  # of the database, as a start of the agent runs them
EVERYTHING = Grants({role: frozenset({EVERY_ACTION}) for role in ("agent", "operator")})


def migrations_before(migration: str) -> tuple[str, ...]:
    """Return the migrations of the version before this one was added."""
    return MIGRATIONS[: MIGRATIONS.index(migration)]


class Bench(Asked):
    """Actions on a database that can be opened again; `CALLER` asks if no other is named."""

    CALLER = SDT

    def __init__(self, path: Path, max_bytes: int = MAX_REPLY_BYTES, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path, self._max_bytes, self._clock = path, max_bytes, clock
        self.open()

    def open(self, migrations: Sequence[str] = MIGRATIONS) -> None:
        """Open the database, as a start of the agent does."""
        self.database = open_database(self.path, migrations, self._clock)
        self.serve(self.make())

    def make(self) -> Iterable[Action[Any]]:
        raise NotImplementedError

    def serve(self, actions: Iterable[Action[Any]], grants: Grants = EVERYTHING, **options: Any) -> None:
        """Answer these actions from now on."""
        self.answer_to(actions, grants, self._max_bytes, **options)

    def rows(self, table: str) -> int:
        return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def bench_of(make: Callable[[Path], Bench]) -> Any:
    """Return a fixture: what is made on a new database, and closed at the end."""

    @pytest.fixture
    def bench(tmp_path: Path) -> Iterator[Bench]:
        with make(tmp_path / "db") as made:
            yield made

    return bench
