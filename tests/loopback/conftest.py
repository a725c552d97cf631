"""Two hosts; and an agent with a key, two peers that it knows, and a stranger."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.identities import authorize, host_folder, new_pair
from tests.loopback.agent import ServedAgent, serving
from tests.loopback.agent_processes import Hosts
from tests.loopback.bare_zmq import Clients
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.framing import messages
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers

Folders = tuple[Path, Path]


@pytest.fixture
def server_keys() -> KeyPair:
    return new_pair("SystemDigitalTwin", "mainpc")


@pytest.fixture
def peer_keys() -> KeyPair:
    return new_pair("UnifiedMemoryReasoningAgent", "pc2")


@pytest.fixture
def stranger_keys() -> KeyPair:
    return new_pair("stranger", "elsewhere", "operator")


@pytest.fixture
def home(tmp_path: Path, peer_keys: KeyPair) -> Path:
    """The agent's folder, in which the peer's public key lies."""
    authorize(tmp_path, peer_keys)
    return tmp_path


@pytest.fixture
def neighbour_keys(home: Path) -> KeyPair:
    """The keys of another peer that the agent knows."""
    keys = new_pair("neighbour", "pc3")
    authorize(home, keys)
    return keys


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts of which nothing runs yet."""
    with Hosts(tmp_path) as hosts:
        yield hosts


@pytest.fixture
def open_hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts with SECURE_ZMQ=0, of which nothing runs yet."""
    with Hosts(tmp_path, secure=False) as hosts:
        yield hosts


@pytest.fixture
def folders(tmp_path: Path, server_keys: KeyPair, peer_keys: KeyPair) -> Folders:
    """The folders of mainpc and pc2, as certs-init makes them."""
    return (
        host_folder(tmp_path / "mainpc", "server", server_keys, client=peer_keys),
        host_folder(tmp_path / "pc2", "client", peer_keys, server=server_keys),
    )


@pytest.fixture(params=["compiled", "pyzmq"])
def received_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have agents that start now receive compiled, or with pyzmq."""
    if request.param == "pyzmq":
        monkeypatch.setattr(messages, "compiled", None)
    elif vars(messages)["compiled"] is None:
        assert os.environ.get("CI") != "true", "make test-ready compiles the module in CI"
        pytest.skip("there is no C compiler here, or no header of Python: scripts/setup/native.sh needs both")
    return str(request.param)


@pytest.fixture
def agent(home: Path, server_keys: KeyPair) -> Iterator[ServedAgent]:
    """An agent on a CURVE socket."""
    with serving(home, server_keys) as served:
        yield served


@pytest.fixture
def watched_agent(home: Path, server_keys: KeyPair) -> Iterator[ServedAgent]:
    """An agent whose folder of keys is followed, as in the real ones."""
    peers = AuthorizedPeers([home])
    peers.watch()
    with serving(home, server_keys, peers=peers) as served:
        yield served


@pytest.fixture
def open_agent(home: Path) -> Iterator[ServedAgent]:
    """An agent on an open socket, as SECURE_ZMQ=0 makes it."""
    with serving(home, None) as served:
        yield served


@pytest.fixture
def client(agent: ServedAgent, peer_keys: KeyPair) -> Iterator[Client]:
    """A client of the agent that holds the peer's keys."""
    with Client(agent.secured(peer_keys)) as client:
        yield client


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    """A Context of the test's own, whose sockets are closed at its end."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def clients() -> Iterator[Clients]:
    """Clients that a server of bare pyzmq, or ours, may meet."""
    clients = Clients()
    yield clients
    clients.context.destroy(linger=0)
