"""The audit log's files of a standby: it writes the lines that leave the outbox, before they do.

So both machines have the same files, and whichever is active goes on with its own.
"""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.audit_log.chain import MAX_LINE_BYTES
from twinhost.store.audit_log.files import CLEAR, PENDING, LogFiles, PendingLine, align

if TYPE_CHECKING:  # only an agent with a log loads it
    from twinhost.store.replication.statements import Entry

_log = structlog.get_logger(__name__)


class FollowedFiles:
    """The files in one folder of a machine that is not active."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, LogFiles(folder)

    def write(self, replica: sqlite3.Connection, entry: "Entry") -> None:
        """Write the lines that a transaction removes from the outbox, before the replica repeats it.

        Raises:
            ConfigurationError: they can't be written.
        """
        last = max((run[0] for done in entry.statements if done.sql == CLEAR for run in done.runs), default=0)
        if not last:
            return
        if lines := [PendingLine(*row) for row in replica.execute(PENDING, (0, -1)) if row[0] <= last]:
            oldest, newest = replica.execute("SELECT min(first_seq), max(first_seq) FROM audit_files").fetchone()
            try:
                self._append(lines, oldest, newest)
            except OSError as error:
                raise ConfigurationError(
                    f"the audit log in {self._folder} can't be written ({error.strerror}); free space on its volume"
                ) from None

    def _append(self, pending: list[PendingLine], oldest: int, newest: int) -> None:
        """Append to the newest file what it does not have yet: a crash may have come before the replica's commit."""
        self._files.make_folder()
        lines = [line.line for line in pending]
        tail = self._files.tail(newest, sum(map(len, lines)) + len(lines) + MAX_LINE_BYTES + 1)
        found = align(tail, lines, pending[0].before.hash, from_start=pending[0].seq == newest)
        if found.contradiction is not None:  # as where the machine began without these files
            name = self._files.path(newest).name
            _log.error("audit_log_contradicted", file=name, reason=found.contradiction)
        self._files.append(newest, found.complete + b"".join(line + b"\n" for line in lines[found.written :]))
        for first in self._files.firsts():
            if first < oldest:
                self._files.drop(first)
