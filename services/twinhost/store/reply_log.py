"""Stored replies to mutating requests (idempotency): a retry gets the stored reply and is never executed again.

Rows are appended in order, at the end of their transaction, and found through a dictionary that is loaded at the start:
with random ids as the table's key, the server made only a fifth as many commits.
"""

import time
from collections import deque
from dataclasses import dataclass, field

import msgspec

from twinhost.store.database import Database

SCHEMA = """
CREATE TABLE replies (
    seq INTEGER PRIMARY KEY,
    caller TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    reply BLOB NOT NULL
) STRICT;
"""
KEEP_BYTES_PER_CALLER = 67_108_864
_EVICT_AT_ONCE = 20_000  # rows per tick of 0.2 s: more than can be added, and no tick takes long


class StoredReply(msgspec.Struct, frozen=True, gc=False):
    """A reply, and the digest of the request body that it answered."""

    digest: bytes
    reply: bytes


class _Entry(msgspec.Struct, frozen=True, gc=False):
    seq: int
    digest: bytes


@dataclass(slots=True)
class _Share:
    """One caller's replies, oldest first: time, row, id and size of each; and the size of all."""

    order: deque[tuple[float, int, str, int]] = field(default_factory=deque)
    size: int = 0

    def append(self, moment: float, seq: int, request_id: str, size: int) -> None:
        self.order.append((moment, seq, request_id, size))
        self.size += size


class ReplyLog:
    """Replies by (caller, request_id): the newest `keep_per_caller` of a caller, each for `keep_s` seconds.

    One caller's replies take at most `keep_bytes_per_caller` bytes; the newest is kept whatever its size. A caller that
    exceeds this evicts its own oldest replies, so it must retry sooner.

    Ages are monotonic, so that a change of the wall clock evicts nothing; a restart starts every reply's time again.
    """

    def __init__(
        self,
        database: Database,
        keep_s: float,
        keep_per_caller: int,
        keep_bytes_per_caller: int = KEEP_BYTES_PER_CALLER,
    ) -> None:
        self._database = database
        self._keep_s = keep_s
        self._keep_per_caller = keep_per_caller
        self._keep_bytes_per_caller = keep_bytes_per_caller
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._shares: dict[str, _Share] = {}
        self._evicted: deque[int] = deque()
        self._waiting: dict[
            int, tuple[int, str, str, bytes, bytes]
        ] = {}  # rows to be written at the end of the transaction under way
        self._next_seq = 1
        database.before_every_commit(self._write)
        now = time.monotonic()
        for seq, caller, request_id, digest, size in database.execute(
            "SELECT seq, caller, request_id, digest, length(reply) FROM replies ORDER BY seq"
        ):
            self._entries[caller, request_id] = _Entry(seq, digest)
            self._shares.setdefault(caller, _Share()).append(now, seq, request_id, size)
            self._next_seq = seq + 1

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, caller: str, request_id: str) -> StoredReply | None:
        """Return the reply that was given to this request before, or None."""
        entry = self._entries.get((caller, request_id))
        if entry is None:
            return None
        waiting = self._waiting.get(entry.seq)
        if waiting is not None:
            return StoredReply(entry.digest, waiting[-1])
        (reply,) = self._database.execute("SELECT reply FROM replies WHERE seq = ?", (entry.seq,)).fetchone()
        return StoredReply(entry.digest, reply)

    def add(self, caller: str, request_id: str, digest: bytes, reply: bytes) -> None:
        """Store a reply in the transaction under way."""
        seq = self._next_seq
        self._waiting[seq] = (seq, caller, request_id, digest, reply)
        self._next_seq = seq + 1
        self._entries[caller, request_id] = _Entry(seq, digest)
        share = self._shares.setdefault(caller, _Share())
        share.append(time.monotonic(), seq, request_id, len(reply))

        def undo() -> None:
            self._waiting.pop(seq, None)
            share.order.pop()
            share.size -= len(reply)
            del self._entries[caller, request_id]

        self._database.on_rollback(undo)

    def forget_old(self) -> None:
        """Evict replies that have expired or exceed their caller's limits; called between batches."""
        too_old = time.monotonic() - self._keep_s
        for caller, share in self._shares.items():
            while share.order and (share.order[0][0] < too_old or self._is_over_limit(share)):
                _, seq, request_id, size = share.order.popleft()
                share.size -= size
                self._evicted.append(seq)
                entry = self._entries.get((caller, request_id))
                if entry is not None and entry.seq == seq:  # not a newer use of an evicted id
                    del self._entries[caller, request_id]
        if not self._evicted:
            return
        chosen = [self._evicted[index] for index in range(min(len(self._evicted), _EVICT_AT_ONCE))]
        with self._database.transaction():
            self._database.execute_many("DELETE FROM replies WHERE seq = ?", ((seq,) for seq in chosen))
        for _ in chosen:
            self._evicted.popleft()

    def _write(self) -> None:
        if self._waiting:
            self._database.execute_many("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", self._waiting.values())
            self._waiting.clear()

    def _is_over_limit(self, share: _Share) -> bool:
        too_large = share.size > self._keep_bytes_per_caller and len(share.order) > 1
        return too_large or len(share.order) > self._keep_per_caller
