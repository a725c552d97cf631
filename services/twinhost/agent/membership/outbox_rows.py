"""The table of the outbox, and what a start makes of it: a restored backup may have rows that this agent never made.

Such a row is sent to nobody and ends no start. It is set aside on disk, under a kind that nothing is counted, sent,
or let go of, and is told in health. Whether a row's action and fields are this agent's is looked at when it is sent.
"""

import structlog

from twinhost.agent.membership.owed_queue import Kind, Owed, OwedQueue
from twinhost.store.database import Database

_log = structlog.get_logger(__name__)

MIGRATION = """
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    action TEXT NOT NULL,
    fields BLOB NOT NULL,
    request_id TEXT NOT NULL,
    added REAL NOT NULL,
    written_by TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_kind ON outbox (kind, seq);
"""
_ROWS = (  # what may be no text in UTF-8 is read as bytes, and what may be too large is not read
    "SELECT seq, CAST(kind AS BLOB), CAST(action AS BLOB), CASE WHEN length(fields) <= ? THEN fields END, "
    "CAST(request_id AS BLOB), added FROM outbox ORDER BY seq"
)
_SET_ASIDE = "UPDATE outbox SET kind = 'strange ' || kind WHERE seq = ? AND kind IN (?, ?, ?)"  # all of Kind
_LATEST = 253_402_300_799.0  # the last second that ISO-8601 has a form for


def load(database: Database, most: int, most_bytes: int, queue: OwedQueue) -> list[Owed]:
    """Return what an earlier process did not get rid of, oldest first, and set the rest of the table aside.

    Args:
        most, most_bytes: what the outbox holds; a row beyond that was not made by it.
        queue: is told how many rows were set aside.

    Raises:
        StoreUnavailable: they can't be set aside.
    """
    loaded: list[Owed] = []
    strange: list[int] = []
    size = 0
    for row in database.execute(_ROWS, (most_bytes,)):
        owed = _owed(*row)
        if owed is None or len(loaded) == most or size + owed.size > most_bytes:
            strange.append(row[0])
        else:
            loaded.append(owed)
            size += owed.size
    if strange:
        with database.transaction():
            database.execute_many(_SET_ASIDE, ((seq, *Kind) for seq in strange))
        queue.note_strange(len(strange))
        _log.error("outbox_strange", rows=len(strange), first=strange[0])
    return loaded


def _owed(seq: int, kind: bytes, action: bytes, fields: bytes | None, request_id: bytes, added: float) -> Owed | None:
    """Return what a row says, or None where it can't be one of this agent's."""
    if fields is None or not 0 <= added <= _LATEST:
        return None
    try:
        return Owed(seq, Kind(kind.decode()), action.decode(), fields, request_id.decode(), added)
    except ValueError:
        return None
