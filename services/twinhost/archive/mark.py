"""A restored state says that it is one: in its audit log, and by the numbers of the events to come."""

from contextlib import closing
from pathlib import Path

from twinhost.archive.members import Manifest
from twinhost.archive.places import MIGRATIONS
from twinhost.store.audit_log.chain import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.system_digital_twin.events.events import skip_numbers


def mark_restored(database: Path, log: Path, manifest: Manifest) -> None:
    """Record the restore in a state that is not in use yet; its schema is brought up to date by that.

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
