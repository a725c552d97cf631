"""A copy of the log that belongs to a copy of the agent's database, while the agent writes both."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest
from twinhost.store.audit_log.chain import LINE
from twinhost.store.audit_log.files import LogFiles, Records, read_records

_BEYOND = 10**18  # a line's number has at most 18 digits
_LINE_BYTES = 65_536  # read at once; a file may be malformed


@contextmanager
def copied_log(source: Path, target: Path, database: Path) -> Iterator[None]:
    """Copy the log into a new folder of the same volume, around the block that copies the database.

    Its files are linked, except the newest: its copy ends at the line that the database copy names as the newest. They
    are linked before the database is copied and again after it, so that none that the copy names is missing.

    Raises:
        ConfigurationError: a file of the log is not a regular file.
        MalformedRequest: the database has no record of the log.
    """
    target.mkdir(mode=0o700)
    _link_files(source, target)
    yield
    _link_files(source, target)
    records = audit_records(database)
    known = {anchor.seq for anchor in records.files}
    files = LogFiles(target)
    for first in files.firsts():
        if first not in known:  # started after the copy
            files.drop(first)
    if known and files.path(max(known)).exists():
        _cut(files.path(max(known)), records.head.seq)


def audit_records(database: Path) -> Records:
    """Return the log's tables of a database that is not in use.

    Raises:
        MalformedRequest: it has none, or impossible ones.
    """
    try:
        records = read_records(database)
    except (sqlite3.Error, TypeError) as error:
        raise MalformedRequest(
            f"the database has no record of its audit log ({error}); back up again, or restore another backup"
        ) from None
    if not all(0 <= seq < _BEYOND for seq in (records.head.seq, *(anchor.seq for anchor in records.files))):
        raise MalformedRequest(
            "the database gives its audit log numbers that no line can have; back up again, or restore another backup"
        )
    return records


def _link_files(source: Path, target: Path) -> None:
    originals, copies = LogFiles(source), LogFiles(target)
    for first in originals.firsts() if source.is_dir() else ():
        if not os.path.lexists(copies.path(first)):
            try:
                copies.path(first).hardlink_to(originals.path(first))
            except FileNotFoundError:  # removed since
                continue
            # The agent can write there, and this process can read every key.
            if not stat.S_ISREG(copies.path(first).lstat().st_mode):
                raise ConfigurationError(
                    f"{originals.path(first)} is not a regular file, so not part of the audit log; remove it"
                )


def _cut(path: Path, last: int) -> None:
    """Replace a file by a copy that ends with the line `last`, or earlier if that is not written yet."""
    cut = path.with_suffix(".cut")
    cut.touch(0o600)
    with path.open("rb") as whole, cut.open("wb") as copy:
        while line := whole.readline(_LINE_BYTES):
            match = LINE.fullmatch(line.decode("ascii", "replace").rstrip("\n"))
            if match is not None and int(match["seq"]) > last:
                break
            if not line.endswith(b"\n") and len(line) < _LINE_BYTES:  # it is being written now
                break
            copy.write(line)
    cut.replace(path)
