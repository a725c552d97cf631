"""An old backup is a trouble, a new installation without one is none; what was done is recorded in a file."""

from pathlib import Path

import pytest

from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.backups import BACKUPS_FILE, DAY_S, OLD_AFTER_S, BackupRecord, Backups, old_backup
from twinhost.agent.troubles import Trouble

NOW = 1_800_000_000.0


def told(backups: Backups | None) -> Trouble | None:
    return next(old_backup("mainpc", backups, NOW, "make backup"), None)


def test_a_new_installation_needs_no_backup_yet() -> None:
    assert told(None) is None
    assert told(Backups(since=NOW)) is None
    assert told(Backups(since=NOW - OLD_AFTER_S)) is None


def test_an_installation_that_was_never_backed_up_is_told() -> None:
    trouble = told(Backups(since=NOW - 12 * DAY_S))
    assert trouble is not None
    assert (trouble.id, trouble.since) == ("backup_old:mainpc", NOW - 5 * DAY_S)
    assert trouble.what == "mainpc was never backed up in the 12 days that are known"
    assert trouble.cause == "no backup of it was ever checked or restored"
    assert trouble.evidence[0] == ("last backup", "never")
    assert trouble.remedies[0].command == "make backup"


def test_an_old_backup_is_told_with_whether_it_was_tried() -> None:
    trouble = told(Backups(since=0.0, backed_up=NOW - 9.5 * DAY_S, checked=NOW - DAY_S))
    assert trouble is not None
    assert (trouble.what, trouble.cause) == ("mainpc was last backed up 9 days ago", None)
    assert [name for name, value in trouble.evidence if value == "never"] == ["last restored"]
    trouble = told(Backups(since=0.0, backed_up=NOW - 9.5 * DAY_S, restored=NOW - DAY_S))
    assert trouble is not None
    assert trouble.cause is None, "what was restored is good"
    assert told(Backups(since=0.0, backed_up=NOW - DAY_S)) is None


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_was_done_is_read_by_another_process(tmp_path: Path, clock: Clock) -> None:
    record, agents = BackupRecord(tmp_path, "agent", clock), BackupRecord(tmp_path, "agent", clock)
    agents.begin()
    first = agents.newest()
    assert first is not None
    assert (first.backed_up, first.checked, first.restored) == (None, None, None)
    clock.let_pass(60)
    agents.begin()  # another start
    record.backed_up()
    record.checked()
    done = agents.newest()
    assert done is not None
    assert done.since == first.since
    assert done.backed_up is not None
    assert done.backed_up - first.since >= 60
    assert done.checked is not None
    assert (tmp_path / f"agent.{BACKUPS_FILE}").stat().st_mode & 0o777 == 0o600


def test_an_older_backup_that_is_restored_is_not_the_newest(tmp_path: Path, clock: Clock) -> None:
    record = BackupRecord(tmp_path, "agent", clock)
    record.backed_up(2_000.0)
    record.restored(1_000.0)
    newest = record.newest()
    assert newest is not None
    assert (newest.backed_up, newest.restored is not None) == (2_000.0, True)


def test_a_file_that_can_not_be_used_fails_no_backup(tmp_path: Path, clock: Clock) -> None:
    record = BackupRecord(tmp_path, "agent", clock)
    (tmp_path / f"agent.{BACKUPS_FILE}").write_text("{")
    assert record.newest() is None
    record.backed_up()
    assert record.newest_backup() is not None
    BackupRecord(tmp_path / "missing", "agent", clock).backed_up()
