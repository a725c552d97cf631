"""mainpc moves: backed up as its stack runs, restored in another project, found there by a changed address alone."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.stack import AGENTS, KEY_STEMS, Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import SecuredAddress

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent]

NEW_NAME = "newmainpc"  # under which the old link reaches the other project's mainpc


class Move:
    """The stack that mainpc moves from, which goes on as pc2's, and the one that it moves to."""

    def __init__(self, root: Path) -> None:
        for name in ("old", "new"):
            (root / name).mkdir()
        self._settings = root / "old/stack.env"
        self.old = Stack(root / "old", {"SECURE_ZMQ": "1"})
        self.new = Stack(root / "new", {"SECURE_ZMQ": "1", "TWINHOST_HOST": "mainpc"}, services=["mainpc"])

    def point_old_to_new(self, engine: docker.DockerClient) -> None:
        """Let the old link reach the new mainpc, and name it in the old stack's settings."""
        link = engine.networks.get(f"{self.old.project}_link")
        link.connect(self.new.container("mainpc"), aliases=[NEW_NAME])
        with self._settings.open("a") as settings:
            settings.write(f"TWINHOST_HOST=pc2\nMAINPC_IP={NEW_NAME}\n")

    def stop(self) -> None:
        self.new.stop()  # first: it is on the old one's network
        self.old.stop()


@pytest.fixture
def move(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Move]:
    move = Move(tmp_path)
    try:
        move.old.start()
        move.old.wait_until_ready()
        yield move
    finally:
        move.stop()


def test_mainpc_moves_and_its_clients_follow_by_configuration(move: Move, engine: docker.DockerClient) -> None:
    """By the page's commands: no key changes hands, the registry and the log are there, and pc2's secret is not."""
    old, new = move.old, move.new
    with old.client("mainpc") as client:
        client.call("register_agent", agent_name="operator", status="HEALTHY")
    backed_up = old.compose_bytes("run", "--rm", "-T", "archive", "backup", "-")
    assert backed_up.returncode == 0, backed_up.stderr.decode()
    pc2 = old.keys("pc2").own_keys
    assert pc2.secret_z85 not in backed_up.stdout
    with tarfile.open(fileobj=io.BytesIO(backed_up.stdout)) as tar:
        secrets = [name for name in tar.getnames() if name.endswith("_secret")]
    assert secrets == ["keys/mainpc/server.key_secret", "keys/operator/operator.key_secret"]
    assert old.compose("stop", "mainpc").status == 0

    restore = ("run", "--rm", "-T", "archive", "restore", "-")
    restored = new.compose_bytes(*restore, given=backed_up.stdout)
    assert restored.returncode == 0, restored.stderr.decode()
    new.start()
    wait_until(lambda: new.http("mainpc", "/healthz")[0] == 200, PATIENCE_S, "the new mainpc serves")
    again = new.compose_bytes(*restore, "--replace", given=backed_up.stdout)
    assert (again.returncode, b"stop it first: docker compose stop mainpc" in again.stderr) == (1, True), again.stderr

    keys = old.keys("operator")
    with Client(
        SecuredAddress(new.zmq_address("mainpc"), keys.own_keys, keys.public_key(KEY_STEMS["mainpc"]))
    ) as client:
        agents = client.call("get_all_agents")["agents"]
    assert {"operator", *AGENTS.values()} <= agents.keys()

    move.point_old_to_new(engine)
    followed = old.compose("up", "--detach", "pc2")
    assert followed.status == 0, followed.err
    wait_until(lambda: old.http("pc2", "/readyz")[0] == 200, PATIENCE_S, "pc2 is in touch with the new mainpc")
    listed = json.loads(old.run("cli", "agents", "--json").out)["agents"]
    assert {agent["name"]: agent["status"] for agent in listed}[AGENTS["pc2"]] == "HEALTHY"
    assert old.container("mainpc").status == "exited"

    for command in (("cli", "audit", "verify"), ("certs-init", "verify")):
        done = new.run(*command)
        assert done.status == 0, (command, done.out, done.err)
    found = new.run_shell("certs-init", "find /certificates -name '*_secret' -printf '%P %m\\n' | sort").out
    assert found.splitlines() == ["mainpc/server.key_secret 600", "operator/operator.key_secret 600"]
