"""The audit log's files of a standby are those of the active process, whenever it ends."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.files import MIGRATION, MIGRATION_RESTORES
from twinhost.store.audit_log.followed import FollowedFiles
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.store.replication.statements import Entry, NotingConnection, Repeater


class Active:
    """A process that writes an audit log in small files, and what it has noted."""

    def __init__(self, home: Path) -> None:
        self.noted: list[Entry] = []
        connect = partial(NotingConnection, commit=self._commit)
        self.database = Database(home / "a", [MIGRATION, MIGRATION_RESTORES], connect=connect, logged=True)
        self.audit = AuditLog(self.database, home / "active", max_file_bytes=600, keep_files=2)

    def record(self, number: int) -> None:
        for _ in range(number):
            self.audit.record(AuditEvent.STARTED, secure=True)
            self.audit.flush()

    def _commit(self, connection: NotingConnection, entry: Entry) -> None:
        connection.commit_noted()
        self.noted.append(entry)


@pytest.fixture
def active(tmp_path: Path) -> Iterator[Active]:
    active = Active(tmp_path)
    with closing(active.database):
        yield active


@pytest.fixture
def replica() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as replica:
        yield replica


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("torn", [0, 7])
def test_a_standby_has_the_same_files(active: Active, replica: sqlite3.Connection, tmp_path: Path, torn: int) -> None:
    """Each line once, also where it ended after it had written lines, or a part of them, and repeats that."""
    active.record(12)
    followed, repeater = FollowedFiles(tmp_path / "standby"), Repeater(replica)
    for entry in active.noted:
        before = files(tmp_path / "standby") if (tmp_path / "standby").exists() else {}
        followed.write(replica, entry)
        for path in (tmp_path / "standby").glob("*"):
            if before.get(path.name) != (content := path.read_bytes()) and torn:
                path.write_bytes(content[:-torn])
        followed.write(replica, entry)
        replica.execute("BEGIN")
        repeater.repeat(entry)
        replica.execute("COMMIT")
    assert files(tmp_path / "standby") == files(tmp_path / "active")
    assert len(files(tmp_path / "standby")) == 2  # of several: it removes old ones, too


def test_a_standby_that_can_not_write_them_stops(active: Active, replica: sqlite3.Connection, tmp_path: Path) -> None:
    """Else the lines would be nowhere."""
    active.record(1)
    (tmp_path / "standby").touch()
    with pytest.raises(ConfigurationError, match="can't be written"):
        follow(active, FollowedFiles(tmp_path / "standby"), replica)
    assert replica.execute("SELECT count(*) FROM audit_outbox").fetchone() == (1,)


def follow(active: Active, followed: FollowedFiles, replica: sqlite3.Connection) -> None:
    repeater = Repeater(replica)
    for entry in active.noted:
        followed.write(replica, entry)
        replica.execute("BEGIN")
        repeater.repeat(entry)
        replica.execute("COMMIT")
