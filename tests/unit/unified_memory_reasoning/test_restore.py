"""A restore: what came is checked whole, the database in use is kept, and the loss is reported by count."""

import hashlib
import os
import shutil
import sqlite3
import threading
from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store.broken import no_file_beyond
from tests.unit.unified_memory_reasoning.bench import MIGRATIONS, bench_of, migrations_before
from tests.unit.unified_memory_reasoning.safety_bench import ADA, REVOKED, SafetyBench
from twinhost.agent.assembly import StartAgain
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.store import backup as store_backup
from twinhost.store.backup import STAGED
from twinhost.store.damage import DAMAGED, REPLACED, damage_warning, quarantined
from twinhost.store.database import LOG_POSITION, Database
from twinhost.store.files import part
from twinhost.unified_memory_reasoning.backup import backup
from twinhost.unified_memory_reasoning.provenance import quarantine

bench = bench_of(SafetyBench)


def refused(bench: SafetyBench, content: bytes, sentence: str, **fields: Any) -> None:
    """Send what must be refused: the database in use stays, and nothing of it lies about."""
    reply = bench.finish(bench.send(content), content, **fields)
    assert (reply["code"], sentence in reply["error"]) == ("malformed_request", True), reply
    assert [name for name in bench.files() if not name.startswith("db.backup-")] == []
    bench.backups.on_tick()


def database_of(path: Path, migrations: Sequence[str], *statements: str) -> bytes:
    """Return the bytes of a database with these tables, after these statements."""
    path.unlink(missing_ok=True)
    with closing(Database(path, migrations)) as database:
        for statement in statements:
            database.execute(statement)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return path.read_bytes()


def test_a_restore_brings_everything_back_at_the_next_start(
    bench: SafetyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after the backup is kept, under another name; its ids may be used again."""
    bench.update_twin("old", {"a": 1}, ADA)
    content = bench.backed_up()
    bench.update_twin("old", {"a": 2}, ADA, request_id="r2")
    bench.update_twin("new", {"b": 1}, ADA)
    reply = bench.finish(bench.send(content), content)
    assert (reply["status"], reply["state"]) == ("ok", "staged")
    assert bench.twin("old") == {"a": 2}  # until then
    bench.backups.on_tick()  # the reply is not delivered yet
    monkeypatch.setattr(backup, "REPORTED_S", 0.0)
    with pytest.raises(StartAgain, match="is staged and replaces the database"):
        bench.backups.on_tick()
    bench.reopen()
    assert (bench.twin("old"), bench.twin("new")) == ({"a": 1}, {})
    (replaced,) = quarantined(bench.path, REPLACED)
    with closing(sqlite3.connect(bench.path.with_name(replaced.name))) as before:
        assert before.execute("SELECT user_id FROM twins ORDER BY user_id").fetchall() == [("new",), ("old",)]
    assert bench.files() == {replaced.name}
    assert bench.update_twin("old", {"a": 2}, ADA, request_id="r2")["revision"] == 2


def test_no_file_of_a_restore_is_for_others(bench: SafetyBench) -> None:
    """Neither on its way nor staged, nor the database that gave way, whatever the process's umask is."""
    content = bench.backed_up()
    before = os.umask(0)
    try:
        restore_id = bench.send(content)
        incoming = bench.path.with_name(f"db.incoming-{restore_id}")
        modes = [incoming.stat().st_mode]
        bench.finish(restore_id, content)
        modes.append(part(bench.path, STAGED).stat().st_mode)
        bench.reopen()
    finally:
        os.umask(before)
    modes += [path.stat().st_mode for path in bench.path.parent.iterdir() if path.name.startswith("db")]
    assert {mode & 0o777 for mode in modes} == {0o600}


def rows_of(bench: SafetyBench, content: bytes) -> dict[str, dict[str, Any]]:
    """Return the counts of each table that a restore reports."""
    return dict(bench.finish(bench.send(content), content)["rows"])


def compared(present: int, backup: int, added: int, kept: int, replaced: int, missing: int) -> dict[str, int]:
    counts = {"added": added, "kept": kept, "replaced": replaced, "missing": missing}
    return {"present": present, "backup": backup, **counts, "lost": missing}


def test_the_loss_is_reported_for_each_table(bench: SafetyBench) -> None:
    """The present rows, the backup's, and those missing in the backup; the quarantine is a table too."""
    bench.update_twin("u0", {}, ADA)
    bench.say("s", "one", ADA)
    content = bench.backed_up()
    for number in range(1, 4):
        bench.update_twin(f"u{number}", {}, ADA)
    bench.ask("quarantine_memory", name=REVOKED.name)
    rows = rows_of(bench, content)
    assert rows["twins"] == compared(4, 1, added=0, kept=1, replaced=0, missing=3)
    assert rows["interactions"] == compared(1, 1, added=0, kept=1, replaced=0, missing=0)
    assert rows["quarantined"] == compared(1, 0, added=0, kept=0, replaced=0, missing=1)
    assert "replies" not in rows


def test_equal_numbers_of_other_rows_are_no_equal_rows(bench: SafetyBench) -> None:
    """A deleted, a new, and a changed twin; and an interaction whose number another one has now."""
    for user in ("kept", "deleted", "changed"):
        bench.update_twin(user, {"a": 1}, ADA)
    bench.say("s", "one", ADA)
    content = bench.backed_up()
    bench.ask("delete_twin", ADA, user_id="deleted")
    bench.update_twin("new", {}, ADA)
    bench.update_twin("changed", {"a": 2}, ADA)
    with bench.database.transaction():
        bench.database.execute("UPDATE interactions SET content = 'another'")
    rows = rows_of(bench, content)
    assert rows["twins"] == compared(3, 3, added=1, kept=1, replaced=1, missing=1)
    assert rows["interactions"] == compared(1, 1, added=1, kept=0, replaced=0, missing=1)
    assert rows["twin_changes"] == compared(6, 3, added=0, kept=3, replaced=0, missing=3)


@pytest.mark.parametrize(("broken", "counted"), [("a page", 200), ("the header", None)])
def test_loss_is_counted_against_the_damaged_database(bench: SafetyBench, broken: str, counted: int | None) -> None:
    """As far as it can be read; the new one that took its place has nothing yet. The restore ends the red check."""
    bench.update_twin("u0", {}, ADA)
    content = bench.backed_up()
    for number in range(1, 200):
        bench.update_twin(f"u{number}", {"text": "x" * 3_000}, ADA)
    bench.database.close()
    with bench.path.open("r+b") as file:
        file.seek(-4_096 if broken == "a page" else 0, 2 if broken == "a page" else 0)
        file.write(b"\xff" * 4_096)
    bench.open()
    assert damage_warning(bench.path) is not None
    rows = bench.finish(bench.send(content), content)["rows"]
    (damaged,) = quarantined(bench.path, DAMAGED)
    lost = None if counted is None else counted - 1
    counts = compared(0, 1, added=0, kept=1, replaced=0, missing=199) if counted else dict.fromkeys(compared(*[0] * 6))
    assert rows["twins"] == {**counts, "present": 0, "backup": 1, "damaged": counted, "lost": lost}
    bench.reopen()
    assert bench.ask("get_twin", ADA, user_id="u0")["revision"] == 1
    assert damage_warning(bench.path) is None
    assert [each.name for each in quarantined(bench.path, DAMAGED)] == [damaged.name]


def test_damage_can_be_acknowledged_without_a_restore(bench: SafetyBench) -> None:
    """The files stay, and their size is reported."""
    bench.database.close()
    bench.path.write_bytes(b"not a database")
    bench.open()
    reply = bench.ask("acknowledge_damage")
    (damaged,) = quarantined(bench.path, DAMAGED)
    assert reply["acknowledged"] == [damaged.name]
    assert reply["kept"] == [{"name": damaged.name, "size_bytes": damaged.size_bytes}]
    assert damage_warning(bench.path) is None
    assert bench.ask("acknowledge_damage")["acknowledged"] == []


def test_the_agent_restarts_after_the_reply_or_unasked(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before the operator was notified, unless that takes longer than it may."""
    content = bench.backed_up()
    restore_id = bench.send(content)
    bench.backups.on_tick()
    incoming = bench.backups._restores._incoming
    assert incoming is not None
    bench.finish(restore_id, content)
    incoming.reported_at = None  # as if the reply had still said `checking`
    bench.backups.on_tick()
    monkeypatch.setattr(backup, "UNREPORTED_S", 0.0)
    with pytest.raises(StartAgain):
        bench.backups.on_tick()


def test_a_part_that_came_already_changes_nothing(bench: SafetyBench) -> None:
    """A retry of a lost reply; a gap is refused with where to go on."""
    content = bench.backed_up()
    restore_id = bench.ask("begin_restore", size=len(content))["restore_id"]

    def write(offset: int, end: int) -> dict[str, Any]:
        data = b64encode(content[offset:end]).decode()
        return bench.ask("write_restore", restore_id=restore_id, offset=offset, data=data)

    assert write(0, 1_000)["received"] == write(0, 1_000)["received"] == 1_000
    gap = write(2_000, 3_000)
    assert (gap["code"], "Expected 1000, the number of bytes received" in gap["error"]) == ("malformed_request", True)
    early = bench.ask("finish_restore", restore_id=restore_id, sha256=hashlib.sha256(content).hexdigest())
    assert (early["code"], f"1000 of {len(content)} bytes were received" in early["error"]) == (
        "malformed_request",
        True,
    )
    for offset in range(1_000, len(content), 100_000):
        write(offset, offset + 100_000)
    assert bench.finish(restore_id, content, size=None)["state"] == "staged"


def test_more_than_the_declared_size_is_refused(bench: SafetyBench) -> None:
    restore_id = bench.ask("begin_restore", size=3)["restore_id"]
    reply = bench.ask("write_restore", restore_id=restore_id, offset=0, data="AAAAAAAA")
    assert (reply["code"], "exceed the 3 bytes" in reply["error"]) == ("malformed_request", True)


@pytest.mark.parametrize("missing", ["size", "sha256"])
def test_size_and_digest_are_required_by_the_end(bench: SafetyBench, missing: str) -> None:
    content = bench.backed_up()
    restore_id = bench.send(content)
    fields: dict[str, Any] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del fields[missing]
    reply = bench.ask("finish_restore", restore_id=restore_id, **fields)
    assert (reply["code"], f"`$.{missing}`" in reply["error"]) == ("malformed_request", True)
    assert bench.finish(restore_id, content)["state"] == "staged"


def test_another_digest_is_refused(bench: SafetyBench) -> None:
    content = bench.backed_up()
    refused(bench, content, "the file arrived with SHA-256", sha256="0" * 64)


def test_a_file_that_is_no_database_is_refused(bench: SafetyBench) -> None:
    refused(bench, b"not a database", "not an intact database")


def test_a_broken_backup_is_refused(bench: SafetyBench) -> None:
    """Although its digest is right: it was broken before it was sent."""
    for number in range(100):
        bench.update_twin(f"u{number}", {"text": "x" * 3_000}, ADA)
    content = bytearray(bench.backed_up())
    content[-8_192:-4_096] = b"\xff" * 4_096
    refused(bench, bytes(content), "not an intact database")


def test_a_backup_of_a_newer_program_is_refused(bench: SafetyBench, tmp_path: Path) -> None:
    newer = database_of(tmp_path / "o", [*MIGRATIONS, "CREATE TABLE more (a)"])
    (tmp_path / "o").unlink()
    known = len(MIGRATIONS)
    refused(bench, newer, f"has schema version {known + 1} and this program knows 1 to {known}")


def test_an_older_programs_backup_is_migrated(bench: SafetyBench, tmp_path: Path) -> None:
    twin = "INSERT INTO twins VALUES ('u', CAST('{\"a\":1}' AS BLOB), 1, 'ada', 0)"
    older = database_of(tmp_path / "o", migrations_before(quarantine.MIGRATION), twin)
    (tmp_path / "o").unlink()
    assert rows_of(bench, older)["twins"] == compared(0, 1, added=1, kept=0, replaced=0, missing=0)
    bench.reopen()
    assert bench.twin("u") == {"a": 1}


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DROP TABLE twins", "the file lacks"),
        ("CREATE TABLE strange (a)", "the file has table strange, which this agent never creates"),
        ("CREATE TRIGGER t AFTER INSERT ON twins BEGIN DELETE FROM twins; END", "the file has trigger t"),
        ("PRAGMA user_version = 0", "has schema version 0"),
    ],
)
def test_a_database_of_something_else_is_refused(
    bench: SafetyBench, tmp_path: Path, statement: str, sentence: str
) -> None:
    """A table that is missing, and one, or a trigger, that no version of this agent made."""
    content = database_of(tmp_path / "o", MIGRATIONS, statement)
    (tmp_path / "o").unlink()
    refused(bench, content, sentence)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            "DROP TRIGGER recall_memory_added; CREATE TRIGGER recall_memory_added AFTER INSERT ON memories "
            "BEGIN DELETE FROM quarantined; END",
            "the file has trigger recall_memory_added with another definition; use another backup",
        ),
        (
            "DROP TABLE quarantine_reasons; CREATE TABLE quarantine_reasons (name, reason)",
            "the file lacks index sqlite_autoindex_quarantine_reasons_1",
        ),
        (
            "DROP INDEX twins_by_writer; CREATE INDEX twins_by_writer ON twins (updated)",
            "the file has index twins_by_writer with another definition",
        ),
        (
            "CREATE TRIGGER t AFTER INSERT ON twins BEGIN DELETE FROM twins; END; PRAGMA writable_schema = ON; "
            "UPDATE sqlite_master SET name = 'sqlite_t', sql = replace(sql, ' t ', ' sqlite_t ') WHERE name = 't'",
            "the file has trigger sqlite_t, which this agent never creates",
        ),
    ],
    ids=["trigger", "table", "index", "trigger under a name of SQLite's"],
)
def test_a_schema_object_with_other_sql_is_refused(
    bench: SafetyBench, tmp_path: Path, script: str, sentence: str
) -> None:
    """Such a trigger would act on every later write, whatever its name is."""
    database_of(tmp_path / "o", MIGRATIONS)
    with closing(sqlite3.connect(tmp_path / "o")) as connection:
        connection.executescript(script)
    with pytest.raises(MalformedRequest) as refusal:
        store_backup.check_copy(tmp_path / "o", MIGRATIONS, store_backup.digest_of(tmp_path / "o"))
    assert sentence in str(refusal.value)


def test_a_backup_of_every_version_has_the_schema_of_its_version(tmp_path: Path) -> None:
    """What SQLite makes by itself is compared too, and is the same."""
    for version in range(1, len(MIGRATIONS) + 1):
        database_of(tmp_path / "o", MIGRATIONS[:version])
        store_backup.check_copy(tmp_path / "o", MIGRATIONS, store_backup.digest_of(tmp_path / "o"))


def test_a_backup_of_an_agent_with_a_log_can_be_restored(bench: SafetyBench, tmp_path: Path) -> None:
    """It says how far it has the log, which the agent that it is restored to does not follow."""
    content = database_of(tmp_path / "o", MIGRATIONS, f"CREATE TABLE {LOG_POSITION} (log TEXT, applied INTEGER) STRICT")
    (tmp_path / "o").unlink()
    assert LOG_POSITION not in rows_of(bench, content)
    bench.reopen()
    names = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    assert bench.database.value(names, (LOG_POSITION,)) == 0


def test_a_quarantined_database_can_be_restored(bench: SafetyBench) -> None:
    """As it was: a restore can be taken back by another one."""
    bench.update_twin("u", {"a": 1}, ADA)
    content = bench.backed_up()
    bench.update_twin("u", {"a": 2}, ADA)
    bench.finish(bench.send(content), content)
    bench.reopen()
    (replaced,) = quarantined(bench.path, REPLACED)
    before = bench.path.with_name(replaced.name).read_bytes()
    bench.finish(bench.send(before), before)
    bench.reopen()
    assert bench.twin("u") == {"a": 2}
    assert len(quarantined(bench.path, REPLACED)) == 2
    assert bench.files() == {each.name for each in quarantined(bench.path, REPLACED)}


def test_a_new_restore_drops_the_one_before(bench: SafetyBench) -> None:
    """An operator whose connection broke begins again."""
    first = bench.ask("begin_restore")["restore_id"]
    second = bench.ask("begin_restore")["restore_id"]
    assert bench.files() == {f"db.incoming-{second}"}
    assert bench.ask("write_restore", restore_id=first, offset=0, data="AAAA")["code"] == "not_found"
    bench.reopen()
    assert bench.files() == set()


def test_a_restore_that_nobody_goes_on_with_is_dropped(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    restore_id = bench.ask("begin_restore")["restore_id"]
    bench.backups.on_tick()
    assert bench.files() == {f"db.incoming-{restore_id}"}
    monkeypatch.setattr(backup, "KEEP_S", 0.0)
    bench.backups.on_tick()
    assert bench.files() == set()


def test_what_is_staged_is_not_changed_any_more(bench: SafetyBench) -> None:
    """Neither by another restore nor by more parts, until the agent was restarted."""
    content = bench.backed_up()
    restore_id = bench.send(content)
    bench.finish(restore_id, content)
    assert bench.ask("begin_restore")["code"] == "limit_reached"
    assert bench.ask("write_restore", restore_id=restore_id, offset=0, data="AAAA")["code"] == "limit_reached"
    assert bench.finish(restore_id, content)["state"] == "staged"


def test_without_space_it_is_refused_with_a_sentence(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning where the size is given, and at a part."""
    restore_id = bench.ask("begin_restore")["restore_id"]
    usage = shutil.disk_usage(bench.path.parent)
    monkeypatch.setattr(
        "twinhost.store.backup.shutil.disk_usage", lambda _: usage._replace(free=store_backup.SPARE_BYTES + 10)
    )
    for reply in (
        bench.ask("write_restore", restore_id=restore_id, offset=0, data="A" * 400),
        bench.ask("begin_restore", size=11),
    ):
        assert (reply["code"], "bytes are needed on the volume of" in reply["error"]) == ("store_unavailable", True)


def test_a_full_volume_refuses_a_restore_but_not_the_next(bench: SafetyBench) -> None:
    """At the part that does not fit, however small it is; nothing of it is left, and no check waits forever."""
    content = bench.backed_up()
    full_at = len(content) - 1_000
    restore_id = bench.ask("begin_restore", size=len(content))["restore_id"]

    def write(offset: int, end: int) -> dict[str, Any]:
        data = b64encode(content[offset:end]).decode()
        return bench.ask("write_restore", restore_id=restore_id, offset=offset, data=data)

    for offset in range(0, full_at, 40_000):
        assert write(offset, min(offset + 40_000, full_at))["status"] == "ok"
    with no_file_beyond(full_at):
        reply = write(full_at, len(content))
    assert (reply["code"], "can't be written" in reply["error"]) == ("store_unavailable", True), reply
    assert [name for name in bench.files() if "incoming" in name] == []
    assert bench.finish(restore_id, content)["code"] == "not_found"
    assert bench.finish(bench.send(content), content)["state"] == "staged"


def test_a_restore_fails_without_a_thread(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next poll gets the failure, and another restore can begin."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    content = bench.backed_up()
    restore_id = bench.send(content)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        reply = bench.finish(restore_id, content)
    assert (reply["code"], "can't start new thread" in reply["error"]) == ("store_unavailable", True)
    assert bench.finish(bench.send(content), content)["state"] == "staged"


@pytest.mark.parametrize("fails_at", ["closing", "checking"])
def test_a_restore_whose_check_can_not_be_made_is_dropped(
    bench: SafetyBench, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """The volume or the program fails under it: the refusal is reported, and another restore can be begun."""
    content = bench.backed_up()
    restore_id = bench.send(content)
    incoming = bench.backups._restores._incoming
    assert incoming is not None
    if fails_at == "closing":
        os.close(incoming.stream.fileno())
    else:
        monkeypatch.setattr(backup, "check_copy", None)
    assert bench.finish(restore_id, content)["code"] == "store_unavailable"
    assert bench.ask("finish_restore", restore_id=restore_id)["code"] == "not_found"
    monkeypatch.undo()
    assert bench.finish(bench.send(content), content)["state"] == "staged"


@pytest.mark.parametrize(
    ("action", "fields", "path"),
    [
        ("begin_restore", {"size": 0}, "$.size"),
        ("begin_restore", {"size": 2**41}, "$.size"),
        ("begin_restore", {"sha256": "abc"}, "$.sha256"),
        ("begin_restore", {"sha256": 5}, "$.sha256"),
        ("write_restore", {"offset": 0, "data": "AAAA"}, "`restore_id`"),
        ("write_restore", {"restore_id": "x", "offset": -1, "data": "AAAA"}, "$.offset"),
        ("write_restore", {"restore_id": "x", "offset": 0, "data": ""}, "$.data"),
        ("write_restore", {"restore_id": "x", "offset": 0, "data": "not base64"}, "$.data"),
        ("write_restore", {"restore_id": "x", "offset": 0, "data": 5}, "$.data"),
        ("finish_restore", {"restore_id": ""}, "$.restore_id"),
        ("finish_restore", {"restore_id": "x", "size": "1"}, "$.size"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(
    bench: SafetyBench, action: str, fields: dict[str, Any], path: str
) -> None:
    reply = bench.ask(action, **fields)
    assert (reply["code"], path in reply["error"]) == ("malformed_request", True), reply
