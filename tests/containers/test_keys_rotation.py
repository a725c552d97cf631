"""`certs-init rotate` on the live stack: nobody loses a call, a kill at any moment is made good, old keys are dead."""

import io
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.stack import AGENTS, REPOSITORY, Stack
from tests.traffic import Traffic
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.certificates import load_certificates, pins_of
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive, WrongServerKey
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress

CALLS = 20_000
BEFORE, AFTER = 2_000, 2_000  # calls before the rotation begins, and after it ended
LOOK_EVERY_S = 0.05
SERVER, CLIENT = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
COMMANDS = {"mainpc": ["rotate", "server"], "pc2": ["rotate", "client", CLIENT]}
TRAFFIC: dict[str, tuple[tuple[str, dict[str, Any]], str]] = {
    "mainpc": (("get_agent_endpoint", {"agent_name": SERVER}), "register_agent"),
    "pc2": (("get_twin", {"user_id": "nobody"}), "update_twin"),
}
ANNOUNCED, WAITS, SWITCHED, REVOKED = "the next key of", "waiting until", " changes from ", "the old key"


class Keys:
    """The stack's certificates, read out of their volume again and again."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._container = stack.container("certs-init")  # it ended, and has the volume still
        self._folder, self._copies = folder, 0

    def copy(self) -> Path:
        """Return a copy of the tree as it is now."""
        content = wait_until(self._archive, PATIENCE_S, "the tree is read")
        assert content is not None
        self._copies += 1
        copy = self._folder / f"{threading.get_ident()}-{self._copies}"
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(copy, filter="tar")
        return copy / "certificates"

    def _archive(self) -> bytes | None:
        """Return the tree as an archive; None where a file went while the engine read it."""
        chunks, _ = self._container.get_archive("/certificates")
        content = b"".join(chunks)
        with suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.getmembers()
            return content
        return None

    def pair(self, folder: str) -> KeyPair:
        return load_certificates(self.copy() / folder).own_keys


class Pins:
    """The good keys of one agent in the operator's folder, followed by a thread."""

    def __init__(self, keys: Keys, name: str) -> None:
        self._keys, self._name = keys, name
        self.now = pins_of(keys.copy() / "operator", name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            with suppress(docker.errors.APIError, tarfile.TarError, OSError):  # a file went while the engine read it
                self.now = pins_of(self._keys.copy() / "operator", self._name) or self.now

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def rotating(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both hosts, with keys that change."""
    stack = Stack(tmp_path_factory.mktemp("rotating"), {})
    try:
        stack.start()
        stack.wait_until_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def keys(rotating: Stack, tmp_path: Path) -> Keys:
    return Keys(rotating, tmp_path)


@pytest.mark.parametrize("host", AGENTS)
def test_rotated_under_traffic_no_call_is_lost_or_doubled(rotating: Stack, keys: Keys, host: str) -> None:
    """Four clients, 20,000 calls and more, every third of them a change; then the old key is dead."""
    old, operator = keys.pair(host), keys.pair("operator")
    pins = Pins(keys, AGENTS[host])
    address = FollowedAddress(rotating.zmq_address(host), lambda: operator, lambda: pins.now)
    traffic = Traffic(address, *TRAFFIC[host])
    traffic.start()
    try:
        wait_until(lambda: traffic.answered >= BEFORE, PATIENCE_S, "the traffic flows")
        rotated = rotating.run("certs-init", *COMMANDS[host])
        so_far = traffic.answered
        wait_until(lambda: traffic.answered >= max(CALLS, so_far + AFTER), 60, "the traffic goes on")
    finally:
        traffic.stop()
        pins.stop()
    assert rotated.status == 0, rotated.out + rotated.err
    assert "proven" in rotated.out
    assert traffic.failures == []
    assert revisions(rotating, keys, host) == {
        f"client-{number}": account.changes for number, account in enumerate(traffic.accounts)
    }
    assert_rotated(rotating, keys, host, old)


def test_after_it_all_is_well(rotating: Stack) -> None:
    """`cli doctor` finds nothing to mend."""
    done = rotating.run("cli", "doctor")
    assert done.status == 0, done.out + done.err


@pytest.mark.parametrize(
    ("host", "moment"),
    [("mainpc", ANNOUNCED), ("mainpc", SWITCHED), ("pc2", ANNOUNCED), ("pc2", SWITCHED), ("pc2", REVOKED)],
)
def test_a_killed_rotation_is_taken_up_by_the_next_run(
    engine: docker.DockerClient, rotating: Stack, keys: Keys, host: str, moment: str
) -> None:
    """`docker kill` of certs-init as soon as it says how far it came."""
    old = keys.pair(host)

    def kill(name: str) -> None:
        with suppress(docker.errors.APIError):  # after its last line it may have ended by then
            engine.containers.get(name).kill()

    amid(rotating, host, moment, kill)
    run_again(rotating, host)
    assert_rotated(rotating, keys, host, old)


@pytest.mark.parametrize(
    ("host", "victim", "moment"),
    [("mainpc", "mainpc", WAITS), ("mainpc", "pc2", WAITS), ("pc2", "pc2", SWITCHED)],
)
def test_an_agent_that_dies_amid_a_rotation_completes_it(
    rotating: Stack, keys: Keys, host: str, victim: str, moment: str
) -> None:
    """kill -9 of an agent, which the engine starts again; the run may go on or give up, and the next one ends well."""
    old = keys.pair(host)
    if amid(rotating, host, moment, lambda _: rotating.kill_main_process(victim)) != 0:
        run_again(rotating, host)
    assert_rotated(rotating, keys, host, old)


def test_after_all_of_that_all_is_well(rotating: Stack) -> None:
    """`cli doctor` finds nothing to mend, in the audit log neither."""
    test_after_it_all_is_well(rotating)


def amid(stack: Stack, host: str, moment: str, act: Callable[[str], object]) -> int:
    """Rotate, and act as a line appears, given the name of the one-off container; return the exit status."""
    name = f"{stack.project}-rotate"
    command = [*stack._compose.compose_command_property, "run", "--rm", "-T", "--no-deps", "--name", name, "certs-init"]
    process = subprocess.Popen(
        [*command, *COMMANDS[host]], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if moment in line:
            act(name)
            break
    else:
        pytest.fail(f"it never said {moment!r}: {seen}")
    process.communicate()
    return process.returncode


def run_again(stack: Stack, host: str) -> None:
    """The next run ends well."""
    ran = stack.run("certs-init", *COMMANDS[host])
    assert ran.status == 0, ran.out + ran.err


def assert_rotated(stack: Stack, keys: Keys, host: str, old: KeyPair) -> None:
    """There is another key, both hosts are ready, the tree is right, and the old pair is worth nothing any more."""
    new, pins = keys.pair(host), pins_of(keys.copy() / "operator", SERVER)
    assert new.public != old.public
    stack.wait_until_ready()
    verified = stack.run("certs-init", "verify")
    assert (verified.status, "remark" in verified.out) == (0, False), verified.out
    with (
        Client(SecuredAddress(stack.zmq_address("mainpc"), old, pins[0])) as client,
        pytest.raises((NotAuthorized, PeerNotLive)),
    ):
        client.call("ping")
    with (
        Client(SecuredAddress(stack.zmq_address(host), keys.pair("operator"), old.public)) as client,
        pytest.raises(WrongServerKey),
    ):
        client.call("ping")


def revisions(stack: Stack, keys: Keys, host: str) -> dict[str, int]:
    """Return how many changes of each client took effect, by the agent's store."""
    copy = keys.copy() / "operator"
    names = [f"client-{number}" for number in range(4)]
    address = SecuredAddress(stack.zmq_address(host), load_certificates(copy).own_keys, pins_of(copy, AGENTS[host])[0])
    with Client(address) as client:
        if host == "pc2":
            return {name: client.call("get_twin", user_id=name)["revision"] for name in names}
        agents = client.call("get_registered_agents")["agents"]
        found = {agent["name"]: agent["revision"] for agent in agents if agent["name"] in names}
        for name in names:
            client.call("unregister", agent_name=name)
    return found
