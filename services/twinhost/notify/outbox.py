"""What is told and what waits to be delivered, in one database: a message is in it before it is told as sent.

A message has a row for each destination, which stays until that one has taken it: it arrives at least once. After a
failure it is tried again later and later; the messages of one destination keep their order.
"""

import threading
import uuid
from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from twinhost.notify.rules import Memory, Message
from twinhost.store.database import Database

MIGRATIONS = (
    """
    CREATE TABLE memory (id INTEGER PRIMARY KEY CHECK (id = 1), record BLOB NOT NULL) STRICT;
    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL,
        destination TEXT NOT NULL,
        message BLOB NOT NULL,
        queued_at REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX outbox_by_destination ON outbox (destination, seq);
    """,
)
FIRST_RETRY_S, MOST_RETRY_S = 2.0, 900.0
KEPT_S = 7 * 86_400.0  # a message that nobody takes; it would only be history


@dataclass(frozen=True, slots=True)
class Letter:
    """A message for one destination."""

    seq: int
    message_id: str
    destination: str
    message: bytes
    attempts: int
    next_at: float
    queued_at: float


class Outbox:
    """The rows; for any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()

    def memory(self) -> Memory:
        """Return what was told, as it was kept last."""
        with self._lock:
            record = self._database.value("SELECT record FROM memory")
        return Memory() if record is None else msgspec.json.decode(record, type=Memory)

    def keep(self, memory: Memory, message: Message | None, destinations: Collection[str], now: float) -> None:
        """Keep what is told now, and queue the message for each destination, both or neither.

        Raises:
            StoreUnavailable: neither was kept.
        """
        with self._lock, self._database.transaction():
            self._database.execute(
                "INSERT INTO memory VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                (msgspec.json.encode(memory),),
            )
            if message is not None:
                name, encoded = uuid.uuid4().hex, msgspec.json.encode(message)
                self._database.execute_many(
                    "INSERT INTO outbox (message_id, destination, message, queued_at, next_at) VALUES (?, ?, ?, ?, ?)",
                    [(name, destination, encoded, now, now) for destination in destinations],
                )

    def drop(self, destinations: Collection[str], now: float) -> int:
        """Delete what is for none of these destinations, or too old; return how many messages."""
        marks = ", ".join("?" * len(destinations))
        with self._lock:
            return self._database.execute(
                f"DELETE FROM outbox WHERE destination NOT IN ({marks}) OR queued_at < ?",  # noqa: S608 - question marks
                (*destinations, now - KEPT_S),
            ).rowcount

    def due(self, destination: str, now: float) -> Letter | None:
        """Return the first message for a destination, if it is time to try it."""
        letter = self._first(destination)
        return letter if letter is not None and not now < letter.next_at <= now + MOST_RETRY_S else None

    def waits_since(self, destination: str) -> float | None:
        """Return since when the first message waits that was tried in vain."""
        letter = self._first(destination)
        return letter.queued_at if letter is not None and letter.attempts else None

    def delivered(self, letter: Letter) -> None:
        """Forget a message that its destination has taken."""
        with self._lock:
            self._database.execute("DELETE FROM outbox WHERE seq = ?", (letter.seq,))

    def failed(self, letter: Letter, now: float) -> float:
        """Put a message off, and return for how many seconds."""
        wait_s = min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(letter.attempts, 20))
        with self._lock:
            self._database.execute(
                "UPDATE outbox SET attempts = attempts + 1, next_at = ? WHERE seq = ?", (now + wait_s, letter.seq)
            )
        return wait_s

    def _first(self, destination: str) -> Letter | None:
        with self._lock:
            return self._database.select_one(
                Letter,
                "SELECT seq, message_id, destination, message, attempts, next_at, queued_at FROM outbox "
                "WHERE destination = ? ORDER BY seq LIMIT 1",
                (destination,),
            )
