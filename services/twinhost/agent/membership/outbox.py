"""What this agent owes mainpc, in the agent's own database until mainpc has it: an agent that is cut off loses nothing.

A row is added in the transaction of the request that caused it, so that it is there exactly where that request was
acknowledged. It goes to the link once it is durable, in the order of adding, and is deleted once mainpc has answered.
Killed in between, the agent sends it again; mainpc knows it by the id inside it and counts it once.

The table is bounded in rows and bytes. What is added makes room for itself: the oldest samples give way first, then
the oldest events, and nothing gives way to what is worth less. An error report never does: where nothing else is left
to go, what comes in addition is refused to who added it.

Registration and heartbeats are states: the link makes them anew whenever it is in touch, and none need wait here.
"""

import functools
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog

from twinhost.agent.health import iso_time
from twinhost.agent.membership.outbox_rows import MIGRATION, load
from twinhost.agent.membership.owed_queue import Kind, Owed, OwedQueue, size_of
from twinhost.secure_zmq.errors import LimitReached, MessageTooLarge, StoreUnavailable
from twinhost.secure_zmq.rate_limit import LogBudget
from twinhost.store.database import Database

__all__ = ["MAX_BYTES", "MIGRATION", "MOST", "MOST_BYTES", "Outbox"]

_log = structlog.get_logger(__name__)

MOST = 20_000  # rows: the samples of 27 hours at one every 5 s; mainpc knows the newest 40,000 again
MOST_BYTES = 16 * 1024 * 1024  # all of it is in memory too
MAX_BYTES = 58_000  # of the fields of one; mainpc's feed carries no larger event
MAX_MESSAGE_CHARACTERS = 16_384  # as mainpc takes it
_RETRY_S = 1.0  # until a transaction that failed is tried again
_WORTH = tuple(Kind)

Severity = Literal["info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True)
class _Held:
    rows: int = 0
    size: int = 0


class Outbox:
    """The rows on disk; used by the thread that owns the database. `queue` is what other threads see of them."""

    def __init__(self, database: Database, agent: str, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        """Load what an earlier process did not get rid of; `agent` is who owes it all."""
        self._database = database
        self._agent = agent
        self._most = most
        self._most_bytes = most_bytes
        self._held = dict.fromkeys(Kind, _Held())
        self._retry_at = 0.0
        self._budget = LogBudget()  # by kind
        self.queue = OwedQueue()
        for owed in load(database, most, most_bytes, self.queue):
            self._count(owed.kind, 1, owed.size)
            self.queue.put(owed)

    def tell(self, event_type: str, data: dict[str, Any], *, written_by: str | None = None) -> None:
        """Owe mainpc an event of this agent; where there is no room for it, it is let go, and counted.

        In a transaction it is owed with it. Outside one, as in what is done after a commit, it is durable with the next
        tick.

        Args:
            written_by: whose request caused it; the agent itself where nobody's did.
        """
        event = {
            "event_id": uuid.uuid4().hex,
            "event_type": event_type,
            "source_agent": self._agent,
            "timestamp": iso_time(time.time()),
            "data": data,
        }
        self._owe(Kind.EVENT, "publish_event", {"event": event}, written_by)

    def tell_error(
        self,
        error_type: str,
        message: str,
        *,
        severity: Severity = "error",
        context: dict[str, Any] | None = None,
        written_by: str | None = None,
    ) -> None:
        """Owe mainpc an error report of this agent, as `tell` does an event; what mainpc does not take of it is cut."""
        error = {
            "error_id": uuid.uuid4().hex,
            "agent_id": self._agent,
            "severity": severity,
            "error_type": error_type,
            "message": message[:MAX_MESSAGE_CHARACTERS],
            "timestamp": iso_time(time.time()),
            "context": context,
        }
        self._owe(Kind.ERROR, "report_error", {"error": error}, written_by)

    def add(self, kind: Kind, action: str, fields: Mapping[str, Any], written_by: str | None = None) -> None:
        """Owe mainpc a request, in the transaction under way; the link gets it once that is durable.

        Args:
            action: of mainpc's table: one that counts what is told twice once.
            fields: its fields.
            written_by: whose request caused it; the agent itself where nobody's did.

        Raises:
            LimitReached: there is no room, and nothing is there that may give way to it.
            MessageTooLarge: it is larger than what mainpc takes.
        """
        if not self._database.in_transaction:
            raise RuntimeError("what is owed is added in the transaction of what caused it")
        content = msgspec.json.encode(fields)
        if len(content) > MAX_BYTES:
            raise MessageTooLarge(
                f"what mainpc is to be told has {len(content)} bytes of JSON and {MAX_BYTES} are allowed; say less"
            )
        self._undo_to_here()
        self._make_room(kind, size_of(len(content)))
        request_id, now = uuid.uuid4().hex, time.time()
        (seq,) = self._database.execute(
            "INSERT INTO outbox (kind, action, fields, request_id, added, written_by) VALUES (?, ?, ?, ?, ?, ?) "
            "RETURNING seq",
            (kind.value, action, content, request_id, now, written_by or self._agent),
        ).fetchone()
        owed = Owed(seq, kind, action, content, request_id, now)
        self._count(kind, 1, owed.size)
        self._database.after_commit(functools.partial(self.queue.put, owed))

    def tick(self) -> None:
        """Delete what has arrived, and add what other threads left, in one transaction; every 0.2 s or so.

        Raises:
            StoreUnavailable: nothing of it is on disk; it is tried again after a second.
        """
        clock = time.monotonic()
        if clock < self._retry_at:
            return
        arrived, left = self.queue.take_notes()
        if not arrived and not left:
            return
        try:
            with self._database.transaction():
                self._undo_to_here()
                self._take_out(arrived)
                for each in left:
                    self._add_or_let_go(each.kind, each.action, each.fields)
        except StoreUnavailable:
            self.queue.put_notes_back(arrived, left)
            self._retry_at = clock + _RETRY_S
            raise

    def _owe(self, kind: Kind, action: str, fields: Mapping[str, Any], written_by: str | None) -> None:
        if self._database.in_transaction:
            self._add_or_let_go(kind, action, fields, written_by)
        else:
            self.queue.leave(kind, action, fields)

    def _add_or_let_go(self, kind: Kind, action: str, fields: Mapping[str, Any], written_by: str | None = None) -> None:
        try:
            self.add(kind, action, fields, written_by)
        except (LimitReached, MessageTooLarge):
            self._database.after_commit(functools.partial(self._note_let_go, kind))

    def _make_room(self, kind: Kind, size: int) -> None:
        """Let older things go, those that are worth least first, until there is room for one of this kind."""
        may_go = [each for each in _WORTH[: _WORTH.index(kind) + 1] if each is not Kind.ERROR]
        rows = sum(held.rows for held in self._held.values()) + 1
        total = sum(held.size for held in self._held.values()) + size
        most_rows = self._most + sum(self._held[each].rows for each in may_go)
        if rows > most_rows or total > self._most_bytes + sum(self._held[each].size for each in may_go):
            raise LimitReached(
                f"{rows - 1} things wait for mainpc and none may give way to this; mend the link to mainpc, and see "
                "the warnings in this agent's health"
            )
        for each in may_go:
            while self._held[each].rows and (rows > self._most or total > self._most_bytes):
                total -= self._take_out(self._oldest_of(each, 1))
                rows -= 1
                self._database.after_commit(functools.partial(self._note_let_go, each))

    def _oldest_of(self, kind: Kind, count: int) -> list[int]:
        rows = self._database.execute(
            "SELECT seq FROM outbox WHERE kind = ? ORDER BY seq LIMIT ?", (kind.value, count)
        ).fetchall()
        return [seq for (seq,) in rows]

    def _take_out(self, numbers: Iterable[int]) -> int:
        """Delete rows; return how many bytes they took."""
        freed = 0
        for seq in numbers:
            row = self._database.execute(
                "DELETE FROM outbox WHERE seq = ? RETURNING kind, length(fields)", (seq,)
            ).fetchone()
            if row is None:  # it gave way before mainpc's answer was noted
                continue
            freed += size_of(row[1])
            self._count(Kind(row[0]), -1, -size_of(row[1]))
            self._database.after_commit(functools.partial(self.queue.forget, seq))
        return freed

    def _note_let_go(self, kind: Kind) -> None:
        self.queue.note_let_go(kind)
        left_out = self._budget.admit(kind)
        if left_out is not None:
            _log.warning("owed_let_go", kind=kind.value, not_logged_before=left_out)

    def _count(self, kind: Kind, rows: int, size: int) -> None:
        held = self._held[kind]
        self._held[kind] = _Held(held.rows + rows, held.size + size)

    def _undo_to_here(self) -> None:
        before = dict(self._held)

        def undo() -> None:
            self._held = before

        self._database.on_rollback(undo)
