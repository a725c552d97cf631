"""What is told and what waits to be delivered, in one database.

A message has a row for each destination, which stays until that one has taken it: it arrives at least once. After a
failure it is tried again later and later; the messages of one destination keep their order.

All of it is in memory too: what can't be written, as on a full disk, is delivered all the same, and written later.
"""

import threading
import uuid
from collections.abc import Collection
from dataclasses import astuple, dataclass, replace

import msgspec
import structlog

from twinhost.notify.rules import Memory, Message
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.database import Database

_log = structlog.get_logger(__name__)

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
    """A message for one destination: a row."""

    seq: int
    message_id: str
    destination: str
    message: bytes
    queued_at: float
    attempts: int
    next_at: float


class Outbox:
    """The rows; for any thread."""

    def __init__(self, database: Database) -> None:
        """Read what was told, and what waits."""
        self._database, self._lock = database, threading.Lock()
        self._record = database.value("SELECT record FROM memory") or msgspec.json.encode(Memory())
        self._letters = {letter.seq: letter for letter in database.select(Letter, "SELECT * FROM outbox ORDER BY seq")}
        self._newest = max(self._letters, default=0)
        self._unwritten: set[int] = set()  # letters that were added, put off, or removed
        self.fault: str | None = None  # why something is in memory alone

    def memory(self) -> Memory:
        """Return what was told."""
        return msgspec.json.decode(self._record, type=Memory)

    def keep(self, memory: Memory, message: Message | None, destinations: Collection[str], now: float) -> None:
        """Keep what is told now, and queue the message for each destination; write both, or neither."""
        record = msgspec.json.encode(memory)
        with self._lock:
            changed, self._record = record != self._record, record
            if message is not None:
                name, encoded = uuid.uuid4().hex, msgspec.json.encode(message)
                for destination in destinations:
                    self._newest += 1
                    self._put(Letter(self._newest, name, destination, encoded, now, 0, now))
            if changed or self._unwritten or self.fault is not None:
                self._write()

    def drop(self, destinations: Collection[str], now: float) -> int:
        """Delete what is for none of these destinations, or too old; return how many messages."""
        with self._lock:
            dropped = [
                letter.seq
                for letter in self._letters.values()
                if letter.destination not in destinations or letter.queued_at < now - KEPT_S
            ]
            self._remove(*dropped)
        return len(dropped)

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
            self._remove(letter.seq)

    def failed(self, letter: Letter, now: float) -> float:
        """Put a message off, and return for how many seconds."""
        wait_s = min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(letter.attempts, 20))
        with self._lock:
            if letter.seq in self._letters:  # else it was dropped meanwhile
                self._put(replace(letter, attempts=letter.attempts + 1, next_at=now + wait_s))
                self._write()
        return wait_s

    def _first(self, destination: str) -> Letter | None:
        with self._lock:
            return next((letter for letter in self._letters.values() if letter.destination == destination), None)

    def _put(self, letter: Letter) -> None:
        self._letters[letter.seq] = letter
        self._unwritten.add(letter.seq)

    def _remove(self, *seqs: int) -> None:
        for seq in seqs:
            self._letters.pop(seq, None)
        self._unwritten.update(seqs)
        if seqs:
            self._write()

    def _write(self) -> None:
        try:
            with self._database.transaction():
                self._database.execute(
                    "INSERT INTO memory VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                    (self._record,),
                )
                self._database.execute_many("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in self._unwritten])
                self._database.execute_many(
                    "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [astuple(self._letters[seq]) for seq in sorted(self._unwritten & self._letters.keys())],
                )
        except StoreUnavailable as error:
            if self.fault is None:
                _log.error("notify_not_stored", reason=str(error))
            self.fault = str(error)
        else:
            self.fault = None
            self._unwritten.clear()
