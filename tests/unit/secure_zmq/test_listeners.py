"""Those that only listen to what was refused: they are notified of all of it, and their faults are isolated."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.unit.secure_zmq.bench import AGENT, LIMIT, Bench, Read, Reset, inbound
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.errors import PeerNotLive, RequestError, error_from_reply
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.handshakes import FailedHandshakes, Handshakes
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.sockets import ZAP_DOMAIN, ZAP_ENDPOINT
from twinhost.secure_zmq.wire import Answer
from twinhost.store.reply_log import ReplyLog

Recorded = tuple[str | None, str | None, str]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "bench.sqlite3")
    yield bench
    bench.close()


def listened_to(bench: Bench, listener: Any) -> Dispatcher:
    return Dispatcher(
        [Action(Read, bench._read), Action(Reset, bench._reset, mutates=True)],
        Grants({"agent": {"read"}}),
        bench.database,
        ReplyLog(bench.database, 600, 100),
        LIMIT,
        on_refusal=listener,
    )


def test_a_refusal_reports_who_and_which_action_and_why(bench: Bench) -> None:
    """Also of a message without a caller, and of one that names no action; a reply notifies nobody."""
    recorded: list[Recorded] = []

    def listener(caller: Caller | None, action: str | None, error: RequestError) -> None:
        recorded.append((caller.name if caller else None, action, error.code))

    dispatcher = listened_to(bench, listener)
    dead = Inbound(b'{"action": "read"}', None, PeerNotLive("gone"))
    dispatcher.answer([inbound({"action": "read"}), inbound({"action": "reset"}), dead, inbound(b"rubbish")])
    assert recorded == [
        ("agent", "reset", "not_granted"),
        (None, None, "peer_not_live"),
        ("agent", None, "malformed_request"),
    ]


def test_the_code_of_another_agent_multiplies_no_outcome(bench: Bench) -> None:
    """An agent that a request was forwarded to replies with codes of its own, each of which would be a metric."""
    codes, outcomes = iter(["made_up_1", "made_up_2", "not_found"]), set[str]()

    def forwarded(_: Read, __: Caller) -> Answer:
        raise error_from_reply(next(codes), "sentence")

    dispatcher = Dispatcher(
        [Action(Read, forwarded)],
        Grants({"agent": {"read"}}),
        bench.database,
        ReplyLog(bench.database, 600, 100),
        LIMIT,
        on_answer=lambda _, outcome, __, ___: outcomes.add(outcome),
    )
    replies = dispatcher.answer([inbound({"action": "read"}, AGENT)] * 3)
    assert b"made_up_2" in replies[1]
    assert outcomes == {"error", "not_found"}


def test_a_listener_that_fails_costs_nobody_a_reply(bench: Bench) -> None:
    """The loop goes on, and the refusal stays a refusal."""

    def listener(*_: object) -> None:
        raise KeyError("a fault of the listener")

    dispatcher = listened_to(bench, listener)
    refused, answered = dispatcher.answer([inbound({"action": "reset"}, AGENT), inbound({"action": "read"}, AGENT)])
    assert b"not_granted" in refused
    assert b'"sum":0' in answered


def test_a_listener_hears_of_every_handshake() -> None:
    """Of those that ZAP decides, with the peer, and of those that never reach ZAP."""
    handshakes, recorded = Handshakes(), list[tuple[Outcome, dict[str, str]]]()
    handshakes.listen(lambda outcome, fields: recorded.append((outcome, dict(fields))))
    handshakes.accepted("agent", "SHA256:x", "192.0.2.1")
    handshakes.refused(Outcome.KEY_REVOKED, fingerprint="SHA256:y")
    failed = FailedHandshakes(handshakes)
    failed.observe(SocketEvent(EventKind.WRONG_KEYS, 0, ""), None, caused_here=False)
    failed.observe(SocketEvent(EventKind.DISCONNECTED, 9, ""), "192.0.2.2", caused_here=False)
    assert recorded == [
        (Outcome.ACCEPTED, {"peer": "agent", "fingerprint": "SHA256:x", "address": "192.0.2.1"}),
        (Outcome.KEY_REVOKED, {"fingerprint": "SHA256:y"}),
        (Outcome.WRONG_KEYS, {"address": "192.0.2.2"}),
    ]


@pytest.mark.sdt_security
def test_a_listener_that_fails_ends_no_handler(tmp_path: Path) -> None:
    """The ZAP handler answers as before, and lives; so does the next listener. The key is not served meanwhile."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    handshakes, recorded = Handshakes(), list[Outcome]()

    def failing(*_: object) -> None:
        raise KeyError("a fault of the listener")

    handshakes.listen(failing)
    handshakes.listen(lambda outcome, _: recorded.append(outcome))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = Authenticator(context, AuthorizedPeers([tmp_path]), handshakes)
    try:
        with context.socket(zmq.DEALER) as asker:  # as libzmq asks
            asker.connect(ZAP_ENDPOINT)
            asker.rcvtimeo = 10_000
            for key, status in ((pair.public.raw, b"200"), (new_pair().public.raw, b"400"), (pair.public.raw, b"200")):
                asker.send_multipart([b"", b"1.0", b"1", ZAP_DOMAIN, b"192.0.2.1", b"", b"CURVE", key])
                assert asker.recv_multipart()[3] == status
            asker.close(0)
        assert authenticator.responsive
        with pytest.raises(PeerNotLive, match="can't be recorded"):
            handshakes.require_recorded(pair.public.fingerprint)
        handshakes.require_recorded("SHA256:another")
    finally:
        authenticator.stop()
        context.term()
    assert recorded == [Outcome.ACCEPTED, Outcome.KEY_NOT_AUTHORIZED, Outcome.ACCEPTED]
