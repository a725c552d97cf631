"""A program's profile: whose folder it is, and which addresses that agents registered are connected to."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from twinhost.certificates import profile
from twinhost.certificates.layout import SERVER
from twinhost.certificates.profile import AgentPlace, own_folder, write_agents
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import FOLDER_VARIABLE
from twinhost.secure_zmq.errors import KeyFileExposed, ServerUnreachable

TRAPS = ["127.0.0.1", "localhost", "::1", "0.0.0.0", "169.254.169.254", "trap.example", "mapped.example"]
NAMES = {"trap.example": "169.254.169.254", "mapped.example": "127.0.0.1", "mainpc": "192.0.2.10"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the endpoints that agents are asked at; mainpc has one agent at each trap, and none answers."""
    endpoints: list[str] = []
    agents = [{"name": f"agent{n}", "location": f"pc{n}", "host": host, "port": 631} for n, host in enumerate(TRAPS)]
    server = {"name": SERVER, "location": "mainpc", "host": "192.0.2.10", "port": 7150}

    def ask(_: object, __: str, endpoint: str, action: str, *___: object) -> dict[str, Any]:
        if action == "get_registered_agents":
            return {"agents": [server, *agents]}
        endpoints.append(endpoint)
        raise ServerUnreachable("nobody is there")

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES.get(host, host), port))]

    monkeypatch.setattr(profile, "_ask", ask)
    monkeypatch.setattr(profile, "load_certificates", lambda _: None)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return endpoints


def test_no_agent_chooses_a_port_of_this_machine(asked: list[str], tmp_path: Path) -> None:
    """Loopback, the link, and names of them, when joining and afterwards; mainpc's address is tried instead."""
    reached = write_agents(tmp_path, {SERVER: AgentPlace("192.0.2.10", {"zmq": 7150})})
    assert set(asked) == {"tcp://192.0.2.10:631"}
    assert [agent.name for agent in reached] == [SERVER]
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert not [trap for trap in TRAPS if trap in written]


@pytest.mark.parametrize("mainpc", ["127.0.0.1", "mapped.example"])
def test_beside_mainpc_its_machine_is_this_one(asked: list[str], tmp_path: Path, mainpc: str) -> None:
    """As where all hosts are one machine."""
    reached = write_agents(tmp_path, {SERVER: AgentPlace(mainpc, {"zmq": 7150})})
    assert "tcp://127.0.0.1:631" in asked
    assert len(reached) == 1 + len(TRAPS)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode lets nobody else in, but its owner is somebody else, as after `sudo`."""
    folder, user = tmp_path / "twinhost", os.geteuid()
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with (
        pytest.raises(KeyFileExposed, match=f"belongs to user {user}, .*run: chown {user + 1} {folder}"),
        own_folder(folder),
    ):
        pass
    monkeypatch.undo()
    with own_folder(folder):
        pass


REGISTERED = {"host": "pc2", "address": "mainpc-standby", "ports": {"zmq": 7120, "http": 8120, "events": 7150}}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what SystemDigitalTwin registered with, which is to be changed; its containers' names are unknown here."""
    metadata: dict[str, Any] = {"events_port": 7150, "standby": dict(REGISTERED)}
    agent = {"name": SERVER, "location": "mainpc", "host": "mainpc", "port": 7120, "metadata": metadata}
    monkeypatch.setattr(profile, "_ask", lambda *_: {"agents": [agent]})
    monkeypatch.setattr(profile, "load_certificates", lambda _: None)
    return metadata


def written(folder: Path, mainpc: AgentPlace) -> tuple[Sequence[str], Sequence[str]]:
    """Write a profile, by what mainpc answers at a place; return where it has the agent, and its feed."""
    write_agents(folder, {SERVER: mainpc})
    agent = load_network_config(environment={FOLDER_VARIABLE: str(folder)}).agent(SERVER)
    return agent.endpoints, agent.feed_endpoints


@pytest.mark.parametrize("answers", [7120, 7121], ids=["home", "standby"])
def test_beside_mainpc_its_standby_has_the_published_ports(
    registered: dict[str, Any], tmp_path: Path, answers: int
) -> None:
    """As with `make up-ha`; the profile is the same, whichever of the two has answered."""
    registered["standby"]["published_ports"] = {"zmq": 7121, "events": 7151}
    zmq, feed = written(tmp_path, AgentPlace("192.0.2.10", {"zmq": answers}))
    assert zmq == ("tcp://192.0.2.10:7120", "tcp://192.0.2.10:7121")
    assert feed == ("tcp://192.0.2.10:7150", "tcp://192.0.2.10:7151")


def test_on_another_machine_the_standby_has_its_address(registered: dict[str, Any], tmp_path: Path) -> None:
    """Where mainpc is reached as it has registered, so is its standby."""
    registered["standby"]["address"] = "192.0.2.20"
    zmq, _ = written(tmp_path, AgentPlace("mainpc", {"zmq": 7120}))
    assert zmq == ("tcp://mainpc:7120", "tcp://192.0.2.20:7120")
    zmq, _ = written(tmp_path, AgentPlace("192.0.2.20", {"zmq": 7120}))  # and the other way round
    assert zmq == ("tcp://mainpc:7120", "tcp://192.0.2.20:7120")


def test_a_standby_that_came_later_is_learnt_by_a_refresh(registered: dict[str, Any], tmp_path: Path) -> None:
    """And one that is gone is forgotten."""
    standby, at = registered.pop("standby"), AgentPlace("mainpc", {"zmq": 7120})
    assert written(tmp_path, at)[0] == ("tcp://mainpc:7120",)
    registered["standby"] = standby
    assert written(tmp_path, at)[0] == ("tcp://mainpc:7120", "tcp://mainpc-standby:7120")
    del registered["standby"]
    assert written(tmp_path, at)[0] == ("tcp://mainpc:7120",)


@pytest.mark.parametrize(
    "wrong",
    [
        "pc2",
        {},
        {**REGISTERED, "address": "a b"},
        {**REGISTERED, "address": 7},
        {**REGISTERED, "host": ["pc2"]},
        {**REGISTERED, "ports": {"zmq": "7120"}},
        {**REGISTERED, "ports": {"zmq": 70_000}},
        {**REGISTERED, "ports": [7120]},
        {**REGISTERED, "address": "127.0.0.1"},
    ],
    ids=str,
)
def test_a_registered_standby_that_is_none_is_left_out(
    registered: dict[str, Any], tmp_path: Path, wrong: object
) -> None:
    """Or one on this machine, where mainpc is on another."""
    registered["standby"] = wrong
    assert written(tmp_path, AgentPlace("mainpc", {"zmq": 7120}))[0] == ("tcp://mainpc:7120",)
