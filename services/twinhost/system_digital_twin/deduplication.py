"""Deduplication across requests: what was stored before is not stored again, whichever request it arrives in.

The reply log answers a retry of one request for some minutes. An agent that was disconnected may send the same sample
or event much later, in another request. So each of them has a key, which is stored with the result.
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
MOST = 40_000  # per scope: twice the size of an outbox, so that keys outlast every backlog


class Deduplication:
    """The newest `most` keys of each scope, with an integer each; used in the caller's transaction."""

    def __init__(self, database: Database, most: int = MOST) -> None:
        self._database = database
        self._most = most

    def find(self, scope: str, key: bytes) -> int | None:
        """Return what was recorded for a key, or None."""
        answer: int | None = self._database.value(
            "SELECT answer FROM taken_once WHERE scope = ? AND key = ?", (scope, key)
        )
        return answer

    def record(self, scope: str, key: bytes, answer: int) -> None:
        """Record a key that `find` does not return; the oldest of a full scope is deleted."""
        number = self._database.value(
            "INSERT INTO taken_once VALUES "
            "(?1, (SELECT coalesce(max(number), 0) + 1 FROM taken_once WHERE scope = ?1), ?2, ?3) RETURNING number",
            (scope, key, answer),
        )
        self._database.execute("DELETE FROM taken_once WHERE scope = ? AND number <= ?", (scope, number - self._most))


def digest_of(fields: dict[str, Any]) -> bytes:
    """Return a digest of 16 bytes that does not depend on the order of the keys."""
    return hashlib.blake2b(msgspec.json.encode(fields, order="deterministic"), digest_size=16).digest()
