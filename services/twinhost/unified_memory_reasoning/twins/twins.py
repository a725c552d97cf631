"""The store of twins: one per user, and its changes.

Every change is a row with its writer. While a writer is quarantined, its changes are hidden: the twin is the result of
the visible changes, and a release shows the hidden ones again. The table `twins` has the result of all changes, which
is returned as long as no writer of the twin is quarantined.

A user's revisions are never used again, not even after a deletion. A quarantined writer can't change a visible twin.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.moments import iso_time
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import Conflict, MalformedRequest, NotFound, NotGranted
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.provenance.quarantine import (
    MAX_NUMBER,
    Quarantine,
    WrittenRow,
    create_visible_views,
    document_of,
    lists_written,
)

MAX_DEPTH = 128  # a reader decodes a twin with what is left of its stack, of 1,000 calls as Python has it
MAX_TWIN_BYTES = 262_144  # of JSON
MAX_CHANGES = 128  # of one twin that are kept
MAX_HISTORY_BYTES = 4_194_304  # of one twin's changes
_CHANGE_BYTES = MAX_HISTORY_BYTES // MAX_CHANGES  # the least that a change counts

Twin = dict[str, Any]
Kind = Literal["update", "patch", "delete"]


class TwinFound(TypedDict):
    """A user's twin; if there is none, `{}`, revision 0, and no `written_by` and `updated` (ISO-8601)."""

    status: Literal["ok"]
    twin: dict[str, Any]
    revision: int
    written_by: NotRequired[str]
    updated: NotRequired[str]


class TwinChange(TypedDict):
    """One change: `data` is the twin of an update, or the patch; a deletion has none. `updated` is in ISO-8601."""

    revision: int
    change: Kind
    data: NotRequired[dict[str, Any]]
    written_by: str
    updated: str


class WrittenTwin(WrittenRow):
    """A user's twin, listed by who updated it last; `number` grows with each new user."""

    user_id: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    revision: int
    updated: str


class WrittenTwinChange(WrittenRow):
    """One change of a twin; `data` is the twin of an update, the patch, or null for a deletion."""

    user_id: NotRequired[str]
    revision: int
    change: Kind
    data: NotRequired[dict[str, Any] | None]
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
HISTORY_MIGRATION = """
CREATE TABLE twin_changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    change TEXT NOT NULL,
    written_by TEXT NOT NULL,
    owner TEXT NOT NULL,
    updated REAL NOT NULL,
    data BLOB,
    UNIQUE (user_id, revision)
) STRICT;
CREATE INDEX twin_changes_by_writer ON twin_changes (written_by, number);
INSERT INTO twin_changes (user_id, revision, change, written_by, owner, updated, data)
    SELECT user_id, revision, 'update', written_by, written_by, updated, twin FROM twins;
"""
_STORED = (
    "SELECT t.revision, 'update' AS change, t.written_by, c.owner, t.updated, t.twin AS data "
    "FROM twins AS t JOIN twin_changes AS c USING (user_id, revision) WHERE user_id = ?"
)
_STORE = (
    "INSERT INTO twins VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET twin = excluded.twin, "
    "revision = excluded.revision, written_by = excluded.written_by, updated = excluded.updated"
)
_COLUMNS = "revision, change, written_by, owner, updated, data"
_ADD = f"INSERT INTO twin_changes (user_id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
_REPLACE = "UPDATE twin_changes SET change = ?, data = ? WHERE user_id = ? AND revision = ?"
_DROP = "DELETE FROM twin_changes WHERE user_id = ? AND revision = ?"
_ERASE = "DELETE FROM twin_changes WHERE user_id = ? AND revision < ?"
_LAST_REVISION = "SELECT coalesce(max(revision), 0) FROM twin_changes WHERE user_id = ?"
_ANY_HIDDEN = (
    "SELECT EXISTS (SELECT 1 FROM twin_changes WHERE user_id = ? AND written_by IN (SELECT name FROM quarantined))"
)
_CHANGES = "SELECT {} FROM visible_twin_changes WHERE user_id = ? AND revision < ? ORDER BY revision DESC LIMIT ?"
_VISIBLE, _SHOWN = _CHANGES.format(_COLUMNS), _CHANGES.format("revision, change, data, written_by, updated")
_SIZE = f"sum(max({_CHANGE_BYTES}, coalesce(length(data), 0)))"
_TOTAL_SIZE = f"SELECT {_SIZE} FROM twin_changes WHERE user_id = ?"  # noqa: S608 - constants
_OLDEST_OF_LARGEST_SHARE = (  # of the writers with more than one change before the newest, if there are any
    f"SELECT {_COLUMNS} FROM twin_changes WHERE user_id = ?1 AND revision < ?2 AND written_by = ("  # noqa: S608
    "SELECT written_by FROM twin_changes WHERE user_id = ?1 AND revision < ?2 GROUP BY written_by "
    f"ORDER BY count(*) > 1 DESC, {_SIZE} DESC, min(revision) DESC LIMIT 1) ORDER BY revision LIMIT 2"
)
_WRITTEN = (
    "SELECT rowid AS number, user_id, twin AS data, revision, updated FROM twins "
    "WHERE written_by = ?1 AND rowid < ?2 ORDER BY rowid DESC LIMIT ?3"
)
_WRITTEN_CHANGES = (
    "SELECT number, user_id, revision, change, coalesce(data, 'null') AS data, updated FROM twin_changes "
    "WHERE written_by = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3"
)


def require_size(data: Twin, field: str) -> None:
    """Raise ValueError for more JSON than a twin may have, or deeper than every reader can decode."""
    encoded = msgspec.json.encode(data)
    if len(encoded) > MAX_TWIN_BYTES:
        raise ValueError(
            f"Expected at most {MAX_TWIN_BYTES} bytes of JSON, got {len(encoded)}; leave some out - at `$.{field}`"
        )
    if encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH and _is_deep(data):
        raise ValueError(f"Expected objects nested at most {MAX_DEPTH} deep - at `$.{field}`")


def _is_deep(data: Twin) -> bool:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
    return bool(level)


def _encoded(data: Twin) -> bytes:
    try:
        return msgspec.json.encode(data)
    except RecursionError:  # less of the stack is left than where the request was read
        raise MalformedRequest("the twin is nested too deeply; send a flatter one") from None


def merge_patch(target: Any, patch: Any) -> Any:
    """Return what a JSON Merge Patch makes of a value, by section 2 of RFC 7396; neither is modified."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _joined(first: Twin, second: Twin) -> Twin:
    """Return one patch with the effect of two; if the first replaces an object by another value, the second decides."""
    joined = dict(first)
    for name, value in second.items():
        before = joined.get(name)
        joined[name] = _joined(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return joined


@dataclass(frozen=True, slots=True)
class Change:
    """A request to change a twin, only at `if_revision` unless it is None."""

    user_id: str
    caller: Caller
    if_revision: int | None = None

    @property
    def written_by(self) -> str:
        return self.caller.name


@dataclass(frozen=True, slots=True)
class _Row:
    """A stored change; `data` is the twin of an update, the patch, or None for a deletion.

    `owner` is the caller that stored the twin when the user had none.
    """

    revision: int
    change: Kind
    written_by: str
    owner: str
    updated: float
    data: bytes | None

    def decoded(self) -> Twin:
        twin: Twin = {} if self.data is None else msgspec.json.decode(self.data)
        return twin


class Twins:
    """Twins by user, in SQLite; every change records which caller made it."""

    def __init__(self, database: Database) -> None:
        create_visible_views(database, "twin_changes")
        self._database = database
        self._quarantine = Quarantine(database)
        self._count: int = database.value("SELECT count(*) FROM twins")

    def put(self, change: Change, data: Twin) -> int:
        """Store a twin, replacing the previous one; return its revision.

        Raises:
            NotGranted: the writer is quarantined, or may change its own twins only, and the previous one is visible.
            Conflict: the previous one has another revision.
        """
        twin = _encoded(data)
        return self._add(change, "update", self._changeable(change), twin, twin)

    def patch(self, change: Change, patch: Twin) -> int:
        """Merge a patch into a twin, or into an empty one if there is none; return its revision.

        Raises:
            NotGranted, Conflict: as `put` does.
            MalformedRequest: the twin would be too large, or nested too deeply.
        """
        visible, stored = self._changeable(change), self._stored(change.user_id)
        try:
            require_size(merge_patch(visible.decoded() if visible else {}, patch), "patch")
            twin = merge_patch(stored.decoded() if stored else {}, patch)
        except ValueError as error:
            raise MalformedRequest(f"the twin would be too large with this patch: {error}") from None
        except RecursionError:
            raise MalformedRequest(
                "the twin is nested too deeply for a patch; send a flatter patch, or replace the twin (`update_twin`)"
            ) from None
        return self._add(change, "patch", visible, _encoded(patch), _encoded(twin))

    def remove(self, change: Change, *, erase: bool = False) -> int:
        """Delete a twin, with its history if it is to be erased; return the revision of the deletion.

        Raises:
            NotFound: there is no visible one, and no history that could be erased.
            NotGranted, Conflict: as `put` does.
        """
        visible = self._changeable(change)
        if visible is None and not (erase and self._last_revision(change.user_id)):
            raise NotFound(f"there is no twin of {change.user_id[:64]!r}; `update_twin` stores one")
        revision = self._add(change, "delete", visible, None, None)
        if erase:
            self._database.execute(_ERASE, (change.user_id, revision))
        return revision

    def find(self, user_id: str) -> TwinFound | None:
        """Return a user's twin as the changes of visible writers make it, or None if there is none."""
        twin = self._visible(user_id)
        if twin is None:
            return None
        return {
            "status": SUCCESS,
            "twin": twin.decoded(),
            "revision": twin.revision,
            "written_by": twin.written_by,
            "updated": iso_time(twin.updated),
        }

    def history(self, user_id: str, before: int, limit: int) -> list[TwinChange]:
        """Return the visible changes with revisions below `before`, newest first."""
        return self._database.select(document_of(TwinChange), _SHOWN, (user_id, before, limit))

    written_by = lists_written(WrittenTwin, _WRITTEN)

    changes_by = lists_written(WrittenTwinChange, _WRITTEN_CHANGES)

    @property
    def count(self) -> int:
        """The number of twins; kept in memory, for any thread to read."""
        return self._count

    def _stored(self, user_id: str) -> _Row | None:
        """Return a twin with everybody's changes."""
        return self._database.select_one(_Row, _STORED, (user_id,))

    def _visible(self, user_id: str) -> _Row | None:
        """Return a twin with the changes of visible writers, and the newest of these; None if there is no twin."""
        if not self._database.value(_ANY_HIDDEN, (user_id,)):
            return self._stored(user_id)
        rows = self._database.select(_Row, _VISIBLE, (user_id, MAX_NUMBER, -1))
        if not rows or rows[0].change == "delete":
            return None
        patches = list(itertools.takewhile(lambda row: row.change == "patch", rows))
        twin = rows[len(patches)].decoded() if len(patches) < len(rows) else {}
        for patch in reversed(patches):
            twin = merge_patch(twin, patch.decoded())
        return replace(rows[0], data=msgspec.json.encode(twin))

    def _last_revision(self, user_id: str) -> int:
        return int(self._database.value(_LAST_REVISION, (user_id,)))

    def _changeable(self, change: Change) -> _Row | None:
        """Return the visible twin that is to be changed, or None if there is none."""
        user, writer, visible = change.user_id, change.written_by, self._visible(change.user_id)
        if visible is not None and self._quarantine.hides(writer):
            raise NotGranted(
                f"{writer[:64]} is quarantined and can't change another caller's twin; "
                f"an operator can release it: ./twinhost memory release {writer[:64]}"
            )
        if visible is not None:
            change.caller.require_change(f"the twin of {user[:64]!r}", user, visible.owner)
        if change.if_revision is not None:
            current = visible.revision if visible is not None else 0
            accepted = (current,) if visible is not None else (0, self._last_revision(user))
            if change.if_revision not in accepted:
                raise Conflict(
                    f"the twin of {user[:64]!r} has revision {current}, and not {change.if_revision}; "
                    "read it (`get_twin`), and repeat the change with the current revision",
                    current,
                )
        return visible

    def _add(self, change: Change, kind: Kind, visible: _Row | None, data: bytes | None, twin: bytes | None) -> int:
        """Store a change, and the twin with everybody's changes; return its revision."""
        user, writer, now = change.user_id, change.written_by, self._database.clock.time()
        revision = self._last_revision(user) + 1
        owner = visible.owner if visible is not None else writer
        self._database.execute(_ADD, (user, revision, kind, writer, owner, now, data))
        existed = int(self._database.value("SELECT count(*) FROM twins WHERE user_id = ?", (user,)))
        if twin is None:
            self._database.execute("DELETE FROM twins WHERE user_id = ?", (user,))
        else:
            self._database.execute(_STORE, (user, twin, revision, writer, now))
        self._add_to_count((twin is not None) - existed)
        while self._database.value(_TOTAL_SIZE, (user,)) > MAX_HISTORY_BYTES and self._shorten(user, revision):
            pass
        return revision

    def _shorten(self, user_id: str, newest: int) -> bool:
        """Merge the two oldest changes of the writer with the largest share of a history; return whether one existed.

        So a writer evicts changes of its own, and not another's earlier twin. A change that an update by the same
        writer follows never has an effect, so it is dropped.
        """
        rows = self._database.select(_Row, _OLDEST_OF_LARGEST_SHARE, (user_id, newest))
        if not rows:
            return False
        oldest, second = rows[0], rows[-1]
        dropped = oldest
        if second is not oldest and second.change == "patch":
            dropped = second
            kind, join = ("patch", _joined) if oldest.change == "patch" else ("update", merge_patch)
            data = msgspec.json.encode(join(oldest.decoded(), second.decoded()))
            self._database.execute(_REPLACE, (kind, data, user_id, oldest.revision))
        self._database.execute(_DROP, (user_id, dropped.revision))
        return True

    def _add_to_count(self, change: int) -> None:
        self._database.on_rollback(setattr, self, "_count", self._count)
        self._count += change
