"""Three machines of one Compose project, and what can happen to them: a process, a machine, or a link goes."""

import http.client
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from tests.containers.checkout import Machine as Checkout
from tests.containers.test_failover import STANDBY_VARIABLES
from tests.faults.small_volumes import FILL, FILLER
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, wait_until

MACHINES = {
    "mainpc": ("mainpc", "pc2-standby", "database-mainpc"),
    "pc2": ("pc2", "mainpc-standby", "database-pc2"),
    "third": ("witness",),
}
PROCESSES_OF = {
    "SystemDigitalTwin": ("mainpc", "mainpc-standby"),
    "UnifiedMemoryReasoningAgent": ("pc2", "pc2-standby"),
}
TURNED = "/tmp/turned"
_WHOLE_LOGS = Path(__file__).with_name("whole_logs.yaml")
# By the right time, also where the deployment's keys were made a day ago.
_CERTS_INIT = "docker compose --progress quiet run --rm -T -e FAKETIME=+0 certs-init"
NODES = ("database-mainpc", "database-pc2")
_STATES = "SELECT nodename || ' ' || reportedstate || ' ' || goalstate FROM pgautofailover.node"
WHOLE_WITHIN_S = 120.0
_LOOK_S = 0.3
_ANSWERS_S = 2.0


@dataclass(frozen=True)
class Machines:
    """A deployment that `make up-ha` has started."""

    checkout: Checkout

    @classmethod
    @contextmanager
    def started(
        cls, folder: Path, variables: Mapping[str, str] | None = None, *overrides: Path
    ) -> "Iterator[Machines]":
        """Run `make up-ha` in a checkout of its own, and remove everything at the end.

        Args:
            folder: of the checkout.
            variables: further lines of its `.env`.
            overrides: files of Compose besides its own.
        """
        ports = map(str, free_ports(len(STANDBY_VARIABLES)))
        checkout = Checkout(
            folder / "checkout", dict(zip(STANDBY_VARIABLES, ports, strict=True)) | dict(variables or {})
        )
        files = [Path(shutil.copy(file, checkout.folder)).name for file in (_WHOLE_LOGS, *overrides)]
        checkout.set({"COMPOSE_FILE": ":".join(["docker-compose.yml", *files])})
        try:
            done = checkout.run("scripts/setup/up_ha.sh")
            assert done.status == 0, done.out + done.err
            yield cls(checkout)
        finally:
            checkout.remove()

    def container(self, service: str) -> str:
        """Return the name of a service's container; a stopped one's too."""
        return f"{self.checkout.variables['COMPOSE_PROJECT_NAME']}-{service}-1"

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a container, and return what it printed; fail where that fails."""
        return _run("docker", "exec", self.container(service), *command)

    def log(self, service: str) -> list[dict[str, Any]]:
        """Return the lines of a service's log, which are JSON; `process` is its name, and `came` the engine's time."""
        command = ["docker", "logs", "--timestamps", self.container(service)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        lines = (line.partition(" ") for line in done.stdout.decode().splitlines())
        return [json.loads(line) | {"process": service, "came": at} for at, _, line in lines if line.startswith("{")]

    def health(self, service: str) -> dict[str, Any]:
        """Return the health document of an agent's process; an empty one where it does not answer."""
        port = self.checkout.variables[f"{service.replace('-', '_').upper()}_HTTP_PORT"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_ANSWERS_S) as answer:
                return dict(json.load(answer))
        except (OSError, http.client.HTTPException):
            return {}

    def role(self, service: str) -> str:
        """Return whether an agent's process is `active` or `standby`; empty where it does not say."""
        return str(self.health(service).get("log", {}).get("role", ""))

    def with_role(self, agent: str, role: str) -> str:
        """Return the service of an agent that has a role now; empty where none has."""
        return next((service for service in PROCESSES_OF[agent] if self.role(service) == role), "")

    def node(self, state: str) -> str:
        """Return the database node in a state; empty where none is in it."""
        return next((name for name, reported, _ in self._nodes() if reported == state), "")

    def _nodes(self) -> list[tuple[str, str, str]]:
        rows = self.execute("witness", "psql", "-XqAt", "-c", _STATES, "pg_auto_failover").splitlines()
        return [(name, reported, goal) for name, reported, goal in (row.split() for row in rows)]

    def whole(self) -> bool:
        """Return whether each commit is on both nodes, and each agent has both its processes."""
        if any(sorted(map(self.role, services)) != ["active", "standby"] for services in PROCESSES_OF.values()):
            return False
        try:
            states = sorted((reported, goal) for _, reported, goal in self._nodes())
        except AssertionError:
            return False
        return states == [("primary", "primary"), ("secondary", "secondary")]

    def wait_until_whole(self) -> None:
        wait_until(self.whole, WHOLE_WITHIN_S, "every process has its role, and each commit is on both nodes")

    def kill(self, services: Iterable[str]) -> None:
        """End containers at once, as a power failure does; the engine does not start them again."""
        _run("docker", "kill", *map(self.container, services))

    def start(self, services: Iterable[str]) -> None:
        _run("docker", "start", *map(self.container, services))

    def signal(self, services: Iterable[str], name: str) -> None:
        """Send a signal to all processes of containers, as SIGSTOP and SIGCONT."""
        for service in services:
            for pid in _run("docker", "top", self.container(service), "-eo", "pid").split()[1:]:
                with suppress(ProcessLookupError):  # such as a health check that has ended
                    os.kill(int(pid), Signals[f"SIG{name}"])

    @contextmanager
    def cut(self, hearers: Sequence[str], speakers: Sequence[str]) -> Iterator[None]:
        """Drop what processes would hear of others; to cut a link whole, cut it both ways.

        A process that is started again meanwhile has another namespace, and another address, and soon the rules too.
        """
        applied: set[tuple[str, str]] = set()  # the pid of a hearer, and the address that it does not hear
        ended = threading.Event()

        def apply() -> None:
            addresses = self._addresses(speakers)
            for pid in self._pids(hearers):
                for address in addresses:
                    if pid != "0" and (pid, address) not in applied:
                        _iptables(pid, "-I", "PREROUTING", "-s", address, "-j", "DROP")
                        applied.add((pid, address))

        def follow() -> None:
            while not ended.wait(_LOOK_S):
                with suppress(AssertionError):  # it has just ended again
                    apply()

        apply()
        follower = threading.Thread(target=follow)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
            for pid in self._pids(hearers):
                with suppress(AssertionError):
                    _iptables(pid, "-F", "PREROUTING")

    def enrol(self, container: str, name: str) -> str:
        """Return the folder of a new key in a container that reaches the agents."""
        invite = f"{_CERTS_INIT} invite {name} --host {name} --role agent"
        root = f"/tmp/{name}"
        join = f"docker exec -i {container} python -m twinhost.cli.certs_init --root {root} join -"
        done = self.checkout.run(f"{invite} | {join}")
        assert done.status == 0, done.err
        return f"{root}/{name}"

    def revoke(self, name: str) -> None:
        """Return once each agent has said that it refuses the key."""
        done = self.checkout.run(f"{_CERTS_INIT} revoke {name}")
        assert done.status == 0, done.err

    def fill(self, service: str) -> None:
        """Leave no byte of space on the volume of a service."""
        self.execute(service, "python3", "-c", FILL, f"{self._volume(service)}/{FILLER}")

    def give_back(self, service: str) -> None:
        """Give the space back; its process may not run."""
        volume = self._volume(service)
        shown = f'{{{{range .Mounts}}}}{{{{if eq .Destination "{volume}"}}}}{{{{.Name}}}}{{{{end}}}}{{{{end}}}}'
        name = _run("docker", "inspect", "--format", shown, self.container(service)).strip()
        image = _run("docker", "inspect", "--format", "{{.Config.Image}}", self.container("witness")).strip()
        _run("docker", "run", "--rm", "--volume", f"{name}:/full", "--entrypoint", "rm", image, f"/full/{FILLER}")

    def _volume(self, service: str) -> str:
        return "/var/lib/postgresql" if service in (*NODES, "witness") else "/var/lib/twinhost"

    def turn(self, service: str, by_s: int) -> None:
        """Let the wall clock of a service be ahead by some seconds, from now on."""
        self.execute(service, "sh", "-c", f"echo {by_s:+d} > {TURNED}.new && mv {TURNED}.new {TURNED}")

    def require_turned(self, services: Iterable[str], by_s: int) -> None:
        """Fail unless these clocks are ahead by some seconds; one that is started again is right again."""
        for service in services:
            ahead_s = float(self.execute(service, "python3", "-c", "import time; print(time.time())")) - time.time()
            assert abs(ahead_s - by_s) < PATIENCE_S, (service, ahead_s)

    def _pids(self, services: Iterable[str]) -> list[str]:
        return _run("docker", "inspect", "--format", "{{.State.Pid}}", *map(self.container, services)).split()

    def _addresses(self, services: Iterable[str]) -> list[str]:
        shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return _run("docker", "inspect", "--format", shown, *map(self.container, services)).split()


def _iptables(pid: str, *rule: str) -> None:
    _run("nsenter", f"--net=/proc/{pid}/ns/net", "iptables", "-w", "-t", "raw", *rule)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
