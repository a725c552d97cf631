"""Stored replies to mutating requests (idempotency): a retry gets the stored reply and is never executed again.

A row has one caller's replies of one transaction. Rows are appended in order, at the end of their transaction, and
found through dictionaries that are loaded at the start: with random ids as the table's key, the server made only a
fifth as many commits. The dictionaries have a digest of each id, so that an entry takes as much memory whatever id its
caller chose.
"""

import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

import msgspec
import structlog

from twinhost.heap import give_back
from twinhost.store.database import Database

_log = structlog.get_logger(__name__)

SCHEMA = """
CREATE TABLE replies (
    seq INTEGER PRIMARY KEY,
    caller TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    reply BLOB NOT NULL
) STRICT;
"""
MIGRATION_BY_TRANSACTION = """
ALTER TABLE replies RENAME TO single_replies;
CREATE TABLE replies (
    seq INTEGER PRIMARY KEY,
    caller TEXT NOT NULL,
    requests TEXT NOT NULL,
    digests BLOB NOT NULL,
    replies BLOB NOT NULL
) STRICT;
INSERT INTO replies
    SELECT seq, caller, json_array(json_array(request_id, length(reply))), digest, reply
    FROM single_replies ORDER BY seq;
DROP TABLE single_replies;
"""
KEEP_BYTES_PER_CALLER = 67_108_864
_ROW_BYTES = 262_144  # of replies; a row that has as many gets no more
_MANY = 4_096  # replies; the memory of fewer is not worth a pause
_KEY_BYTES = 16
_EVICT_AT_ONCE = 10_000  # rows per tick of 0.2 s: more than can be added, and no tick takes long
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[tuple[str, int]])  # the column `requests`: each id, and the bytes of its reply


class StoredReply(msgspec.Struct, frozen=True, gc=False):
    """A reply, and the digest of the request body that it answered."""

    digest: bytes
    reply: bytes


class _Row(msgspec.Struct, gc=False):
    """A row as it is known in memory: the keys of its requests in order, the bytes of its replies, and its time."""

    seq: int
    keys: bytes = b""  # all of them in one; of a row with one request, the same object as in `by_key`
    size: int = 0
    moment: float = 0.0  # when it was written

    def __len__(self) -> int:
        return len(self.keys) // _KEY_BYTES

    def each_key(self) -> Iterator[bytes]:
        return (self.keys[start : start + _KEY_BYTES] for start in range(0, len(self.keys), _KEY_BYTES))


class _Waiting(msgspec.Struct, gc=False):
    """A row to be written at the end of the transaction under way."""

    row: _Row
    share: "_Share"
    request_ids: list[str]
    keys: list[bytes]
    digests: list[bytes]
    replies: list[bytes]

    def columns(self) -> tuple[int, str, str, bytes, bytes]:
        requests = _encoder.encode(list(zip(self.request_ids, map(len, self.replies), strict=True)))
        return self.row.seq, self.share.caller, requests.decode(), b"".join(self.digests), b"".join(self.replies)


@dataclass(slots=True)
class _Share:
    """One caller's replies: the rows that have them, by key and oldest first; the number and size of all."""

    caller: str
    by_key: dict[bytes, _Row] = field(default_factory=dict)
    order: deque[_Row] = field(default_factory=deque)
    number: int = 0
    size: int = 0
    waiting: _Waiting | None = None  # to which this transaction's replies are added

    def append(self, row: _Row) -> None:
        self.order.append(row)
        self.number += len(row)
        self.size += row.size

    def evict(self) -> _Row:
        """Forget the oldest row."""
        row = self.order.popleft()
        self._subtract(row)
        for key in row.each_key():
            if self.by_key.get(key) is row:  # not a newer use of an evicted id
                del self.by_key[key]
        return row

    def undo_append(self) -> None:
        self._subtract(self.order.pop())

    def _subtract(self, row: _Row) -> None:
        self.number -= len(row)
        self.size -= row.size


def _join_replies(database: Database) -> None:
    """Bring the table into today's form, for an agent of others whose migrations don't: they are its own."""
    if any(column == "requests" for _, column, *_ in database.execute("PRAGMA table_info(replies)")):
        return
    with database.transaction():
        for statement in filter(str.strip, MIGRATION_BY_TRANSACTION.split(";")):
            database.execute(statement)


class ReplyLog:
    """Replies by (caller, request_id): the newest `keep_per_caller` of a caller, each for `keep_s` seconds.

    One caller's replies take at most `keep_bytes_per_caller` bytes. A caller that exceeds this evicts its own oldest
    replies, so it must retry sooner. Those of one row are evicted together, once all of them exceed a limit; the newest
    row is kept whatever its size.

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
        self._clock = database.clock
        self._keep_s = keep_s
        self._keep_per_caller = keep_per_caller
        self._keep_bytes_per_caller = keep_bytes_per_caller
        self._shares: dict[str, _Share] = {}
        self._most = 0  # entries since memory was last given back
        self._evicted: deque[int] = deque()
        self._waiting: list[_Waiting] = []
        self._next_seq = 1
        _join_replies(database)
        database.before_every_commit(self._write)
        now = self._clock.monotonic()
        for seq, caller, requests, size in database.execute(
            "SELECT seq, caller, requests, length(replies) FROM replies ORDER BY seq"
        ):
            keys = [_key(request_id) for request_id, _ in _requests(seq, requests)]
            row = _Row(seq, b"".join(keys), size, now)
            share = self._share(caller)
            share.by_key |= dict.fromkeys(keys, row)
            share.append(row)
            self._next_seq = seq + 1

    def __len__(self) -> int:
        return sum(len(share.by_key) for share in self._shares.values())

    def keep(self, keep_s: float, keep_per_caller: int) -> None:
        """Change for how many seconds replies are kept, and how many of a caller."""
        self._keep_s, self._keep_per_caller = keep_s, keep_per_caller

    def find(self, caller: str, request_id: str) -> StoredReply | None:
        """Return the reply that was given to this request before, or None."""
        share = self._shares.get(caller)
        row = None if share is None else share.by_key.get(_key(request_id))
        if row is None:
            return None
        for waiting in self._waiting:
            if waiting.row is row:
                place = waiting.request_ids.index(request_id)
                return StoredReply(waiting.digests[place], waiting.replies[place])
        requests, digests, replies = self._database.execute(
            "SELECT requests, digests, replies FROM replies WHERE seq = ?", (row.seq,)
        ).fetchone()
        ids, sizes = zip(*_decoder.decode(requests), strict=True)
        place = ids.index(request_id)
        start, width = sum(sizes[:place]), len(digests) // len(sizes)
        return StoredReply(digests[place * width : (place + 1) * width], replies[start : start + sizes[place]])

    def add(self, caller: str, request_id: str, digest: bytes, reply: bytes) -> None:
        """Store a reply in the transaction under way."""
        share = self._share(caller)
        waiting = share.waiting
        if waiting is None or waiting.row.size >= _ROW_BYTES:
            waiting = share.waiting = _Waiting(_Row(self._next_seq), share, [], [], [], [])
            self._waiting.append(waiting)
            self._next_seq += 1
        key = _key(request_id)
        waiting.request_ids.append(request_id)
        waiting.keys.append(key)
        waiting.digests.append(digest)
        waiting.replies.append(reply)
        waiting.row.size += len(reply)
        share.by_key[key] = waiting.row
        self._database.on_rollback(_undo_add, waiting)

    def forget_old(self) -> None:
        """Evict replies that have expired or exceed their caller's limits; called between batches."""
        too_old = self._clock.monotonic() - self._keep_s
        self._most = max(self._most, len(self))
        for share in self._shares.values():
            order = share.order
            while order and (order[0].moment < too_old or self._is_over_limit(share)):
                self._evicted.append(share.evict().seq)
        if not self._evicted:
            self._give_memory_back()
            return
        chosen = list(islice(self._evicted, _EVICT_AT_ONCE))
        with self._database.transaction():
            self._database.execute_many("DELETE FROM replies WHERE seq = ?", ((seq,) for seq in chosen))
        for _ in chosen:
            self._evicted.popleft()

    def _give_memory_back(self) -> None:
        """Return the memory of a burst to the system, once most of its replies are evicted."""
        if self._most < _MANY or len(self) > self._most // 4:
            return
        for share in self._shares.values():
            share.by_key = dict(share.by_key)  # a dictionary never shrinks by itself
        self._most = len(self)
        gc.collect()  # empties Python's lists of free objects, each of which keeps a block of memory in use
        give_back()

    def _share(self, caller: str) -> _Share:
        share = self._shares.get(caller)
        if share is None:
            share = self._shares[caller] = _Share(caller)
        return share

    def _write(self) -> None:
        if not self._waiting:
            return
        rows = [waiting for waiting in self._waiting if waiting.replies]  # an empty one was undone
        self._database.execute_many("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", map(_Waiting.columns, rows))
        for waiting in self._waiting:
            waiting.share.waiting = None
        self._waiting.clear()
        now = self._clock.monotonic()
        for waiting in rows:
            waiting.row.keys, waiting.row.moment = b"".join(waiting.keys), now
            waiting.share.append(waiting.row)
            self._database.on_rollback(waiting.share.undo_append)

    def _is_over_limit(self, share: _Share) -> bool:
        too_large = share.size > self._keep_bytes_per_caller and len(share.order) > 1
        return too_large or share.number - len(share.order[0]) >= self._keep_per_caller


def _key(request_id: str) -> bytes:
    return blake2b(request_id.encode(), digest_size=_KEY_BYTES).digest()


def _undo_add(waiting: _Waiting) -> None:
    """Take back the newest reply of a row."""
    waiting.request_ids.pop()
    waiting.digests.pop()
    waiting.row.size -= len(waiting.replies.pop())
    del waiting.share.by_key[waiting.keys.pop()]


def _requests(seq: int, text: str) -> list[tuple[str, int]]:
    """Return the column `requests`; of a damaged row nothing, so that it expires like others."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        _log.error("stored_replies_damaged", row=seq, reason=str(error))
        return []
