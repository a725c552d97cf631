"""One key with all its connections, that asks and reads nothing: the agent stays small, and serves the others."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil
import pytest
import zmq

from tests.loopback.agent import ServedAgent
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.clients import CurveClient, Refused, open_session
from twinhost.adversary.zmtp import Disconnected, NoAnswer, connect_to, frame_header
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable
from twinhost.secure_zmq.certificates import NEXT_SUFFIX
from twinhost.secure_zmq.client import Client, FeedEvent, Subscriber
from twinhost.secure_zmq.connections import SESSIONS_PER_KEY, Connection
from twinhost.secure_zmq.errors import OverBudget
from twinhost.secure_zmq.framing.forms import together
from twinhost.secure_zmq.inbound_guard import HARMLESS_BYTES
from twinhost.secure_zmq.key_writer import write_certificate
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

MOST_GROWTH = 64 * 2**20
GIVEN_BACK_S = 60.0
ATTACK_S = 6.0
EVENTS, SUBSCRIBED_IN_TURN = 1_100, 1
SENDERS = 2
PART_BYTES = 256 * 1024
LARGE_TEXT = "x" * 59_000


class Memory:
    """What a process has more than at its start."""

    def __init__(self, agent: AgentProcess) -> None:
        self._process = psutil.Process(agent.pid)
        self._before = self._process.memory_info().rss
        self.most = 0

    def growth(self) -> int:
        grown = self._process.memory_info().rss - self._before
        self.most = max(self.most, grown)
        return grown


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(tmp_path_factory.mktemp("unread")) as both:
        yield both


@pytest.fixture
def mainpc(hosts: Hosts) -> Iterator[AgentProcess]:
    with hosts.start(SDT, apart=True).wait_until_serving() as agent:
        yield agent


@contextmanager
def connections(
    hosts: Hosts, number: int, kind: zmq.SocketType = zmq.DEALER, address: str | None = None
) -> Iterator[list["zmq.Socket[bytes]"]]:
    """Connections of an ordinary agent's key, which hold as little of what they don't read as can be."""
    secured = hosts.address(SDT, UMRA)
    assert isinstance(secured, SecuredAddress)
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 2_000)
        sockets = []
        for _ in range(number):
            socket = context.socket(kind)
            socket.linger, socket.rcvhwm, socket.rcvbuf, socket.sndtimeo = 0, 1, 4_096, 0
            socket.curve_secretkey = secured.own_keys.secret_z85
            socket.curve_publickey = secured.own_keys.public.z85
            socket.curve_serverkey = secured.server_key.z85
            if kind == zmq.SUB:
                socket.subscribe(b"EVENT:")
            socket.connect(address or secured.address)
            sockets.append(socket)
        try:
            yield sockets
        finally:
            for socket in sockets:
                socket.close(0)


def publish(client: Client, number: int) -> bool:
    client.call("publish_event", event={"event_type": "filler", "data": {"number": number, "text": LARGE_TEXT}})
    return True


def flood(hosts: Hosts, memory: Memory, requests: list[bytes], seconds: float) -> list[float]:
    """Send requests on all connections for some time, and read nothing; return how long a polite call took."""
    took: list[float] = []
    with connections(hosts, SESSIONS_PER_KEY) as sockets, hosts.client(SDT) as polite:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for socket in sockets:
                for request in requests:
                    try:
                        socket.send(request)
                    except zmq.Again:
                        continue
            memory.growth()
            began = time.monotonic()
            polite.call("ping", deadline_s=20)
            took.append(time.monotonic() - began)
    return took


@pytest.mark.parametrize("action", ["get_schema", "get_all_agents"])
def test_unread_replies_do_not_fill_the_memory(hosts: Hosts, mainpc: AgentProcess, action: str) -> None:
    """And what they took is given back."""
    memory = Memory(mainpc)
    took = flood(hosts, memory, [b'{"action": "%s"}' % action.encode()] * 4, ATTACK_S)
    print(f"{action}: grew by {memory.most / 2**20:.1f} MiB; {len(took)} polite calls, worst {max(took) * 1e3:.0f} ms")
    assert memory.most < MOST_GROWTH
    wait_until(lambda: memory.growth() < MOST_GROWTH / 4, GIVEN_BACK_S, "the memory is given back")


def test_unread_events_do_not_fill_the_memory(hosts: Hosts, mainpc: AgentProcess) -> None:
    """Subscribers that don't read are closed; one that reads gets every event."""
    memory = Memory(mainpc)
    secured = hosts.address(SDT)
    assert isinstance(secured, SecuredAddress)
    feed = replace(secured, address=f"tcp://127.0.0.1:{hosts.config.agent(SDT).events_port}")
    seen: list[int] = []

    def see(event: FeedEvent) -> None:
        found = json.loads(event.payload)
        if found["event_type"] == "filler":  # mainpc has events of its own, for instance of a busy machine
            seen.append(found["data"]["number"])

    subscriber = Subscriber(feed, [b"EVENT:"], see)
    subscriber.start()
    sent = 0
    with hosts.client(SDT) as client:
        wait_until(lambda: publish(client, -1) and seen, PATIENCE_S, "the subscriber receives events")
        for _ in range(SUBSCRIBED_IN_TURN):
            with connections(hosts, SESSIONS_PER_KEY - 4, zmq.SUB, feed.address) as unread:
                wait_until(
                    lambda: publish(client, -1) and all(socket.poll(0) for socket in unread),
                    PATIENCE_S,
                    "each subscriber has an event that it does not read",
                )
                for _ in range(EVENTS):
                    publish(client, sent)
                    sent += 1
                memory.growth()
        wait_until(lambda: seen[-1] == sent - 1, PATIENCE_S, "the last event arrives")
    subscriber.stop()
    print(f"events: grew by {memory.most / 2**20:.1f} MiB")
    assert [number for number in seen if number >= 0] == list(range(sent))
    assert memory.most < MOST_GROWTH
    assert mainpc.logged("connection_closed")


def unfinished(client: CurveClient) -> Iterator[bytes]:
    """A frame that never ends."""
    yield frame_header(8 * 2**20)
    yield from [bytes(PART_BYTES)] * (8 * 2**20 // PART_BYTES - 1)


def endless(client: CurveClient) -> Iterator[bytes]:
    """A message that has always one more frame."""
    while True:
        yield client.encode(bytes(PART_BYTES), more=True)


def large(client: CurveClient) -> Iterator[bytes]:
    """Requests as large as can be, faster than they can be answered."""
    while True:
        yield client.encode(b'{"action": "ping", "filler": "%s"}' % (b"x" * 4_000_000))


Sending = tuple[CurveClient, Iterator[bytes]]


def open_as_many(
    clients: list[Sending],
    number: int,
    address: SecuredAddress,
    stream: Callable[[CurveClient], Iterator[bytes]],
    stack: ExitStack,
) -> None:
    """Open connections until there are so many, or one is refused."""
    with suppress(OSError, Disconnected, NoAnswer, Refused):
        while len(clients) < number:
            client = open_session(connect_to(address.address), address.own_keys, address.server_key)
            assert isinstance(client, CurveClient)
            clients.append((stack.enter_context(client), stream(client)))


@pytest.mark.parametrize("stream", [unfinished, endless, large])
def test_requests_do_not_fill_the_memory(
    hosts: Hosts, mainpc: AgentProcess, stream: Callable[[CurveClient], Iterator[bytes]]
) -> None:
    """Whatever is sent over all connections of a key, again and again; and others are served."""
    address = hosts.address(SDT, UMRA)
    assert isinstance(address, SecuredAddress)
    memory, took, closed = Memory(mainpc), [], 0
    with hosts.client(SDT) as polite, ExitStack() as stack:
        clients: list[Sending] = []
        until = time.monotonic() + ATTACK_S
        while time.monotonic() < until:
            open_as_many(clients, SESSIONS_PER_KEY, address, stream, stack)
            for client, parts in tuple(clients):
                try:
                    client.connection.send(next(parts, b""), within_s=0.05)
                except (Disconnected, NoAnswer):
                    client.connection.close()
                    clients.remove((client, parts))
                    closed += 1
                memory.growth()
            began = time.monotonic()
            polite.call("ping", deadline_s=20)
            took.append(time.monotonic() - began)
    print(f"{stream.__name__}: grew by {memory.most / 2**20:.1f} MiB; {closed} closed; worst {max(took) * 1e3:.0f} ms")
    assert memory.most < MOST_GROWTH
    wait_until(lambda: memory.growth() < MOST_GROWTH / 4, GIVEN_BACK_S, "the memory is given back")


def stores(client: CurveClient) -> Iterator[bytes]:
    """Memories of which many come at once."""
    for number in count():
        content = f"word{number} " * 5_000
        yield client.encode(json.dumps({"action": "store_memory", "content": content}).encode())


def send_all(address: SecuredAddress, stream: Callable[[CurveClient], Iterator[bytes]], number: int) -> int:
    """Send on connections in turn as fast as can be, in place of those that are closed too; return how many were."""
    clients: list[Sending] = []
    until, closed = time.monotonic() + ATTACK_S, 0
    with ExitStack() as stack:
        while time.monotonic() < until:
            open_as_many(clients, number, address, stream, stack)
            for client, parts in tuple(clients):
                try:
                    client.connection.send(next(parts), within_s=0.05)
                except (Disconnected, NoAnswer):
                    client.connection.close()
                    clients.remove((client, parts))
                    closed += 1
    return closed


@pytest.mark.parametrize("stream", [large, stores])
def test_requests_at_full_speed_do_not_fill_the_memory(
    hosts: Hosts, stream: Callable[[CurveClient], Iterator[bytes]]
) -> None:
    """Also of connections that were closed, whose requests libzmq keeps; and others are served."""
    address = hosts.address(UMRA, SDT)
    assert isinstance(address, SecuredAddress)
    with hosts.start(UMRA, apart=True).wait_until_serving() as pc2, hosts.client(UMRA) as polite:
        memory, took = Memory(pc2), list[float]()
        with ThreadPoolExecutor(SENDERS) as pool:
            each = (SESSIONS_PER_KEY - 4) // SENDERS
            senders = [pool.submit(send_all, address, stream, each) for _ in range(SENDERS)]
            while not all(sender.done() for sender in senders):
                memory.growth()
                began = time.monotonic()
                polite.call("ping", deadline_s=20)
                took.append(time.monotonic() - began)
        closed = sum(sender.result() for sender in senders)
        print(f"{stream.__name__}: {memory.most / 2**20:.1f} MiB; {closed} closed; worst {max(took) * 1e3:.0f} ms")
        assert memory.most < MOST_GROWTH
        wait_until(lambda: memory.growth() < MOST_GROWTH / 4, GIVEN_BACK_S, "the memory is given back")


def test_large_requests_wait_where_too_much_came(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """What comes after too much is freed unread for a while; small requests are answered, and a retry is then."""
    guard, connections = agent.server._inbound_guard, agent.server_socket.sessions.connections
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
        guard._freed_until[NAME] = time.monotonic() + 1.0
        client.call("who_am_i")
        assert not connections.closed_count
        before = agent.server._dispatcher.counters.requests
        client.call("large", reply_bytes=1, filler="x" * HARMLESS_BYTES, deadline_s=20)
        assert connections.closed_count
        assert time.monotonic() >= guard._freed_until[NAME]
        assert agent.server._dispatcher.counters.requests == before + 1


def test_what_no_key_has_proven_leaves_others_alone(
    agent: ServedAgent, peer_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a connection is assumed until its first message has come, and may be another's."""
    guard = agent.server._inbound_guard
    with Client(agent.secured(peer_keys)) as client:
        client.call("who_am_i")
        unproven = Connection(-1, counted_for=peer_keys.public.fingerprint, unhandled=2**30)
        monkeypatch.setattr(guard._connections, "open", lambda: [unproven])
        guard._close_worst()
        monkeypatch.undo()
        client.call("large", reply_bytes=1, filler="x" * HARMLESS_BYTES, deadline_s=1)
        assert not agent.server_socket.sessions.connections.closed_count


@pytest.mark.parametrize("with_another_key", [False, True], ids=["of the key", "of its owner's next key"])
def test_beside_unread_replies_a_request_is_refused(
    home: Path, agent: ServedAgent, peer_keys: KeyPair, with_another_key: bool
) -> None:
    """With a typed error, on another connection; it may be repeated once the replies are read."""
    keys = KeyPair.generate(peer_keys.certificate.owner) if with_another_key else peer_keys
    write_certificate(keys.certificate, home / f"{NAME}{NEXT_SUFFIX}")
    agent.peers.reload()
    agent.server.backlog._budgets = Budgets(lambda: BudgetTable(Budget(unsent_bytes=4 * 2**20)))
    with unread(agent, peer_keys) as socket, Client(agent.secured(keys)) as other:

        def is_served() -> bool:
            socket.send(LARGE_REQUEST)
            return other.call("large", reply_bytes=2 * 2**20) is not None

        with pytest.raises(OverBudget) as refused:
            wait_until(lambda: not is_served(), PATIENCE_S, "it is refused")
        assert (refused.value.budget, refused.value.limit) == ("unsent_bytes", 4 * 2**20)

        def is_served_again() -> bool:
            while socket.poll(200):
                socket.recv()
            with suppress(OverBudget):  # the next reply may take longer than this has waited
                return other.call("large", reply_bytes=2 * 2**20) is not None
            return False

        wait_until(is_served_again, PATIENCE_S, "it is served")


def test_the_connection_that_leaves_most_unread_is_closed(agent: ServedAgent, peer_keys: KeyPair) -> None:
    """And no other one of the key."""
    agent.server.backlog._budgets = Budgets(lambda: BudgetTable(Budget(unsent_bytes=3 * 2**20)))
    with Client(agent.secured(peer_keys)) as other, unread(agent, peer_keys) as socket:
        other.call("who_am_i")
        socket.send(together([LARGE_REQUEST] * 4))
        connections = agent.server_socket.sessions.connections
        wait_until(lambda: connections.closed_count, PATIENCE_S, "it is closed")
        wait_until(lambda: len(connections.open()) == 1, PATIENCE_S, "its end is noticed")
        wait_until(lambda: agent.server.backlog.used()[NAME] < 2**20, PATIENCE_S, "nothing is held for it")
        other.call("who_am_i")
        assert connections.closed_count == 1


NAME = "UnifiedMemoryReasoningAgent"  # of `peer_keys`
LARGE_REQUEST = b'{"action": "large", "reply_bytes": %d}' % (2 * 2**20)


@contextmanager
def unread(agent: ServedAgent, keys: KeyPair) -> Iterator["zmq.Socket[bytes]"]:
    """A connection that takes in as little as can be of what it doesn't read."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger, socket.rcvhwm, socket.rcvbuf, socket.rcvtimeo = 0, 1, 4_096, int(1_000 * PATIENCE_S)
        socket.reconnect_ivl = -1  # a connection that is closed has ended
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.curve_serverkey = agent.public_key.z85
        socket.connect(agent.address)
        for _ in range(2):  # of which one waits in its queue
            socket.send(b'{"action": "who_am_i"}')
        socket.recv()
        yield socket
