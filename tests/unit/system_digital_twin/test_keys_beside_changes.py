"""Actions on keys beside changes in one batch: they have no part in its transaction, and lose nothing with it."""

import json
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.system_digital_twin.key_bench import KeyBench
from tests.unit.system_digital_twin.test_own_rotation import confirm
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.keys import Certificate, KeyPair
from twinhost.secure_zmq.wire import Request
from twinhost.store.reply_log import ReplyLog

pytestmark = pytest.mark.sdt_security

DOOMED = Caller("doomed", "pc2", frozenset({"doomed"}), "SHA256:x")
WRITER = Caller("writer", "pc2", frozenset({"everything"}), "SHA256:x")


class Keep(Request, tag="keep"):
    """Insert a row."""


class Look(Request, tag="look"):
    """A read that meets an I/O error, upon which SQLite ends the transaction by itself."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    with KeyBench(tmp_path) as bench:
        yield bench


@pytest.fixture
def rotated(bench: KeyBench) -> tuple[KeyPair, KeyPair]:
    """An agent's old key, and its new one, with which it retires the old one."""
    old = bench.list_key("agent")
    new = confirm(bench, old)
    bench.look()
    return old, new


@contextmanager
def locked(bench: KeyBench) -> Iterator[None]:
    """Have another program hold the lock that a change needs."""
    bench.database._connection.execute("PRAGMA busy_timeout=50")
    with closing(sqlite3.connect(bench.root / "twin.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(bench: KeyBench) -> Iterator[None]:
    """Let no file grow, as on a full volume."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((bench.root / "twin.sqlite3-wal").stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("unwritable", [locked, full])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a change"])
def test_an_unwritable_store_refuses_and_ends_nothing(
    bench: KeyBench, rotated: tuple[KeyPair, KeyPair], unwritable: Any, beside: bool
) -> None:
    """The key stays, since its removal could not be logged; once there is room, it goes."""
    old, new = rotated
    change: list[tuple[str, KeyPair | Caller, dict[str, Any]]] = [("doom", DOOMED, {})] if beside else []
    with unwritable(bench):
        replies = bench.ask_together(*change, ("retire_keys", new, {}))
        assert {reply["code"] for reply in replies} == {"store_unavailable"}
    assert bench.standing(old) != "revoked"
    assert bench.ask("retire_keys", new)["retired"] == [old.public.fingerprint]


def test_a_lost_batch_loses_no_audit_line(bench: KeyBench, rotated: tuple[KeyPair, KeyPair]) -> None:
    """Which key was retired is answered, and logged, though the change beside it could not be stored."""
    old, new = rotated
    retired, lost = bench.ask_together(("retire_keys", new, {}), ("doom", DOOMED, {}))
    assert retired == {"status": "success", "retired": [old.public.fingerprint]}
    assert lost["code"] == "store_unavailable"
    assert bench.standing(old) == "revoked"
    bench.look()
    assert bench.events().count(("key_rotated", "agent")) == 1


def test_the_log_line_is_durable_before_the_key_is_removed(
    bench: KeyBench, rotated: tuple[KeyPair, KeyPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside a change: at that moment another program can read the line."""
    _, new = rotated
    numbers: list[int] = []
    revoke = bench.enrolled.revoke

    def watched(certificate: Certificate) -> None:
        with closing(sqlite3.connect(bench.root / "twin.sqlite3")) as other:
            numbers.extend(
                other.execute(
                    "SELECT count(*) FROM audit_outbox WHERE instr(line, CAST('key_rotated' AS BLOB))"
                ).fetchone()
            )
        revoke(certificate)

    monkeypatch.setattr(bench.enrolled, "revoke", watched)
    bench.ask_together(("doom", DOOMED, {}), ("retire_keys", new, {}))
    assert numbers == [1]


def test_a_batch_that_sqlite_has_ended_is_lost_whole(bench: KeyBench, rotated: tuple[KeyPair, KeyPair]) -> None:
    """No reply of it is stored by a transaction that comes later: the retry is carried out, and not answered "done"."""
    _, new = rotated

    def keep(_: Keep, __: Caller) -> dict[str, Any]:
        bench.database.execute("INSERT INTO sums DEFAULT VALUES")
        return {"status": "success"}

    def look(_: Look, __: Caller) -> dict[str, Any]:
        if bench.database.in_transaction:
            bench.database._connection.execute("ROLLBACK")  # as it does on an I/O error
            raise StoreUnavailable("disk I/O error")
        return {"status": "success"}

    dispatcher = Dispatcher(
        [*bench.actions.actions(), Action(Keep, keep, mutates=True), Action(Look, look)],
        Grants({"everything": {"*"}, "agent": {"retire_keys"}}),
        bench.database,
        ReplyLog(bench.database, 600, 100),
        65_536,
    )

    def ask(*requests: tuple[dict[str, Any], Caller]) -> list[dict[str, Any]]:
        batch = [Inbound(json.dumps(request).encode(), caller) for request, caller in requests]
        return [json.loads(reply) for reply in dispatcher.answer(batch)]

    kept = ({"action": "keep", "request_id": "1"}, WRITER)
    replies = ask(kept, ({"action": "look"}, WRITER), ({"action": "retire_keys"}, bench.caller(new)), kept)
    assert [reply.get("code", "success") for reply in replies] == [
        "store_unavailable",
        "success",  # asked again, once the transaction was lost
        "success",
        "store_unavailable",
    ]
    assert bench.database.execute("SELECT count(*) FROM sums").fetchone() == (0,)
    assert ask(kept)[0]["status"] == "success"
    assert bench.database.execute("SELECT count(*) FROM sums").fetchone() == (1,)
