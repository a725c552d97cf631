"""The outbox: requests for mainpc, stored in the agent's own database until mainpc has answered them.

A row is added in the transaction of the request that caused it, so it exists exactly if that request was acknowledged.
It is queued for delivery once it is durable, in order, and deleted once mainpc has answered. If the agent is killed in
between, it sends the request again; mainpc recognises the id inside it and counts it once.

The table is limited in rows and bytes. A new row makes room by dropping older ones: the oldest samples first, then the
oldest events, and nothing more important than itself. An error report is never dropped: if there is nothing else to
drop, further requests are refused.

Registration and heartbeats are not stored: they describe the present state, and the link sends them when it can.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog

from twinhost.agent.membership.delivery import DeliveryQueue, Kind, Undelivered, size_of
from twinhost.moments import iso_time
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.errors import LimitReached, MessageTooLarge, StoreUnavailable
from twinhost.store.database import Database

_log = structlog.get_logger(__name__)

MIGRATION = """
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    action TEXT NOT NULL,
    fields BLOB NOT NULL,
    request_id TEXT NOT NULL,
    added REAL NOT NULL,
    written_by TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_kind ON outbox (kind, seq);
"""
MAX_ROWS = 20_000  # the samples of 27 hours at one every 5 s; mainpc recognises the newest 40,000
MAX_TOTAL_BYTES = 16 * 1024 * 1024  # all of it is in memory too
MAX_BYTES = 58_000  # of one request's fields; mainpc's feed carries no larger event
MAX_MESSAGE_CHARACTERS = 16_384  # that mainpc accepts
_RETRY_S = 1.0  # after a failed transaction
_KINDS = tuple(Kind)  # least important first
_SELECT_ALL = (  # text that may not be UTF-8 is read as bytes, and fields that may be too large are not read
    "SELECT seq, CAST(kind AS BLOB) AS kind, CAST(action AS BLOB) AS action, "
    "CASE WHEN length(fields) <= ? THEN fields END AS content, CAST(request_id AS BLOB) AS request_id, added "
    "FROM outbox ORDER BY seq"
)
_MARK_FOREIGN = "UPDATE outbox SET kind = 'strange ' || kind WHERE seq = ? AND kind IN (?, ?, ?)"  # all of Kind
_MAX_TIME = 253_402_300_799.0  # the last second that ISO-8601 can represent

Severity = Literal["info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True)
class _Usage:
    rows: int = 0
    size: int = 0


class Outbox:
    """The rows on disk, for the thread that owns the database; `queue` is their delivery, for other threads."""

    def __init__(
        self, database: Database, agent: str, *, max_rows: int = MAX_ROWS, max_total_bytes: int = MAX_TOTAL_BYTES
    ) -> None:
        """Load the requests that an earlier process did not deliver; `agent` is who sends them."""
        self._database = database
        self.clock = database.clock
        self._agent = agent
        self._max_rows = max_rows
        self._max_total_bytes = max_total_bytes
        self._usage = dict.fromkeys(Kind, _Usage())
        self._retry_at = 0.0
        self._budget = LogBudget(self.clock.monotonic)  # by kind
        self.queue = DeliveryQueue()
        self._load()

    def publish(self, event_type: str, data: dict[str, Any], *, written_by: str | None = None) -> None:
        """Store an event of this agent for mainpc; if the outbox is full of more important rows, drop and count it.

        Within a transaction the event is part of it. Outside one, as in a function called after a commit, it is durable
        with the next tick.

        Args:
            written_by: the caller whose request caused it; None for the agent itself.
        """
        event = {
            "event_id": uuid.uuid4().hex,
            "event_type": event_type,
            "source_agent": self._agent,
            "timestamp": iso_time(self.clock.time()),
            "data": data,
        }
        self._add_or_defer(Kind.EVENT, "publish_event", {"event": event}, written_by)

    def report_error(
        self,
        error_type: str,
        message: str,
        *,
        severity: Severity = "error",
        context: dict[str, Any] | None = None,
        written_by: str | None = None,
    ) -> None:
        """Store an error report of this agent for mainpc, as `publish` does with an event; a long message is cut."""
        error = {
            "error_id": uuid.uuid4().hex,
            "agent_id": self._agent,
            "severity": severity,
            "error_type": error_type,
            "message": message[:MAX_MESSAGE_CHARACTERS],
            "timestamp": iso_time(self.clock.time()),
            "context": context,
        }
        self._add_or_defer(Kind.ERROR, "report_error", {"error": error}, written_by)

    def add(self, kind: Kind, action: str, fields: Mapping[str, Any], written_by: str | None = None) -> None:
        """Store a request for mainpc in the transaction under way; it is queued once it is durable.

        Args:
            action: one that mainpc deduplicates.
            written_by: the caller whose request caused it; None for the agent itself.

        Raises:
            LimitReached: the outbox is full, and has nothing that may be dropped for this.
            MessageTooLarge: it is larger than what mainpc accepts.
        """
        if not self._database.in_transaction:
            raise RuntimeError("an outbox row must be added in the transaction of the change that causes it")
        content = msgspec.json.encode(fields)
        if len(content) > MAX_BYTES:
            raise MessageTooLarge(
                f"a request for mainpc has {len(content)} bytes of JSON and {MAX_BYTES} are allowed; send less data"
            )
        self._restore_usage_on_rollback()
        self._make_room(kind, size_of(len(content)))
        request_id, now = uuid.uuid4().hex, self.clock.time()
        seq = self._database.value(
            "INSERT INTO outbox (kind, action, fields, request_id, added, written_by) VALUES (?, ?, ?, ?, ?, ?) "
            "RETURNING seq",
            (kind.value, action, content, request_id, now, written_by or self._agent),
        )
        request = Undelivered(seq, kind, action, content, request_id, now)
        self._count(kind, 1, request.size)
        self._database.after_commit(self.queue.put, request)

    def tick(self) -> None:
        """Delete delivered rows and add deferred requests, in one transaction; call it at every tick.

        Raises:
            StoreUnavailable: nothing was written; it is retried after a second.
        """
        clock = self.clock.monotonic()
        if clock < self._retry_at:
            return
        delivered, deferred = self.queue.take_changes()
        if not delivered and not deferred:
            return
        try:
            with self._database.transaction():
                self._restore_usage_on_rollback()
                self._delete(delivered)
                for request in deferred:
                    self._add_or_drop(request.kind, request.action, request.fields)
        except StoreUnavailable:
            self.queue.put_changes_back(delivered, deferred)
            self._retry_at = clock + _RETRY_S
            raise

    def _load(self) -> None:
        """Queue the rows of an earlier process; mark those that this agent can't have written.

        A restored backup may have such rows. The agent starts nevertheless: they stay on disk, under a kind that is
        never counted, sent or dropped, and health reports them. Action and fields are checked before sending.
        """
        foreign: list[int] = []
        total = rows = 0
        for row in self._database.rows(dict[str, Any], _SELECT_ALL, (self._max_total_bytes,)):  # never all in memory
            request = _parse(**row)
            if request is None or rows == self._max_rows or total + request.size > self._max_total_bytes:
                foreign.append(row["seq"])
                continue
            rows, total = rows + 1, total + request.size
            self._count(request.kind, 1, request.size)
            self.queue.put(request)
        if foreign:
            with self._database.transaction():
                self._database.execute_many(_MARK_FOREIGN, ((seq, *Kind) for seq in foreign))
            self.queue.count_foreign(len(foreign))
            _log.error("outbox_foreign_rows", rows=len(foreign), first=foreign[0])

    def _add_or_defer(self, kind: Kind, action: str, fields: Mapping[str, Any], written_by: str | None) -> None:
        if self._database.in_transaction:
            self._add_or_drop(kind, action, fields, written_by)
        else:
            self.queue.defer(kind, action, fields)

    def _add_or_drop(self, kind: Kind, action: str, fields: Mapping[str, Any], written_by: str | None = None) -> None:
        try:
            self.add(kind, action, fields, written_by)
        except (LimitReached, MessageTooLarge):
            self._database.after_commit(self._count_dropped, kind)

    def _make_room(self, kind: Kind, size: int) -> None:
        """Drop older rows, least important first, until there is room for one of this kind."""
        droppable = [candidate for candidate in _KINDS[: _KINDS.index(kind) + 1] if candidate is not Kind.ERROR]
        rows = sum(usage.rows for usage in self._usage.values()) + 1
        total = sum(usage.size for usage in self._usage.values()) + size
        too_many_rows = rows > self._max_rows + sum(self._usage[candidate].rows for candidate in droppable)
        if too_many_rows or total > self._max_total_bytes + sum(self._usage[candidate].size for candidate in droppable):
            raise LimitReached(
                f"the outbox is full: {rows - 1} requests wait for mainpc and none may be dropped for this; to check "
                "the link to mainpc, run: ./twinhost doctor; see also the warnings in this agent's health"
            )
        for candidate in droppable:
            while self._usage[candidate].rows and (rows > self._max_rows or total > self._max_total_bytes):
                total -= self._delete(self._oldest_of(candidate))
                rows -= 1
                self._database.after_commit(self._count_dropped, candidate)

    def _oldest_of(self, kind: Kind) -> list[int]:
        rows = self._database.execute("SELECT seq FROM outbox WHERE kind = ? ORDER BY seq LIMIT 1", (kind.value,))
        return [seq for (seq,) in rows]

    def _delete(self, numbers: Iterable[int]) -> int:
        """Delete rows; return how many bytes they took."""
        freed = 0
        for seq in numbers:
            row = self._database.execute(
                "DELETE FROM outbox WHERE seq = ? RETURNING kind, length(fields)", (seq,)
            ).fetchone()
            if row is None:  # it was dropped before its delivery was recorded
                continue
            kind, content_bytes = row
            freed += size_of(content_bytes)
            self._count(Kind(kind), -1, -size_of(content_bytes))
            self._database.after_commit(self.queue.remove, seq)
        return freed

    def _count_dropped(self, kind: Kind) -> None:
        self.queue.count_dropped(kind)
        self._budget.log(_log.warning, "outbox_dropped", kind, kind=kind.value)

    def _count(self, kind: Kind, rows: int, size: int) -> None:
        usage = self._usage[kind]
        self._usage[kind] = _Usage(usage.rows + rows, usage.size + size)

    def _restore_usage_on_rollback(self) -> None:
        self._database.on_rollback(setattr, self, "_usage", dict(self._usage))


def _parse(
    seq: int, kind: bytes, action: bytes, content: bytes | None, request_id: bytes, added: float
) -> Undelivered | None:
    """Return the request in a row; None if this agent can't have written it."""
    if content is None or not 0 <= added <= _MAX_TIME:
        return None
    try:
        return Undelivered(seq, Kind(kind.decode()), action.decode(), content, request_id.decode(), added)
    except ValueError:
        return None
