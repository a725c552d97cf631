"""The blocking client: one id through every retry, late replies dropped, nothing executed twice."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.loopback.agent import PAYLOAD_LIMIT, ServedAgent
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    MalformedRequest,
    MessageTooLarge,
    NotAuthorized,
    RequestIdReused,
    ServerUnreachable,
    SocketMisuse,
    UnknownAction,
)
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.wire import Reply
from twinhost.store.database import Database


class Killed(BaseException):
    """Stands in for `kill -9` between the commit and the reply."""


class DiesAfterCommit:
    """A store under which the process ends as soon as its first transaction is durable."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.database.transaction():
            yield
        raise Killed

    def savepoint(self) -> AbstractContextManager[None]:
        return self.database.savepoint()


def again(home: Path, own_keys: KeyPair | None, address: str) -> ServedAgent:
    """Start an agent at an address that another has just left; its sockets may take a moment to be gone."""

    def start() -> ServedAgent | None:
        with contextlib.suppress(SocketMisuse):
            return ServedAgent(home, own_keys, address=address)
        return None

    agent = wait_until(start, PATIENCE_S, f"{address} is free again")
    assert agent is not None
    return agent


def in_background(call: Callable[[], Reply]) -> "tuple[threading.Thread, list[Reply | BaseException]]":
    """Run a call in a thread, and collect its reply or its error."""
    results: list[Reply | BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("secure", [True, False])
def test_a_change_runs_once_over_a_crash_before_the_reply(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, secure: bool
) -> None:
    """The client sends the same request again to the restarted agent, and gets the reply of the first execution."""
    keys = server_keys if secure else None
    first = ServedAgent(home, keys, wrap_store=DiesAfterCommit)
    with Client(first.secured(peer_keys) if secure else first.unencrypted()) as client:
        thread, results = in_background(lambda: client.call("add", amount=2, deadline_s=PATIENCE_S))
        assert isinstance(first.join(), Killed)
        second = again(home, keys, first.address)
        thread.join()
        assert isinstance(results[0], dict), results
        assert results[0]["total"] == 2
        assert client.call("total")["total"] == 2
    second.stop()
    assert (first.executions, second.executions) == ([2], [])


def test_a_client_survives_restarts(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """One client object, three lives of the agent: every call comes through, and every change is there once."""
    agent = ServedAgent(home, server_keys)
    with Client(agent.secured(peer_keys)) as client:
        for life in range(3):
            assert client.call("add", amount=1, deadline_s=PATIENCE_S)["total"] == 2 * life + 1
            agent.stop()
            thread, results = in_background(lambda: client.call("add", amount=1, deadline_s=PATIENCE_S))
            agent = again(home, server_keys, agent.address)
            thread.join()
            assert isinstance(results[0], dict), results
            assert results[0]["total"] == 2 * life + 2
    agent.stop()


def test_a_client_may_be_there_before_its_server(home: Path, server_keys: KeyPair, peer_keys: KeyPair) -> None:
    """A call that begins while nobody listens is answered when somebody does."""
    probe = ServedAgent(home, server_keys)
    address = probe.secured(peer_keys)
    probe.stop()
    with Client(address) as client:
        with pytest.raises(ServerUnreachable):
            client.call("who_am_i", deadline_s=0.3)
        thread, results = in_background(lambda: client.call("who_am_i", deadline_s=PATIENCE_S))
        agent = again(home, server_keys, probe.address)
        thread.join()
        assert isinstance(results[0], dict), results
    agent.stop()


def test_a_late_reply_is_dropped(agent: ServedAgent, client: Client) -> None:
    """The reply to a call that was given up is not taken for the reply to the next one."""
    client.call("who_am_i", deadline_s=PATIENCE_S)  # it is connected
    with pytest.raises(ServerUnreachable, match="it received the request and did not reply"):
        client.call("hold", deadline_s=0.3)
    assert agent.entered.wait(PATIENCE_S)
    agent.gate.set()
    for text in ("one", "two"):
        assert client.call("echo", text=text, deadline_s=PATIENCE_S)["text"] == text


def test_a_deadline_is_kept(agent: ServedAgent, client: Client) -> None:
    """A call ends soon after its deadline, whatever the server does."""
    with at_most(1.0), pytest.raises(ServerUnreachable, match=r"no reply to hold from .* within 0\.2 s"):
        client.call("hold", deadline_s=0.2)


def test_a_call_given_up_is_not_lost_when_it_is_repeated(
    agent: ServedAgent, client: Client, peer_keys: KeyPair
) -> None:
    """With its id, the caller can ask again for what it does not know the end of; it is done once."""
    client.call("who_am_i", deadline_s=PATIENCE_S)  # it is connected
    with pytest.raises(ServerUnreachable):
        client.call("hold", deadline_s=0.2)
    with pytest.raises(ServerUnreachable):
        client.call("add", amount=2, request_id="mine", deadline_s=0.2)
    agent.gate.set()
    for _ in range(2):
        assert client.call("add", amount=2, request_id="mine", deadline_s=PATIENCE_S)["total"] == 2
    assert agent.executions == [2]
    with Client(agent.secured(peer_keys)) as other, pytest.raises(RequestIdReused):
        other.call("add", amount=3, request_id="mine")


def test_a_servers_error_is_the_same_type_here(client: Client) -> None:
    """A refusal crosses the wire as its type and its sentence."""
    with pytest.raises(UnknownAction, match="there is no action 'reboot' here; there are: add, ask_another, echo, "):
        client.call("reboot")
    with pytest.raises(MalformedRequest, match=r"Expected `str`, got `int` - at `\$\.text`"):
        client.call("echo", text=5)


def test_too_much_is_refused_before_it_is_sent(client: Client) -> None:
    """4 MiB is the limit here too."""
    with pytest.raises(MessageTooLarge):
        client.call("echo", text="x" * PAYLOAD_LIMIT)
    assert len(client.call("echo", text="x" * (PAYLOAD_LIMIT - 1_000))["text"]) == PAYLOAD_LIMIT - 1_000


def test_a_generous_client_reads_the_servers_own_limit(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """A client whose limit is set higher gets the server's error reply, not a silence."""
    with Client(agent.secured(peer_keys), max_payload_bytes=2 * PAYLOAD_LIMIT) as client:
        with pytest.raises(MessageTooLarge, match=f"{PAYLOAD_LIMIT} are allowed"):
            client.call("echo", text="x" * PAYLOAD_LIMIT)
        assert client.call("echo", text="small")["text"] == "small"


def test_a_refused_client_comes_back_with_patience(agent: ServedAgent, stranger_keys: KeyPair) -> None:
    """Each refusal is a new handshake, further apart each time: a crowd of refused clients is no flood."""
    with Client(agent.secured(stranger_keys)) as client:
        for _ in range(4):
            with pytest.raises(NotAuthorized):
                client.call("who_am_i")
    assert agent.server_socket.handshakes.counts()["key_not_authorized"] == 4


def test_back_off_does_not_outlast_the_deadline(agent: ServedAgent, stranger_keys: KeyPair) -> None:
    """However often it was refused, a call with a short deadline ends in time."""
    with Client(agent.secured(stranger_keys)) as client:
        client._link._failures = 10
        with at_most(1.0), pytest.raises(ConnectionRefused):
            client.call("who_am_i", deadline_s=0.2)


def test_closing_is_quick_and_leaves_nothing(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """A client whose call was given up closes at once, and its session ends."""
    with at_most(2.0), Client(agent.secured(peer_keys)) as client, pytest.raises(ServerUnreachable):
        client.call("hold", deadline_s=0.2)
    agent.gate.set()
    with Client(agent.secured(peer_keys)) as other:

        def counted() -> int:  # a message first: an end that is reported late may be taken for that of this session
            other.call("who_am_i", deadline_s=PATIENCE_S)
            return sum(agent.server_socket.sessions.counts().values())

        wait_until(lambda: counted() == 1, PATIENCE_S, "the closed client's session is gone")
