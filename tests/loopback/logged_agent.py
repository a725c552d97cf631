"""A process that stores notes with a log in PostgreSQL, as an agent does: it answers a line once its row is committed.

    python -m tests.loopback.logged_agent FILE DSN HOLDER [note|sent|append|commit|reply]

It says `active` when it is. Each line that it then reads is a note; it answers `stored LINE`, or, to `?`, `rows N`.
With a step, it kills itself after that step of the transaction that stores the note `die`: once its statements are
noted, once they are sent to PostgreSQL, once that has said that it has them, once SQLite has them, before the reply. Or
after a function of `twinhost.store.replication.snapshots`, at its n-th call: `NAME:N`. It logs to standard error.

Of its log, MUCH transactions are much, for which it looks often. The folder `files` beside the database is in its
snapshots.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from psycopg.abc import PQGen
from psycopg.waiting import Wait

from twinhost.store.database import Database
from twinhost.store.replication import postgres, snapshots
from twinhost.store.replication.epochs import Candidate
from twinhost.store.replication.postgres import Extent, Log
from twinhost.store.replication.replica import Active, Replica, stand_by
from twinhost.store.replication.statements import NotingConnection

AGENT = "Notes"
MIGRATIONS = [
    """
    CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL UNIQUE) STRICT;
    CREATE VIRTUAL TABLE found USING fts5 (text, content = 'notes', content_rowid = 'id');
    CREATE TRIGGER noted AFTER INSERT ON notes BEGIN
        INSERT INTO found (rowid, text) VALUES (new.id, upper_case(new.text));
    END;
    """
]
FUNCTIONS = {"upper_case": str.upper}
within = postgres._within


def connect(dsn: str) -> Log:
    return Log(dsn, AGENT)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def serve(database: Database, active: Active, step: str) -> None:
    database.define("upper_case", str.upper)
    for line in map(str.strip, sys.stdin):
        if line == "?":
            rows = database.value("SELECT count(*) FROM notes")
            active.require_held()
            print(f"rows {rows}", flush=True)
            continue
        if line == "die":
            kill_after(step)
        with database.transaction():
            database.execute("INSERT INTO notes (text) VALUES (?)", (line,))
        if line == "die" and step == "reply":
            die()
        active.require_held()
        print(f"stored {line}", flush=True)


def kill_after(step: str) -> None:
    """Have the next transaction end after a step."""
    append, commit = Log.append, NotingConnection.commit_noted

    def append_and_die(self: Log, epoch: int, seq: int, statements: bytes) -> bool:
        append(self, epoch, seq, statements)
        die()
        return True

    def commit_and_die(self: NotingConnection) -> None:
        commit(self)
        die()

    def die_first(*_: object) -> bool:
        die()
        return True

    def send_and_die(self: Log, epoch: int, seq: int, statements: bytes) -> bool:
        postgres._within = dying_once_sent
        return append(self, epoch, seq, statements)

    if step == "note":
        Log.append = die_first  # type: ignore[method-assign, assignment]
    if step == "sent":
        Log.append = send_and_die  # type: ignore[method-assign]
    if step == "append":
        Log.append = append_and_die  # type: ignore[method-assign]
    if step == "commit":
        NotingConnection.commit_noted = commit_and_die  # type: ignore[method-assign]


def dying_once_sent(steps: PQGen[Any], seconds: float) -> PQGen[Any]:
    """Yield the steps of an exchange with PostgreSQL, and die where nothing is left but to read the reply."""
    if threading.current_thread() is not threading.main_thread():  # a beat
        return (yield from within(steps, seconds))
    wanted = next(steps)
    while wanted != Wait.R:
        wanted = steps.send((yield wanted))
    die()
    raise AssertionError("it is dead")


@contextmanager
def beside(state: Path, copy: Path) -> Iterator[None]:
    yield
    if (state / "files").exists():
        shutil.copytree(state / "files", copy / "files")


def kill_in_snapshot(name: str, number: int) -> None:
    """Have this process end after a call of a function that snapshots use."""
    owner = postgres.NewSnapshot if hasattr(postgres.NewSnapshot, name) else Log if hasattr(Log, name) else snapshots
    function, calls = getattr(owner, name), []

    def call_and_die(*arguments: object, **options: object) -> object:
        result = function(*arguments, **options)
        calls.append(name)
        if len(calls) == number:
            die()
        return result

    setattr(owner, name, call_and_die)


def main(path: str, dsn: str, holder: str, step: str = "") -> None:
    """Stand by, and serve until the end of the input."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if "MUCH" in os.environ:
        snapshots._MUCH, snapshots._LOOK_S = Extent(int(os.environ["MUCH"]), 1 << 30), 0.05
    snapshots._PART_BYTES = 4_096
    name, _, number = step.partition(":")
    if number:
        kill_in_snapshot(name, int(number))
    replica = Replica(Path(path), FUNCTIONS, len(MIGRATIONS), beside=beside)
    active = stand_by(replica, Candidate(holder), partial(connect, dsn), threading.Event())
    assert active is not None
    database = active.open(MIGRATIONS)
    print("active", flush=True)
    serve(database, active, step)
    database.close()
    active.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
