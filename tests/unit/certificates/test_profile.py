"""A program's profile: whose folder it is, and which addresses that agents registered are connected to."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from twinhost.certificates import profile
from twinhost.certificates.layout import SERVER
from twinhost.certificates.profile import AgentPlace, own_folder, write_agents
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
