"""Requests about another store: its own transaction and stored replies, and its own failures."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.new_database import open_database
from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.unit.secure_zmq.bench import TABLES, inbound
from twinhost.secure_zmq import dispatch
from twinhost.secure_zmq.actions import Action, InParts
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.errors import NotFound, TransactionLost
from twinhost.secure_zmq.wire import Reply, Request
from twinhost.store.database import Database
from twinhost.store.reply_log import ReplyLog


class Put(Request, tag="put"):
    """Add an amount to one of the stores; 13 is refused after the change."""

    amount: int
    where: str = "own"


class PutEach(Put, tag="put_each"):
    """Add an amount three times, each time in a part of its own."""


class Total(Request, tag="total"):
    """The sum in one of the stores."""

    where: str = "own"


class TotalTwice(Total, tag="total_twice"):
    """The sum in one of the stores, looked up in two parts."""


@dataclass(eq=False)
class Place:
    """A store that may fail at its commit, or in a request."""

    database: Database
    replies: ReplyLog
    fails: bool = False
    commits: int = 0

    @property
    def store(self) -> "Place":
        return self

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.database.transaction():
            yield
            self.commits += 1
            if self.fails:
                raise TransactionLost("the store failed (disk I/O error)")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with self.database.savepoint():
            yield

    @property
    def sum(self) -> int:
        return int(self.database.value("SELECT coalesce(sum(amount), 0) FROM sums"))


class Stores:
    """An agent with its own store, and two others."""

    def __init__(self, folder: Path) -> None:
        self.places = {}
        for name in ("own", "one", "two"):
            database = open_database(folder / name, [*REPLY_LOG_MIGRATIONS, TABLES])
            self.places[name] = Place(database, ReplyLog(database, 600, 100))
        own = self.places["own"]
        self.dispatcher = Dispatcher(
            [
                Action(Put, self._put, mutates=True),
                Action(PutEach, self._put_each, mutates=True),
                Action(Total, self._total),
                Action(TotalTwice, self._total_twice),
            ],
            Grants({"agent": {"put", "put_each", "total", "total_twice"}}),
            own,
            own.replies,
            10_000,
            elsewhere=self._elsewhere,
        )

    def close(self) -> None:
        for place in self.places.values():
            place.database.close()

    def ask(self, *messages: dict[str, Any]) -> list[dict[str, Any]]:
        return [json.loads(reply) for reply in self.dispatcher.answer([inbound(message) for message in messages])]

    @property
    def sums(self) -> dict[str, int]:
        return {name: place.sum for name, place in self.places.items()}

    def _elsewhere(self, request: Request, _: Caller) -> Place | None:
        assert isinstance(request, Put)
        return None if request.where == "own" else self.places[request.where]

    def _put(self, request: Put, _: Caller) -> Reply:
        place = self.places[request.where]
        place.database.execute("INSERT INTO sums (amount, written_by) VALUES (?, '')", (request.amount,))
        if request.amount == 13:
            raise NotFound("there is no 13")
        return {"status": "ok", "sum": place.sum}

    def _put_each(self, request: PutEach, caller: Caller) -> InParts[Reply]:
        for _ in range(3):
            reply = self._put(request, caller)
            yield
        return reply

    def _total_twice(self, request: TotalTwice, caller: Caller) -> InParts[Reply]:
        reply = self._total(request, caller)
        yield
        assert reply == self._total(request, caller)
        return reply

    def _total(self, request: Total, _: Caller) -> Reply:
        return {"status": "ok", "sum": self.places[request.where].sum}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with closing(Stores(tmp_path)) as stores:
        yield stores


def put(amount: int, where: str = "own", request_id: str | None = None) -> dict[str, Any]:
    return {"action": "put", "amount": amount, "where": where, "request_id": request_id}


def codes(replies: list[dict[str, Any]]) -> list[str]:
    return [reply.get("code", reply["status"]) for reply in replies]


def test_a_batch_commits_once_in_each_store_that_it_changes(stores: Stores) -> None:
    replies = stores.ask(put(1), put(2, "one"), put(3), put(4, "one"), put(5, "two"), put(13, "two"))
    assert codes(replies) == ["ok"] * 5 + ["not_found"]
    assert stores.sums == {"own": 4, "one": 6, "two": 5}
    assert {name: place.commits for name, place in stores.places.items()} == {"own": 1, "one": 1, "two": 1}


def test_each_store_keeps_the_replies_of_its_own_changes(stores: Stores) -> None:
    first = stores.ask(put(1, "own", "a"), put(2, "one", "b"))
    assert stores.ask(put(1, "own", "a"), put(2, "one", "b")) == first
    assert stores.sums == {"own": 1, "one": 2, "two": 0}
    assert [len(place.replies) for place in stores.places.values()] == [1, 1, 0]
    assert codes(stores.ask(put(7, "one", "b"))) == ["request_id_reused"]


def test_another_store_that_fails_loses_only_its_own_requests(stores: Stores) -> None:
    """Its changes are refused, what was read of them is read again, and a retry is executed."""
    stores.places["one"].fails = True
    messages = [put(1, "own", "a"), put(2, "one", "b"), {"action": "total", "where": "one"}, put(5, "two", "c")]
    replies = stores.ask(*messages)
    assert codes(replies) == ["ok", "store_unavailable", "ok", "ok"]
    assert replies[2]["sum"] == 0
    assert stores.sums == {"own": 1, "one": 0, "two": 5}
    stores.places["one"].fails = False
    assert codes(stores.ask(*messages)) == ["ok"] * 4
    assert stores.sums == {"own": 1, "one": 2, "two": 5}


def test_another_store_that_fails_ends_what_has_begun(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and not begun again and again; a retry does what is left."""
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    monkeypatch.setattr(dispatch, "_GROUP_COMMIT_S", 0.0)
    again = inbound({"action": "put_each", "amount": 2, "where": "one", "request_id": "a"})
    assert stores.dispatcher.answer([again]) == []
    again.begun, stores.places["one"].fails = stores.dispatcher.begun, True
    (refused,) = stores.dispatcher.answer([again, inbound({"action": "total"})])
    assert b"store_unavailable" in refused
    assert stores.dispatcher.begun is None  # the next request is another one
    stores.places["one"].fails, again.begun = False, None
    assert stores.sums["one"] == 2
    while not (replies := stores.dispatcher.answer([again])):
        again.begun = stores.dispatcher.begun
    assert json.loads(replies[0])["sum"] == stores.sums["one"] == 8


@pytest.mark.parametrize("ends", [False, True], ids=["an error", "an end of the transaction"])
def test_an_error_in_a_later_part_is_the_reply(stores: Stores, monkeypatch: pytest.MonkeyPatch, *, ends: bool) -> None:
    """Also where the store then loses what the earlier parts have changed."""
    place = stores.places["one"]
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    later, put_in = False, stores._put

    def failing(request: Put, caller: Caller) -> Reply:
        nonlocal later
        if not later:
            later = True
            return put_in(request, caller)
        if ends:
            place.database._connection.execute("ROLLBACK")
            return put_in(request, caller)
        raise NotFound("there is no 2")

    monkeypatch.setattr(stores, "_put", failing)
    place.fails = True
    replies = stores.ask({"action": "put_each", "amount": 2, "where": "one", "request_id": "a"})
    assert codes(replies) == ["store_unavailable" if ends else "not_found"]
    assert place.sum == 0


def test_what_read_lost_changes_in_parts_reads_again(stores: Stores) -> None:
    stores.places["one"].fails = True
    replies = stores.ask(put(2, "one"), {"action": "total_twice", "where": "one"})
    assert codes(replies) == ["store_unavailable", "ok"]
    assert replies[1]["sum"] == 0


def test_the_own_store_that_fails_undoes_all_of_its_batch(stores: Stores) -> None:
    """No reply has left, so nothing is lost: a retry executes each change once."""
    stores.places["own"].fails = True
    messages = [put(1, "own", "a"), put(2, "one", "b")]
    assert codes(stores.ask(*messages)) == ["store_unavailable"] * 2
    assert stores.sums == {"own": 0, "one": 0, "two": 0}
    stores.places["own"].fails = False
    assert codes(stores.ask(*messages)) == ["ok"] * 2
    assert stores.sums == {"own": 1, "one": 2, "two": 0}


@pytest.mark.parametrize("place", ["one", "two"])
def test_a_transaction_that_ends_by_itself_is_lost_alone(stores: Stores, place: str) -> None:
    """As after an I/O error of SQLite, in the midst of a batch."""
    lost = stores.places[place].database
    put_in = stores._put

    def ending(request: Put, caller: Caller) -> Reply:
        if request.amount == 99:
            lost._connection.execute("ROLLBACK")
        return put_in(request, caller)

    stores.dispatcher._actions[Put] = Action(Put, ending, mutates=True)
    stores.dispatcher._reader._actions = stores.dispatcher._actions
    replies = stores.ask(put(1), put(2, place), put(99, place), put(3, place), put(4))
    assert codes(replies) == ["ok", "store_unavailable", "store_unavailable", "store_unavailable", "ok"]
    assert stores.sums == {"own": 5, "one": 0, "two": 0}
    assert codes(stores.ask(put(2, place))) == ["ok"]


def test_a_store_that_cannot_begin_refuses_only_its_own(stores: Stores) -> None:
    stores.places["one"].database.close()
    assert codes(stores.ask(put(1), put(2, "one"), put(3, "one"), put(4, "two"))) == [
        "ok",
        "store_unavailable",
        "store_unavailable",
        "ok",
    ]
