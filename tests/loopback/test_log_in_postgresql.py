"""Two processes with one log in a real PostgreSQL: what was acknowledged is kept, and one of them answers at a time.

The ledger of a process is what it has written to its standard output, which is compared with both files and the log.
"""

import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.loopback.logged_agent import AGENT, FUNCTIONS, MIGRATIONS, connect
from tests.postgres import Cluster, running_cluster
from tests.replayed import contents
from tests.waiting import PATIENCE_S, suspend, wait_until
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.replication.epochs import BEAT_S, CLAIM_AFTER_S, HOLDS_S, Candidate
from twinhost.store.replication.postgres import Databases, OutcomeUnknown
from twinhost.store.replication.replica import EXIT_STATUS, Active, Replica, _claimed, monotonic, stand_by
from twinhost.store.replication.statements import NotingConnection

_TAKEOVER_S = CLAIM_AFTER_S + PATIENCE_S  # on a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def dsn(cluster: Cluster) -> Iterator[str]:
    dsn = cluster.new_database()
    with closing(connect(dsn)) as log:
        log.create()
    yield dsn
    cluster.set("synchronous_standby_names", "")


@contextmanager
def frozen_first(dsn: str, folder: Path) -> Iterator[str]:
    """Yield a DSN whose first database takes connections, and says nothing."""
    with closing(socket.socket(socket.AF_UNIX)) as frozen:
        frozen.bind(str(folder / ".s.PGSQL.5432"))
        frozen.listen()
        yield dsn.replace("?host=", f"?host={folder},")


def test_a_database_that_is_frozen_delays_no_connection(dsn: str, tmp_path: Path) -> None:
    """Else an active process that connects again to beat would lose its epoch."""
    with frozen_first(dsn, tmp_path) as hosts:
        databases = Databases(hosts, AGENT)
        for _ in range(2):
            began = time.monotonic()
            with closing(databases()) as log:
                assert log.other_servers == [str(tmp_path)]
            assert time.monotonic() - began < HOLDS_S - BEAT_S


def test_after_a_broken_connection_another_database_is_asked(dsn: str, tmp_path: Path) -> None:
    """The old one may be cut off, and take writes that nobody confirms."""
    folder, other = dsn.partition("?host=")[2].partition("&")[0], tmp_path / "other"
    other.symlink_to(folder)
    databases = Databases(dsn.replace(f"?host={folder}", f"?host={folder},{other}"), AGENT)
    for last in (str(other), folder, str(other)):
        with closing(databases()) as log:
            assert log.other_servers == [last]


def test_a_database_is_used_as_soon_as_it_takes_writes(cluster: Cluster, dsn: str, tmp_path: Path) -> None:
    """Also while a frozen one is still being asked; until then it may be read."""
    seen: list[bool] = []
    with frozen_first(dsn, tmp_path) as hosts, ThreadPoolExecutor() as pool, cluster.connect() as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
        try:
            connecting = pool.submit(Databases(hosts, AGENT, lambda follower: seen.append(follower.look().number == 0)))
            wait_until(lambda: len(seen) > 1, PATIENCE_S, "what takes no writes is read, again and again")
        finally:
            connection.execute("SET transaction_read_only = off")
            cluster.set("default_transaction_read_only", "off")
        began = time.monotonic()
        connecting.result(PATIENCE_S).close()
    assert time.monotonic() - began < HOLDS_S - BEAT_S
    assert all(seen)


def test_none_that_takes_writes_is_an_unknown_outcome(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(OutcomeUnknown):
        Databases(f"{dsn.partition('?')[0]}?host={tmp_path},{tmp_path / 'other'}", AGENT)()


class Process:
    """One of both processes, and its ledger."""

    def __init__(self, folder: Path, dsn: str, holder: str, step: str = "", **environment: str) -> None:
        self.path = folder / holder / "notes.sqlite3"
        self.path.parent.mkdir(exist_ok=True)
        self.errors = folder / f"{holder}.{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "tests.loopback.logged_agent", str(self.path), dsn, holder, step]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | {"PYTHONPATH": "services:."} | environment,
            )
        self.ledger: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def wait_for(self, line: str, seconds: float = _TAKEOVER_S) -> None:
        """Read the answers up to one."""
        until = time.monotonic() + seconds
        while True:
            answer = self._lines.get(timeout=max(0.001, until - time.monotonic()))
            self.ledger.append(answer)
            if answer == line:
                return

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def store(self, *notes: str) -> None:
        for note in notes:
            self.ask(note)
        self.wait_for(f"stored {notes[-1]}")

    def ended(self) -> int:
        """Return the exit status, once all answers were read."""
        status = self.process.wait(_TAKEOVER_S)
        self._reader.join(PATIENCE_S)
        while not self._lines.empty():
            self.ledger.append(self._lines.get())
        return status

    @property
    def stored(self) -> list[str]:
        return [line.removeprefix("stored ") for line in self.ledger if line.startswith("stored ")]

    def finish(self) -> None:
        """End it, if it runs."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.ended()


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    started: list[Process] = []

    def begin(holder: str, step: str = "", dsn: str = "", **environment: str) -> Process:
        started.append(Process(tmp_path, dsn or request.getfixturevalue("dsn"), holder, step, **environment))
        return started[-1]

    yield begin
    for process in started:
        if process.process.poll() is None:
            process.process.send_signal(signal.SIGCONT)
            process.process.kill()
            process.process.wait()


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]


def repeated(dsn: str, path: Path) -> dict[str, str]:
    """Return the tables of a file that has repeated the whole log."""
    replica = Replica(path, FUNCTIONS, len(MIGRATIONS))
    with closing(connect(dsn)) as log, closing(replica):
        replica.require_log(log.look().log)
        replica.follow(log, log.last())
        return contents(replica._connection)


def tables(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        return contents(connection)


def numbers(cluster: Cluster, dsn: str) -> list[int]:
    with cluster.connect(dsn) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM commits ORDER BY seq")]


def test_a_standby_has_every_row_and_takes_over(start: Start, cluster: Cluster, dsn: str, tmp_path: Path) -> None:
    first = start("mainpc")
    first.wait_for("active")
    second = start("pc2")
    first.store(*(f"note {number}" for number in range(200)))
    wait_until(lambda: second.path.exists() and len(rows_or_none(second.path)) == 200, PATIENCE_S, "the rows are there")
    assert second.process.poll() is None
    assert "active" not in second.ledger
    first.finish()
    second.wait_for("active", PATIENCE_S)  # at once: the first has released its epoch
    second.store("another")
    second.finish()
    assert rows(second.path) == [*first.stored, "another"]
    assert tables(second.path) == repeated(dsn, tmp_path / "from nothing")
    assert numbers(cluster, dsn) == list(range(1, 203))


def rows_or_none(path: Path) -> list[str]:
    try:
        return rows(path)
    except sqlite3.OperationalError:
        return []


@pytest.mark.parametrize("step", ["note", "sent", "append", "commit", "reply"])
def test_a_kill_at_any_step_loses_nothing(start: Start, cluster: Cluster, dsn: str, tmp_path: Path, step: str) -> None:
    first = start("mainpc", step)
    first.wait_for("active")
    first.store("one", "two")
    first.ask("die")
    assert first.ended() == -signal.SIGKILL
    assert first.stored == ["one", "two"]
    assert ("die" in rows(first.path)) == (step in ("commit", "reply"))
    second, again = start("pc2"), start("mainpc")
    active = next_active(second, again)
    active.store("three")
    happened = ["die"] if "die" in rows(active.path) else []  # where the log has it, it happened, once
    assert rows(active.path) == ["one", "two", *happened, "three"]
    assert step == "sent" or bool(happened) == (step != "note")
    active.finish()
    other = second if active is again else again
    other.wait_for("active")
    assert tables(other.path) == tables(active.path) == repeated(dsn, tmp_path / "from nothing")
    assert numbers(cluster, dsn) == list(range(1, 5 + len(happened)))
    other.finish()


def next_active(*processes: Process) -> Process:
    """Return whichever becomes active."""
    until = time.monotonic() + _TAKEOVER_S
    while time.monotonic() < until:
        for process in processes:
            try:
                process.wait_for("active", 0.05)
            except queue.Empty:
                continue
            return process
    raise AssertionError("none became active")


def test_a_process_that_was_stopped_answers_no_more(start: Start, dsn: str, tmp_path: Path) -> None:
    first = start("mainpc")
    first.wait_for("active")
    first.store("one")
    second = start("pc2")
    suspend(first.process.pid)
    first.ask("?")
    first.ask("lost")
    second.wait_for("active")
    second.store("two")
    first.process.send_signal(signal.SIGCONT)
    assert first.ended() == EXIT_STATUS
    assert first.ledger == ["active", "stored one"]
    second.store("three")
    second.finish()
    assert rows(second.path) == ["one", "two", "three"]
    assert rows(first.path) == ["one"]
    assert tables(second.path) == repeated(dsn, first.path)


def test_a_fenced_process_ends_without_an_answer(start: Start, cluster: Cluster, dsn: str) -> None:
    first = start("mainpc")
    first.wait_for("active")
    first.store("one")
    with cluster.connect(dsn) as connection:
        connection.execute("UPDATE epochs SET epoch = epoch + 1, holder = 'pc2'")
    first.ask("lost")
    assert first.ended() == EXIT_STATUS
    assert first.stored == ["one"]
    assert "another process is active" in first.errors.read_text()
    assert numbers(cluster, dsn) == [1, 2]
    assert rows(first.path) == ["one"]


def test_a_cancelled_commit_is_never_answered(start: Start, cluster: Cluster, dsn: str) -> None:
    """PostgreSQL says that it has succeeded, and warns that the second database may not have it."""
    first = start("mainpc")
    first.wait_for("active")
    first.store("one")
    cluster.set("synchronous_standby_names", "absent")
    waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    cancel = f"SELECT pg_cancel_backend(pid) {waiting}".encode()
    with cluster.connect() as connection:
        beats = f"SELECT 1 {waiting}".encode()
        wait_until(lambda: connection.execute(beats).fetchone(), PATIENCE_S, "commits wait from now on, as a beat does")
        first.ask("unknown")
        wait_until(
            lambda: (connection.execute(cancel), first.process.poll())[1] is not None, PATIENCE_S, "it has ended itself"
        )
    assert first.ended() == EXIT_STATUS
    assert first.stored == ["one"]
    assert "the database warned: 01000" in first.errors.read_text()
    assert rows(first.path) == ["one"]
    assert numbers(cluster, dsn) == [1, 2, 3]  # visible to all, and it may be lost with this database
    cluster.set("synchronous_standby_names", "")
    again = start("mainpc")
    again.wait_for("active")
    again.finish()
    assert rows(again.path) == ["one", "unknown"]


def test_an_epoch_that_can_not_be_confirmed_ends(start: Start, cluster: Cluster, dsn: str) -> None:
    first = start("mainpc")
    first.wait_for("active")
    first.store("one")
    cluster.stop()
    try:
        assert first.ended() == EXIT_STATUS
    finally:
        cluster.start()
    assert "the epoch could not be confirmed in time" in first.errors.read_text()


class Ended(Exception):
    """In place of the end of a process."""


def end(why: str) -> None:
    raise Ended(why)


def active_of(path: Path, dsn: str, holder: str = "mainpc") -> Active:
    replica = Replica(path, FUNCTIONS, len(MIGRATIONS))
    active = stand_by(replica, Candidate(holder), partial(connect, dsn), threading.Event(), end)  # type: ignore[arg-type]
    assert active is not None
    return active


def test_a_standby_repeats_what_is_known_to_be_durable(dsn: str, tmp_path: Path, cluster: Cluster) -> None:
    """A transaction whose commit was cancelled is visible, and may be lost."""
    active = active_of(tmp_path / "a", dsn)
    with closing(active.open(MIGRATIONS)) as database, closing(connect(dsn)) as log:
        database.define("upper_case", str.upper)
        database.execute("INSERT INTO notes (text) VALUES ('one')")
        replica = Replica(tmp_path / "b", FUNCTIONS, len(MIGRATIONS))
        wait_until(lambda: log.look().durable == 2, PATIENCE_S, "the beat says so")
        with cluster.connect(dsn) as connection:
            connection.execute("INSERT INTO commits SELECT agent, 3, epoch, 'x' FROM commits WHERE seq = 2")
        assert _claimed(replica, Candidate("pc2"), log) is None
        assert (replica.applied, log.last()) == (2, 3)
        replica.close()
    active.release()


def test_a_file_of_another_history_is_refused(dsn: str, tmp_path: Path, cluster: Cluster) -> None:
    for name in ("before", "other"):
        with closing(sqlite3.connect(tmp_path / name)) as existing:
            existing.executescript("CREATE TABLE notes (id INTEGER PRIMARY KEY, text); PRAGMA user_version = 1")
    active = active_of(tmp_path / "before", dsn)
    active.open(MIGRATIONS).execute("INSERT INTO notes (text) VALUES ('one')")
    assert numbers(cluster, dsn) == [2]  # the first stands for what was there before
    active.release()
    with pytest.raises(ConfigurationError, match="was not made from this log; move it away"):
        active_of(tmp_path / "other", dsn)
    with cluster.connect(dsn) as connection:  # as of a database that was restored
        connection.execute("DELETE FROM commits")
        connection.execute("UPDATE epochs SET durable = 1")
    with pytest.raises(ConfigurationError, match="which has lost some"):
        active_of(tmp_path / "before", dsn)


def test_a_claim_of_what_has_changed_fails(dsn: str) -> None:
    with closing(connect(dsn)) as one, closing(connect(dsn)) as other:
        seen = one.look()
        claimed = one.claim(seen, "mainpc", "log")
        assert claimed is not None
        assert (claimed.number, claimed.holder) == (seen.number + 1, "mainpc")
        assert other.claim(seen, "pc2", "log") is None
        seen = other.look()
        assert one.beat(claimed.number, 0)
        assert other.claim(seen, "pc2", "log") is None


def test_a_look_names_the_databases_that_were_not_asked(dsn: str) -> None:
    """So that the one that is away has a name, and a command that starts it."""
    with closing(connect(dsn.replace("?host=", "?host=/nowhere,"))) as log:
        assert log.look_around().other_servers == ["/nowhere"]
    with closing(connect(dsn)) as log:
        assert log.look_around().other_servers == []


def test_who_stands_says_what_is_wrong_and_who_ends_says_why(dsn: str) -> None:
    """Its beat grows from where it ended: who asks an operator's question counts those that grow."""
    with closing(connect(dsn)) as log:
        said: list[tuple[int, int, str]] = []
        for ends, fault in ((False, "secret: it is another one"), (False, ""), (True, "its disk is full"), (False, "")):
            if ends:
                log.give_up("pc2", fault)
            else:
                log.stand("pc2", len(said) + 1, fault)
            (row,) = log.standbys()
            said.append((row.applied, row.beat, row.fault))
    assert said == [(1, 1, "secret: it is another one"), (2, 2, ""), (2, 0, "its disk is full"), (4, 1, "")]


def test_a_number_is_given_once(dsn: str) -> None:
    with closing(connect(dsn)) as log:
        claimed = log.claim(log.look(), "mainpc", "log")
        assert claimed is not None
        assert log.append(claimed.number, 1, b"x")
        with pytest.raises(OutcomeUnknown, match="duplicate key"):
            log.append(claimed.number, 1, b"y")
        assert not log.append(claimed.number + 1, 2, b"y")
        assert [entry.statements for entry in log.after(0, 9)] == [b"x"]


def test_a_claim_waits_for_a_transaction_under_way(dsn: str, cluster: Cluster) -> None:
    """Else it might not see one that is acknowledged later."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'UPDATE epochs%' AND wait_event_type = 'Lock'"
    with closing(connect(dsn)) as log, closing(connect(dsn)) as other, ThreadPoolExecutor(1) as thread:
        claimed = log.claim(log.look(), "mainpc", "log")
        assert claimed is not None
        log._connection.execute("BEGIN")  # an append that takes its time
        assert log.append(claimed.number, 1, b"x")
        claiming = thread.submit(other.claim, claimed, "pc2", "log")
        with cluster.connect() as watching:
            wait_until(lambda: watching.execute(waits).fetchone(), PATIENCE_S, "the claim waits")
        log._connection.execute("COMMIT")
        assert claiming.result(PATIENCE_S) is not None
        assert other.last() == 1
        assert not log.append(claimed.number, 2, b"y")


def test_a_newer_schema_stops_a_standby(dsn: str, tmp_path: Path) -> None:
    active = active_of(tmp_path / "a", dsn)
    active.open(MIGRATIONS).close()
    active.release()
    with closing(Replica(tmp_path / "b", FUNCTIONS, 0)) as older:
        with pytest.raises(ConfigurationError, match="schema version 1 and this program knows 0; run the same image"):
            stand_by(older, Candidate("pc2"), partial(connect, dsn), threading.Event())
        assert older.applied == 0
    assert "notes" not in tables(tmp_path / "b")


def test_sqlite_that_fails_after_the_append_ends_it(
    dsn: str, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has the transaction, so it happened: no reply says that it did not."""
    active = active_of(tmp_path / "a", dsn)
    with closing(active.open(MIGRATIONS)) as database:
        database.define("upper_case", str.upper)

        def full(_: NotingConnection) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(NotingConnection, "commit_noted", full)
        with pytest.raises(Ended, match="transaction 2 is in the log and SQLite failed: database or disk is full"):
            database.execute("INSERT INTO notes (text) VALUES ('one')")
        assert not active.tenure.holds(monotonic())
    with closing(connect(dsn)) as log:
        assert (log.look().holder, log.look().durable) == ("", 2)  # a standby need not wait
    active.release()
    assert rows(tmp_path / "a") == []
    monkeypatch.undo()
    active_of(tmp_path / "a", dsn).release()
    assert rows(tmp_path / "a") == ["one"]
    assert numbers(cluster, dsn) == [1, 2]


@pytest.fixture
def both() -> Iterator[tuple[Cluster, Cluster, str]]:
    """Return a database, one that has to have each commit too, and a DSN of both."""
    with running_cluster() as first, running_cluster(first) as second:
        dsn = first.new_database()
        with closing(connect(dsn)) as log:
            log.create()
        first.set("synchronous_standby_names", "*")
        with first.connect() as watching:
            copies = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_until(lambda: watching.execute(copies).fetchone(), PATIENCE_S, "each commit waits for the copy")
        yield first, second, f"{dsn},{second.folder}"


def test_agent_and_database_die_together(start: Start, both: tuple[Cluster, Cluster, str], tmp_path: Path) -> None:
    """The other machine has all that was acknowledged, and goes on."""
    first, second, dsn = both
    mainpc = start("mainpc", dsn=dsn)
    mainpc.wait_for("active")
    pc2 = start("pc2", dsn=dsn)
    mainpc.store("one")
    for number in range(500):
        mainpc.ask(f"note {number}")
    mainpc.wait_for("stored note 50")
    mainpc.process.kill()
    first.stop()
    mainpc.ended()
    second.promote()
    pc2.wait_for("active")
    pc2.store("last")
    pc2.finish()
    assert len(mainpc.stored) >= 52
    assert rows(pc2.path)[: len(mainpc.stored)] == mainpc.stored
    assert rows(pc2.path)[-1] == "last"
    assert tables(pc2.path) == repeated(dsn, tmp_path / "from nothing")


def test_an_isolated_primary_acknowledges_nothing(
    start: Start, both: tuple[Cluster, Cluster, str], tmp_path: Path
) -> None:
    """It still takes writes, which wait for the other one: nobody answers, and nobody becomes active there."""
    first, second, dsn = both
    mainpc = start("mainpc", dsn=dsn)
    mainpc.wait_for("active")
    mainpc.store("one")
    pc2 = start("pc2", dsn=dsn)
    wait_until(lambda: rows_or_none(pc2.path) == ["one"], PATIENCE_S, "the standby follows")
    second.stop()
    mainpc.ask("lost")
    assert mainpc.ended() == EXIT_STATUS
    assert mainpc.ledger == ["active", "stored one"]
    claims = b"SELECT 1 FROM pg_stat_activity WHERE query LIKE 'UPDATE epochs SET epoch%' AND state = 'active'"
    with first.connect() as connection:
        wait_until(lambda: connection.execute(claims).fetchone(), _TAKEOVER_S, "the standby has claimed, and waits")
    assert pc2._lines.empty()
    first.stop()
    second.start()
    second.promote()
    pc2.wait_for("active")
    pc2.store("two")
    pc2.finish()
    assert rows(pc2.path) == ["one", "two"]
    assert tables(pc2.path) == repeated(dsn, tmp_path / "from nothing")


def test_silence_is_counted_while_none_takes_writes(
    start: Start, both: tuple[Cluster, Cluster, str], tmp_path: Path
) -> None:
    """A process that begins meanwhile claims once the other database is promoted, and waits no more."""
    first, second, dsn = both
    mainpc = start("mainpc", dsn=dsn)
    mainpc.wait_for("active")
    mainpc.store("one")
    mainpc.process.kill()
    first.stop()
    candidate = Candidate("pc2")
    databases = Databases(dsn, AGENT, lambda follower: candidate.saw(follower.look(), monotonic()))

    stop = threading.Event()

    def stand() -> Active | None:
        replica = Replica(tmp_path / "pc2.sqlite3", FUNCTIONS, len(MIGRATIONS))
        return stand_by(replica, candidate, databases, stop, end)  # type: ignore[arg-type]

    with ThreadPoolExecutor() as pool:
        standing = pool.submit(stand)
        try:
            wait_until(lambda: candidate.is_silent(monotonic()), CLAIM_AFTER_S + PATIENCE_S, "the beat is old")
            assert not standing.done()
            second.promote()
            began = monotonic()
            active = standing.result(PATIENCE_S)
        finally:
            stop.set()
    assert monotonic() - began < CLAIM_AFTER_S / 2
    assert active is not None
    active.release()
    assert rows(tmp_path / "pc2.sqlite3") == ["one"]


def test_a_row_that_only_one_database_had_is_nowhere(
    start: Start, both: tuple[Cluster, Cluster, str], tmp_path: Path
) -> None:
    """Its commit was cancelled: it was visible, and was not acknowledged."""
    first, second, dsn = both
    mainpc = start("mainpc", dsn=dsn)
    mainpc.wait_for("active")
    mainpc.store("one")
    pc2 = start("pc2", dsn=dsn)
    wait_until(lambda: rows_or_none(pc2.path) == ["one"], PATIENCE_S, "the standby follows")
    second.stop()
    mainpc.ask("lost")
    cancel = b"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with first.connect() as connection:
        wait_until(lambda: (connection.execute(cancel), mainpc.process.poll())[1] is not None, PATIENCE_S, "it ends")
        moment = connection.execute("SELECT clock_timestamp() + '0.5 s'").fetchone()
        looks = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT epoch %%' AND query_start > %s"
        wait_until(lambda: connection.execute(looks, moment).fetchone(), PATIENCE_S, "the standby looks at it")
    assert numbers(first, dsn.split(",", maxsplit=1)[0])[-1] == 3
    assert mainpc.ended() == EXIT_STATUS
    first.stop()
    second.start()
    second.promote()
    pc2.wait_for("active")
    pc2.store("two")
    pc2.finish()
    again = start("mainpc", dsn=dsn)
    again.wait_for("active")
    again.finish()
    assert rows(pc2.path) == rows(again.path) == ["one", "two"]
    assert tables(pc2.path) == tables(again.path) == repeated(dsn, tmp_path / "from nothing")
