"""A crash at any step, and a power cut that takes what was not synced: nothing is lost, nothing is there twice."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.store.audit_log.books import THINGS, check, names, opened
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.files import MIGRATION, MIGRATION_RESTORES
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database

pytestmark = pytest.mark.thorough

_write, _fsync = os.write, os.fsync
_PIECE = 100  # bytes a write takes, so that a line is torn in several places


class Crash(BaseException):
    """The end of a process: nothing catches it, and nothing runs after it."""


@dataclass
class Machine:
    """Counts the steps that reach a disk and ends the process at one of them; knows what a power cut would leave."""

    ends_at: int
    steps: int = 0
    synced: dict[int, int] = field(default_factory=dict)  # by inode

    def step(self) -> None:
        self.steps += 1
        if self.steps >= self.ends_at:
            raise Crash

    def write(self, descriptor: int, data: memoryview) -> int:
        self.step()
        count = _write(descriptor, data[:_PIECE])
        self.step()
        return count

    def fsync(self, descriptor: int) -> None:
        self.step()
        _fsync(descriptor)
        status = os.fstat(descriptor)
        self.synced[status.st_ino] = status.st_size
        self.step()

    def cut_power(self, folder: Path, kept: float) -> None:
        """Take from every file what was not synced, all but a part of it."""
        for path in folder.glob("audit-*"):
            status = path.stat()
            synced = min(self.synced.get(status.st_ino, 0), status.st_size)
            os.truncate(path, synced + int((status.st_size - synced) * kept))


class SteppedDatabase(Database):
    """A database whose commits are steps."""

    machine: Machine

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.machine.step()
        with super().transaction():
            yield
            self.machine.step()
        self.machine.step()


@dataclass
class Life:
    """One life of the process after another over one folder."""

    folder: Path
    max_file_bytes: int = 1_500
    tried: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    machine: Machine = field(default_factory=lambda: Machine(sys.maxsize))

    def run(self, ends_at: int, batches: list[int]) -> bool:
        """Do batches of changes with a flush after each; say whether it got to the end."""
        self.machine.ends_at, self.machine.steps = ends_at, 0
        database = SteppedDatabase(self.folder / "registry.db", [THINGS, MIGRATION, MIGRATION_RESTORES])
        database.machine = self.machine
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", self.machine.write)
            patch.setattr(os, "fsync", self.machine.fsync)
            try:
                log = AuditLog(database, self.folder / "audit", self.max_file_bytes)
                for count in batches:
                    self._batch(database, log, count)
                    log.flush()
            except Crash:
                return False
            finally:
                database.close()
        return True

    def check(self) -> None:
        """The lines are those of the changes, once each and in order; the chain is whole; no fault; it goes on."""
        with opened(self.folder, self.max_file_bytes) as (database, log):
            things = [name for (name,) in database.execute("SELECT name FROM things ORDER BY rowid")]
            assert log.fault is None
            assert names(log) == things
            assert [name for name in self.tried if name in set(things)] == things
            assert set(self.acknowledged) <= set(things)
            assert check(log).whole, check(log).summary()
            assert database.execute("SELECT count(*) FROM audit_outbox").fetchone() == (0,)

    def _batch(self, database: Database, log: AuditLog, count: int) -> None:
        batch = [f"agent-{len(self.tried) + number}" for number in range(count)]
        self.tried += batch
        with database.transaction():
            for name in batch:
                database.execute("INSERT INTO things VALUES (?)", (name,))
                log.record(AuditEvent.KEY_AUTHORIZED, name=name, roles=["agent"], host="pc2")
        self.acknowledged += batch


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_a_crash_at_each_step_loses_and_doubles_nothing(tmp_path: Path, kept: float) -> None:
    """Between commit, append, sync and clear, in the middle of a line, and as a file is begun."""
    batches = [1, 3, 2, 4, 1]
    ended = 0
    for step in range(1, 1_000):
        folder = tmp_path / str(step)
        folder.mkdir()
        life = Life(folder)
        whole = life.run(step, batches)
        if not whole:
            ended += 1
            life.machine.cut_power(folder / "audit", kept)
        life.check()
        if whole:
            break
    assert ended > 80
    assert len(list((folder / "audit").iterdir())) >= 3


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1), st.lists(st.integers(1, 4), max_size=4)), max_size=5))
@example([(27, 0, [2]), (5, 0, [1]), (35, 1, [3]), (5, 0, []), (25, 0, [1])])  # lines that a start finds are not synced
def test_crash_upon_crash_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, float, list[int]]]
) -> None:
    """Also one while the crash before is being put right."""
    life = Life(tmp_path_factory.mktemp("life"))
    for ends_at, kept, batches in lives:
        if not life.run(ends_at, batches):
            life.machine.cut_power(life.folder / "audit", kept)
    life.check()


def test_a_rollback_takes_back_the_line_and_the_head(tmp_path: Path) -> None:
    """A change that does not last has no line, and the next line takes its number."""
    with opened(tmp_path) as (database, log):
        log.record(AuditEvent.KEY_AUTHORIZED, name="first")

        def undone() -> None:
            with database.savepoint():
                log.record(AuditEvent.KEY_AUTHORIZED, name="undone")
                raise KeyError

        with database.transaction():
            log.record(AuditEvent.KEY_AUTHORIZED, name="second")
            with pytest.raises(KeyError):
                undone()
            log.record(AuditEvent.KEY_AUTHORIZED, name="third")

        def lost() -> None:
            with database.transaction():
                log.record(AuditEvent.KEY_AUTHORIZED, name="lost")
                raise KeyError

        with pytest.raises(KeyError):
            lost()
        log.record(AuditEvent.KEY_AUTHORIZED, name="fourth")
        log.flush()
        assert names(log) == ["first", "second", "third", "fourth"]
        assert check(log).whole


def test_a_line_that_can_not_be_added_leaves_no_hole(tmp_path: Path) -> None:
    """The caller gets the error, and the transaction continues with the next line at the same number."""
    with opened(tmp_path) as (database, log):
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON audit_outbox WHEN instr(NEW.line, '\"bad\"') "
            "BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with database.transaction():
            log.record(AuditEvent.KEY_AUTHORIZED, name="first")
            with pytest.raises(StoreUnavailable):
                log.record(AuditEvent.KEY_AUTHORIZED, name="bad")
            log.record(AuditEvent.KEY_AUTHORIZED, name="second")
        with pytest.raises(StoreUnavailable):
            log.record(AuditEvent.KEY_AUTHORIZED, name="bad")
        log.flush()
        assert names(log) == ["first", "second"]
        assert check(log).whole


PROCESS = """
import sys
from pathlib import Path
from twinhost.store.audit_log.chain import AuditEvent
from tests.unit.store.audit_log.books import opened
with opened(Path(sys.argv[1]), max_file_bytes=20_000) as (database, log):
    for number in range(int(sys.argv[2]), sys.maxsize):
        with database.transaction():
            database.execute("INSERT INTO things VALUES (?)", (f"agent-{number}",))
            log.record(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}")
        print(number, flush=True)
        log.flush()
"""


def test_a_killed_process_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """SIGKILL, six times, each after another number of changes."""
    acknowledged = 0
    for more in (1, 7, 40, 3, 90, 25):
        arguments = [sys.executable, "-c", PROCESS, str(tmp_path), str(acknowledged)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["services", "."])}
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _ in range(more):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.stdout.read()
        with opened(tmp_path, max_file_bytes=20_000) as (database, log):
            (count,) = database.execute("SELECT count(*) FROM things").fetchone()
            assert count >= acknowledged + more
            assert names(log) == [f"agent-{number}" for number in range(count)]
            assert check(log).whole
            assert log.fault is None
            acknowledged = count
