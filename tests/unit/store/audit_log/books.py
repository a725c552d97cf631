"""A database and a folder for a log, and what the tests read from them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinhost import moments
from twinhost.store.audit_log.chain import LINE, NO_HASH, Anchor, AuditEvent, Head, hash_of, make_line
from twinhost.store.audit_log.files import MIGRATION, MIGRATION_RESTORES
from twinhost.store.audit_log.log import KEEP_FILES, MAX_FILE_BYTES, AuditLog
from twinhost.store.audit_log.verify import ChainFindings, verify
from twinhost.store.database import Database

GENESIS = Anchor(1, NO_HASH)
BEFORE_ALL = Head(0, NO_HASH)
THINGS = "CREATE TABLE things (name TEXT NOT NULL) STRICT;"


@dataclass
class Clock(moments.Clock):
    """Monotonic seconds that are fixed until a test moves them."""

    now: float = 1_000.0

    def monotonic(self) -> float:
        return self.now


def new_database(path: Path, clock: moments.Clock = moments.SYSTEM_CLOCK) -> Database:
    return Database(path / "registry.db", [THINGS, MIGRATION, MIGRATION_RESTORES], clock)


@contextmanager
def opened(
    path: Path, max_file_bytes: int = MAX_FILE_BYTES, keep_files: int = KEEP_FILES, clock: Clock | None = None
) -> Iterator[tuple[Database, AuditLog]]:
    """Open the log under `path`, and close its database after, as a process that ends does."""
    database = new_database(path, clock or Clock())
    try:
        yield database, AuditLog(database, path / "audit", max_file_bytes, keep_files)
    finally:
        database.close()


def read_all(log: AuditLog, limit: int = 1_000) -> list[str]:
    """Read every line page by page, as one who verifies does."""
    page = log.read_page(0, limit)
    lines = list(page.lines)
    while page.lines:
        page = log.read_page(0, limit, page.position)
        lines.extend(page.lines)
    return lines


def check(log: AuditLog) -> ChainFindings:
    return verify(read_all(log), log.anchor, log.head)


def records(log: AuditLog) -> list[dict[str, Any]]:
    """Return the lines as objects, without what is none."""
    return [json.loads(line) for line in read_all(log) if LINE.fullmatch(line)]


def names(log: AuditLog) -> list[str]:
    return [record["name"] for record in records(log) if record["event"] == AuditEvent.KEY_AUTHORIZED]


def chain(count: int, start: Head = BEFORE_ALL, word: str = "agent") -> list[str]:
    """Make a chain in memory, as the log makes it."""
    lines: list[str] = []
    for number in range(count):
        line = make_line(
            start,
            "2026-11-25T04:00:00.000Z",
            AuditEvent.KEY_AUTHORIZED,
            {"name": f"{word}-{number}", "roles": ["agent"]},
        )
        start = Head(start.seq + 1, hash_of(line))
        lines.append(line.decode())
    return lines


def head_of(lines: list[str]) -> Head:
    return Head(json.loads(lines[-1])["seq"], json.loads(lines[-1])["hash"])
