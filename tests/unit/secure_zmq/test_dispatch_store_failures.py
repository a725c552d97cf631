"""A store that fails: what was changed is refused and undone, what was only read is answered."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.secure_zmq.bench import Bench, inbound
from twinhost.secure_zmq.errors import StoreUnavailable, TransactionLost
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.store.database import Database


class FailingStore:
    """A store whose transactions fail, before they begin or when they commit, as long as it is broken."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at = fails_at
        self.broken = True
        self.database: Database | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        assert self.database is not None
        if self.broken and self.fails_at == "begin":
            raise TransactionLost("the store can't be written (disk I/O error)")
        with self.database.transaction():
            yield
            if self.broken:
                raise TransactionLost("the store failed (disk I/O error)")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        assert self.database is not None
        with self.database.savepoint():
            if self.broken and self.fails_at == "savepoint":
                raise StoreUnavailable("the store failed (database or disk is full)")
            yield


def broken_bench(path: Path, fails_at: str) -> tuple[Bench, FailingStore]:
    store = FailingStore(fails_at)
    bench = Bench(path, store)
    store.database = bench.database
    return bench, store


MIXED = (
    {"action": "read", "request_id": "1"},
    {"action": "add", "amount": 2, "request_id": "2"},
    b"garbage",
    {"action": "read", "request_id": "3"},
    {"action": "add", "amount": 3, "request_id": "4"},
)
CODES = ["ok", "store_unavailable", "malformed_request", "ok", "store_unavailable"]


@pytest.mark.parametrize("fails_at", ["begin", "commit"])
def test_a_lost_transaction_refuses_changes_and_answers_the_rest(tmp_path: Path, fails_at: str) -> None:
    """Mutating requests get `store_unavailable`, reading ones their reply from before, and nothing is kept."""
    bench, _ = broken_bench(tmp_path / "db", fails_at)
    with closing(bench):
        replies = bench.ask(*MIXED)
        assert [reply.get("code", reply["status"]) for reply in replies] == CODES
        assert [reply["sum"] for reply in replies if reply["status"] == "ok"] == [0, 0]
        assert bench.sum == bench.rows() == 0
        assert bench.database.execute("SELECT count(*) FROM replies").fetchone() == (0,)
        assert bench.dispatcher.counters.errors == CODES.count("store_unavailable") + CODES.count("malformed_request")


@pytest.mark.parametrize("fails_at", ["begin", "commit", "savepoint"])
def test_a_retry_after_the_store_came_back_is_executed(tmp_path: Path, fails_at: str) -> None:
    """`store_unavailable` means not done: the same id and body are then done, once."""
    bench, store = broken_bench(tmp_path / "db", fails_at)
    with closing(bench):
        message = {"action": "add", "amount": 2, "request_id": "1"}
        assert bench.ask(message)[0]["code"] == "store_unavailable"
        store.broken = False
        for _ in range(2):
            assert bench.ask(message)[0]["sum"] == 2
        assert bench.sum == bench.rows() == 2


def test_a_store_that_refuses_one_statement_refuses_one_request(tmp_path: Path) -> None:
    """Where the transaction itself lives on, the neighbours in the batch do too."""
    bench, _ = broken_bench(tmp_path / "db", "savepoint")
    with closing(bench):
        replies = bench.ask(*MIXED)
        assert [reply.get("code", reply["status"]) for reply in replies] == CODES
        assert bench.sum == bench.rows() == 0


def test_a_refused_commit_keeps_nothing_of_the_batch(tmp_path: Path) -> None:
    """SQLite's own refusal at COMMIT: every change of the batch is undone, also those that had gone well."""
    with closing(Bench(tmp_path / "db")) as bench:
        bench.ask({"action": "add", "amount": 1})
        replies = bench.ask({"action": "add", "amount": 2, "request_id": "1"}, {"action": "doom"}, {"action": "read"})
        assert [reply.get("code", reply["status"]) for reply in replies] == ["store_unavailable"] * 2 + ["ok"]
        assert replies[2]["sum"] == 1
        assert bench.sum == bench.rows() == 1
        assert "nothing of this request was stored" in replies[0]["error"]
        assert bench.ask({"action": "add", "amount": 2, "request_id": "1"})[0]["sum"] == 3


def test_a_full_disk_keeps_nothing_and_passes(tmp_path: Path) -> None:
    """SQLite's own `full`: the request is refused whole, and goes through once there is space."""
    with closing(Bench(tmp_path / "db")) as bench:
        bench.ask(*({"action": "add", "amount": 1} for _ in range(3)))
        (pages,) = bench.database.execute("PRAGMA page_count").fetchone()
        bench.database.execute(f"PRAGMA max_page_count = {pages}")
        done = 3
        while (reply := bench.ask({"action": "add", "amount": 1, "request_id": f"{done}" * 60})[0]).get("sum"):
            done += 1
            assert done < 10_000
        assert reply["code"] == "store_unavailable"
        assert bench.sum == bench.rows() == done
        bench.database.execute("PRAGMA max_page_count = 100000")
        assert bench.ask({"action": "add", "amount": 1, "request_id": f"{done}" * 60})[0]["sum"] == done + 1


class Arriving:
    """What comes while a batch is carried out, a group at a time."""

    def __init__(self, *groups: list[dict[str, Any] | bytes]) -> None:
        self._groups = list(groups)

    def __call__(self) -> list[Inbound]:
        return [inbound(message) for message in self._groups.pop(0)] if self._groups else []


ADDS = [{"action": "add", "amount": amount, "request_id": str(amount)} for amount in (1, 2, 3, 4)]


def test_what_comes_meanwhile_shares_the_commit(tmp_path: Path) -> None:
    """In its order, answered behind the batch, and one transaction for all; a retry among it is not done again."""
    with closing(Bench(tmp_path / "db")) as bench:
        statements: list[str] = []
        bench.database._connection.set_trace_callback(statements.append)
        more = Arriving([ADDS[1], {"action": "read"}], [b"garbage", ADDS[0], ADDS[2]])
        replies = [json.loads(reply) for reply in bench.dispatcher.answer([inbound(ADDS[0])], more)]
        assert [reply.get("sum", reply.get("code")) for reply in replies] == [1, 3, 3, "malformed_request", 1, 6]
        assert statements.count("COMMIT") == 1
        assert bench.rows() == 6
        assert bench.dispatcher.counters.requests == 6


def test_what_only_reads_is_answered_without_looking_for_more(tmp_path: Path) -> None:
    """There is no commit to share, and who asked would wait."""
    with closing(Bench(tmp_path / "db")) as bench:
        more = Arriving([ADDS[0]])
        assert len(bench.dispatcher.answer([inbound({"action": "read"})], more)) == 1
        assert len(more()) == 1


def test_a_commit_that_fails_fails_for_what_came_meanwhile_too(tmp_path: Path) -> None:
    """Each is answered, and nothing is kept of any."""
    with closing(Bench(tmp_path / "db")) as bench:
        more = Arriving([{"action": "doom"}, {"action": "read"}], [ADDS[1]])
        replies = [json.loads(reply) for reply in bench.dispatcher.answer([inbound(ADDS[0])], more)]
        codes = [reply.get("code", reply["status"]) for reply in replies]
        assert codes == ["store_unavailable", "store_unavailable", "ok", "store_unavailable"]
        assert bench.sum == bench.rows() == 0


def test_a_change_waits_for_a_moment_at_most_while_others_come(tmp_path: Path) -> None:
    """However many there are, the commit comes."""

    class Endless:
        def __call__(self) -> list[Inbound]:
            return [inbound({"action": "read"})]

    with closing(Bench(tmp_path / "db")) as bench:
        assert len(bench.dispatcher.answer([inbound(ADDS[0])], Endless())) > 1
        assert bench.rows() == 1


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_answered_later_keeps_its_place_behind_the_batch(tmp_path: Path, fails: bool) -> None:
    """Also where the commit fails: it was asked for already, and is not asked for twice."""
    with closing(Bench(tmp_path / "db")) as bench:
        last: dict[str, Any] = {"action": "doom"} if fails else ADDS[1]
        more = Arriving([{"action": "read"}, {"action": "defer", "request_id": "later"}], [last])
        replies = bench.dispatcher.answer([inbound(ADDS[0])], more)
        assert [reply == b"" for reply in replies] == [False, False, True, False]
        deferred = bench.dispatcher.take_deferred()
        assert (list(deferred), len(bench.deferred)) == ([2], 1)
        bench.deferred[0].set_result({"status": "ok"})
        assert json.loads(bench.dispatcher.settle(deferred[2])) == {"status": "ok", "request_id": "later"}
        assert bench.rows() == (0 if fails else 3)
