"""A server changes its key on one port: a moment's gap, and nothing lost or doubled."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import zmq

from tests.identities import new_pair
from tests.loopback.agent import ServedAgent, serving
from tests.loopback.bare_zmq import Clients, curve_server, endpoint
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.clients import open_session
from twinhost.adversary.zmtp import connect_to
from twinhost.secure_zmq import bound_socket
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, SocketMisuse, WrongServerKey
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

GAP_S = 1.0  # libzmq frees the address in milliseconds; a busy machine may take longer
CALLERS = 4


@pytest.fixture
def next_keys() -> KeyPair:
    return new_pair("SystemDigitalTwin", "mainpc")


class Caller(threading.Thread):
    """Adds one again and again, knows both keys of the server, and repeats a call under its own id until it is done."""

    def __init__(self, addresses: list[SecuredAddress], number: int) -> None:
        super().__init__(name=f"caller-{number}")
        self.done = 0
        self.moved = False
        self._addresses = addresses
        self._number = number
        self._go_on = True

    def run(self) -> None:
        client = Client(self._addresses[0])
        try:
            while self._go_on:
                try:
                    client.call("add", amount=1, deadline_s=PATIENCE_S, request_id=f"{self._number}-{self.done}")
                except ConnectionRefused:
                    client.close()
                    self._addresses.reverse()
                    self.moved = True
                    client = Client(self._addresses[0])
                else:
                    self.done += 1
        finally:
            client.close()

    def end(self) -> None:
        self._go_on = False
        self.join()


def test_nothing_is_lost_or_doubled_under_traffic(agent: ServedAgent, peer_keys: KeyPair, next_keys: KeyPair) -> None:
    before, after = (SecuredAddress(agent.address, peer_keys, keys.public) for keys in (agent.own_keys, next_keys))  # type: ignore[union-attr]
    callers = [Caller([before, after], number) for number in range(CALLERS)]
    with ExitStack() as stack:
        for caller in callers:
            caller.start()
            stack.callback(caller.end)
        wait_until(lambda: all(caller.done > 20 for caller in callers), PATIENCE_S, "all are served")
        gap_s = agent.server.request_rekey(next_keys).result(PATIENCE_S)
        done = [caller.done for caller in callers]
        wait_until(
            lambda: all(caller.done > count + 20 for caller, count in zip(callers, done, strict=True)),
            PATIENCE_S,
            "all are served under the next key",
        )
    print(f"not bound for {gap_s * 1_000:.1f} ms")
    assert gap_s < GAP_S
    assert all(caller.moved for caller in callers)
    assert len(agent.executions) == sum(caller.done for caller in callers)
    assert agent.total() == sum(caller.done for caller in callers)


def test_the_old_key_is_dead_and_the_next_one_serves(
    agent: ServedAgent, peer_keys: KeyPair, next_keys: KeyPair
) -> None:
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
        agent.server.request_rekey(next_keys).result(PATIENCE_S)
        with pytest.raises(WrongServerKey):
            client.call("who_am_i")
    with Client(SecuredAddress(agent.address, peer_keys, next_keys.public)) as client:
        name = peer_keys.certificate.owner.name

        def counted() -> dict[str, int]:  # after a message: an end reported late may be taken for that of this session
            assert client.call("who_am_i", deadline_s=PATIENCE_S)["authenticated"]
            return agent.server_socket.sessions.counts()

        wait_until(lambda: counted() == {name: 1}, PATIENCE_S, "the sessions of the old key are counted no more")


def test_what_has_come_is_answered_under_the_old_key(
    agent: ServedAgent, peer_keys: KeyPair, next_keys: KeyPair
) -> None:
    """A request that waits in the socket when the change is due gets its reply; its sessions are forgotten then."""
    with ExitStack() as stack:
        held, waiting = (
            stack.enter_context(open_session(connect_to(agent.address), peer_keys, agent.public_key)) for _ in range(2)
        )
        held.send(b'{"action": "hold"}')
        assert agent.entered.wait(PATIENCE_S)
        waiting.send(b'{"action": "add", "amount": 1}')

        def change_when_the_next_has_come() -> None:  # on the server's thread, which owns the socket
            assert agent.server_socket.socket.poll(int(PATIENCE_S * 1_000))
            agent.server.request_rekey(next_keys)

        agent.before_hold_returns = change_when_the_next_has_come
        agent.gate.set()
        assert [dealer.receive()["status"] for dealer in (held, waiting)] == ["ok", "ok"]
        counts = agent.server_socket.sessions.counts
        wait_until(lambda: counts() == {}, PATIENCE_S, "the sessions of the old key are counted no more")


def test_zap_is_still_asked_under_the_next_key(agent: ServedAgent, stranger_keys: KeyPair, next_keys: KeyPair) -> None:
    agent.server.request_rekey(next_keys).result(PATIENCE_S)
    address = SecuredAddress(agent.address, stranger_keys, next_keys.public)
    with Client(address) as client, pytest.raises(ConnectionRefused, match="refused this key"):
        client.call("who_am_i")
    assert agent.server_socket.socket.getsockopt(zmq.MECHANISM) == zmq.CURVE


def test_a_wildcard_address_is_bound_again(
    home: Path, server_keys: KeyPair, peer_keys: KeyPair, next_keys: KeyPair
) -> None:
    """`tcp://*:7120` is `tcp://[::]:7120` to libzmq, which unbinds it under no other name."""
    with serving(home, server_keys, address="tcp://*:*") as agent:
        port = agent.address.rpartition(":")[2]
        agent.server.request_rekey(next_keys).result(PATIENCE_S)
        assert agent.address == f"tcp://[::]:{port}"
        with Client(SecuredAddress(f"tcp://127.0.0.1:{port}", peer_keys, next_keys.public)) as client:
            assert client.call("who_am_i")["authenticated"]


@pytest.fixture
def doomed_agent(home: Path, server_keys: KeyPair) -> Iterator[ServedAgent]:
    """An agent whose loop is expected to end with an error."""
    agent = ServedAgent(home, server_keys)
    yield agent
    agent.server.stop()
    agent._thread.join()


def test_an_address_that_is_taken_meanwhile_ends_the_server(
    doomed_agent: ServedAgent, next_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go on without an address, and does not wait for ever; the process ends, and is started again."""
    monkeypatch.setattr(bound_socket, "_BIND_AGAIN_S", 0.3)
    address = doomed_agent.address
    thief_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    thief = thief_context.socket(zmq.ROUTER)
    put_key = bound_socket.put_server_key

    def steal(*arguments: object) -> None:
        def bound() -> bool:
            try:
                thief.bind(address)
            except zmq.ZMQError:
                return False
            return True

        wait_until(bound, PATIENCE_S, "the thief has the address")
        put_key(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bound_socket, "put_server_key", steal)
    future = doomed_agent.server.request_rekey(next_keys)
    with pytest.raises(SocketMisuse, match="can't be bound again"):
        future.result(PATIENCE_S)
    failure = doomed_agent.join()
    assert isinstance(failure, SocketMisuse)
    assert doomed_agent.server_socket.socket.closed
    thief_context.destroy(linger=0)


def test_an_open_link_has_no_key_to_change(home: Path, next_keys: KeyPair) -> None:
    agent = ServedAgent(home, None)
    with pytest.raises(SocketMisuse, match="the link is unencrypted"):
        agent.server.request_rekey(next_keys).result(PATIENCE_S)
    assert isinstance(agent.join(), SocketMisuse)


def test_one_change_at_a_time_and_none_after_the_end(agent: ServedAgent, client: Client, next_keys: KeyPair) -> None:
    def hold() -> None:
        with suppress(WrongServerKey):  # the change may overtake the reply, and the client knows the old key alone
            client.call("hold", deadline_s=PATIENCE_S)

    held = threading.Thread(target=hold)
    held.start()
    assert agent.entered.wait(PATIENCE_S)
    future = agent.server.request_rekey(next_keys)
    with pytest.raises(SocketMisuse, match="another change"):
        agent.server.request_rekey(next_keys)
    agent.gate.set()
    held.join()
    assert future.result(PATIENCE_S) < GAP_S
    agent.server.stop()
    agent._thread.join()
    with pytest.raises(SocketMisuse, match="the server is stopping"):
        agent.server.request_rekey(next_keys)


def test_libzmq_reports_no_end_of_a_session_that_unbind_ended(
    context: "zmq.Context[zmq.Socket[bytes]]", clients: Clients
) -> None:
    """The reason why the open connections are looked through after a change."""
    server = context.socket(zmq.ROUTER)
    monitor = server.get_monitor_socket(zmq.Event.DISCONNECTED | zmq.Event.CLOSED)
    server.bind("tcp://127.0.0.1:*")
    client = clients.plain(server)
    ends = client.get_monitor_socket(zmq.Event.DISCONNECTED)
    assert server.poll(int(PATIENCE_S * 1_000))
    server.recv_multipart()
    server.unbind(endpoint(server))
    wait_until(
        lambda: server.poll(0) or ends.poll(1), PATIENCE_S, "the client's session ends"
    )  # poll drives the socket
    events = []
    deadline = time.monotonic() + 0.2
    while (left := deadline - time.monotonic()) > 0:
        if monitor.poll(int(left * 1_000)):
            events.append(int.from_bytes(monitor.recv_multipart()[0][:2], "little"))
    assert events == [zmq.Event.CLOSED]
    server.disable_monitor()
    client.disable_monitor()


def test_options_of_a_bound_socket_count_from_its_next_bind(
    context: "zmq.Context[zmq.Socket[bytes]]", clients: Clients, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """Without the unbind in between, the old key goes on serving."""
    server = curve_server(context, server_keys)
    other = new_pair()
    server.curve_secretkey, server.curve_publickey = other.secret_z85, other.public.z85
    clients.curve(peer_keys, server, server_keys)
    assert server.poll(int(PATIENCE_S * 1_000))
