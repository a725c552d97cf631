"""Where the log is stored: its tables in the agent's database, and its files.

A file, `audit-<number of the first line>.jsonl`, is appended to, never changed, and aligned after a crash.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.key_writer import fsync_folder
from twinhost.store.audit_log.chain import (
    MAX_LINE_BYTES,
    NO_HASH,
    Anchor,
    AuditEvent,
    Fields,
    Head,
    hash_of,
    make_line,
    prev_of,
)
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database

FILE_NAME = r"audit-([0-9]{12})\.jsonl"
_NAME = re.compile(FILE_NAME)
_SEQ = re.compile(rb'\{"seq":([0-9]{1,18}),')
_POSITION = re.compile(r"([0-9]{1,18}):([0-9]{1,18})")
_READ_BYTES = 65_536
_MAX_PAGE_BYTES = 1 << 20  # of lines; well under a payload's 4 MiB
_LONGEST = MAX_LINE_BYTES * 2  # read as one line; a longer one is not a line of this log


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes whenever a file does: its inode, its size, and when its content and its inode were changed."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Raw lines without their ends, and the position of the next one: `FILE:BYTE`."""

    lines: tuple[str, ...]
    position: str


class LogFiles:
    """The files in one folder. Every method may raise OSError, which the log reports as its fault."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make_folder(self) -> None:
        """Create the folder if it is missing; it is durable when this returns."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(self._folder.parent)

    def path(self, first: int) -> Path:
        return self._folder / f"audit-{first:012}.jsonl"

    def firsts(self) -> list[int]:
        """Return the number of the first line of each file, oldest first."""
        names = (_NAME.fullmatch(entry.name) for entry in self._folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def size(self, first: int) -> int:
        """Return a file's size in bytes; 0 if it doesn't exist yet."""
        try:
            return self.path(first).stat().st_size
        except FileNotFoundError:
            return 0

    def tail(self, first: int, length: int) -> bytes:
        """Return a file's last bytes; none if it doesn't exist yet."""
        try:
            with self.path(first).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - length))
                return file.read()
        except FileNotFoundError:
            return b""

    def append(self, first: int, data: bytes) -> None:
        """Append to a file, which is created if missing; this is durable when it returns."""
        new = not self.path(first).exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path(first), flags, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            fsync_folder(self._folder)

    def complete(self, first: int, rest: bytes) -> None:
        """Append the missing rest of a torn line, if there is one, and make durable what a killed process left."""
        self.append(first, rest)
        fsync_folder(self._folder)

    def stamp(self, first: int) -> Stamp | None:
        """Return a file's stamp; None if it can't be read."""
        try:
            found = self.path(first).stat()
        except OSError:
            return None
        return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def lines(self, first: int) -> Iterator[str]:
        """Yield every line of a file."""
        return (line.decode("ascii", "replace") for line, _ in self._lines(first, 0))

    def drop(self, first: int) -> None:
        self.path(first).unlink(missing_ok=True)

    def line(self, seq: int) -> str | None:
        """Return the line with this number, by binary search; None if it is not in its place."""
        reached = [first for first in self.firsts() if first <= seq]
        if not reached:
            return None
        with self.path(reached[-1]).open("rb") as file:
            low, high = 0, os.fstat(file.fileno()).st_size  # the line starts between them
            while low < high:
                middle = (low + high) // 2
                file.seek(max(0, middle - 1))
                if middle:
                    file.readline(_LONGEST)  # to the end of the line at the middle
                begins = file.tell()
                if begins >= high:
                    high = middle
                    continue
                line = file.readline(_LONGEST)
                number = _SEQ.match(line)
                if number is None:
                    return None
                if int(number[1]) == seq:
                    return line.rstrip(b"\n").decode("ascii", "replace")
                low, high = (file.tell(), high) if int(number[1]) < seq else (low, middle)
        return None

    def after(self, seq: int, limit: int) -> Slice:
        """Return lines, starting at the first whose number is greater than `seq`."""
        firsts = self.firsts()
        reached = [first for first in firsts if first <= seq + 1]
        file = reached[-1] if reached else (firsts[0] if firsts else 1)
        offset = 0
        for line, end in self._lines(file, 0):
            number = _SEQ.match(line)
            if number and int(number[1]) > seq:
                break
            offset = end
        return self._slice(file, offset, limit)

    def at(self, position: str, limit: int) -> Slice:
        """Return the lines from `position` on, whatever their content.

        Raises:
            MalformedRequest: no Slice can have had this position.
        """
        parts = _POSITION.fullmatch(position)
        if parts is None:
            raise MalformedRequest("position must come from a page of the audit log; start with after_seq instead")
        return self._slice(int(parts[1]), int(parts[2]), limit)

    def _slice(self, file: int, offset: int, limit: int) -> Slice:
        lines: list[str] = []
        size = 0
        for number in [first for first in self.firsts() if first >= file]:
            file, offset = number, offset if number == file else 0
            for line, end in self._lines(file, offset):
                if len(lines) >= limit or size >= _MAX_PAGE_BYTES:
                    return Slice(tuple(lines), f"{file}:{offset}")
                lines.append(line.decode("ascii", "replace"))
                size += len(line)
                offset = end
        return Slice(tuple(lines), f"{file}:{offset}")

    def _lines(self, first: int, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield every line and where it ends; a line that is too long is truncated."""
        try:
            with self.path(first).open("rb") as file:
                file.seek(offset)
                held = b""
                while piece := file.read(_READ_BYTES):
                    *whole, rest = piece.split(b"\n")
                    for line in whole:
                        offset += len(line) + 1
                        yield (held + line)[:_LONGEST], offset
                        held = b""
                    offset += len(rest)
                    held = (held + rest)[:_LONGEST]
                if held:
                    yield held, offset
        except FileNotFoundError:
            return


@dataclass(frozen=True, slots=True)
class Alignment:
    """What a file has of the lines to write.

    `written` lines are in the file; `complete` is the missing rest of a torn one; `contradiction` is None if all fits.
    """

    written: int
    complete: bytes
    contradiction: str | None = None


def align(tail: bytes, lines: Sequence[bytes], before: str, *, from_start: bool) -> Alignment:
    """Compare a file's end with the lines to append, of which a crash may have left any beginning in the file.

    Args:
        tail: the file's last bytes: as many as the lines have, plus one line; or the whole file.
        lines: the lines to append, without ends of line.
        before: the hash of the line before the first of them.
        from_start: whether the first of them is also the first of the file.
    """
    mark = b'"hash":"' + before.encode() + b'"}\n'
    mark_at = -1 if from_start else tail.find(mark)  # the first match: a duplicated line is a contradiction
    if not from_start and mark_at < 0:
        return _contradicted(tail, tail, lines, "the last written line is no longer at its end")
    rest = tail if from_start else tail[mark_at + len(mark) :]
    whole = b"".join(line + b"\n" for line in lines)
    if not whole.startswith(rest):
        return _contradicted(tail, rest, lines, "it ends with content that this program did not write")
    written = rest.count(b"\n")
    torn = len(rest) - (rest.rfind(b"\n") + 1)
    return Alignment(written + bool(torn), lines[written][torn:] + b"\n" if torn else b"")


def _contradicted(tail: bytes, rest: bytes, lines: Sequence[bytes], why: str) -> Alignment:
    """Continue after the unknown content: it is evidence, and the next record must start on a new line."""
    present = set(rest.split(b"\n"))
    written = 0
    while written < len(lines) and lines[written] in present:
        written += 1
    return Alignment(written, b"\n" if tail and not tail.endswith(b"\n") else b"", why)


MIGRATION = """
CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT;
INSERT INTO audit_head VALUES (1, 0, '0000000000000000000000000000000000000000000000000000000000000000');
CREATE TABLE audit_outbox (
    seq INTEGER PRIMARY KEY,
    line BLOB NOT NULL
) STRICT;
CREATE TABLE audit_files (
    first_seq INTEGER PRIMARY KEY,
    prev TEXT NOT NULL
) STRICT;
"""

MIGRATION_RESTORES = "CREATE TABLE audit_restores (seq INTEGER PRIMARY KEY) STRICT;"
_HEAD = "SELECT seq, hash FROM audit_head"
_FILES = "SELECT first_seq AS seq, prev FROM audit_files ORDER BY first_seq"
PENDING = "SELECT seq, line FROM audit_outbox WHERE seq > ? ORDER BY seq LIMIT ?"
CLEAR = "DELETE FROM audit_outbox WHERE seq <= ?"
_ALL = -1  # no limit, in SQLite


@dataclass(frozen=True, slots=True)
class PendingLine:
    """A line in the outbox."""

    seq: int
    line: bytes

    @property
    def head(self) -> Head:
        return Head(self.seq, hash_of(self.line))

    @property
    def before(self) -> Head:
        return Head(self.seq - 1, prev_of(self.line))


class Ledger:
    """The log's tables: the head, the outbox, and the files; only for the thread that owns the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        (self.head,) = database.select(Head, _HEAD)
        self.files = tuple(database.select(Anchor, _FILES))

    @property
    def anchor(self) -> Anchor:
        """The first line of the oldest file that is kept."""
        return self.files[0] if self.files else Anchor(1, NO_HASH)

    def add(self, entries: Sequence[tuple[str, AuditEvent, Fields]]) -> None:
        """Add the next lines, in the transaction under way or in a new one.

        Raises:
            StoreUnavailable: none of them was added.
        """
        database = self._database
        with database.savepoint() if database.in_transaction else database.transaction():
            self._add(entries)

    def pending(self, after: int, limit: int) -> list[PendingLine]:
        """Return the lines in the outbox after line `after`, oldest first."""
        return self._database.select(PendingLine, PENDING, (after, limit))

    def clear(self, last: int) -> None:
        """Remove the lines up to `last` from the outbox: a file has them."""
        with self._database.transaction():
            self._database.execute(CLEAR, (last,))

    def restores(self) -> list[int]:
        """Return the numbers of the lines `restored`; their content is in the files."""
        return [seq for (seq,) in self._database.execute("SELECT seq FROM audit_restores ORDER BY seq")]

    def begin_file(self, first: PendingLine, keep: int) -> None:
        """Record that a file begins with this line; of all files the newest `keep` are kept."""
        files = (*self.files, Anchor(first.seq, first.before.hash))[-keep:]
        with self._database.transaction():
            self._database.execute("INSERT INTO audit_files VALUES (?, ?)", (first.seq, first.before.hash))
            self._database.execute("DELETE FROM audit_files WHERE first_seq < ?", (files[0].seq,))
        self.files = files

    def _add(self, entries: Sequence[tuple[str, AuditEvent, Fields]]) -> None:
        self._database.on_rollback(setattr, self, "head", self.head)
        lines = []
        for moment, event, fields in entries:
            line = make_line(self.head, moment, event, fields)
            self.head = Head(self.head.seq + 1, hash_of(line))
            lines.append((self.head.seq, line))
            if event is AuditEvent.RESTORED:
                self._database.execute("INSERT INTO audit_restores VALUES (?)", (self.head.seq,))
        self._database.execute_many("INSERT INTO audit_outbox VALUES (?, ?)", lines)
        self._database.execute("UPDATE audit_head SET seq = ?, hash = ?", (self.head.seq, self.head.hash))


@dataclass(frozen=True, slots=True)
class Records:
    """The log's tables of a database that is not in use; `Ledger` has those of the one in use."""

    head: Head
    files: tuple[Anchor, ...]
    pending: tuple[PendingLine, ...]

    @property
    def anchor(self) -> Anchor:
        """The first line of the oldest file that is kept."""
        return self.files[0] if self.files else Anchor(1, NO_HASH)


def read_records(database: Path) -> Records:
    """Read the log's tables, and change nothing.

    Raises:
        sqlite3.Error, TypeError: the database has no such tables, or no head.
    """
    with closing(connect_to_read(database)) as connection:
        return Records(
            Head(*connection.execute(_HEAD).fetchone()),
            tuple(Anchor(*row) for row in connection.execute(_FILES)),
            tuple(PendingLine(*row) for row in connection.execute(PENDING, (0, _ALL))),
        )
