"""pc2 records a backup once an operator has read all of it, and warns of an old one."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.system_digital_twin.twin import Clock
from tests.unit.unified_memory_reasoning.spaces_bench import ALICE, OPERATOR, WithSpaces
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.backups import OLD_AFTER_S, BackupRecord, Backups
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.__main__ import NAME


class Bench:
    def __init__(self, home: Path) -> None:
        self.clock = Clock()
        self.pc2 = WithSpaces(home)
        self.agent: Assembled = self.pc2.start(self.clock)

    @property
    def recorded(self) -> Backups:
        backups = BackupRecord(self.pc2.state, NAME, self.clock).newest()
        assert backups is not None
        return backups

    @property
    def warnings(self) -> list[str]:
        self.clock.let_pass(11.0)
        return [condition.what for condition in self.agent.health.conditions() if condition.name == "backup"]

    def begin(self, caller: Caller = OPERATOR, **fields: str) -> tuple[str, int]:
        backup_id = self.agent.ask("begin_backup", caller, **fields)["backup_id"]

        def status() -> dict[str, object]:
            return self.agent.ask("backup_status", caller, backup_id=backup_id, **fields)

        wait_until(lambda: status()["state"] == "ready", PATIENCE_S, "the backup is ready")
        return backup_id, int(str(status()["size"]))

    def read(self, backup_id: str, size: int, caller: Caller = OPERATOR, **fields: str) -> bytes:
        content = b""
        while len(content) < size:
            reply = self.agent.ask("read_backup", caller, backup_id=backup_id, offset=len(content), **fields)
            content += b64decode(reply["data"])
        return content

    def restore(self, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        begun = self.agent.ask("begin_restore", OPERATOR, size=len(content), sha256=digest)
        name, step = begun["restore_id"], begun["chunk_bytes"]
        for offset in range(0, len(content), step):
            part = b64encode(content[offset : offset + step]).decode()
            self.agent.ask("write_restore", OPERATOR, restore_id=name, offset=offset, data=part)

        def state() -> object:
            return self.agent.ask("finish_restore", OPERATOR, restore_id=name)["state"]

        wait_until(lambda: state() == "staged", PATIENCE_S, "the backup is staged")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    with bench.agent:
        bench.agent.ask("store_memory", ALICE, content="a note", space="research")
        yield bench


def test_a_backup_counts_once_it_was_read_to_its_end(bench: Bench) -> None:
    backup_id, size = bench.begin()
    assert bench.recorded.backed_up is None
    bench.agent.ask("read_backup", OPERATOR, backup_id=backup_id, offset=0)
    assert bench.recorded.backed_up is None
    bench.read(backup_id, size)
    assert bench.recorded.backed_up is not None


def test_a_backup_without_every_space_does_not_count(bench: Bench) -> None:
    backup_id, size = bench.begin(space="shared")
    bench.read(backup_id, size, space="shared")
    backup_id, size = bench.begin(ALICE)
    bench.read(backup_id, size, ALICE)
    assert bench.recorded.backed_up is None


def test_pc2_warns_of_an_old_backup(bench: Bench) -> None:
    assert bench.warnings == []
    bench.clock.let_pass(OLD_AFTER_S)
    assert bench.warnings == ["pc2 was never backed up in the 7 days that are known"]
    bench.read(*bench.begin())
    assert bench.warnings == []


def test_a_restore_is_recorded(bench: Bench) -> None:
    content = bench.read(*bench.begin())
    assert bench.recorded.restored is None
    bench.restore(content)
    assert bench.recorded.restored is not None
