"""One key with all its connections, that asks and reads nothing: the agent stays small, and serves the others."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import zmq

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.waiting import wait_until
from twinhost.secure_zmq.connections import SESSIONS_PER_KEY
from twinhost.secure_zmq.server_address import SecuredAddress

MOST_GROWTH = 64 * 2**20
GIVEN_BACK_S = 60.0
ATTACK_S = 6.0


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
def connections(hosts: Hosts, count: int) -> Iterator[list["zmq.Socket[bytes]"]]:
    """Connections of an ordinary agent's key, which hold as little of what they don't read as can be."""
    address = hosts.address(SDT, UMRA)
    assert isinstance(address, SecuredAddress)
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, 2_000)
        sockets = []
        for _ in range(count):
            socket = context.socket(zmq.DEALER)
            socket.linger, socket.rcvhwm, socket.rcvbuf, socket.sndtimeo = 0, 1, 4_096, 0
            socket.curve_secretkey = address.own_keys.secret_z85
            socket.curve_publickey = address.own_keys.public.z85
            socket.curve_serverkey = address.server_key.z85
            socket.connect(address.address)
            sockets.append(socket)
        try:
            yield sockets
        finally:
            for socket in sockets:
                socket.close(0)


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
