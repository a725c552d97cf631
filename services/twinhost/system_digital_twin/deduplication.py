"""What was taken in already, so that the same thing told again counts once, whatever request it comes in.

A stored reply answers a retry of one request for some minutes. An agent that was cut off may tell the same thing
again much later, in another request; so each thing has a key of its own, which is kept with what came of it.
"""

import hashlib
from typing import Any

import msgspec

from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE taken_once (
    scope TEXT NOT NULL,
    number INTEGER NOT NULL,
    key BLOB NOT NULL,
    answer INTEGER NOT NULL,
    PRIMARY KEY (scope, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX taken_once_by_key ON taken_once (scope, key);
"""
MOST = 40_000  # of a scope: twice what waits in an outbox, so that nobody's backlog outlives the keys before it


class TakenOnce:
    """The newest `most` keys of each scope, with an integer each; all of it in the caller's transaction."""

    def __init__(self, database: Database, most: int = MOST) -> None:
        self._database = database
        self._most = most

    def find(self, scope: str, key: bytes) -> int | None:
        """Return what came of a thing that was taken in already, or None."""
        row = self._database.execute("SELECT answer FROM taken_once WHERE scope = ? AND key = ?", (scope, key))
        found = row.fetchone()
        return int(found[0]) if found else None

    def note(self, scope: str, key: bytes, answer: int) -> None:
        """Keep the key of a thing that is taken in now, which `find` does not know; the oldest of the scope gives way.

        Raises:
            StoreUnavailable: the key is there already, or SQLite refused it for another reason.
        """
        (number,) = self._database.execute(
            "INSERT INTO taken_once VALUES "
            "(?1, (SELECT coalesce(max(number), 0) + 1 FROM taken_once WHERE scope = ?1), ?2, ?3) RETURNING number",
            (scope, key, answer),
        ).fetchone()
        self._database.execute("DELETE FROM taken_once WHERE scope = ? AND number <= ?", (scope, number - self._most))


def digest_of(fields: dict[str, Any]) -> bytes:
    """Return 16 bytes that only the same content has, in whatever order its keys are."""
    return hashlib.blake2b(msgspec.json.encode(fields, order="deterministic"), digest_size=16).digest()
