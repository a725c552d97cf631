"""A connection that notes what each transaction has written, statement by statement, and how a replica repeats it.

A statement writes if SQLite's own program of it begins a write transaction on the main database, which `EXPLAIN` tells
once for each text. What a savepoint has rolled back is dropped, but not the savepoint itself: it makes FTS5 write what
it has in memory, so without it a replica's index would have other segments.

Entries are MessagePack: it has SQLite's five kinds of value and no others. JSON has no bytes and no infinity, and
PostgreSQL's jsonb no U+0000.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any

import msgspec

from twinhost.secure_zmq.errors import ConfigurationError

Value = int | float | str | bytes | None
Parameters = list[Value] | dict[str, Value]

_KNOWN_TEXTS = 4_096  # then all are forgotten: some statements have as many placeholders as there are values
_WORDS = re.compile(r"\s*(begin|commit|end|rollback(?:\s+to)?|savepoint|release)\b", re.IGNORECASE)
# What has another value on a replica. A date function without a moment means now, too.
_VARIES = re.compile(
    r"\brandom(?:blob)?\s*\(|\btotal_changes\s*\(|'now'|\bcurrent_(?:time|date|timestamp)\b"
    r"|\b(?:unixepoch|julianday|date|time|datetime)\s*\(\s*\)",
    re.IGNORECASE,
)
_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_NOW = re.compile(r"'now'", re.IGNORECASE)
_DEFINITION = re.compile(r"\s*(?:create|drop|alter)\b", re.IGNORECASE)
_TEMPORARY_VIEW = re.compile(r"\s*create\s+temp(?:orary)?\s+view\s+(?:if\s+not\s+exists\s+)?(\w+)", re.IGNORECASE)
_NAMES = re.compile(r"\w+")


class OtherSqlite(ConfigurationError):
    """Another version of SQLite has written a transaction, which may leave other rows here."""


class Statement(msgspec.Struct, frozen=True, array_like=True):
    """One statement as it ran, with the parameters of each time."""

    sql: str
    runs: list[Any]  # each of them Parameters, a union that msgspec does not decode


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One transaction, and the SQLite that ran it: another one may leave other rows."""

    sqlite: str
    views: dict[str, str]  # the temporary ones that it reads, by name
    statements: list[Statement]
    database: str = ""  # not the agent's own, but one beside it; without statements, it is removed


Commit = Callable[["NotingConnection", Entry], None]


def encoded(entry: Entry) -> bytes:
    """Return a transaction as the log has it."""
    return msgspec.msgpack.encode(entry, enc_hook=_plain)


def decoded(entry: bytes) -> Entry:
    """Return a transaction of the log.

    Raises:
        OtherSqlite: another version of SQLite wrote it.
    """
    decoded_entry = _decoder.decode(entry)
    if decoded_entry.sqlite != sqlite3.sqlite_version:
        raise OtherSqlite(
            f"the log was written with SQLite {decoded_entry.sqlite} and this program has {sqlite3.sqlite_version}; "
            "run the same image on both machines"
        )
    return decoded_entry


class Repeater:
    """Repeats transactions on a replica."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._views: dict[str, str] = {}

    def repeat(self, entry: Entry) -> None:
        """Repeat an entry in the transaction under way, which ends the replica's use if it is rolled back.

        Raises:
            sqlite3.Error: a statement fails here.
        """
        for name, sql in entry.views.items():
            if self._views.get(name) != sql:
                self._connection.execute(f'DROP VIEW IF EXISTS temp."{name}"')
                self._connection.execute(sql)
                self._views[name] = sql
        for statement in entry.statements:
            for parameters in statement.runs:
                self._connection.execute(statement.sql, parameters)


class _Kind(Enum):
    READ = auto()
    WRITE = auto()
    BEGIN = auto()
    COMMIT = auto()
    ROLLBACK = auto()
    SAVEPOINT = auto()
    ROLLBACK_TO = auto()
    RELEASE = auto()


class NotingConnection(sqlite3.Connection):
    """A connection whose commits are done by whoever has asked for its notes."""

    def __init__(self, *arguments: Any, commit: Commit, **options: Any) -> None:
        """Open a database as `sqlite3.connect` does, without implicit transactions.

        Args:
            arguments, options: those of `sqlite3.connect`.
            commit: is called in place of a commit with what the transaction has written, which is not nothing;
                it calls `commit_noted()`.
        """
        super().__init__(*arguments, **options)
        self._commit = commit
        self._kinds: dict[str, _Kind] = {}
        self._explained = 0
        self._views: dict[str, str] = {}  # the temporary ones, which a replica doesn't have
        self._reads: dict[str, list[str]] = {}  # which of them a statement that writes reads
        self._notes: list[Statement] = []
        self._marks: list[int] = []  # by open savepoint: how many statements precede its content

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run a statement, and note it if it has written."""
        match self._kind(sql, parameters):
            case _Kind.READ:
                return super().execute(sql, parameters)
            case _Kind.WRITE if not self.in_transaction:
                return self._alone(sql, parameters)
            case _Kind.WRITE:
                cursor = super().execute(sql, parameters)
                self._note(Statement(sql, [_parameters(parameters)]))
                return cursor
            case _Kind.COMMIT if self._has_written():
                self._commit(self, self._entry())
                return self.cursor()
            case kind:
                cursor = super().execute(sql, parameters)
                self._turn(kind, sql)
                return cursor

    def executemany(self, sql: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        """Run a statement for every row of parameters, and note those for which it has written."""
        done: list[Parameters] = []
        taken = _noting(rows, done)
        first = next(taken, None)
        if first is None or self._kind(sql, first) is not _Kind.WRITE:
            return super().executemany(sql, [] if first is None else _chain(first, taken))
        if not self.in_transaction:
            return self._alone_many(sql, [first, *taken])
        try:
            cursor = super().executemany(sql, _chain(first, taken))
        except BaseException:
            self._note(Statement(sql, done[:-1]))  # the rows before the one that failed stay in the transaction
            raise
        self._note(Statement(sql, done))
        return cursor

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        """Run the statements of a script one by one; `'now'` is the moment at which it begins, also on a replica."""
        moment = f"{int(time.time())}, 'unixepoch'"
        cursor = self.cursor()
        for sql in statements_of(script):
            cursor = self.execute(sql if _is_definition(sql) else _NOW.sub(moment, sql))
        return cursor

    def execute_unnoted(self, sql: str, parameters: Sequence[Value] = ()) -> sqlite3.Cursor:
        """Run a statement that is not a replica's concern."""
        return super().execute(sql, parameters)

    def commit_noted(self) -> None:
        """Commit the transaction under way, whose notes were taken.

        Raises:
            sqlite3.Error: it can't be committed.
        """
        super().execute("COMMIT")
        self._forget()

    def _entry(self) -> Entry:
        read = {name for note in self._notes for name in self._reads.get(note.sql, ())}
        views = {name: sql for name, sql in self._views.items() if name in read}
        return Entry(sqlite3.sqlite_version, views, self._notes)

    def _has_written(self) -> bool:
        return self.in_transaction and any(self._kinds[note.sql] is _Kind.WRITE for note in self._notes)

    def _alone(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        """Run a statement that is a transaction by itself as one that is noted."""
        return self._in_transaction(lambda: self.execute(sql, parameters))

    def _alone_many(self, sql: str, rows: list[Any]) -> sqlite3.Cursor:
        return self._in_transaction(lambda: self.executemany(sql, rows))

    def _in_transaction(self, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        self.execute("BEGIN IMMEDIATE")
        try:
            cursor = run()
            columns, rows = cursor.description, cursor.fetchall()
            self.execute("COMMIT")
        except BaseException:
            if self.in_transaction:
                self.execute("ROLLBACK")
            raise
        return cursor if columns is None else self._returning([column[0] for column in columns], rows)

    def _returning(self, names: list[str], rows: list[tuple[Value, ...]]) -> sqlite3.Cursor:
        """Return rows once more: as long as they were not all read, SQLite could not commit."""
        row = "SELECT " + ", ".join(f'? AS "{name}"' for name in names)
        if not rows:
            return super().execute(f"{row} WHERE 0", [None] * len(names))
        return super().execute(" UNION ALL ".join([row] * len(rows)), [value for row in rows for value in row])

    def _note(self, statement: Statement) -> None:
        if statement.runs:
            self._notes.append(statement)

    def _turn(self, kind: _Kind, sql: str) -> None:
        match kind:
            case _Kind.SAVEPOINT:
                self._notes.append(Statement(sql, [[]]))
                self._marks.append(len(self._notes))
            case _Kind.ROLLBACK_TO:
                del self._notes[self._marks[-1] :]
            case _Kind.RELEASE:
                self._marks.pop()
                self._notes.append(Statement(sql, [[]]))
            case _:
                self._forget()

    def _forget(self) -> None:
        self._notes, self._marks = [], []

    def _kind(self, sql: str, parameters: Any) -> _Kind:
        kind = self._kinds.get(sql)
        if kind is None:
            kind = self._found_kind(sql, parameters)
        return kind

    def _found_kind(self, sql: str, parameters: Any) -> _Kind:
        if word := _WORDS.match(sql):
            kind = _Kind["_".join(word[1].upper().replace("END", "COMMIT").split())]
        else:
            try:
                self._explained += 1  # a text of its own: a cached explanation does not see that the schema has changed
                program = super().execute(f"EXPLAIN /* {self._explained} */ {sql}", parameters).fetchall()
            except sqlite3.Error:  # which running it raises too; it may be different later
                return _Kind.READ
            writes = any(step[1] == "Transaction" and step[2:4] == (0, 1) for step in program)
            kind = _Kind.WRITE if writes else _Kind.READ
        if kind is _Kind.WRITE:
            if varies := _VARIES.search(_COMMENTS.sub("", sql)):
                raise RuntimeError(f"a replica would write something else: {varies[0]!r} in {sql!r}")
            if views := self._views_in(sql):
                self._reads[sql] = views
        elif _DEFINITION.match(sql):  # it may write another time, as `DROP TABLE IF EXISTS` does
            if view := _TEMPORARY_VIEW.match(sql):
                self._views.setdefault(view[1], sql)
            return kind
        if len(self._kinds) >= _KNOWN_TEXTS and not self._notes:
            self._kinds.clear()
            self._reads.clear()
        self._kinds[sql] = kind
        return kind

    def _views_in(self, sql: str) -> list[str]:
        """Return the temporary views that a statement reads, and those that they read."""
        found = [name for name in _NAMES.findall(sql) if name in self._views]
        for name in found:
            found += [
                other for other in _NAMES.findall(self._views[name]) if other in self._views and other not in found
            ]
        return found


def statements_of(script: str) -> Iterator[str]:
    """Yield the statements of a script; one that only has comments is none."""
    sql = ""
    for piece in re.split(r"(?<=;)", script):
        sql += piece
        if _bare(sql) and sqlite3.complete_statement(sql):
            yield sql.lstrip("; \n")
            sql = ""
    if _bare(sql):
        yield sql.lstrip("; \n")


def _is_definition(sql: str) -> bool:
    """Return whether a statement stays in the schema, where a moment would stay for good."""
    return _bare(sql).lower().startswith("create")


def _bare(sql: str) -> str:
    """Return a statement without comments before and after it."""
    return _COMMENTS.sub("", sql).strip("; \n")


def _noting(rows: Iterable[Any], done: list[Parameters]) -> Iterator[Any]:
    for row in rows:
        done.append(_parameters(row))
        yield row


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _parameters(parameters: Any) -> Parameters:
    if isinstance(parameters, Mapping):
        return {name: _value(value) for name, value in parameters.items()}
    return [_value(value) for value in parameters]


def _value(value: Any) -> Value:
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return int(value) if isinstance(value, bool) else value


def _plain(value: Any) -> Value:
    """Return the value of a subclass, as sqlite3 binds it."""
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case bytes():
            return bytes(value)
    raise TypeError(f"a parameter is {type(value).__name__}, which is not a value of SQLite")


_decoder = msgspec.msgpack.Decoder(Entry)
