"""A one-off container that stays: a command in it takes a fraction of a container's start."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from docker.models.containers import Container

from twinhost.secure_zmq.certificates import Certificates, load_certificates

if TYPE_CHECKING:
    from tests.containers.stack import Stack

_PROGRAMS = {
    "certs-init": ("python", "/app/certs-init/generate_zmq_certificates.py"),
    "cli": ("python", "-m", "twinhost.cli"),
    "archive": ("python", "-m", "twinhost.cli.archive"),
}
ANOTHER_TREE = ("--volume", "/certificates")  # an anonymous volume in the place of mainpc's


@dataclass(frozen=True)
class Finished:
    """A command that ran in a container: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


def execute(
    container: Container, *command: str, given: str = "", environment: Mapping[str, str] = MappingProxyType({})
) -> Finished:
    """Run a command in a running container.

    By the engine's own client: docker-py's `exec_run` loses the output that arrives together with the reply's header.
    """
    options = [f"--env={name}={value}" for name, value in environment.items()]
    whole = ["docker", "exec", *(["--interactive"] if given else []), *options, str(container.id), *command]
    done = subprocess.run(whole, input=given, capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


class Kept:
    """A service's program, mounts, user, and networks: mainpc's tree, the tree of another machine, or the operator."""

    def __init__(self, container: Container, service: str) -> None:
        self._container = container
        self._program = _PROGRAMS[service]

    def run(self, *arguments: str, given: str = "") -> Finished:
        """Run the service's program."""
        return self.execute(*self._program, *arguments, given=given)

    def shell(self, script: str, given: str = "") -> Finished:
        return self.execute("sh", "-c", script, given=given)

    def keys(self, name: str, copies: Path) -> Certificates:
        """Return a folder of this machine's tree, copied out of its volume into `copies`."""
        copies.mkdir(parents=True, exist_ok=True)
        source = f"{self._container.id}:/certificates/{name}"
        subprocess.run(["docker", "cp", "--quiet", source, str(copies)], check=True)
        return load_certificates(copies / name)

    def execute(self, *command: str, given: str = "") -> Finished:
        """Run any command."""
        return execute(self._container, *command, given=given)


@contextmanager
def kept(stack: "Stack", service: str, *options: str, **variables: str) -> Iterator[Kept]:
    """Keep a one-off container of a service, with the options of `docker compose run`."""
    waits = ("--entrypoint", "sleep", service, "infinity")
    started = stack.compose("--progress", "quiet", "run", "--detach", "--no-deps", *options, *waits, **variables)
    assert started.status == 0, started.err
    container = stack.engine.containers.get(started.out.strip())
    try:
        yield Kept(container, service)
    finally:
        container.remove(force=True, v=True)
