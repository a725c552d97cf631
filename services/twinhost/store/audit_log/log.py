"""The audit log: a recorded event is durable with the change it records, and is in a file soon after.

A line is made inside the database's transaction and stored in an outbox there, with the new head: the change, its line
and the head are committed together or not at all. `flush` appends the outbox to the file, syncs it, and clears the
outbox. After a crash between any two of these steps the file is compared with the outbox and a torn line is completed:
nothing is lost or written twice. A file that contradicts the database is not changed; that is reported as a fault, and
the log continues after it.
"""

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import structlog

from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse, StoreUnavailable
from twinhost.store.audit_log.chain import (
    AGGREGATED,
    LINE,
    MAX_LINE_BYTES,
    Anchor,
    AuditEvent,
    Fields,
    Head,
    Repetition,
    Value,
    checked,
    hash_fits,
    iso,
)
from twinhost.store.audit_log.files import Ledger, LogFiles, PendingLine, Stamp, align
from twinhost.store.audit_log.verify import Restore, restore_of
from twinhost.store.database import Database

_log = structlog.get_logger(__name__)

MAX_FILE_BYTES = 8 << 20
KEEP_FILES = 64  # 512 MiB with the above
MAX_NOTES = 10_000  # waiting for a flush
_NOTES_PER_FLUSH = 1_000  # in one transaction
_LINES_PER_APPEND = 256  # half a MiB at most
_APPENDS_PER_FLUSH = 8  # so that no tick takes long

Note = tuple[float, AuditEvent, Fields]  # with the seconds since the epoch


@dataclass(frozen=True, slots=True)
class LogPage:
    """Raw lines as they are in the files, and where the next page begins.

    `anchor` and `head` are the first and the last line in the files at this moment: a verification that has read up to
    a page without lines ends with that page's head.
    """

    lines: tuple[str, ...]
    position: str
    anchor: Anchor
    head: Head


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why a file was not as the database has it, when the log was to go on in it."""

    file: str
    why: str

    def __str__(self) -> str:
        return f"the audit log's {self.file} contradicts the database: {self.why}; run: ./twinhost audit verify"


@dataclass(frozen=True, slots=True)
class Written:
    """What the files must have: where each begins, and the last line.

    The newest had `stamp` after its last append. It was found with another one `touched` times, before an append.
    """

    log: LogFiles
    files: tuple[Anchor, ...]
    head: Head
    stamp: Stamp | None
    touched: int


class AuditLog:
    """The only writer of the log. `note` may be called from any thread, the rest from the database's thread."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        max_file_bytes: int = MAX_FILE_BYTES,
        keep_files: int = KEEP_FILES,
    ) -> None:
        """Open the log and finish what a crash interrupted.

        Args:
            database: with MIGRATION and MIGRATION_RESTORES among its migrations.
            folder: created if missing; its parent must exist.
            max_file_bytes: a file that would grow beyond this is followed by the next one.
            keep_files: how many of the newest files are kept.

        Raises:
            ConfigurationError: the folder can't be used.
            StoreUnavailable: the database can't be read.
        """
        self._ledger = Ledger(database)
        self._files = LogFiles(folder)
        self._max_file_bytes = max_file_bytes
        self._keep_files = keep_files
        self._database = database
        self._clock = self.clock = database.clock
        self._repetition = Repetition(self._clock)
        self._lock = threading.Lock()
        self._notes: deque[Note] = deque()
        self._notes_lost = 0
        self.contradiction: Contradiction | None = None  # the first; until `settle`, or the next start
        self._write_fault: str | None = None
        self._size = 0  # of the newest file, as this log wrote it
        self._aligned = False  # whether the newest file is known to end where the outbox begins
        self._stamp: Stamp | None = None  # of the newest file, as this log left it
        self._touched = 0
        first = self._ledger.pending(0, 1)
        self._written = first[0].before if first else self._ledger.head
        self._restore_lines = self._ledger.restores()
        self._restores: dict[int, Restore] = {}  # by line; read from the files once
        try:
            self._files.make_folder()
            self._compare_names()
        except OSError as error:
            raise ConfigurationError(
                f"the audit log's folder {folder} can't be used ({error}); mount a writable volume there"
            ) from None
        self.flush()

    @property
    def head(self) -> Head:
        """The newest line in the files."""
        return self._written

    def written(self) -> Written:
        """Return what the files must have, and how this log left the newest of them."""
        return Written(self._files, self._ledger.files, self._written, self._stamp, self._touched)

    @property
    def newest(self) -> Head:
        """The newest line, which may still be in the outbox."""
        return self._ledger.head

    @property
    def anchor(self) -> Anchor:
        """The oldest line that is kept."""
        return self._ledger.anchor

    @property
    def fault(self) -> str | None:
        """What is wrong with the log, for health."""
        return str(self.contradiction) if self.contradiction else self._write_fault

    @property
    def full(self) -> bool:
        """Whether so many lines wait for the disk that a further note would be lost."""
        return len(self._notes) >= MAX_NOTES

    def record(self, event: AuditEvent, /, **fields: Value) -> None:
        """Add a line in the transaction under way, or in a new one.

        An event in AGGREGATED is noted instead: it records no change with which it would have to be rolled back.

        Raises:
            StoreUnavailable: it was not added; the change that it records must not be made.
        """
        if event in AGGREGATED:
            self.note(event, **fields)
        else:
            self._ledger.add([(iso(self._clock.time()), event, checked(fields))])

    def note(self, event: AuditEvent, /, **fields: Value) -> None:
        """Add a line with the next flush; callable from any thread, and never waits for a disk."""
        wall, entry = self._clock.time(), checked(fields)
        if event in AGGREGATED and not self._repetition.admit(event, entry, wall):
            return
        with self._lock:
            if not self.full:
                self._notes.append((wall, event, entry))
            else:
                self._notes_lost += 1

    def flush(self) -> None:
        """Add the noted lines and write the outbox to the files; call it at every tick, outside a transaction.

        A failure of the disk or the database doesn't raise: `fault` reports it, and the next flush retries.

        Raises:
            SocketMisuse: a transaction is under way.
        """
        if self._database.in_transaction:
            raise SocketMisuse("the audit log must be flushed between transactions, not inside one")
        try:
            self._record_notes(self._repetition.finished())
            self._write_outbox()
        except (OSError, StoreUnavailable) as error:
            if self._write_fault is None:
                _log.error("audit_log_not_written", reason=str(error))
            self._write_fault = f"the audit log can't be written ({error}); free space on the agent's volume"
        else:
            self._write_fault = None

    def settle(self, contradiction: Contradiction) -> None:
        """End a contradiction: all files were read since, and are as they were written; unless there are others."""
        if self.contradiction == contradiction and {*self._files.firsts()} <= {file.seq for file in self._ledger.files}:
            _log.info("audit_log_settled", file=contradiction.file, reason=contradiction.why)
            self.contradiction = None

    def close(self) -> None:
        """Write everything, including the counts of repeated events."""
        for fields in self._repetition.finished(everything=True):
            self.note(AuditEvent.REPEATED, **fields)
        self.flush()

    def read_page(self, after_seq: int, limit: int, position: str | None = None) -> LogPage:
        """Return at most `limit` lines, and at most about 1 MiB of them.

        Args:
            after_seq: the page begins with the first line that has a greater number; ignored if a position is given.
            limit: lines.
            position: from the page before. A verification must continue by it, since a line's number can be forged.

        Raises:
            MalformedRequest: no page can have had this position.
            StoreUnavailable: the files can't be read.
        """
        try:
            chunk = self._files.after(after_seq, limit) if position is None else self._files.at(position, limit)
        except OSError as error:
            raise StoreUnavailable(f"the audit log can't be read ({error}); check the agent's volume") from error
        return LogPage(chunk.lines, chunk.position, self.anchor, self._written)

    def hash_of(self, seq: int) -> str | None:
        """Return the hash of a line as the files have it now; None if the line is missing or was changed.

        Raises:
            StoreUnavailable: the files can't be read.
        """
        if seq < self.anchor.seq:
            return self.anchor.prev if seq == self.anchor.seq - 1 else None
        line = self._line(seq) if seq <= self._written.seq else None
        match = LINE.fullmatch(line) if line is not None else None
        return match["hash"] if match is not None and hash_fits(match.string) else None

    def restores(self) -> list[Restore]:
        """Return the restores recorded in the log; new ones are only added while the log is closed.

        Raises:
            StoreUnavailable: the files can't be read.
        """
        for seq in self._restore_lines:
            if seq not in self._restores and self.anchor.seq <= seq <= self._written.seq:
                restore = restore_of(self._line(seq) or "")
                if restore is not None and restore.seq == seq:
                    self._restores[seq] = restore
        return list(self._restores.values())

    def _line(self, seq: int) -> str | None:
        try:
            return self._files.line(seq)
        except OSError as error:
            raise StoreUnavailable(f"the audit log can't be read ({error}); check the agent's volume") from error

    def _record_notes(self, repeated: list[dict[str, Value]]) -> None:
        now = self._clock.time()
        with self._lock:
            self._notes.extend((now, AuditEvent.REPEATED, fields) for fields in repeated)
            notes = list(islice(self._notes, _NOTES_PER_FLUSH))
            lost = self._notes_lost
        entries = [*notes, (now, AuditEvent.NOTES_LOST, {"count": lost})] if lost else notes
        if not entries:
            return
        self._ledger.add([(iso(wall), event, fields) for wall, event, fields in entries])
        with self._lock:
            for _ in notes:
                self._notes.popleft()
            self._notes_lost -= lost

    def _write_outbox(self) -> None:
        if not self._aligned and self._ledger.files:
            self._align()
        for _ in range(_APPENDS_PER_FLUSH):
            if self._written.seq == self._ledger.head.seq:
                break
            self._append(self._ledger.pending(self._written.seq, _LINES_PER_APPEND))

    def _append(self, pending: list[PendingLine]) -> None:
        data = b"".join(line.line + b"\n" for line in pending)
        if not self._ledger.files or (self._size and self._size + len(data) > self._max_file_bytes):
            self._begin_file(pending[0])
        newest = self._ledger.files[-1].seq
        stamp = self._files.stamp(newest)
        self._touched += self._stamp not in (None, stamp)
        if (stamp.size if stamp is not None else 0) != self._size:
            self._report_contradiction(newest, "its size changed between two writes")
            self._align()
            return
        self._aligned = False
        self._files.append(newest, data)
        self._stamp = self._files.stamp(newest)
        self._written_up_to(pending[-1].head)
        self._size += len(data)
        self._aligned = True

    def _begin_file(self, first: PendingLine) -> None:
        self._ledger.begin_file(first, self._keep_files)
        self._size, self._stamp = 0, None
        self._drop_old()

    def _align(self) -> None:
        """Find out which lines of the outbox are in the newest file, and complete a torn one."""
        newest = self._ledger.files[-1].seq
        pending = self._ledger.pending(self._written.seq, _LINES_PER_APPEND)  # no more than that can be in both
        lines = [line.line for line in pending]
        tail = self._files.tail(newest, sum(map(len, lines)) + len(lines) + MAX_LINE_BYTES + 1)
        alignment = align(tail, lines, self._written.hash, from_start=self._written.seq + 1 == newest)
        if alignment.contradiction is not None:
            self._report_contradiction(newest, alignment.contradiction)
        if alignment.written or alignment.complete:
            self._files.complete(newest, alignment.complete)
        if alignment.written:
            self._written_up_to(pending[alignment.written - 1].head)
        self._size = self._files.size(newest)
        self._aligned = True

    def _written_up_to(self, head: Head) -> None:
        self._ledger.clear(head.seq)
        self._written = head

    def _compare_names(self) -> None:
        self._drop_old()
        present = set(self._files.firsts())
        known = {file.seq for file in self._ledger.files}
        expected = {self._written.seq + 1}  # the database has it first, then the file is created
        for first in sorted(present - known):
            self._report_contradiction(first, "it is not in the database's list of files")
        for first in sorted(known - present - expected):
            self._report_contradiction(first, "it is missing")

    def _drop_old(self) -> None:
        for first in self._files.firsts():
            if first < self.anchor.seq:
                self._files.drop(first)

    def _report_contradiction(self, file: int, why: str) -> None:
        name = self._files.path(file).name
        _log.error("audit_log_contradicted", file=name, reason=why)
        if self.contradiction is None:
            self.contradiction = Contradiction(name, why)
        self.note(AuditEvent.LOG_CONTRADICTED, file=name, reason=why)
