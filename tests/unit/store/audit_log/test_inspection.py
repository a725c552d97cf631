"""The inspection of the log: what was changed is found at the start, soon after, or hourly; and nothing else is."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.store.audit_log import inspection
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.files import MIGRATION, MIGRATION_RESTORES, LogFiles, Stamp
from twinhost.store.audit_log.inspection import INSPECT_EVERY_S, LOOK_EVERY_S, Inspector
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.worker import Worker

pytestmark = pytest.mark.sdt_security

FILE_BYTES = 8_000


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock, self.folder = Clock(), folder
        self.clock.stand_still()
        self.open()

    def open(self) -> None:
        self.database = Database(self.folder / "x.sqlite3", [MIGRATION, MIGRATION_RESTORES], self.clock)
        self.audit = AuditLog(self.database, self.folder / "audit", FILE_BYTES, keep_files=5)
        self.inspector = Inspector(self.audit, self.clock.monotonic)

    def restart(self) -> None:
        self.inspector.stop()
        self.audit.close()
        self.database.close()
        self.open()

    def write(self, lines: int) -> None:
        for number in range(lines):
            self.audit.record(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}", host="pc3", fingerprint="SHA256:x")
            self.audit.flush()

    def passes(self, seconds: float) -> None:
        """Let time pass, and let an inspection that begins then end."""
        self.clock.let_pass(seconds)
        self.inspector.on_tick()
        self.settle()

    def settle(self) -> None:
        wait_until(lambda: self.inspector._run is None or self.inspector._run.done, PATIENCE_S, "the inspection ends")
        self.inspector.on_tick()

    @property
    def intact(self) -> bool | None:
        return self.inspector.intact

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / "audit").iterdir())

    @property
    def found(self) -> list[tuple[str, int]]:
        return [(file.name, finding.seq) for file in self.inspector.broken for finding in file.findings.findings]


def change(path: Path, line: int, *, unnoticed: bool = False) -> None:
    """Change a line of a file; `unnoticed`: with the times that it had, as far as a program can set them."""
    before = path.stat()
    lines = path.read_text().splitlines()
    lines[line] = lines[line].replace("SHA256:x", "SHA256:y")
    with path.open("r+") as file:
        file.write("\n".join(lines) + "\n")
    if unnoticed:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(inspection, "_PAUSE_S", 0.0)
    bench = Bench(tmp_path)
    yield bench
    bench.inspector.stop()
    bench.database.close()


def test_a_log_in_several_files_is_intact(bench: Bench) -> None:
    bench.write(100)
    assert len(bench.files) > 3
    assert bench.inspector.intact is None
    bench.passes(0)
    assert (bench.intact, bench.found) == (True, [])
    bench.restart()
    bench.passes(0)
    assert bench.intact is True


def test_an_empty_log_is_intact(bench: Bench) -> None:
    bench.passes(0)
    assert bench.intact is True


@pytest.mark.parametrize("file", [0, 1, -1])
def test_a_changed_line_is_found_at_the_start(bench: Bench, file: int) -> None:
    bench.write(100)
    path = bench.files[file]
    seq = int(path.name[6:18])
    change(path, 1)
    bench.restart()
    bench.passes(0)
    assert bench.found == [(path.name, seq + 1)]
    assert bench.intact is False


@pytest.mark.parametrize("file", [0, -1])
def test_a_line_changed_meanwhile_is_found_within_seconds(bench: Bench, file: int) -> None:
    bench.write(100)
    bench.passes(0)
    change(bench.files[file], 1)
    bench.passes(LOOK_EVERY_S)
    assert len(bench.found) == 1


def test_own_lines_after_a_change_do_not_hide_it(bench: Bench) -> None:
    bench.write(10)
    bench.passes(0)
    change(bench.files[-1], 1)
    bench.write(3)
    bench.passes(LOOK_EVERY_S)
    assert len(bench.found) == 1


def test_own_lines_cause_no_further_reading(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(10)
    bench.passes(0)
    read: list[object] = []
    monkeypatch.setattr(inspection, "_inspected", lambda _, anchor, *__: read.append(anchor))
    bench.write(10)
    bench.passes(LOOK_EVERY_S)
    assert (bench.intact, read) == (True, [])


@pytest.mark.parametrize("file", [0, -1])
def test_what_hides_from_the_stamps_is_found_hourly(bench: Bench, file: int) -> None:
    """In any file, however its times were set."""
    bench.write(100)
    bench.passes(0)
    path = bench.files[file]
    change(path, 1, unnoticed=True)
    written = bench.audit.written()
    first = written.files[file].seq
    bench.inspector._read[first] = written.log.stamp(first)  # as if nothing had changed
    bench.passes(LOOK_EVERY_S)
    assert bench.found == []
    bench.passes(INSPECT_EVERY_S)
    assert [name for name, _ in bench.found] == [path.name]


def test_a_finding_stays_and_is_read_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(100)
    bench.passes(0)
    change(bench.files[0], 1)
    bench.passes(LOOK_EVERY_S)
    found = bench.found
    with capture_logs() as lines:
        bench.passes(INSPECT_EVERY_S)
    assert [line["event"] for line in lines] == [], "it was logged before"
    read: list[object] = []
    monkeypatch.setattr(inspection, "_inspected", lambda _, anchor, *__: read.append(anchor))
    bench.passes(LOOK_EVERY_S)
    assert (bench.found, bench.intact, read) == (found, False, [])


def test_a_missing_and_a_truncated_file_are_found(bench: Bench) -> None:
    bench.write(100)
    bench.passes(0)
    first, second, *_ = bench.files
    first.unlink()
    second.write_text("".join(second.read_text().splitlines(keepends=True)[:-1]))
    bench.passes(LOOK_EVERY_S)
    assert [name for name, _ in bench.found] == [first.name, second.name]


def test_a_file_put_back_as_it_was_ends_the_finding(bench: Bench) -> None:
    bench.write(100)
    bench.passes(0)
    content = bench.files[0].read_bytes()
    change(bench.files[0], 1)
    bench.passes(LOOK_EVERY_S)
    bench.files[0].write_bytes(content)
    bench.passes(LOOK_EVERY_S)
    assert (bench.found, bench.intact) == ([], True)


def test_a_contradiction_ends_once_all_files_were_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest was longer when the log went on in it, and is as it was; a log that is not intact keeps it."""
    bench.write(100)
    bench.passes(0)
    stamp = LogFiles.stamp

    def longer(files: LogFiles, first: int) -> Stamp | None:
        return replace(seen, size=seen.size + 1) if (seen := stamp(files, first)) else None

    def contradicted() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(LogFiles, "stamp", longer)
            bench.audit.record(AuditEvent.KEY_AUTHORIZED, name="x", host="pc3", fingerprint="SHA256:x")
            bench.audit._append(bench.audit._ledger.pending(bench.audit.head.seq, 1))
        bench.write(1)
        assert "its size changed between two writes" in str(bench.audit.fault)

    contradicted()
    with monkeypatch.context() as patched:
        patched.setattr(inspection, "_inspected", None)  # which fails
        bench.passes(LOOK_EVERY_S)
    os.utime(bench.files[0])
    bench.passes(LOOK_EVERY_S)
    assert (bench.intact, bench.audit.contradiction is None) == (True, False), "one file alone was read"
    bench.passes(INSPECT_EVERY_S)
    assert (bench.intact, bench.audit.fault) == (True, None)
    change(bench.files[0], 1)
    contradicted()
    bench.passes(LOOK_EVERY_S)
    assert (bench.intact, bench.audit.contradiction is None) == (False, False)


def test_a_file_that_is_none_of_the_logs_stays_a_fault(bench: Bench) -> None:
    bench.write(20)
    bench.files[0].with_name("audit-000000000099.jsonl").write_text("x")
    bench.restart()
    bench.passes(0)
    assert bench.intact
    assert "not in the database's list of files" in str(bench.audit.fault)


def test_lines_written_during_an_inspection_are_no_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log grows, begins a file and drops one while its files are read."""
    bench.write(100)
    monkeypatch.setattr(inspection, "_PAUSE_S", 0.05)
    bench.inspector.on_tick()
    bench.write(100)
    bench.settle()
    assert (bench.found, bench.intact) == ([], True)


def test_a_half_written_line_after_the_head_is_no_fault(bench: Bench) -> None:
    bench.write(20)
    with bench.files[-1].open("a") as file:
        file.write('{"seq":21,"ti')
    bench.passes(0)
    assert bench.found == []


def test_an_hourly_inspection_that_failed_is_made_within_an_hour(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(100)
    bench.passes(0)
    change(bench.files[0], 1)
    bench.inspector._read[1] = bench.audit.written().log.stamp(1)
    with monkeypatch.context() as patched:
        patched.setattr(inspection, "_inspected", None)
        bench.passes(INSPECT_EVERY_S)
    bench.passes(INSPECT_EVERY_S)
    assert len(bench.found) == 1


def test_an_inspection_without_a_thread_is_made_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise RuntimeError("can't start new thread")

    bench.write(20)
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "start", full)
        bench.passes(0)
    assert bench.intact is None
    bench.passes(LOOK_EVERY_S)
    assert bench.intact is True


def test_a_failed_inspection_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write(20)
    with monkeypatch.context() as patched:
        patched.setattr(inspection, "_inspected", None)
        bench.passes(0)
        assert bench.intact is None
    bench.passes(LOOK_EVERY_S)
    assert bench.intact is True
