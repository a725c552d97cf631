"""Digital twins: what is known about each user.

A quarantined writer's twin is hidden, and others can't delete it. An update replaces it like any twin, and its revision
continues. A quarantined writer can't replace or delete a visible twin.
"""

import time
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound, NotGranted
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.provenance.quarantine import (
    Quarantine,
    WrittenRow,
    create_visible_views,
    rows_written_by,
)

DEFAULT_USER = "default"
MAX_TWIN_BYTES = 262_144  # of JSON


class UpdateTwin(Request, tag="update_twin"):
    """Store a user's twin, replacing the previous one; at most 256 KiB of JSON."""

    twin_data: dict[str, Any]
    user_id: NAME = DEFAULT_USER

    def __post_init__(self) -> None:
        size = len(msgspec.json.encode(self.twin_data))
        if size > MAX_TWIN_BYTES:
            raise ValueError(
                f"Expected at most {MAX_TWIN_BYTES} bytes of JSON, got {size}; leave some out - at `$.twin_data`"
            )


class GetTwin(Request, tag="get_twin"):
    """Return a user's twin, `{}` if there is none."""

    user_id: NAME = DEFAULT_USER


class DeleteTwin(Request, tag="delete_twin"):
    """Delete a user's twin."""

    user_id: NAME = DEFAULT_USER


class TwinUpdated(TypedDict):
    """The twin is stored; `revision` counts its updates since it was first stored."""

    status: Literal["ok"]
    user_id: str
    revision: int


class TwinFound(TypedDict):
    """A user's twin; if there is none, `{}`, revision 0, and no `written_by` and `updated` (ISO-8601)."""

    status: Literal["ok"]
    twin: dict[str, Any]
    revision: int
    written_by: NotRequired[str]
    updated: NotRequired[str]


class TwinDeleted(TypedDict):
    """The user's twin is deleted."""

    status: Literal["ok"]
    user_id: str


class WrittenTwin(WrittenRow):
    """A user's twin, listed by who updated it last; `number` grows with each new user."""

    user_id: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    revision: int
    updated: str


MIGRATION = """
CREATE TABLE twins (
    user_id TEXT PRIMARY KEY NOT NULL,
    twin BLOB NOT NULL,
    revision INTEGER NOT NULL,
    written_by TEXT NOT NULL,
    updated REAL NOT NULL
) STRICT;
"""
BY_WRITER_MIGRATION = "CREATE INDEX twins_by_writer ON twins (written_by);"
_FIND = "SELECT twin, revision, written_by, updated FROM visible_twins WHERE user_id = ?"
_REMOVE = "DELETE FROM twins WHERE user_id IN (SELECT user_id FROM visible_twins WHERE user_id = ?)"
_WRITTEN = (
    "SELECT rowid AS number, user_id, twin AS data, revision, updated FROM twins "
    "WHERE written_by = ?1 AND rowid < ?2 ORDER BY rowid DESC LIMIT ?3"
)


class Twins:
    """Twins by user, in SQLite; every row records which caller wrote it."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "twins")
        self._database = database
        self._quarantine = Quarantine(database)
        self._count: int = database.value("SELECT count(*) FROM twins")

    def put(self, user_id: str, data: dict[str, Any], written_by: str) -> int:
        """Store a twin, replacing the previous one; return its revision.

        Raises:
            NotGranted: the writer is quarantined, and the previous one is visible.
        """
        self._require_not_quarantined(user_id, written_by)
        revision = self._database.value(
            "INSERT INTO twins VALUES (?, ?, 1, ?, ?) ON CONFLICT (user_id) DO UPDATE SET "
            "twin = excluded.twin, revision = revision + 1, written_by = excluded.written_by, "
            "updated = excluded.updated RETURNING revision",
            (user_id, msgspec.json.encode(data), written_by, time.time()),
        )
        if revision == 1:
            self._add_to_count(1)
        return int(revision)

    def find(self, user_id: str) -> TwinFound | None:
        """Return a user's twin, or None if there is none or its writer is quarantined."""

        def found(twin: bytes, revision: int, written_by: str, updated: float) -> TwinFound:
            return {
                "status": SUCCESS,
                "twin": msgspec.json.decode(twin),
                "revision": revision,
                "written_by": written_by,
                "updated": iso_time(updated),
            }

        return self._database.select_one(found, _FIND, (user_id,))

    def written_by(self, name: str, before: int | None, limit: int) -> list[WrittenTwin]:
        """Return the twins that a caller updated last, quarantined or not, newest user first."""
        return rows_written_by(self._database, WrittenTwin, _WRITTEN, name, before, limit)

    def remove(self, user_id: str, removed_by: str | None = None) -> None:
        """Delete a twin, on behalf of a caller if one is named.

        Raises:
            NotFound: there is no visible one.
            NotGranted: there is one, and the caller is quarantined.
        """
        self._require_not_quarantined(user_id, removed_by)
        removed = self._database.execute(_REMOVE, (user_id,))
        if removed.rowcount == 0:
            raise NotFound(f"there is no twin of {user_id[:64]!r}; `update_twin` stores one")
        self._add_to_count(-1)

    @property
    def count(self) -> int:
        """The number of twins; kept in memory, for any thread to read."""
        return self._count

    def _require_not_quarantined(self, user_id: str, caller: str | None) -> None:
        if caller is None or not self._quarantine.hides(caller):
            return
        if self._database.execute(_FIND, (user_id,)).fetchone() is not None:
            raise NotGranted(
                f"{caller[:64]} is quarantined and can't change another caller's twin; "
                f"an operator can release it: ./twinhost memory release {caller[:64]}"
            )

    def _add_to_count(self, change: int) -> None:
        before = self._count
        self._count += change

        def undo() -> None:
            self._count = before

        self._database.on_rollback(undo)


class TwinActions(Feature):
    """Stores, returns and deletes twins."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    @action(mutates=True)
    def update_twin(self, request: UpdateTwin, caller: Caller) -> TwinUpdated:
        revision = self._twins.put(request.user_id, request.twin_data, caller.name)
        return {"status": SUCCESS, "user_id": request.user_id, "revision": revision}

    @action(forwardable=True)
    def get_twin(self, request: GetTwin, _: Caller) -> TwinFound:
        return self._twins.find(request.user_id) or {"status": SUCCESS, "twin": {}, "revision": 0}

    @action(mutates=True)
    def delete_twin(self, request: DeleteTwin, caller: Caller) -> TwinDeleted:
        self._twins.remove(request.user_id, caller.name)
        return {"status": SUCCESS, "user_id": request.user_id}
