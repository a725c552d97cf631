"""Backups of spaces: an operator's has all of them in one file, and a restore puts each back."""

import hashlib
import sqlite3
from base64 import b64decode, b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.spaces_bench import ALICE, BOB, MALLORY, OPERATOR, WithSpaces
from tests.unit.unified_memory_reasoning.test_spaces import memories, store
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.assembly import StartAgain
from twinhost.secure_zmq.callers import Caller
from twinhost.store import enclosed
from twinhost.unified_memory_reasoning.backup import backup


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart as soon as the result was reported, and have spaces in several parts."""
    monkeypatch.setattr(backup, "REPORTED_S", -1.0)
    monkeypatch.setattr(enclosed, "_PART_BYTES", 50_000)


def filled(pc2: Assembled) -> None:
    store(pc2, MALLORY, "everybody's")
    store(pc2, ALICE, "hers", "private")
    store(pc2, ALICE, "of research", "research")


def backed_up(pc2: Assembled, caller: Caller = OPERATOR, **space: str) -> tuple[bytes, dict[str, Any]]:
    """Return a backup, and its document."""
    made = pc2.ask("begin_backup", caller, **space)

    def status() -> dict[str, Any]:
        return pc2.ask("backup_status", caller, backup_id=made["backup_id"], **space)

    wait_until(lambda: status()["state"] != "copying", PATIENCE_S, "the backup is made")
    document, content = status(), b""
    assert document["state"] == "ready", document
    while len(content) < document["size"]:
        part = pc2.ask("read_backup", caller, backup_id=made["backup_id"], offset=len(content), **space)
        content += b64decode(part["data"])
    return content, document


def restored(pc2: Assembled, content: bytes, caller: Caller = OPERATOR, **space: str) -> dict[str, Any]:
    """Send a backup; return the result, once it is staged or refused."""
    begun = pc2.ask("begin_restore", caller, **space)
    sent = {"restore_id": begun["restore_id"], **space}
    for offset in range(0, len(content), 40_000):
        data = b64encode(content[offset : offset + 40_000]).decode()
        pc2.ask("write_restore", caller, offset=offset, data=data, **sent)
    finish = {**sent, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    replies: list[dict[str, Any]] = []

    def finished() -> bool:
        replies.append(pc2.ask("finish_restore", caller, **finish))
        return replies[-1].get("state") != "checking"

    wait_until(finished, PATIENCE_S, "the backup is checked")
    if replies[-1]["status"] == "ok":
        with pytest.raises(StartAgain):
            pc2.assembly.on_tick()
    return replies[-1]


def test_an_operators_backup_has_every_space_in_one_database(tmp_path: Path) -> None:
    """It is restored elsewhere, with all spaces, and stays a database that can be read as such."""
    (tmp_path / "here").mkdir()
    with WithSpaces(tmp_path / "here").start() as pc2:
        filled(pc2)
        content, document = backed_up(pc2)
    assert document["spaces"] == ["private:alice", "research"]
    assert document["rows"]["memories"] == 1
    (tmp_path / "file").write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "file")) as copy:
        assert copy.execute("SELECT content FROM memories").fetchall() == [("everybody's",)]
    (tmp_path / "there").mkdir()
    there = WithSpaces(tmp_path / "there")
    with there.start() as pc2:
        store(pc2, BOB, "his", "private")
        finished = restored(pc2, content)
        assert finished["spaces"] == ["private:alice", "research"]
        assert finished["rows"]["memories"]["backup"] == 1
        assert "enclosed_databases" not in finished["rows"]
    with there.start() as pc2:
        assert memories(pc2, BOB) == ["everybody's"]
        assert memories(pc2, ALICE, "private") == ["hers"]
        assert memories(pc2, BOB, "research") == ["of research"]
        assert memories(pc2, BOB, "private") == ["his"]  # not in the backup: it stays
        assert b"hers" not in pc2.database.path.read_bytes()
        tables = {name for (name,) in pc2.database.execute("SELECT name FROM sqlite_schema")}
        assert "enclosed_databases" not in tables
        assert list(there.folder.rglob("*.incoming*")) == []


def test_a_restore_replaces_spaces_and_keeps_what_was_there(tmp_path: Path) -> None:
    spaces = WithSpaces(tmp_path)
    with spaces.start() as pc2:
        filled(pc2)
        content, _ = backed_up(pc2)
        store(pc2, ALICE, "later", "private")
        restored(pc2, content)
    with spaces.start() as pc2:
        assert memories(pc2, ALICE, "private") == ["hers"]
        kept = [path.name for path in (spaces.folder / "private.alice").iterdir() if "replaced" in path.name]
        assert kept


def test_one_space_is_backed_up_and_restored_alone(tmp_path: Path) -> None:
    spaces = WithSpaces(tmp_path)
    with spaces.start() as pc2:
        filled(pc2)
        content, document = backed_up(pc2, space="private:alice")
        assert "spaces" not in document
        shared, document = backed_up(pc2, space="shared")
        assert "spaces" not in document
        assert b"hers" not in shared
        pc2.ask("delete_space", OPERATOR, name="private:alice")
        store(pc2, MALLORY, "later")
        restored(pc2, content, space="private:alice")
    with spaces.start() as pc2:
        assert memories(pc2, ALICE, "private") == ["hers"]
        assert memories(pc2, ALICE) == ["later", "everybody's"]


def test_only_an_operators_backup_has_what_is_private(tmp_path: Path) -> None:
    """One who may back up gets the shared space, and no part of an operator's backup; nor does it restore one."""
    spaces = WithSpaces(tmp_path)
    with spaces.start() as pc2:
        filled(pc2)
        content, document = backed_up(pc2, MALLORY)
        assert "spaces" not in document
        assert b"hers" not in content
        content, document = backed_up(pc2)
        assert b"hers" in content
        for action, fields in (("backup_status", {}), ("read_backup", {"offset": 0})):
            reply = pc2.ask(action, MALLORY, backup_id=document["backup_id"], **fields)
            assert reply["code"] == "not_found"
        assert restored(pc2, content, MALLORY)["code"] == "not_granted"
        assert memories(pc2, ALICE, "private") == ["hers"]


def changed(pc2: Assembled, folder: Path, statement: str, *values: str) -> bytes:
    """Return a backup of all spaces that somebody has changed."""
    filled(pc2)
    file = folder / "changed"
    file.write_bytes(backed_up(pc2)[0])
    with closing(sqlite3.connect(file)) as copy, copy:
        copy.execute(statement, values)
    return file.read_bytes()


@pytest.mark.parametrize("name", ["../../etc", "shared", "private:a/b", "private:"])
def test_a_file_puts_nothing_where_no_space_can_be(tmp_path: Path, name: str) -> None:
    spaces = WithSpaces(tmp_path)
    with spaces.start() as pc2:
        content = changed(pc2, tmp_path, "UPDATE enclosed_databases SET name = ? WHERE name = 'research'", name)
        before = sorted(tmp_path.rglob("*"))
        reply = restored(pc2, content)
        assert reply["code"] == "malformed_request"
        assert "can't be the name of a space" in reply["error"]
        assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


def test_a_file_with_a_damaged_space_replaces_nothing(tmp_path: Path) -> None:
    spaces = WithSpaces(tmp_path)
    with spaces.start() as pc2:
        zeroes = "UPDATE enclosed_databases SET content = zeroblob(50000) WHERE name = 'research' AND part = 2"
        assert restored(pc2, changed(pc2, tmp_path, zeroes))["code"] == "malformed_request"
    with spaces.start() as pc2:
        assert memories(pc2, ALICE, "research") == ["of research"]
