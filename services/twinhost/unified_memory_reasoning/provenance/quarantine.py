"""Who wrote which rows, and which writers are quarantined: their rows are hidden from every reply and not deleted."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NotRequired, TypedDict, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from twinhost.moments import iso_time
from twinhost.secure_zmq.actions import InParts, wholly
from twinhost.secure_zmq.errors import LimitReached, NotFound
from twinhost.store.database import Database

MIGRATION = """
CREATE TABLE quarantined (
    name TEXT PRIMARY KEY NOT NULL,
    since REAL NOT NULL,
    quarantined_by TEXT NOT NULL
) STRICT;
CREATE TABLE quarantine_reasons (
    name TEXT PRIMARY KEY NOT NULL REFERENCES quarantined (name) ON DELETE CASCADE,
    reason TEXT NOT NULL
) STRICT;
"""
HIDDEN = "written_by IN (SELECT name FROM quarantined)"  # of a row
VISIBLE = "written_by NOT IN (SELECT name FROM quarantined)"
_NAMES = "SELECT name FROM quarantined ORDER BY name"
MOST = 1_000  # names; a reply has room for all of them
MAX_NUMBER: Final = 2**63 - 1  # of a row
_TIMES = frozenset(
    {"created", "updated", "last_seen", "last_accessed", "revised", "since", "occurred_at", "first_seen"}
)  # seconds since the epoch
_JSON = frozenset({"metadata", "data", "score"})

Row = TypeVar("Row")


def create_visible_views(database: Database, *tables: str) -> None:
    """Create the view `visible_TABLE` of each table: its rows without those of quarantined writers.

    Every read that answers a caller selects from these. They are temporary: each connection has its own, and the schema
    in the file stays as it is.
    """
    for table in tables:
        database.execute(
            f"CREATE TEMP VIEW IF NOT EXISTS visible_{table} AS "  # noqa: S608 - the stores' own tables
            f"SELECT * FROM {table} WHERE {VISIBLE}"
        )


def document_of(kind: type[Row]) -> Callable[..., Row]:
    """Return what makes a document of a row: times in ISO-8601, JSON decoded.

    A field that may be absent, and may not be null, is absent if its column is null.
    """
    hints = get_type_hints(kind, include_extras=True)
    absent = {name for name, hint in hints.items() if get_origin(hint) is NotRequired and not _nullable(hint)}

    def document(**columns: Any) -> Row:
        shown = {}
        for column, value in columns.items():
            if value is None and column in absent:
                continue
            if column in _TIMES and value is not None:
                shown[column] = iso_time(value)
            else:
                shown[column] = msgspec.json.decode(value) if column in _JSON else value
        return kind(**shown)

    return document


def with_one_view(database: Database, answer: Callable[[], InParts[Row]]) -> InParts[Row]:
    """Do what reads the visible views in parts; if other writers are quarantined meanwhile, again and at once."""
    before = database.execute(_NAMES).fetchall()
    answered = yield from answer()
    return answered if database.execute(_NAMES).fetchall() == before else wholly(answer())


def _nullable(hint: Any) -> bool:
    return type(None) in get_args(get_args(hint)[0])


class WrittenRow(TypedDict):
    """A row and its number; if the row is too large for a reply, the missing fields and its size in bytes."""

    number: int
    left_out: NotRequired[list[str]]
    size_bytes: NotRequired[int]


WrittenBy = Callable[..., list[Any]]  # a method of a store; name, before, limit: a caller's rows, newest first


def lists_written(row_type: type[Row], query: str) -> Callable[..., list[Row]]:
    """Return the method of a store, which has a `_database`, that lists a caller's rows, quarantined or not.

    Args:
        row_type: a `WrittenRow`.
        query: selects its fields; `?1` is the caller, `?2` a number that the rows' numbers are below, `?3` the limit.
    """
    document = document_of(row_type)

    def written_by(self: Any, name: str, before: int | None, limit: int) -> list[Row]:
        database: Database = self._database
        return database.select(document, query, (name, MAX_NUMBER if before is None else before, limit))

    return written_by


class QuarantinedWriter(TypedDict):
    """A quarantined name, since when, by whom, and why; `reason` is empty if none was given."""

    name: str
    since: str
    quarantined_by: str
    reason: str


class Quarantine:
    """The names whose rows are hidden."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.on_change: Callable[[], None] = lambda: None  # called after the commit of a change

    def add(self, name: str, quarantined_by: str, reason: str = "") -> bool:
        """Hide what a caller wrote and will write; return whether it was visible until now.

        Adding a name again keeps its time and who added it, and replaces the reason if one is given.

        Raises:
            LimitReached: too many names are quarantined.
        """
        count = self._database.value("SELECT count(*) FROM quarantined")
        known = self.hides(name)
        if not known and count >= MOST:
            raise LimitReached(
                f"{MOST} names are quarantined, which is the limit; release some: ./twinhost memory release NAME"
            )
        self._database.execute(
            "INSERT INTO quarantined (name, since, quarantined_by) VALUES (?, ?, ?) ON CONFLICT (name) DO NOTHING",
            (name, self._database.clock.time(), quarantined_by),
        )
        if reason:
            self._database.execute(
                "INSERT INTO quarantine_reasons VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET reason = excluded.reason",
                (name, reason),
            )
        self._database.after_commit(self.on_change)
        return not known

    def lift(self, name: str) -> None:
        """Show again what a caller wrote.

        Raises:
            NotFound: it is not hidden.
        """
        if self._database.execute("DELETE FROM quarantined WHERE name = ?", (name,)).rowcount == 0:
            raise NotFound(f"{name[:64]!r} is not quarantined; `list_quarantine` lists the quarantined callers")
        self._database.after_commit(self.on_change)

    def rows(self) -> list[tuple[str, float, str]]:
        """Return the quarantined names, since when, and by whom, to be repeated in another database."""
        return self._database.execute("SELECT name, since, quarantined_by FROM quarantined ORDER BY name").fetchall()

    def replace(self, rows: Sequence[tuple[str, float, str]]) -> None:
        """Quarantine what another database does, and nobody else; in the transaction under way."""
        self._database.execute("DELETE FROM quarantined")
        self._database.execute_many("INSERT INTO quarantined (name, since, quarantined_by) VALUES (?, ?, ?)", rows)

    def hides(self, name: str) -> bool:
        """Return whether what a caller wrote is hidden."""
        return self._database.execute("SELECT 1 FROM quarantined WHERE name = ?", (name,)).fetchone() is not None

    def all(self) -> list[QuarantinedWriter]:
        """Return the quarantined callers, newest first."""
        return self._database.select(
            document_of(QuarantinedWriter),
            "SELECT name, since, quarantined_by, coalesce(reason, '') AS reason FROM quarantined "
            "LEFT JOIN quarantine_reasons USING (name) ORDER BY since DESC, name",
        )
