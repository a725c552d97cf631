"""The files: rotation, reading by page, and a contradiction is reported, left in place, and continued after."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.store.audit_log.books import check, names, opened, read_all, records
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest, SocketMisuse, StoreUnavailable
from twinhost.store.audit_log.chain import NO_HASH, Anchor, AuditEvent
from twinhost.store.audit_log.log import AuditLog


def fill(log: AuditLog, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        log.record(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}")
        log.flush()


def newest(path: Path) -> Path:
    return max((path / "audit").iterdir())


def test_a_file_is_named_by_its_first_line_and_limited_in_size(tmp_path: Path) -> None:
    """The chain goes on across files, and nobody else may read them."""
    with opened(tmp_path, max_file_bytes=1_000) as (_, log):
        fill(log, 20)
        files = sorted((tmp_path / "audit").iterdir())
        assert len(files) >= 5
        for file in files:
            first = file.read_text("ascii").splitlines()[0]
            assert first.startswith(f'{{"seq":{int(file.stem.removeprefix("audit-"))},')
            assert file.stat().st_size <= 1_000
            assert file.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
        assert check(log).whole
        assert log.anchor == Anchor(1, NO_HASH)


def test_after_rotation_the_log_verifies_from_the_anchor(tmp_path: Path) -> None:
    """Three are kept; also after a restart, and after a crash between the anchor and the removal."""
    with opened(tmp_path, max_file_bytes=1_000, keep_files=3) as (_, log):
        fill(log, 8)
        old = min((tmp_path / "audit").iterdir())
        copy = old.read_bytes()
        fill(log, 22, 8)
        assert len(list((tmp_path / "audit").iterdir())) == 3
        assert not old.exists()
        anchor = log.anchor
        assert anchor.seq > 10
        assert check(log).whole
        assert f"lines 1 to {anchor.seq - 1} were dropped by rotation" in check(log).summary()
    old.write_bytes(copy)
    with opened(tmp_path, max_file_bytes=1_000, keep_files=3) as (_, log):
        assert log.fault is None
        assert not old.exists()
        assert log.anchor == anchor
        assert check(log).whole
        (tmp_path / "audit" / f"audit-{anchor.seq:012}.jsonl").unlink()
        assert "missing" in check(log).summary()


@pytest.mark.parametrize("limit", [1, 2, 7, 1_000])
def test_pages_give_every_line_once(tmp_path: Path, limit: int) -> None:
    """By position, and by number, across files."""
    with opened(tmp_path, max_file_bytes=1_000) as (_, log):
        fill(log, 20)
        assert len(read_all(log, limit)) == 20
        numbers = [record["seq"] for record in records(log)]
        assert numbers == list(range(1, 21))
        for after in range(22):
            lines = log.read_page(after, limit).lines
            assert list(lines) == read_all(log)[after : after + limit]
        end = log.read_page(0, 1_000).position
        fill(log, 3, 20)
        assert [line[7:9] for line in log.read_page(0, 9, end).lines] == ["21", "22", "23"]


def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    """However many lines are asked for, and however long what was put into a file is."""
    with opened(tmp_path) as (_, log):
        fill(log, 1)
        with newest(tmp_path).open("ab") as file:
            file.write(b"x" * 5_000_000 + b"\n" + b"\xff" * 100 + b"\n" + b"y" * 900 + b"\n")
            file.write((b"z" * 2_000 + b"\n") * 2_000)
        page = log.read_page(0, 1_000_000)
        assert sum(map(len, page.lines)) < 1_100_000
        assert page.lines[1] == "x" * 4_096
        assert page.lines[2] == "\ufffd" * 100
        assert page.lines[3] == "y" * 900
        assert len(read_all(log, 1_000_000)) == 2_004


@pytest.mark.parametrize("position", ["", "1", "1:x", "-1:0", "1:0:0", "1:" + "9" * 19, "٣:0"])
def test_a_position_that_can_not_be_is_refused(tmp_path: Path, position: str) -> None:
    """It comes from the wire. One that only points nowhere gives what comes after it."""
    with opened(tmp_path) as (_, log):
        fill(log, 2)
        with pytest.raises(MalformedRequest, match="start with after_seq"):
            log.read_page(0, 10, position)
        assert log.read_page(0, 10, "1:99999999").lines == ()
        assert len(log.read_page(0, 10, "0:5").lines) == 2


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def add(text: bytes) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with file.open("ab") as opened_file:
            opened_file.write(text)

    return change


def double_last(file: Path) -> None:
    add(file.read_bytes().splitlines(keepends=True)[-1])(file)


def take_last(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


def empty(file: Path) -> None:
    os.truncate(file, 0)


def remove(file: Path) -> None:
    file.unlink()


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "garbage": add(b"garbage"),
    "line": add(b'{"seq":6,"time":"x"}\n'),
    "zeros": add(bytes(100)),
    "double": double_last,
    "take": take_last,
    "empty": empty,
    "remove": remove,
}


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_contradicts_is_a_fault_and_the_log_goes_on(tmp_path: Path, change: str, restart: bool) -> None:
    """Found at the start and between two writes; what is there stays; verify finds it; new lines are written."""

    def go_on(log: AuditLog) -> None:
        fill(log, 3, 5)
        assert log.fault is not None
        assert "contradicts the database" in log.fault
        assert "run: ./twinhost audit verify" in log.fault
        assert names(log)[-3:] == ["agent-5", "agent-6", "agent-7"]
        assert "log_contradicted" in "".join(read_all(log))
        assert newest(tmp_path).read_bytes().startswith(left)
        assert not check(log).whole

    with opened(tmp_path) as (_, log):
        fill(log, 5)
        CHANGES[change](newest(tmp_path))
        left = b"" if change == "remove" else newest(tmp_path).read_bytes()
        if not restart:
            go_on(log)
    if restart:
        with opened(tmp_path) as (_, log):
            assert log.fault is not None
            go_on(log)


def test_a_missing_and_a_strange_file_are_a_fault_at_the_start(tmp_path: Path) -> None:
    """Not only the newest file is looked for."""
    with opened(tmp_path, max_file_bytes=1_000) as (_, log):
        fill(log, 20)
    files = sorted((tmp_path / "audit").iterdir())
    kept = files[1].read_bytes()
    files[1].unlink()
    with opened(tmp_path, max_file_bytes=1_000) as (_, log):
        assert log.fault is not None
        assert "it is missing" in log.fault
    files[1].write_bytes(kept)
    (tmp_path / "audit" / "audit-000000000999.jsonl").write_bytes(b"")
    with opened(tmp_path, max_file_bytes=1_000) as (_, log):
        assert log.fault is not None
        assert "it is not in the database's list of files" in log.fault


def test_a_lost_database_is_a_fault(tmp_path: Path) -> None:
    """A new database beside old files does not pass for the beginning of a log."""
    with opened(tmp_path) as (_, log):
        fill(log, 5)
    for file in tmp_path.glob("registry.db*"):
        file.unlink()
    with opened(tmp_path) as (_, log):
        fill(log, 1)
        assert log.fault is not None
        assert not check(log).whole
        assert len(newest(tmp_path).read_bytes().splitlines()) >= 6


def test_a_disk_that_fails_is_a_fault_until_it_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded stays in the database and is written once, though a write had ended in the middle."""
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 50:
            return write(descriptor, data[:50])
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as (_, log):
        fill(log, 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            fill(log, 3, 2)
            assert log.fault is not None
            assert "No space left on device" in log.fault
        fill(log, 1, 5)
        assert log.fault is None
        assert names(log) == [f"agent-{number}" for number in range(6)]
        assert check(log).whole


def test_a_folder_that_can_not_be_used_stops_the_start(tmp_path: Path) -> None:
    """A volume that is not mounted is no place for a log."""
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"the audit log's folder .* can't be used"), opened(tmp_path):
        pass


def test_a_page_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    """The tree's own error, not the system's."""
    with opened(tmp_path) as (_, log):
        fill(log, 2)
        newest(tmp_path).unlink()
        newest_again = tmp_path / "audit" / "audit-000000000001.jsonl"
        newest_again.mkdir()
        with pytest.raises(StoreUnavailable, match="the audit log can't be read"):
            log.read_page(0, 10)


def test_a_flush_inside_a_transaction_is_refused(tmp_path: Path) -> None:
    """It would commit what is not done yet."""
    with opened(tmp_path) as (database, log), database.transaction(), pytest.raises(SocketMisuse):
        log.flush()


def test_notes_come_from_any_thread(tmp_path: Path) -> None:
    """Each is written once."""
    with opened(tmp_path) as (_, log):

        def work(worker: int) -> None:
            for number in range(200):
                log.note(AuditEvent.KEY_AUTHORIZED, name=f"{worker}-{number}")

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            log.flush()
        log.flush()
        assert sorted(names(log)) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(200))
        assert check(log).whole
