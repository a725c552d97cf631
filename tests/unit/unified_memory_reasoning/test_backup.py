"""A backup: one moment of the database, made beside it while it is written, and read page by page."""

import hashlib
import shutil
import sqlite3
import threading
import time
from base64 import b64decode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.safety_bench import ADA, NOBODY, SafetyBench
from tests.waiting import PATIENCE_S
from twinhost.store import backup as store_backup
from twinhost.store.damage import find_damage
from twinhost.unified_memory_reasoning.backup import backup
from twinhost.unified_memory_reasoning.twins.twins import Change

bench = bench_of(SafetyBench)


def test_a_backup_is_a_whole_database_with_every_row(bench: SafetyBench, tmp_path: Path) -> None:
    """And with nothing beside it: a program that knows SQLite can read it."""
    for number in range(50):
        bench.update_twin(f"u{number}", {"text": "x" * 10_000}, ADA)
        bench.say("s", f"{number}", ADA)
    (tmp_path / "copy").write_bytes(bench.backed_up())
    assert find_damage(tmp_path / "copy") is None
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert copy.execute("SELECT count(*) FROM twins").fetchone() == (50,)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy"]


def test_its_status_says_how_many_rows_it_has(bench: SafetyBench) -> None:
    """Of each table; the stored replies are no rows of anybody's."""
    bench.update_twin("u", {"a": 1}, ADA, request_id="r1")
    begun = bench.ask("begin_backup")
    status = bench.ready(begun["backup_id"])
    assert (begun["state"], status["state"], status["begun"]) == ("copying", "ready", begun["begun"])
    assert (status["rows"]["twins"], status["rows"]["interactions"]) == (1, 0)
    assert "replies" not in status["rows"]
    assert len(status["sha256"]) == 64


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have every copy wait for an event before it begins."""
    begins = threading.Event()
    copy_database = store_backup.copy_database

    def copy(source: Path, target: Path) -> store_backup.Copy:
        assert begins.wait(PATIENCE_S)
        return copy_database(source, target)

    monkeypatch.setattr(backup, "copy_database", copy)
    return begins


def test_it_is_of_one_moment_although_others_write(
    bench: SafetyBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction writes a pair, and no backup has half of one; writing goes on meanwhile."""
    for number in range(400):
        bench.update_twin(f"filler{number}", {"text": "x" * 10_000}, ADA)
    seen: list[tuple[int, int]] = []
    begins, written = held(monkeypatch), 0
    for _ in range(3):
        begins.clear()
        backup_id = bench.ask("begin_backup")["backup_id"]
        while bench.ask("backup_status", backup_id=backup_id)["state"] == "copying":
            with bench.database.transaction():
                for side in ("left", "right"):
                    bench.twins.put(Change(f"{side}{time.monotonic()}", ADA), {})
            begins.set()
            written += 1
        size, content = bench.ready(backup_id)["size"], b""
        while len(content) < size:
            content += b64decode(bench.ask("read_backup", backup_id=backup_id, offset=len(content))["data"])
        (tmp_path / "copy").write_bytes(content)
        with closing(sqlite3.connect(tmp_path / "copy")) as copy:
            query = "SELECT count(*) FILTER (WHERE written_by = 'left'), count(*) FILTER (WHERE written_by = 'right')"
            seen.append(copy.execute(f"{query} FROM twins").fetchone())
    assert all(left == right for left, right in seen)
    assert written > len(seen), "no pair was written while a copy was made"


def test_the_loop_goes_on_while_a_copy_is_made(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that takes long holds up no request; a second one must wait for it."""
    goes_on = held(monkeypatch)
    backup_id = bench.ask("begin_backup")["backup_id"]
    assert bench.update_twin("u", {"a": 1}, ADA)["status"] == "ok"
    assert bench.ask("begin_backup")["code"] == "limit_reached"
    assert bench.ask("read_backup", backup_id=backup_id, offset=0)["code"] == "limit_reached"
    goes_on.set()
    assert bench.ready(backup_id)["rows"]["twins"] == 1


def test_a_newer_backup_removes_the_older(bench: SafetyBench) -> None:
    """And a restart removes what is left; the folder holds one at most."""
    first = bench.ask("begin_backup")["backup_id"]
    bench.ready(first)
    second = bench.ask("begin_backup")["backup_id"]
    bench.ready(second)
    assert bench.files() == {f"db.backup-{second}"}
    assert bench.ask("backup_status", backup_id=first)["code"] == "not_found"
    assert bench.ask("read_backup", backup_id=first, offset=0)["code"] == "not_found"
    bench.reopen()
    assert bench.files() == set()
    assert bench.ask("backup_status", backup_id=second)["code"] == "not_found"


def test_a_backup_that_nobody_reads_is_removed(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the stated time, counted from the last read."""
    backup_id = bench.ask("begin_backup")["backup_id"]
    bench.ready(backup_id)
    bench.backups.on_tick()
    assert bench.ask("read_backup", backup_id=backup_id, offset=0)["status"] == "ok"
    monkeypatch.setattr(backup, "KEEP_S", 0.0)
    bench.backups.on_tick()
    assert bench.files() == set()
    assert bench.ask("read_backup", backup_id=backup_id, offset=0)["code"] == "not_found"


def test_a_retry_gets_the_same_backup(bench: SafetyBench) -> None:
    first = bench.ask("begin_backup", request_id="r1")
    bench.ready(first["backup_id"])
    assert bench.ask("begin_backup", request_id="r1") == first
    assert len(bench.files()) == 1


def test_a_backup_fails_without_a_thread(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query of its state reports it, and the next one begins as if nothing had been."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        backup_id = bench.ask("begin_backup")["backup_id"]
    status = bench.ask("backup_status", backup_id=backup_id)
    assert status["state"] == "failed"
    assert "can't start new thread" in status["failure"]
    assert bench.ready(bench.ask("begin_backup")["backup_id"])["state"] == "ready"


def test_without_space_the_earlier_backup_is_no_longer_listed(
    bench: SafetyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It made room for the one that then found too little."""
    first = bench.ask("begin_backup")["backup_id"]
    bench.ready(first)
    usage = shutil.disk_usage(bench.path.parent)
    monkeypatch.setattr("twinhost.store.backup.shutil.disk_usage", lambda _: usage._replace(free=1_000))
    assert bench.ask("begin_backup")["code"] == "store_unavailable"
    assert bench.ask("backup_status", backup_id=first)["code"] == "not_found"


def test_without_space_it_is_refused_with_a_sentence(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how much is needed and how much is there, and nothing is made."""
    usage = shutil.disk_usage(bench.path.parent)
    monkeypatch.setattr("twinhost.store.backup.shutil.disk_usage", lambda _: usage._replace(free=1_000))
    reply = bench.ask("begin_backup")
    assert reply["code"] == "store_unavailable"
    assert "bytes are needed on the volume of" in reply["error"]
    assert "and 1000 are free; free space there" in reply["error"]
    assert bench.files() == set()


def test_a_backup_that_fails_says_why_and_leaves_nothing(bench: SafetyBench) -> None:
    """A database that is damaged while it is in use yields no backup that only looks like one."""
    for number in range(200):
        bench.update_twin(f"u{number}", {"text": "x" * 3_000}, ADA)
    bench.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with bench.path.open("r+b") as file:
        file.seek(bench.path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096 * 20)
    status = bench.ready(bench.ask("begin_backup")["backup_id"])
    assert status["state"] == "failed"
    assert "the database itself is damaged" in status["failure"]
    assert bench.ask("read_backup", backup_id=status["backup_id"], offset=0)["code"] == "store_unavailable"
    assert bench.files() == set()


def test_a_copy_that_dies_silently_is_not_awaited(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program is reported as a failure, and another backup can be begun."""
    monkeypatch.setattr(backup, "copy_database", None)
    status = bench.ready(bench.ask("begin_backup")["backup_id"])
    assert (status["state"], "can't be made" in status["failure"]) == ("failed", True)
    monkeypatch.undo()
    assert bench.ready(bench.ask("begin_backup")["backup_id"])["state"] == "ready"


def test_an_offset_beyond_the_end_is_refused(bench: SafetyBench) -> None:
    backup_id = bench.ask("begin_backup")["backup_id"]
    size = bench.ready(backup_id)["size"]
    assert bench.ask("read_backup", backup_id=backup_id, offset=size)["data"] == ""
    beyond = bench.ask("read_backup", backup_id=backup_id, offset=size + 1)
    assert (beyond["code"], "$.offset" in beyond["error"]) == ("malformed_request", True)


def test_a_copy_is_its_owners_alone(bench: SafetyBench) -> None:
    """It holds what everybody wrote."""
    backup_id = bench.ask("begin_backup")["backup_id"]
    bench.ready(backup_id)
    assert (bench.path.parent / f"db.backup-{backup_id}").stat().st_mode & 0o777 == 0o600


def test_the_digest_is_of_what_is_read(bench: SafetyBench) -> None:
    bench.update_twin("u", {"a": 1}, ADA)
    content = bench.backed_up()
    assert content.startswith(b"SQLite format 3\0")
    assert hashlib.sha256(content).hexdigest() == hashlib.sha256(bench.backed_up()).hexdigest()


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("begin_backup", {}),
        ("backup_status", {"backup_id": "x"}),
        ("read_backup", {"backup_id": "x", "offset": 0}),
        ("begin_restore", {}),
        ("write_restore", {"restore_id": "x", "offset": 0, "data": "AAAA"}),
        ("finish_restore", {"restore_id": "x"}),
        ("acknowledge_damage", {}),
    ],
)
def test_they_are_an_operators_actions(bench: SafetyBench, action: str, fields: dict[str, Any]) -> None:
    """A backup contains everything, and a restore replaces it."""
    for caller in (ADA, NOBODY):
        assert bench.ask(action, caller, **fields)["code"] == "not_granted"
    assert bench.ask(action, **fields).get("code") != "not_granted"


@pytest.mark.parametrize(
    ("action", "fields", "path"),
    [
        ("backup_status", {}, "`backup_id`"),
        ("backup_status", {"backup_id": ""}, "$.backup_id"),
        ("backup_status", {"backup_id": 5}, "$.backup_id"),
        ("read_backup", {"backup_id": "x"}, "`offset`"),
        ("read_backup", {"backup_id": "x", "offset": -1}, "$.offset"),
        ("read_backup", {"backup_id": "x", "offset": 2**41}, "$.offset"),
        ("read_backup", {"backup_id": "x", "offset": "0"}, "$.offset"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(
    bench: SafetyBench, action: str, fields: dict[str, Any], path: str
) -> None:
    reply = bench.ask(action, **fields)
    assert (reply["code"], path in reply["error"]) == ("malformed_request", True)
