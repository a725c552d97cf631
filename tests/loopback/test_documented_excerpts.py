"""Two code excerpts of the mission document, as written there, in processes of their own."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq

from tests.loopback.conftest import Folders
from tests.waiting import PATIENCE_S, REFUSAL_S, at_most
from twinhost.agent.legacy import secure_client_socket
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, SecurityMismatch
from twinhost.secure_zmq.key_writer import write_revocation
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

SERVER_EXCERPT = """\
secure_zmq = os.environ.get("SECURE_ZMQ", "0") == "1"
if secure_zmq:
    from main_pc_code.src.network.secure_zmq import configure_secure_server
    self.socket = configure_secure_server(self.socket)
"""
CLIENT_EXCERPT = """\
self.use_secure_zmq = os.environ.get("SECURE_ZMQ", "0") == "1"
if self.use_secure_zmq:
    from main_pc_code.src.network.secure_zmq import secure_client_socket
    self.socket = secure_client_socket(self.socket)
"""
PROGRAM = """\
import os
import sys

import zmq


class Agent:
    def __init__(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.{kind})
{excerpt}

    def serve(self):
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        print("bound to", port, flush=True)
        while True:
            self.socket.send_json({{"status": "ok", "request": self.socket.recv_json()}})

    def ask(self):
        self.socket.connect(sys.argv[1])
        self.socket.send_json({{"action": "ping"}})
        print(self.socket.recv_json()["request"]["action"], flush=True)


Agent().{act}()
"""


def command(program: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start an existing agent as its own process, with nothing but the documented variables set."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "SECURE_ZMQ": "1",
        "TWINHOST_CERTIFICATES": str(folder),
    }
    return subprocess.Popen(
        [sys.executable, "-B", str(program), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def written(folder: Path, kind: str, excerpt: str, act: str) -> Path:
    path = folder / f"{kind.lower()}_agent.py"
    path.write_text(PROGRAM.format(kind=kind, excerpt=textwrap.indent(excerpt, " " * 8), act=act))
    return path


@pytest.fixture
def rep_address(tmp_path: Path, folders: Folders) -> Iterator[str]:
    """An existing REP agent on mainpc, running."""
    with command(written(tmp_path, "REP", SERVER_EXCERPT, "serve"), folders[0]) as process:
        try:
            assert process.stdout is not None
            bound = next(line for line in process.stdout if line.startswith("bound to"))
            yield f"tcp://127.0.0.1:{bound.split()[-1]}"
        finally:
            process.kill()


def test_the_documented_excerpts_talk_to_each_other(tmp_path: Path, folders: Folders, rep_address: str) -> None:
    """REP and REQ, each with a `zmq.Context()` of its own, unchanged: a request and its reply over CURVE."""
    program = written(tmp_path, "REQ", CLIENT_EXCERPT, "ask")
    with command(program, folders[1], rep_address) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (out, err) == ("ping\n", "")
    assert process.returncode == 0


def test_a_stranger_is_refused_by_the_documented_server(
    rep_address: str, server_keys: KeyPair, stranger_keys: KeyPair
) -> None:
    """The server excerpt alone is enough: an unknown key and a plain client are refused within two seconds."""
    unknown_key: ServerAddress = SecuredAddress(rep_address, stranger_keys, server_keys.public)
    for server, refusal in ((unknown_key, NotAuthorized), (UnencryptedAddress(rep_address), SecurityMismatch)):
        with Client(server) as client, at_most(REFUSAL_S), pytest.raises(refusal):
            client.call("ping", deadline_s=30)


def test_a_revoked_clients_session_ends_within_1_s(
    rep_address: str, folders: Folders, peer_keys: KeyPair, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    """Existing agents are served by the excerpt's socket alone, and it too ends the session of a revoked key."""
    client = secure_client_socket(context.socket(zmq.REQ), folders[1])
    client.linger, client.rcvtimeo = 0, int(PATIENCE_S * 1_000)
    monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    client.connect(rep_address)
    client.send_json({"action": "ping"})
    assert b'"status": "ok"' in client.recv()
    write_revocation(peer_keys.certificate, folders[0] / "revoked")
    assert monitor.poll(1_000), "the session was not ended within 1 s"
    with suppress(zmq.Again):  # once it was refused, there is nobody to send to
        client.send_json({"action": "ping"}, zmq.NOBLOCK)
    assert not client.poll(500)


def test_a_documented_server_without_keys_does_not_start(tmp_path: Path) -> None:
    """Where the original went on in the open, there is an error that says what to run."""
    with command(written(tmp_path, "REP", SERVER_EXCERPT, "serve"), tmp_path) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert out == ""
    assert "holds no secret key; run: twinhost join --local" in err
    assert err.splitlines()[-1].endswith(
        "invite NAME --host HOST --role agent (for an agent: docker compose run --rm certs-init)"
    )
    assert process.returncode != 0
