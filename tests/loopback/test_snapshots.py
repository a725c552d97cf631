"""Snapshots of a log: a log begins with one, a standby that is too old does, and the log is trimmed to it."""

import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import psycopg
import pytest

from tests.loopback.logged_agent import FUNCTIONS, MIGRATIONS, connect
from tests.loopback.test_log_in_postgresql import (  # noqa: F401 - fixtures
    Process,
    Start,
    cluster,
    dsn,
    numbers,
    rows,
    start,
    tables,
)
from tests.postgres import _PROGRAMS, Cluster
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database
from twinhost.store.replication.postgres import OutcomeUnknown
from twinhost.store.replication.replica import Replica, _followed
from twinhost.store.replication.snapshots import nothing_beside, write_snapshot
from twinhost.store.replication.statements import decoded, encoded

MUCH = {"MUCH": "20"}
TABLES = Path("services/twinhost/store/replication/tables.sql")


def rows_or_none(path: Path) -> list[str]:
    """Return what a file has that may be replaced meanwhile, and create none."""
    try:
        with closing(connect_to_read(path)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]
    except sqlite3.OperationalError:
        return []


def an_existing(tmp_path: Path, holder: str, *notes: str) -> Path:
    """Make a database as of an agent that has run alone, and a file beside it."""
    path = tmp_path / holder / "notes.sqlite3"
    (path.parent / "files").mkdir(parents=True)
    (path.parent / "files" / "audit").write_text(f"of {holder}\n")
    with closing(Database(path, MIGRATIONS)) as database:
        database.define("upper_case", str.upper)
        for note in notes:
            database.execute("INSERT INTO notes (text) VALUES (?)", (note,))
    return path


def snapshots_of(cluster: Cluster, dsn: str) -> list[int]:  # noqa: F811
    with cluster.connect(dsn) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM snapshots WHERE part = 0 ORDER BY seq")]


def parts_of(cluster: Cluster, dsn: str) -> int:  # noqa: F811
    with cluster.connect(dsn) as connection:
        (number,) = connection.execute("SELECT count(*) FROM snapshots").fetchone() or (0,)
        return int(number)


def has_rows(process: Process, number: int) -> Callable[[], bool]:
    return lambda: len(rows_or_none(process.path)) == number


def test_an_existing_file_is_joined_whole(start: Start, dsn: str, cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """The log begins with a snapshot of it, for which its first transaction stands."""
    path = an_existing(tmp_path, "mainpc", *map(str, range(500)))
    first = start("mainpc")
    first.wait_for("active")
    second = start("pc2")
    first.store("new")
    wait_until(has_rows(second, 501), PATIENCE_S, "the standby has begun with the snapshot")
    first.finish()
    second.wait_for("active", PATIENCE_S)
    second.store("newer")
    second.finish()
    assert rows(second.path) == [*map(str, range(500)), "new", "newer"]
    assert (second.path.parent / "files/audit").read_text() == "of mainpc\n"
    again = start("mainpc")
    again.wait_for("active")
    again.finish()
    assert tables(path) == tables(second.path)
    assert len(snapshots_of(cluster, dsn)) == 1
    assert numbers(cluster, dsn) == [2, 3]
    assert not list(second.path.parent.glob("*.replaced-*"))  # there was nothing


def test_who_was_away_for_too_long_begins_again(start: Start, dsn: str, cluster: Cluster) -> None:  # noqa: F811
    """The log is trimmed meanwhile; what the file had was this log's, so it is not kept."""
    first = start("mainpc", **MUCH)
    first.wait_for("active")
    second = start("pc2", **MUCH)
    first.store("one")
    wait_until(has_rows(second, 1), PATIENCE_S, "the standby follows")
    second.process.kill()
    second.process.wait()
    first.store(*(f"note {number}" for number in range(50)))
    wait_until(lambda: snapshots_of(cluster, dsn), PATIENCE_S, "there is a snapshot")
    first.store(*(f"note {number}" for number in range(50, 100)))
    wait_until(lambda: numbers(cluster, dsn)[0] > 10, PATIENCE_S, "the log is trimmed")
    assert len(snapshots_of(cluster, dsn)) == 1
    again = start("pc2", **MUCH)
    wait_until(has_rows(again, 101), PATIENCE_S, "the standby has begun again")
    assert again.process.poll() is None
    first.process.kill()
    again.wait_for("active")
    again.store("last")
    again.finish()
    assert rows(again.path) == ["one", *(f"note {number}" for number in range(100)), "last"]
    assert [file.name for file in again.path.parent.iterdir() if "replaced" in file.name] == []


def of_another_log(start: Start, cluster: Cluster) -> Process:  # noqa: F811
    """Leave a file of another log on pc2; return the process that wrote it."""
    other = cluster.new_database()
    with closing(connect(other)) as log:
        log.create()
    before = start("pc2", dsn=other)
    before.wait_for("active")
    before.store("of another log")
    before.finish()
    return before


def test_a_file_of_another_log_is_kept_aside(start: Start, dsn: str, tmp_path: Path, cluster: Cluster) -> None:  # noqa: F811
    before = of_another_log(start, cluster)
    (before.path.parent / "files").mkdir()
    (before.path.parent / "files/audit").write_text("of pc2\n")
    an_existing(tmp_path, "mainpc", "one")
    first = start("mainpc")
    first.wait_for("active")
    second = start("pc2")
    wait_until(has_rows(second, 1), PATIENCE_S, "the standby has begun with the snapshot")
    wait_until(lambda: rows_or_none(second.path) == ["one"], PATIENCE_S, "it is this log's")
    (kept,) = second.path.parent.glob("notes.sqlite3.replaced-*Z")
    assert rows(kept) == ["of another log"]
    assert (kept.with_name(kept.name.replace("notes.sqlite3", "files")) / "audit").read_text() == "of pc2\n"
    assert (second.path.parent / "files/audit").read_text() == "of mainpc\n"


def test_another_sqlite_begins_with_a_snapshot(start: Start, dsn: str, cluster: Cluster) -> None:  # noqa: F811
    """As after an upgrade: whoever has all, and is active, makes it; the other one can't repeat what was written."""
    first = start("mainpc")
    first.wait_for("active")
    first.store("one")
    first.finish()
    with cluster.connect(dsn) as connection, closing(connect(dsn)) as log:
        for entry in log.after(0, 2):
            older = msgspec.structs.replace(decoded(entry.statements), sqlite="3.0.0")
            connection.execute("UPDATE commits SET statements = %b WHERE seq = %s", (encoded(older), entry.seq))
    refused = start("pc2")
    assert refused.ended() == 1
    assert "the log was written with SQLite 3.0.0" in refused.errors.read_text()
    again = start("mainpc")
    again.wait_for("active")
    wait_until(lambda: snapshots_of(cluster, dsn) == [2], PATIENCE_S, "there is a snapshot")
    again.store("two")
    second = start("pc2")
    wait_until(has_rows(second, 2), PATIENCE_S, "the standby follows")


def test_an_empty_file_waits_for_the_first_snapshot(dsn: str, tmp_path: Path) -> None:  # noqa: F811
    """It can't be active before: the log does not have what was there before."""
    with closing(connect(dsn)) as log, closing(Replica(tmp_path / "b", FUNCTIONS, len(MIGRATIONS))) as replica:
        assert log.claim(log.look(), "mainpc", "log", 1) is not None
        assert not _followed(replica, log, log.look())
        assert replica.log == ""


@pytest.mark.parametrize(
    "step", ["copy_database:1", "add:1", "add:5", "complete:1", "write_snapshot:1", "write_snapshot:2", "trim:1"]
)
def test_a_kill_while_a_snapshot_is_made(
    step: str,
    start: Start,  # noqa: F811
    dsn: str,  # noqa: F811
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
) -> None:
    """It is there as a whole, or not at all; and the next process makes one."""
    an_existing(tmp_path, "mainpc", "before")
    first = start("mainpc", step, **MUCH)
    first.wait_for("active")
    with suppress(BrokenPipeError, AssertionError):
        for number in range(200):
            first.ask(f"note {number}")
            time.sleep(0.01)
            if first.process.poll() is not None:
                break
    assert first.ended() == -signal.SIGKILL
    whole = parts_of(cluster, dsn) > 0
    assert bool(snapshots_of(cluster, dsn)) == whole
    again = start("mainpc", **MUCH)
    again.wait_for("active")
    again.store(*(f"more {number}" for number in range(50)))
    second = start("pc2", **MUCH)
    stored = rows(again.path)
    assert set(first.stored) <= set(stored)
    wait_until(has_rows(second, len(stored)), PATIENCE_S, "the standby follows")
    again.finish()
    second.wait_for("active", PATIENCE_S)
    second.finish()
    assert tables(second.path) == tables(again.path)
    assert (second.path.parent / "files/audit").read_text() == "of mainpc\n"


@pytest.mark.parametrize("step", ["_extract:1", "_require_usable:1", "quarantine:1", "_replace:1", "fsync_folder:1"])
def test_a_kill_while_a_snapshot_is_joined(
    step: str,
    start: Start,  # noqa: F811
    cluster: Cluster,  # noqa: F811
    dsn: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The next process begins again, and what was there is there, aside."""
    of_another_log(start, cluster)
    an_existing(tmp_path, "mainpc", "one")
    first = start("mainpc")
    first.wait_for("active")
    killed = start("pc2", step)
    assert killed.ended() == -signal.SIGKILL
    second = start("pc2")
    wait_until(lambda: rows_or_none(second.path) == ["one"], PATIENCE_S, "the standby has begun with the snapshot")
    assert (second.path.parent / "files/audit").read_text() == "of mainpc\n"
    kept = second.path.parent.glob("notes.sqlite3.replaced-*Z")
    assert [rows_or_none(file) for file in kept] == [["of another log"]]
    left = second.path.with_name("notes.sqlite3.joining")
    wait_until(lambda: not left.exists(), PATIENCE_S, "the standby has removed what was left")


def test_a_damaged_snapshot_is_refused(dsn: str, cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """Nothing of it is used, and the file stays as it is."""
    path = an_existing(tmp_path, "mainpc", *map(str, range(100)))
    with closing(connect(dsn)) as log, closing(Replica(path, FUNCTIONS, len(MIGRATIONS))) as replica:
        replica.join("log", 1)
        assert log.claim(log.look(), "mainpc", "log", 1) is not None
        assert write_snapshot(path, nothing_beside, log) == 1
    with cluster.connect(dsn) as connection:
        connection.execute("UPDATE snapshots SET content = set_byte(content, 9000, 255) WHERE part = 1")
    with closing(connect(dsn)) as log, closing(Replica(tmp_path / "b", FUNCTIONS, len(MIGRATIONS))) as replica:
        with pytest.raises(ConfigurationError, match="its parts have another hash"):
            _followed(replica, log, log.look())
        assert replica.empty
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "mainpc"]


def test_an_agent_deletes_only_what_a_snapshot_has(cluster: Cluster, tmp_path: Path) -> None:  # noqa: F811
    """The role of the agents, in a database that was made as database/run.py makes it."""
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE twinhost")
    cluster.stop("fast")
    server = (_PROGRAMS / "postgres", "--single", "-j", "-D", cluster.folder / "data", "-c", "exit_on_error=true")
    shutil.copy(TABLES, cluster.folder / "tables.sql")
    user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with TABLES.open("rb") as script:
        subprocess.run([*server, "twinhost"], check=True, stdin=script, stdout=subprocess.DEVNULL, **user)  # type: ignore[call-overload]
    cluster.start()
    as_agent = f"postgresql://twinhost@/twinhost?host={cluster.folder}"
    with cluster.connect(as_agent) as connection:
        for sql in (
            "DELETE FROM commits",
            "DELETE FROM snapshots",
            "UPDATE snapshots SET part = 0",
            "TRUNCATE commits",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.encode())
    with closing(connect(as_agent)) as log:
        log.create()
        claimed = log.claim(log.look(), "mainpc", "log")
        assert claimed is not None
        for seq in range(1, 11):
            log.append(claimed.number, seq, b"x")
        log.stand("pc2", 10)
        log.trim()
        for seq, left in ((4, list(range(1, 11))), (8, list(range(5, 11)))):
            with log.new_snapshot(seq, "log") as new:
                new.add(b"x")
                new.complete(b"{}")
            log.trim()
            assert numbers(cluster, as_agent) == left
        with log.new_snapshot(9, "log") as new, suppress(OutcomeUnknown):  # it is not complete
            new.add(b"x")
        with pytest.raises(OutcomeUnknown, match="the log is another one"), log.new_snapshot(10, "another") as new:
            new.complete(b"{}")
        assert log.newest_snapshot() == 8
        assert [standing.applied for standing in log.standbys()] == [10]
