"""mainpc's database and audit log: copied at one moment while the agent writes them, checked, and marked as restored.

`Contents` counts what they and the keys contain, for a person to compare.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from twinhost.archive.file_format import Manifest
from twinhost.archive.places import DATABASE, MIGRATIONS, Places
from twinhost.certificates.layout import Layout
from twinhost.certificates.tree import enrolled_folder, is_revoked, keys_in
from twinhost.secure_zmq.errors import ConfigurationError, MalformedRequest, StoreUnavailable
from twinhost.secure_zmq.keys import KeyPair
from twinhost.store.audit_log.chain import LINE, AuditEvent
from twinhost.store.audit_log.copies import audit_records, copied_log
from twinhost.store.audit_log.files import LogFiles
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.audit_log.verify import ChainFindings, Verifier
from twinhost.store.backup import Copy, copy_database, count_rows, require_space
from twinhost.store.database import Database
from twinhost.store.files import PARTS, part
from twinhost.system_digital_twin.events.events import skip_numbers
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

BROKEN_LOG = "--broken-audit"  # accepts an incomplete or changed log
_PAGE_LINES = 2_000


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A copy of the state of one moment; `moment_s` is in seconds since the epoch, of just before it."""

    folder: Path
    moment_s: int
    database: Copy


def copy_state(places: Places, folder: Path) -> StateCopy:
    """Copy the database and the audit log that belongs to it into an empty folder of the same volume.

    Raises:
        ConfigurationError: there is no state, or a file of the log is not a regular file.
        StoreUnavailable: the database can't be copied.
    """
    if not places.database.exists():
        raise ConfigurationError(
            f"{places.database} is missing, so there is no state to be backed up; run: docker compose up -d mainpc"
        )
    size = sum(path.stat().st_size for path in (part(places.database, suffix) for suffix in PARTS) if path.exists())
    require_space(places.state, size)
    with copied_log(places.audit, folder / AUDIT_FOLDER, folder / DATABASE):
        moment_s = int(places.layout.clock.time())
        database = copy_database(places.database, folder / DATABASE)
    return StateCopy(folder, moment_s, database)


def check_audit(database: Path, log: Path) -> ChainFindings:
    """Check that a log is intact up to the line that a database names as the newest.

    Lines that the database has yet to write to a file count as well: the next start writes them.

    Raises:
        MalformedRequest: there is a file that the database does not know.
    """
    records = audit_records(database)
    files = LogFiles(log)
    if unknown := set(files.firsts()) - {anchor.seq for anchor in records.files}:
        name = files.path(min(unknown)).name
        raise MalformedRequest(
            f"the audit log has {name}, which the database does not know; back up again, or restore another backup"
        )
    verifier = Verifier(records.anchor)
    last = 0
    for line in _lines(files, records.anchor.seq):
        verifier.feed(line)
        match = LINE.fullmatch(line)
        last = int(match["seq"]) if match else last
    for waiting in records.pending:
        if waiting.seq > last:
            verifier.feed(waiting.line.decode("ascii", "replace"))
    return verifier.finish(records.head)


def _lines(files: LogFiles, first: int) -> Iterator[str]:
    page = files.at(f"{first}:0", _PAGE_LINES)
    while page.lines:
        yield from page.lines
        page = files.at(page.position, _PAGE_LINES)


def mark_restored(database: Path, log: Path, manifest: Manifest) -> None:
    """Record the restore in the audit log of a state that is not in use yet, and skip event numbers.

    This also migrates the schema.

    Raises:
        ConfigurationError, StoreUnavailable: it can't be written.
    """
    with closing(Database(database, MIGRATIONS)) as store:
        audit = AuditLog(store, log)
        backup = audit.newest
        with store.transaction():
            skip_numbers(store)
            audit.record(
                AuditEvent.RESTORED,
                moment=manifest.moment,
                made_by=manifest.program,
                backup_seq=backup.seq,
                backup_hash=backup.hash,
            )
        audit.close()


@dataclass(frozen=True, slots=True)
class Contents:
    """mainpc's key, and the numbers of registered agents, authorised keys, and audit log lines."""

    fingerprint: str
    agents: int
    keys: int
    lines: int
    first_line: int
    last_line: int

    def __str__(self) -> str:
        lines = f"lines {self.first_line} to {self.last_line}" if self.lines else "no line"
        return f"{self.agents} agents, {self.keys} keys, {lines} of the audit log; mainpc's key is {self.fingerprint}"


def contents_of(layout: Layout, server: KeyPair, database: Path, audit: ChainFindings) -> Contents:
    """Return the contents of a tree and a database, both of them checked."""
    folder, enrolled = layout.server_folder, enrolled_folder(layout)
    certificates = [key.certificate for place in (folder, enrolled) if place for key in keys_in(place)]
    keys = {key.public for key in certificates if not is_revoked(layout, key)}
    try:
        agents = count_rows(database)["agents"]
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{database} can't be read ({error}); check its volume") from None
    return Contents(server.public.fingerprint, agents, len(keys), audit.lines, audit.starts_at, audit.head.seq)


def require_whole(audit: ChainFindings, *, broken_log: bool) -> list[str]:
    """Return what is wrong with a log, as remarks.

    Raises:
        MalformedRequest: something is wrong, and `broken_log` does not accept it.
    """
    if audit.whole:
        return []
    if not broken_log:
        raise MalformedRequest(
            f"the audit log is incomplete or changed: {audit.summary()}; to accept it as it is, repeat this with "
            f"{BROKEN_LOG} (with make: ARGS={BROKEN_LOG})"
        )
    return [f"the audit log is accepted as it is: {audit.summary()}"]
