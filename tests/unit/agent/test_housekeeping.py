"""What the server's loop does at every tick: look after its companions and its store."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.ports import free_ports
from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent import process
from twinhost.agent.assembly import Companion
from twinhost.agent.health import Health
from twinhost.agent.http import HttpServer
from twinhost.agent.process import Vital
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.database import Database
from twinhost.store.reply_log import ReplyLog

NOTES = "CREATE TABLE notes (text TEXT) STRICT"


class Store:
    """A real database and its log of replies, and how much space there is."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, [*REPLY_LOG_MIGRATIONS, NOTES])
        self.replies = ReplyLog(self.database, keep_s=0, keep_per_caller=10)
        with self.database.transaction():
            self.replies.add("caller", "r1", b"digest", b"reply")
        self.ticks = 0

    def housekeeping(self, *companions: Companion) -> Callable[[], None]:
        """Return the function that the loop calls."""
        vital: Vital = {
            type(companion).__name__: functools.partial(getattr, companion, "responsive") for companion in companions
        }
        return process._housekeeping(self.database, self.replies, self._on_tick, vital, lambda: None)

    def leave_no_space(self) -> None:
        """Let every page that the file would need more be one too many, and a write find that out."""
        (pages,) = self.database.execute("PRAGMA page_count").fetchone()
        self.database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnavailable), self.database.transaction():
            self.database.execute("INSERT INTO notes VALUES (?)", ("x" * 100_000,))
        assert self.database.fault is not None

    def give_space(self) -> None:
        self.database.execute("PRAGMA max_page_count = 100000")

    def _on_tick(self) -> None:
        self.ticks += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "db")
    yield store
    store.database.close()


def test_a_tick_forgets_old_replies_and_ticks_the_agent(store: Store) -> None:
    """Replies past their time go, in memory and in the file."""
    store.housekeeping()()
    assert (len(store.replies), store.ticks) == (0, 1)
    assert store.database.execute("SELECT count(*) FROM replies").fetchone() == (0,)


def test_a_companion_that_died_ends_the_loop(store: Store) -> None:
    """The process must not go on without one of its threads."""
    (port,) = free_ports(1)
    http = HttpServer(port, Health("Agent", secure=True).document)
    http.start()
    tick = store.housekeeping(http)
    tick()
    http.stop()
    with pytest.raises(RuntimeError, match="HttpServer died; the process ends, so that it is restarted completely"):
        tick()
    assert store.ticks == 1


def test_a_process_that_was_paused_goes_on(tmp_path: Path) -> None:
    """Its loop may be the first to run again; a thread that has died is found seconds later."""
    clock, responsive = Clock(), False
    database = Database(tmp_path / "db", [*REPLY_LOG_MIGRATIONS], clock)
    replies = ReplyLog(database, keep_s=0, keep_per_caller=10)
    tick = process._housekeeping(database, replies, lambda: None, {"Subscriber": lambda: responsive}, lambda: None)
    clock.let_pass(60)
    tick()
    responsive = True
    clock.let_pass(1)
    tick()
    responsive = False
    clock.let_pass(2)
    with pytest.raises(RuntimeError, match="Subscriber died"):
        tick()
    database.close()


def test_a_store_that_works_again_is_found_out_without_a_request(store: Store) -> None:
    """Where nobody writes, health would stay red for ever on a disk that has space."""
    store.leave_no_space()
    store.give_space()
    store.housekeeping()()
    assert store.database.fault is None
    assert len(store.replies) == 0


def test_a_store_that_fails_is_tried_once_a_second(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is there for requests: a locked file would hold it up at every try."""
    tries: list[Database] = []
    transaction = Database.transaction

    def counted(database: Database) -> AbstractContextManager[None]:
        tries.append(database)
        return transaction(database)

    store.leave_no_space()
    monkeypatch.setattr(Database, "transaction", counted)
    store.database.execute("PRAGMA query_only = 1")  # even the try, which needs no new page, is refused
    tick = store.housekeeping()
    for _ in range(10):
        tick()
    assert store.database.fault is not None
    assert len(tries) == 1
    assert store.ticks == 10


def test_a_store_that_fails_does_not_end_the_loop(store: Store) -> None:
    """It stays a fault; reads go on being served, and the agent's own tick comes all the same."""
    store.leave_no_space()
    store.database.execute("PRAGMA query_only = 1")  # even the try, which needs no new page, is refused
    tick = store.housekeeping()
    tick()
    assert store.database.fault is not None
    assert store.ticks == 1
    store.database.execute("PRAGMA query_only = 0")
