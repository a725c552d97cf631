"""A log held against what others have seen of it: a line by its number, restores, and which restore explains what."""

from pathlib import Path

import pytest

from tests.unit.store.audit_log.books import BEFORE_ALL, chain, head_of, opened, read_all
from twinhost.store.audit_log.chain import AuditEvent, Head, hash_of, make_line
from twinhost.store.audit_log.verify import Restore, Seen, compare, explained_by, restore_of

TIME = "2026-11-27T01:02:03.004Z"


def restore(seq: int, word: str = "a") -> Restore:
    return Restore(seq, word * 64, TIME, Head(seq - 1, "0" * 64))


@pytest.mark.parametrize("max_file_bytes", [2_000, 1 << 20], ids=["many files", "one file"])
def test_every_line_is_found_by_its_number(tmp_path: Path, max_file_bytes: int) -> None:
    """By halving, whatever the lines' lengths; beyond the log there is none."""
    with opened(tmp_path, max_file_bytes) as (_, log):
        for number in range(120):
            log.record(AuditEvent.KEY_AUTHORIZED, name="x" * (number * 7 % 300))
        log.flush()
        lines = read_all(log)
        assert [log.hash_of(seq) for seq in range(1, 121)] == [hash_of(line.encode()) for line in lines]
        assert [log.hash_of(seq) for seq in (0, 121, 10**17)] == ["0" * 64, None, None]


def test_of_dropped_lines_the_newest_has_a_hash(tmp_path: Path) -> None:
    """It is the `prev` of the oldest line that is kept."""
    with opened(tmp_path, 2_000, keep_files=2) as (_, log):
        hashes = {}
        for number in range(60):
            log.record(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}")
            log.flush()
            hashes[log.head.seq] = log.head.hash
        first = log.anchor.seq
        assert first > 2
        assert log.hash_of(first - 1) == hashes[first - 1]
        assert log.hash_of(first - 2) is None


def test_a_changed_line_has_no_hash(tmp_path: Path) -> None:
    """What it says of itself does not count, and a file of other bytes is no fault."""
    with opened(tmp_path) as (_, log):
        for number in range(9):
            log.record(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}")
        log.flush()
        (path,) = (tmp_path / "audit").iterdir()
        path.write_text(path.read_text().replace("agent-4", "agent-X"))
        assert log.hash_of(5) is None
        assert log.hash_of(6) is not None
        path.write_bytes(b"x" * 100_000)
        assert log.hash_of(6) is None


def test_a_restore_is_read_from_its_line(tmp_path: Path) -> None:
    """The table only has its position: a row without such a line is none."""
    with opened(tmp_path) as (database, log):
        log.record(AuditEvent.KEY_AUTHORIZED, name="before")
        log.record(AuditEvent.RESTORED, moment="2026-11-27T00:00:00Z")
        log.flush()
        with database.transaction():
            database.execute("INSERT INTO audit_restores VALUES (1)")
    with opened(tmp_path) as (_, log):
        (found,) = log.restores()
        assert (found.seq, found.hash) == (2, log.hash_of(2))
        assert (found.backup.seq, found.backup.hash) == (1, log.hash_of(1))


@pytest.mark.parametrize(
    ("event", "fields", "time"),
    [
        (AuditEvent.KEY_AUTHORIZED, {"name": "restored"}, TIME),
        (AuditEvent.KEY_AUTHORIZED, {"note": '"event":"restored"'}, TIME),
        (AuditEvent.RESTORED, {}, "yesterday"),
    ],
    ids=["named so", "says so", "another time"],
)
def test_what_only_looks_like_a_restore_is_none(event: AuditEvent, fields: dict[str, str], time: str) -> None:
    line = make_line(BEFORE_ALL, time, event, fields).decode()
    assert restore_of(line) is None


def test_a_restore_explains_once() -> None:
    """A head that was seen after it is not explained by it; one whose line comes later explains nothing."""
    assert explained_by(Seen(9, "f" * 64), [restore(5)]) == restore(5)
    assert explained_by(Seen(9, "f" * 64, "a" * 64), [restore(5)]) is None
    assert explained_by(Seen(4, "f" * 64), [restore(5)]) is None
    assert explained_by(Seen(9, "f" * 64, "a" * 64), [restore(5), restore(8, "b")]) == restore(8, "b")
    assert explained_by(Seen(9, "f" * 64), []) is None


def test_a_comparison_names_the_oldest_line_that_is_missing() -> None:
    """And the newest before it that agrees."""
    lines = chain(10)
    hashes = {head_of(lines[:seq]).seq: head_of(lines[:seq]).hash for seq in range(1, 11)}
    seen = [Seen(seq, hashes[seq]) for seq in (2, 5, 8, 10)]
    whole = compare(seen, hashes.get, [])
    assert (whole.agrees_to, whole.missing, whole.replaced) == (10, None, ())
    rewritten = {seq: hashes[seq] if seq < 7 else "e" * 64 for seq in hashes}
    found = compare(seen, rewritten.get, [])
    assert (found.agrees_to, found.missing) == (5, seen[2])
    explained = compare(seen, rewritten.get, [restore(7)])
    assert (explained.missing, [each for each, _ in explained.replaced]) == (None, seen[2:])
