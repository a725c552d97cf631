"""What must be right before a start and is not: one sentence, a non-zero status, and nothing that listens."""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from tests.containers.kept import execute
from tests.containers.stack import IMAGE, REPOSITORY, Stack
from tests.waiting import wait_until
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import ConfigurationError

UID = 10001  # of the image's user
MODULES = {"mainpc": "twinhost.system_digital_twin", "pc2": "twinhost.unified_memory_reasoning"}
SECRETS = {"mainpc": "server.key_secret", "pc2": "client.key_secret"}
ENDS_WITHIN_S = 15
LISTENING = "0A"  # a socket's state in /proc/net/tcp

pytestmark = pytest.mark.sdt_security


class Room:
    """A container with a host's mounts, in which its agent is started again and again; so its listeners can be seen."""

    def __init__(self, engine: docker.DockerClient, folder: Path) -> None:
        self._folder = folder
        mounts = {"certificates": "/certificates", "config": "/app/config"}
        for name in mounts:
            (folder / name).mkdir()
        volumes = {str(folder / name): {"bind": target, "mode": "ro"} for name, target in mounts.items()}
        self.container = engine.containers.run(IMAGE, ["sleep", "infinity"], volumes=volumes, init=True, detach=True)

    def furnish(self, certificates: Path, config: Path) -> None:
        """Replace what is in the mounts."""
        for source, mounted in ((certificates, self._folder / "certificates"), (config, self._folder / "config")):
            for path in mounted.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(source, mounted, dirs_exist_ok=True)
        subprocess.run(["chown", "-R", f"{UID}:{UID}", self._folder], check=True)

    def listeners(self) -> list[str]:
        """Return the local addresses that somebody listens on."""
        output = execute(self.container, "cat", "/proc/net/tcp", "/proc/net/tcp6").out
        rows = [line.split() for line in output.splitlines()]
        return [row[1] for row in rows if len(row) > 3 and row[3] == LISTENING]


@pytest.fixture(scope="module")
def rooms(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Room]]:
    with ExitStack() as ends:
        made: dict[str, Room] = {}
        for host in MODULES:
            made[host] = Room(engine, tmp_path_factory.mktemp(host))
            ends.callback(made[host].container.remove, force=True)
        yield made


class Start:
    """One attempt to start an agent."""

    def __init__(self, engine: docker.DockerClient, folder: Path, rooms: Mapping[str, Room]) -> None:
        self._engine, self._folder, self._rooms = engine, folder, rooms
        self.more_volumes: dict[str, dict[str, str]] = {}
        make_keys(plan_layout(folder / "keys", load_network_config(REPOSITORY / "config/network_config.yaml"), None))
        (folder / "config").mkdir()
        text = (REPOSITORY / "config/network_config.yaml").read_text()
        (folder / "config/network_config.yaml").write_text(text)

    def certificates(self, host: str) -> Path:
        return self._folder / "keys" / host

    @property
    def config_file(self) -> Path:
        return self._folder / "config/network_config.yaml"

    def furnished(self, host: str) -> Container:
        """Return the host's room, with the keys and the configuration of this attempt."""
        self._rooms[host].furnish(self.certificates(host), self.config_file.parent)
        return self._rooms[host].container

    def run(self, host: str, environment: Mapping[str, str]) -> tuple[int, str]:
        """Start a host's agent that is to end by itself; return its exit status and its output."""
        room = self.furnished(host)
        if self.more_volumes:
            return self._run_with_more_volumes(host, room, environment)
        command = ("timeout", str(ENDS_WITHIN_S), "python", "-m", MODULES[host])
        done = execute(room, *command, environment=environment)
        return done.status, done.out + done.err

    def _run_with_more_volumes(self, host: str, room: Container, environment: Mapping[str, str]) -> tuple[int, str]:
        container = self._engine.containers.run(
            IMAGE,
            ["python", "-m", MODULES[host]],
            environment=dict(environment),
            network_mode=f"container:{room.id}",
            volumes=self.more_volumes,
            volumes_from=[f"{room.id}:ro"],
            detach=True,
        )
        try:
            return container.wait(timeout=ENDS_WITHIN_S)["StatusCode"], container.logs().decode()
        finally:
            container.remove(force=True)

    def assert_refused(self, host: str, environment: Mapping[str, str], sentence: str) -> None:
        """The agent says why it does not start, and ends with the status of a wrong configuration; nothing listens."""
        status, output = self.run(host, environment)
        assert status == ConfigurationError.EXIT_STATUS
        assert sentence in output
        said = [line for line in output.splitlines() if not line.startswith('{"')]  # the rest are events of the log
        assert len(said) == 1, output
        assert self._rooms[host].listeners() == []


@pytest.fixture
def start(engine: docker.DockerClient, tmp_path: Path, rooms: dict[str, Room]) -> Start:
    """A start in which everything is right."""
    return Start(engine, tmp_path, rooms)


def remove_secret(start: Start, host: str) -> None:
    (start.certificates(host) / SECRETS[host]).unlink()


def expose_secret(start: Start, host: str) -> None:
    (start.certificates(host) / SECRETS[host]).chmod(0o640)


def truncate_secret(start: Start, host: str) -> None:
    path = start.certificates(host) / SECRETS[host]
    path.write_text(path.read_text().replace('secret-key = "', 'secret-key = "abc" #'))


def zero_secret(start: Start, host: str) -> None:
    path = start.certificates(host) / SECRETS[host]
    lines = [line for line in path.read_text().splitlines() if "secret-key" not in line]
    path.write_text("\n".join([*lines, f'    secret-key = "{"0" * 40}"']) + "\n")


def mismatch_halves(start: Start, host: str) -> None:
    path = start.certificates(host) / SECRETS[host]
    public = (start.certificates(host) / "operator.key").read_text().splitlines()[-1]
    lines = [public if "public-key" in line else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def add_secret_of_another(start: Start, host: str) -> None:
    other = {"mainpc": "pc2", "pc2": "mainpc"}[host]
    path = start.certificates(host) / SECRETS[other]
    path.write_text((start.certificates(other) / SECRETS[other]).read_text())
    path.chmod(0o600)


def swap_identity(start: Start, host: str) -> None:
    remove_secret(start, host)
    add_secret_of_another(start, host)


def add_unknown_key(start: Start, host: str) -> None:
    start.config_file.write_text(start.config_file.read_text() + "\nfallback_to_plain: true\n")


def remove_limit(start: Start, host: str) -> None:
    lines = start.config_file.read_text().splitlines()
    start.config_file.write_text("\n".join(line for line in lines if "heartbeat_s" not in line) + "\n")


def forbid_writing_state(start: Start, _: str) -> None:
    start.more_volumes = {str(start.certificates("operator")): {"bind": "/var/lib/twinhost", "mode": "ro"}}


Breakage = Callable[[Start, str], None]
BREAKAGES: list[tuple[Breakage, str]] = [
    (remove_secret, "holds no secret key"),
    (expose_secret, "others can use the secret; run: docker compose run --rm certs-init verify"),
    (truncate_secret, "expected name"),
    (zero_secret, "all zero"),
    (mismatch_halves, "not halves of one pair"),
    (add_secret_of_another, "keep only this host's own"),
    (swap_identity, "mount its own folder"),
    (forbid_writing_state, "/var/lib/twinhost is not a folder that this process can write"),
    (add_unknown_key, "unknown key 'fallback_to_plain'"),
    (remove_limit, "limits lacks the key 'heartbeat_s'"),
]


@pytest.mark.parametrize("host", MODULES)
@pytest.mark.parametrize(("breakage", "sentence"), BREAKAGES, ids=[breakage.__name__ for breakage, _ in BREAKAGES])
def test_what_is_wrong_stops_the_start(start: Start, host: str, breakage: Breakage, sentence: str) -> None:
    """Keys or configuration that can't be believed: the agent says which and does not start."""
    breakage(start, host)
    start.assert_refused(host, {"SECURE_ZMQ": "1"}, sentence)


@pytest.mark.parametrize("host", MODULES)
@pytest.mark.parametrize("value", ["yes", "", "true", "01", " 1"])
def test_a_switch_that_is_neither_1_nor_0_stops_the_start(start: Start, host: str, value: str) -> None:
    """SECURE_ZMQ is 1 or 0; a slip never means off."""
    start.assert_refused(host, {"SECURE_ZMQ": value}, "set it to 1")


def test_umra_without_mainpcs_public_key_does_not_start(start: Start) -> None:
    """There is nothing to pin, and nothing is talked to without a pin."""
    (start.certificates("pc2") / "server.key").unlink()
    start.assert_refused("pc2", {"SECURE_ZMQ": "1"}, "server.key is missing")


def test_an_empty_switch_in_env_stops_both_hosts(engine: docker.DockerClient, tmp_path: Path) -> None:
    """`SECURE_ZMQ=` in .env reaches the agents as empty, and neither starts."""
    stack = Stack(tmp_path, {"SECURE_ZMQ": ""})
    try:
        stack.start()
        for host in MODULES:
            container = stack.container(host)
            container.wait(timeout=ENDS_WITHIN_S, condition="not-running")
            assert "SECURE_ZMQ is ''" in stack.logs(host)
            assert container.attrs["State"]["Status"] != "created"
    finally:
        stack.stop()


def test_the_right_settings_start_it(start: Start, rooms: dict[str, Room]) -> None:
    """The same start with nothing broken listens, so the refusals above have their cause and would be seen."""
    room, listeners = start.furnished("mainpc"), rooms["mainpc"].listeners
    begin = f"echo $$ > /tmp/agent; exec python -m {MODULES['mainpc']}"
    room.exec_run(["sh", "-c", begin], environment={"SECURE_ZMQ": "1"}, detach=True)
    wait_until(lambda: len(listeners()) == 3, 10, "requests, events, and HTTP listen")
    check = ("python", "-m", "twinhost.agent.healthcheck", "SystemDigitalTwin")
    assert execute(room, *check, environment={"SECURE_ZMQ": "1"}).status == 0
    execute(room, "sh", "-c", "kill $(cat /tmp/agent)")
    wait_until(lambda: listeners() == [], ENDS_WITHIN_S, "the agent has ended")
