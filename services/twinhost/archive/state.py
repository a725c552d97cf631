"""mainpc's database and audit log: copied as of one moment while the agent writes them, checked, marked as restored."""

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from twinhost.archive.file_format import Manifest
from twinhost.archive.places import DATABASE, MIGRATIONS, Places
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest
from twinhost.store.audit_log.chain import LINE, NO_HASH, Anchor, Event, Head
from twinhost.store.audit_log.files import Files
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.audit_log.verify import Findings, Verifier
from twinhost.store.backup import Copy, copy_database, require_space
from twinhost.store.damage import connect_to_read
from twinhost.store.database import Database
from twinhost.store.files import PARTS, part
from twinhost.system_digital_twin.events.events import skip_numbers
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

_PAGE_LINES = 2_000
_BEYOND = 10**18  # a line's number has at most 18 digits
_LINE_BYTES = 65_536  # read at once; a file may be malformed


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A copy of the state of one moment; `moment_s` is in seconds since the epoch, of just before it."""

    folder: Path
    moment_s: int
    database: Copy


def copy_state(places: Places, folder: Path) -> StateCopy:
    """Copy the database and the audit log that belongs to it into an empty folder of the same volume.

    The log's files are linked, except the newest: its copy ends at the line that the database copy names as the newest.
    They are linked before the database is copied and again after it, so that none that the copy names is missing.

    Raises:
        ConfigurationError: there is no state, or a file of the log is not a regular file.
        StoreUnavailable: the database can't be copied.
    """
    if not places.database.exists():
        raise ConfigurationError(
            f"{places.database} is missing, so there is no state to be backed up; run: docker compose up -d mainpc"
        )
    size = sum(each.stat().st_size for each in (part(places.database, suffix) for suffix in PARTS) if each.exists())
    require_space(places.state, size)
    log = folder / AUDIT_FOLDER
    log.mkdir(mode=0o700)
    _link_files(places.audit, log)
    moment_s = int(time.time())
    database = copy_database(places.database, folder / DATABASE)
    _link_files(places.audit, log)
    head, anchors, _ = _audit_records(folder / DATABASE)
    known = {anchor.seq for anchor in anchors}
    files = Files(log)
    for first in files.firsts():
        if first not in known:  # started after the copy
            files.drop(first)
    if known and files.path(max(known)).exists():
        _cut(files.path(max(known)), head.seq)
    return StateCopy(folder, moment_s, database)


def check_audit(database: Path, log: Path) -> Findings:
    """Check that a log is whole up to the line that a database names as the newest.

    Lines that the database has yet to write to a file count as well: the next start writes them.

    Raises:
        MalformedRequest: there is a file that the database does not know.
    """
    head, anchors, pending = _audit_records(database)
    files = Files(log)
    if strange := set(files.firsts()) - {anchor.seq for anchor in anchors}:
        name = files.path(min(strange)).name
        raise MalformedRequest(
            f"the audit log has {name}, which the database does not know; run the backup again, or use another one"
        )
    verifier = Verifier(anchors[0] if anchors else Anchor(1, NO_HASH))
    last = 0
    for line in _lines(files, anchors[0].seq if anchors else 1):
        verifier.feed(line)
        match = LINE.fullmatch(line)
        last = int(match["seq"]) if match else last
    for seq, row in pending:
        if seq > last:
            verifier.feed(row.decode("ascii", "replace"))
    return verifier.finish(head)


def _audit_records(database: Path) -> tuple[Head, list[Anchor], list[tuple[int, bytes]]]:
    """Return a database's records of its log: the newest line, the files, and the lines not yet in a file."""
    try:
        with closing(connect_to_read(database)) as connection:
            head = Head(*connection.execute("SELECT seq, hash FROM audit_head").fetchone())
            anchors = [Anchor(*row) for row in connection.execute("SELECT * FROM audit_files ORDER BY first_seq")]
            pending = connection.execute("SELECT seq, line FROM audit_outbox ORDER BY seq").fetchall()
    except (sqlite3.Error, TypeError) as error:
        raise MalformedRequest(
            f"the database has no record of its audit log ({error}); run the backup again, or use another one"
        ) from None
    if not all(0 <= seq < _BEYOND for seq in (head.seq, *(anchor.seq for anchor in anchors))):
        raise MalformedRequest(
            "the database gives its audit log numbers that no line can have; run the backup again, or use another one"
        )
    return head, anchors, pending


def _link_files(source: Path, target: Path) -> None:
    there, copies = Files(source), Files(target)
    for first in there.firsts() if source.is_dir() else ():
        if not os.path.lexists(copies.path(first)):
            try:
                copies.path(first).hardlink_to(there.path(first))
            except FileNotFoundError:  # removed since
                continue
            if not stat.S_ISREG(
                copies.path(first).lstat().st_mode
            ):  # the agent can write there, and this process can read every key
                raise ConfigurationError(
                    f"{there.path(first)} is not a regular file, so not part of the audit log; remove it"
                )


def _cut(path: Path, last: int) -> None:
    """Replace a file by a copy that ends with the line `last`, or before, where that is not written yet."""
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


def _lines(files: Files, first: int) -> Iterator[str]:
    page = files.at(f"{first}:0", _PAGE_LINES)
    while page.lines:
        yield from page.lines
        page = files.at(page.position, _PAGE_LINES)


def mark_restored(database: Path, log: Path, manifest: Manifest) -> None:
    """Record the restore in the audit log of a state that is not in use yet, and skip event numbers.

    The schema is migrated by that.

    Raises:
        ConfigurationError, StoreUnavailable: it can't be written.
    """
    with closing(Database(database, MIGRATIONS)) as store:
        audit = AuditLog(store, log)
        backup = audit.newest
        with store.transaction():
            skip_numbers(store)
            audit.record(
                Event.RESTORED,
                moment=manifest.moment,
                made_by=manifest.program,
                backup_seq=backup.seq,
                backup_hash=backup.hash,
            )
        audit.close()
