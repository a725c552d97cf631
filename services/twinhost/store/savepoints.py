"""Savepoints that SQLite hears of only once something is asked of it inside.

Most requests leave their rows for the commit, so there is nothing that SQLite would have to undo: to open and
release a savepoint for each of them took as long as to write one of its rows.
"""

import sqlite3
from collections.abc import Callable
from types import TracebackType

import structlog

from twinhost.secure_zmq.errors import TransactionLost

_log = structlog.get_logger(__name__)

WHAT_TO_DO = "nothing of this request was kept; free space on the agent's volume and look at its log"


class Changes:
    """What a transaction has done to memory so far, to be undone, and what is to be done once it is durable."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], None]] = []
        self.afterwards: list[Callable[[], None]] = []

    def clear(self) -> None:
        self.undo.clear()
        self.afterwards.clear()

    def go_on(self) -> None:
        """Do what was to be done once all of it is durable. No fault of that undoes it, or keeps the rest from it."""
        while self.afterwards:
            try:
                self.afterwards.pop(0)()
            except Exception:  # boundary: what was acknowledged must be answered
                _log.exception("after_commit_fault")

    def undo_to(self, mark: int) -> None:
        """Undo what came after the first `mark` changes, the newest first."""
        while len(self.undo) > mark:
            self.undo.pop()()


class Savepoints:
    """The savepoints that are open, one within the other; the context of one more.

    What happens inside is undone, and that alone, where it raises.
    """

    def __init__(self, connection: sqlite3.Connection, changes: Changes) -> None:
        self._connection = connection
        self._changes = changes
        self._marks: list[tuple[int, int]] = []
        self._known = 0  # those that SQLite knows: the outer ones
        self.unknown = False  # whether `open_all` has anything to do

    def clear(self) -> None:
        """Forget those of a transaction that has ended."""
        self._marks.clear()
        self._known, self.unknown = 0, False

    def open_all(self) -> None:
        """Have SQLite know all of them, before a statement.

        Raises:
            sqlite3.Error: it refuses.
            TransactionLost: SQLite has ended the transaction; a savepoint would now be one of its own.
        """
        if not self._connection.in_transaction:
            raise TransactionLost(f"the store ended the transaction; {WHAT_TO_DO}")
        for _ in self._marks[self._known :]:
            self._connection.execute("SAVEPOINT request")
            self._known += 1
        self.unknown = False

    def __enter__(self) -> None:
        self._marks.append((len(self._changes.undo), len(self._changes.afterwards)))
        self.unknown = True

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        undo, afterwards = self._marks.pop()
        known = self._known > len(self._marks)
        if known:
            self._known -= 1
        self.unknown = self._known < len(self._marks)
        if error is None:
            if known:
                self._or_lose_all("RELEASE request")
            return
        if not self._connection.in_transaction:
            raise TransactionLost(f"the store ended the transaction; {WHAT_TO_DO}") from None
        if known:
            self._or_lose_all("ROLLBACK TO request")
            self._or_lose_all("RELEASE request")
        self._changes.undo_to(undo)
        del self._changes.afterwards[afterwards:]

    def _or_lose_all(self, sql: str) -> None:
        """Run a step without which one request can't be told from the others of its transaction."""
        try:
            self._connection.execute(sql)
        except sqlite3.Error as error:
            raise TransactionLost(f"the store failed ({error}); {WHAT_TO_DO}") from error
