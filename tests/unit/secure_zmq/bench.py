"""A small agent without a socket: a dispatcher over a real database, with a counter kept in memory too."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tests.new_database import open_database
from tests.older_database import REPLY_LOG_MIGRATIONS
from twinhost.secure_zmq.actions import Action, InParts, Translation
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher, Store
from twinhost.secure_zmq.errors import NotFound
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.wire import Reply, Request
from twinhost.store.reply_log import ReplyLog

LIMIT = 10_000
NAP_S = 0.05
TABLES = (
    "CREATE TABLE sums (seq INTEGER PRIMARY KEY, amount INTEGER NOT NULL, written_by TEXT NOT NULL) STRICT;"
    "CREATE TABLE debts (sum INTEGER REFERENCES sums (seq) DEFERRABLE INITIALLY DEFERRED) STRICT"
)
AGENT = Caller("agent", "pc2", frozenset({"agent"}), "SHA256:agent")
OPERATOR = Caller("operator", "operator", frozenset({"operator"}), "SHA256:operator")


class Read(Request, tag="read"):
    """The sum so far."""


class Add(Request, tag="add"):
    """Add to the sum; 13 is refused and 0 is a fault of the program, each after the change was made."""

    amount: int


class AddEach(Request, tag="add_each"):
    """Add several amounts, each in a part of its own; 13 is refused in its part."""

    amounts: list[int]


class Count(Request, tag="count"):
    """Count up to a number, in as many parts, and return the sum before and after that."""

    upto: int


class Nap(Request, tag="nap"):
    """Take some time, outside the transaction of the batch."""


class Reset(Request, tag="reset"):
    """An operator's action."""


class Defer(Request, tag="defer"):
    """Answered later, from somewhere else."""


class Doom(Request, tag="doom"):
    """Leave something behind that makes the commit of the whole batch fail."""


class Bench:
    """The dispatcher, the database under it, and what its handlers did."""

    def __init__(self, path: Path, store: Store | None = None, kind: type[Dispatcher] = Dispatcher) -> None:
        self.database = open_database(path, [*REPLY_LOG_MIGRATIONS, TABLES])
        self.sum = self.rows()
        self.executions: list[int] = []
        self.work_s = 0.0  # that a read takes, and each part of a count
        self.deferred: list[Future[Reply]] = []
        self.answered: dict[str, Any] = {}
        self.dispatcher = kind(
            [
                Action(Read, self._read),
                Action(Add, self._add, mutates=True),
                Action(Reset, self._reset, mutates=True),
                Action(Nap, self._nap, apart=True),
                Action(Doom, self._doom, mutates=True),
                Action(Defer, self._defer),
                Action(AddEach, self._add_each, mutates=True),
                Action(Count, self._count),
            ],
            Grants({"agent": {"read", "add", "doom", "defer", "add_each", "count"}, "operator": {"*"}}),
            store or self.database,
            ReplyLog(self.database, 600, 100),
            LIMIT,
            translate=translate,
            sentence_fields=("error", "reason"),
        )

    def close(self) -> None:
        self.database.close()

    def rows(self) -> int:
        """Return the sum as the file has it."""
        (amount,) = self.database.execute("SELECT coalesce(sum(amount), 0) FROM sums").fetchone()
        return int(amount)

    def ask(self, *messages: dict[str, Any] | bytes, caller: Caller = AGENT) -> list[dict[str, Any]]:
        """Return the replies to one batch of messages of one caller."""
        return self.answer([inbound(message, caller) for message in messages])

    def answer(self, batch: Sequence[Inbound]) -> list[dict[str, Any]]:
        return [json.loads(reply) for reply in self.dispatcher.answer(batch)]

    def handed_in_again(self, message: dict[str, Any], caller: Caller = AGENT) -> Iterator[None]:
        """Hand one request in until it has a reply, which is in `answered` then; yield after each part."""
        again = inbound(message, caller)
        while not (replies := self.dispatcher.answer([again])):
            again.begun = self.dispatcher.begun
            yield
        self.answered = json.loads(replies[0])

    def _add_each(self, request: AddEach, caller: Caller) -> InParts[Reply]:
        for amount in request.amounts:
            self._add(Add(amount=amount), caller)
            yield
        return {"status": "ok", "sum": self.sum}

    def _count(self, request: Count, __: Caller) -> InParts[Reply]:
        before = self.sum
        for _ in range(request.upto):
            if self.work_s:
                time.sleep(self.work_s)
            yield
        return {"status": "ok", "sum": self.sum, "before": before}

    def _read(self, _: Read, __: Caller) -> Reply:
        if self.work_s:
            time.sleep(self.work_s)
        return {"status": "ok", "sum": self.sum}

    def _add(self, request: Add, caller: Caller) -> Reply:
        self.executions.append(request.amount)
        before = self.sum
        self.database.execute("INSERT INTO sums (amount, written_by) VALUES (?, ?)", (request.amount, caller.name))
        self.sum += request.amount
        self.database.on_rollback(lambda: setattr(self, "sum", before))
        if request.amount == 13:
            raise NotFound("there is no 13")
        return {"status": "ok", "sum": self.sum, "inverse": 1 / request.amount}

    def _nap(self, _: Nap, __: Caller) -> Reply:
        time.sleep(NAP_S)
        return {"status": "ok"}

    def _reset(self, _: Reset, __: Caller) -> Reply:
        return {"status": "ok"}

    def _defer(self, _: Defer, __: Caller) -> "Future[Reply]":
        self.deferred.append(Future())
        return self.deferred[-1]

    def _doom(self, _: Doom, __: Caller) -> Reply:
        self.database.execute("INSERT INTO debts VALUES (-1)")
        return {"status": "ok"}


def inbound(message: dict[str, Any] | bytes, caller: Caller = AGENT) -> Inbound:
    """Return a message as the server's loop hands it in."""
    return Inbound(message if isinstance(message, bytes) else json.dumps(message).encode(), caller)


def translate(payload: bytes) -> Translation | None:
    """Speak an older dialect: a bare command."""
    if payload == b"READ":
        return Translation(Read(), lambda reply: {"SUM": reply["sum"]}, lambda error: {"ERROR": str(error)})
    if payload == b"BREAK":
        raise KeyError("a fault of the translator")
    return None
