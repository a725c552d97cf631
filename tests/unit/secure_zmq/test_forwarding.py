"""A request that is forwarded is executed where both callers may, in the name of the original one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.older_database import REPLY_LOG_MIGRATIONS
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.wire import Reply, Request
from twinhost.store.database import Database
from twinhost.store.reply_log import ReplyLog

FORWARDER = Caller("forwarder", "pc2", frozenset({"agent"}), "SHA256:forwarder")
READER = Caller("reader", "pc3", frozenset({"reader"}), "SHA256:reader")
NOVICE = Caller("novice", "pc3", frozenset({"novice"}), "SHA256:novice")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:operator")
LIVE = {caller.name: caller for caller in (FORWARDER, READER, NOVICE, OPERATOR)}


class Read(Request, tag="read"):
    """Who asks, as the handler sees it."""


class Write(Request, tag="write"):
    """Likewise, and never forwarded."""


class Reset(Request, tag="reset"):
    """An operator's action that could be forwarded."""


class Bench:
    def __init__(self, path: Path) -> None:
        self.database = Database(path, REPLY_LOG_MIGRATIONS)
        self.dispatcher = Dispatcher(
            [
                Action(Read, _answer, forwardable=True),
                Action(Write, _answer, mutates=True),
                Action(Reset, _answer, mutates=True, forwardable=True),
            ],
            Grants(
                {
                    "agent": {"read", "write"},
                    "reader": {"read", "write"},
                    "operator": {"*"},
                    "unauthenticated": {"read"},
                }
            ),
            self.database,
            ReplyLog(self.database, 600, 100),
            10_000,
            caller_named=LIVE.get,
        )

    def ask(self, action: str, caller: Caller, original: str | None, **fields: str) -> Reply:
        message = json.dumps({"action": action, "on_behalf_of": original, **fields}).encode()
        (reply,) = self.dispatcher.answer([Inbound(message, caller)])
        answer: Reply = json.loads(reply)
        return answer


def _answer(_: Request, caller: Caller) -> Reply:
    return {
        "status": "ok",
        "caller": caller.name,
        "host": caller.host,
        "via": caller.via,
        "operator": caller.operator,
        "roles": sorted(caller.roles),
    }


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "store.sqlite3")
    yield bench
    bench.database.close()


def test_it_is_done_in_the_name_of_who_asked_first(bench: Bench) -> None:
    """Name and host are the first caller's; who passed it on is known."""
    reply = bench.ask("read", FORWARDER, "reader")
    assert (reply["caller"], reply["host"], reply["via"]) == ("reader", "pc3", "forwarder")


def test_without_it_nothing_changes(bench: Bench) -> None:
    """The caller is the connection's."""
    reply = bench.ask("read", FORWARDER, None)
    assert (reply["caller"], reply["via"]) == ("forwarder", None)


def test_the_first_callers_grants_count(bench: Bench) -> None:
    """The forwarder may, and it makes no difference."""
    reply = bench.ask("read", FORWARDER, "novice")
    assert reply["code"] == "not_granted"
    assert "read is not granted to novice" in reply["error"]


def test_the_forwarders_grants_count(bench: Bench) -> None:
    """To claim that an operator asked gains nothing: neither the action, nor the role."""
    assert bench.ask("reset", FORWARDER, "operator")["code"] == "not_granted"
    reply = bench.ask("read", FORWARDER, "operator")
    assert (reply["caller"], reply["operator"], reply["roles"]) == ("operator", False, [])


def test_an_operator_that_passes_on_for_an_operator_is_one(bench: Bench) -> None:
    """Both are."""
    assert bench.ask("reset", OPERATOR, "operator")["operator"] is True


def test_an_action_that_is_not_marked_is_not_forwarded(bench: Bench) -> None:
    """Whatever both are granted: nobody registers, writes, or reports under another's name that way."""
    reply = bench.ask("write", FORWARDER, "reader")
    assert reply["code"] == "not_granted"
    assert "can't be forwarded on behalf of reader" in reply["error"]


@pytest.mark.parametrize("name", ["nobody", "invitation:x", "x" * 256])
def test_somebody_unknown_is_refused(bench: Bench, name: str) -> None:
    """Its key is not live here."""
    reply = bench.ask("read", FORWARDER, name)
    assert reply["code"] == "not_granted"
    assert "is not known here" in reply["error"]


def test_on_an_open_link_nothing_is_passed_on(bench: Bench) -> None:
    """Nobody is known to pass it on."""
    assert bench.ask("read", UNAUTHENTICATED, "reader")["code"] == "not_granted"


def test_a_request_id_is_the_forwarders(bench: Bench) -> None:
    """So that a forwarded caller can't get the answer to another."""
    first = bench.ask("reset", OPERATOR, "operator", request_id="r1")
    assert bench.ask("reset", OPERATOR, "operator", request_id="r1") == first
    assert bench.ask("reset", OPERATOR, None, request_id="r1")["code"] == "request_id_reused"
