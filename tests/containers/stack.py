"""One stack of its own for the tests: both hosts, its keys, and what can be seen of it from outside."""

import io
import json
import os
import subprocess
import tarfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import docker
from docker.models.containers import Container
from docker.models.networks import Network
from testcontainers.compose import DockerCompose

from tests import ports as loopback_ports
from tests.containers.kept import Finished, Kept, execute, kept
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.certificates import Certificates, load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "twinhost:0.2.0"
ZMQ_PORTS = {"mainpc": 7120, "pc2": 7230}
EVENTS_PORT = 7150  # mainpc's
HTTP_PORTS = {"mainpc": 8120, "pc2": 8230}
HTTP_VARIABLES = {"mainpc": "MAINPC_HTTP_PORT", "pc2": "PC2_HTTP_PORT"}
KEY_STEMS = {"mainpc": "server", "pc2": "client"}
AGENTS = {"mainpc": "SystemDigitalTwin", "pc2": "UnifiedMemoryReasoningAgent"}
PORT_VARIABLES = ("MAINPC_HTTP_PORT", "PC2_HTTP_PORT", "MAINPC_ZMQ_PORT", "MAINPC_EVENTS_PORT", "PC2_ZMQ_PORT")


class Stack:
    """The project's docker-compose.yml under a project name of its own, on free ports."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        services: Sequence[str] = (),
        files: Sequence[str] = ("docker-compose.yml",),
    ) -> None:
        self.project = project_name()
        self.secure = settings.get("SECURE_ZMQ", "1") == "1"
        self._keys_folder = folder / "keys"
        env_file = folder / "stack.env"
        self.variables = variables = {"COMPOSE_PROJECT_NAME": self.project, **free_ports(), **settings}
        env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        self._variables = variables
        self._compose = DockerCompose(
            REPOSITORY, list(files), env_file=str(env_file), wait=False, services=list(services) or None
        )
        self.engine = docker.from_env()
        self._kept: dict[tuple[str, ...], Kept] = {}
        self._ends = ExitStack()

    def start(self) -> None:
        """Start the services without waiting for them."""
        self._compose.start()

    def start_service(self, service: str) -> None:
        self._compose.services = [service]
        self._compose.start()

    def stop(self) -> None:
        """Remove everything, volumes too."""
        self._ends.close()
        self._kept.clear()
        # With the profile: Compose leaves what only a profiled service uses, and the engine's addresses run out.
        done = self.compose("--profile", "*", "down", "--volumes", "--remove-orphans")
        self.engine.close()
        assert done.status == 0, done.err

    def wait_until_ready(self, deadline_s: float = 30) -> None:
        """Wait until both hosts say that they are ready: serving, and in touch with each other."""
        for host in HTTP_PORTS:
            wait_until(lambda host=host: self.http(host, "/readyz")[0] == 200, deadline_s, f"{host} is ready")  # type: ignore[misc]

    def container(self, service: str) -> Container:
        """Return a service's container, as the engine sees it now; a stopped one too."""
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        labels.append("com.docker.compose.oneoff=False")
        (container,) = self.engine.containers.list(all=True, filters={"label": labels})
        return container

    def networks(self, names: Iterable[str]) -> list[Network]:
        return [self.engine.networks.get(name) for name in names]

    def logs(self, service: str) -> str:
        return self.container(service).logs().decode(errors="replace")

    def events(self, service: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.logs(service).splitlines() if line.startswith("{")]

    def execute(self, service: str, *command: str) -> Finished:
        """Run a command in a service's running container."""
        return execute(self.container(service), *command)

    def kept(self, service: str, **variables: str) -> Kept:
        """Return a service's one-off container, which is started once and stays until the stack is stopped."""
        which = (service, *variables, *variables.values())
        if which not in self._kept:
            self._kept[which] = self._ends.enter_context(kept(self, service, **variables))
        return self._kept[which]

    def run(self, service: str, *arguments: str, given: str = "") -> Finished:
        """Run a service's program: as `docker compose run --rm SERVICE ARGUMENTS`, in a container that stays."""
        return self.kept(service).run(*arguments, given=given)

    def run_shell(self, service: str, script: str) -> Finished:
        """Run a shell script with a service's mounts and user, in a container that stays."""
        return self.kept(service).shell(script)

    def run_alone(self, service: str, *arguments: str, given: str = "") -> Finished:
        """Run a container of its own: `docker compose run --rm SERVICE ARGUMENTS`."""
        return self.compose("run", "--rm", "-T", "--no-deps", service, *arguments, given=given)

    def twinhost(self, *arguments: str, cwd: Path = REPOSITORY, **settings: str) -> Finished:
        """Run `./twinhost ARGUMENTS`, as on a machine whose environment names this stack."""
        return run_twinhost({**self._variables, **settings}, *arguments, cwd=cwd)

    def compose(self, *arguments: str, given: str = "", **variables: str) -> Finished:
        """Run a docker compose command on this project, with other variables than its own."""
        command = [*self._compose.compose_command_property, *arguments]
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **variables},
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def compose_bytes(self, *arguments: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        """Run a docker compose command whose input or output is no text."""
        command = [*self._compose.compose_command_property, *arguments]
        return subprocess.run(command, cwd=REPOSITORY, input=given, capture_output=True, check=False)

    def http(self, host: str, path: str) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the JSON document of a published path; status 0 where nobody answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.variables[HTTP_VARIABLES[host]]}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)
        except (OSError, ValueError):
            return 0, {}

    def published(self, host: str, port: int) -> str:
        """Return the `address:port` where a container's port is published."""
        container = self.container(host)
        for binding in container.ports.get(f"{port}/tcp") or []:
            return f"{binding['HostIp']}:{binding['HostPort']}"
        raise LookupError(f"{host} does not publish port {port} now")

    def zmq_address(self, host: str) -> str:
        """Return the published ZeroMQ endpoint of a host."""
        return f"tcp://{self.published(host, ZMQ_PORTS[host])}"

    def keys(self, folder: str) -> Certificates:
        """Return a folder of the stack's keys, copied out of its volume."""
        if not self._keys_folder.exists():
            chunks, _ = self.container("certs-init").get_archive("/certificates")
            content = b"".join(chunks)
            self._keys_folder.mkdir()
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(self._keys_folder, filter="tar")
        return load_certificates(self._keys_folder / "certificates" / folder)

    def address(self, host: str, folder: str = "operator") -> ServerAddress:
        """Return how a client with a folder's key reaches a host."""
        if not self.secure:
            return UnencryptedAddress(self.zmq_address(host))
        keys = self.keys(folder)
        return SecuredAddress(self.zmq_address(host), keys.own_keys, keys.public_key(KEY_STEMS[host]))

    def secured(self, host: str, own_keys: KeyPair, port: int | None = None) -> SecuredAddress:
        """Return how the holder of any pair reaches a host, or another of its ports."""
        address = f"tcp://{self.published(host, port or ZMQ_PORTS[host])}"
        return SecuredAddress(address, own_keys, self.keys("operator").public_key(KEY_STEMS[host]))

    def client(self, host: str, folder: str = "operator") -> Client:
        """Return a client of a host, the operator's unless another folder's key is asked for."""
        return Client(self.address(host, folder))

    def audit(self) -> list[dict[str, Any]]:
        """Return mainpc's audit log."""
        lines: list[str] = []
        with self.client("mainpc") as client:
            page = client.call("get_audit", limit=2_000)
            while page["lines"]:
                lines += page["lines"]
                page = client.call("get_audit", limit=2_000, position=page["position"])
        return [json.loads(line) for line in lines]

    def audited(self, event: str, **fields: str) -> dict[str, Any]:
        """Wait for a line of mainpc's audit log with these fields, and return the newest."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.audit() if line["event"] == event and fields.items() <= line.items()]

        return wait_until(found, PATIENCE_S, f"the audit log has {event} with {fields}")[-1]

    def kill_main_process(self, host: str) -> None:
        """End an agent's process with SIGKILL, from inside, so that the engine's restart policy sees a crash."""
        script = (
            "import os,signal\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    if pid != '1' and open(f'/proc/{pid}/stat').read().split()[3] == '1':\n"
            "        os.kill(int(pid), signal.SIGKILL)\n"
        )
        self.execute(host, "python", "-c", script)


def run_twinhost(variables: Mapping[str, str], *arguments: str, cwd: Path = REPOSITORY) -> Finished:
    """Run `./twinhost ARGUMENTS` with these settings."""
    done = subprocess.run(
        [REPOSITORY / "twinhost", *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def projects_of(run: str) -> str:
    """Return how the names of a run's Compose projects begin."""
    return f"twinhost-test-{run[:8]}"


def project_name() -> str:
    """Return a name for a Compose project that is nobody else's, and by which this run's are known."""
    return f"{projects_of(os.environ.get('PYTEST_XDIST_TESTRUNUID', ''))}{uuid.uuid4().hex[:8]}"


def free_ports() -> dict[str, str]:
    """Return free ports that stay the same over a restart, as the engine's own choice (0) does not.

    None of them is given to an outgoing connection while its container is down.
    """
    ports = loopback_ports.free_ports(len(PORT_VARIABLES))
    return {name: str(port) for name, port in zip(PORT_VARIABLES, ports, strict=True)}
