"""A one-off container that stays: a command in it takes a fraction of a container's start."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.containers.stack import Finished, Stack
from twinhost.secure_zmq.certificates import Certificates, load_certificates

_PROGRAMS = {
    "certs-init": ("python", "/app/certs-init/generate_zmq_certificates.py"),
    "cli": ("python", "-m", "twinhost.cli"),
}
ANOTHER_TREE = ("--volume", "/certificates")  # an anonymous volume in the place of mainpc's


class Kept:
    """A service's program, mounts, user, and networks: mainpc's tree, the tree of another machine, or the operator."""

    def __init__(self, container: str, service: str) -> None:
        self._container = container
        self._program = _PROGRAMS[service]

    def run(self, *arguments: str, given: str = "") -> Finished:
        """Run the service's program."""
        return self._execute(*self._program, *arguments, given=given)

    def shell(self, script: str, given: str = "") -> Finished:
        """Run a shell script."""
        return self._execute("sh", "-c", script, given=given)

    def keys(self, name: str, copies: Path) -> Certificates:
        """Return a folder of this machine's tree, copied out of its volume into `copies`."""
        copies.mkdir(parents=True, exist_ok=True)
        source = f"{self._container}:/certificates/{name}"
        subprocess.run(["docker", "cp", "--quiet", source, str(copies)], check=True)
        return load_certificates(copies / name)

    def _execute(self, *command: str, given: str) -> Finished:
        whole = ["docker", "exec", "--interactive", self._container, *command]
        done = subprocess.run(whole, input=given, capture_output=True, text=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)


@contextmanager
def kept(stack: Stack, service: str, *options: str) -> Iterator[Kept]:
    """Keep a one-off container of a service, with the options of `docker compose run`."""
    waits = ("--entrypoint", "sleep", service, "infinity")
    started = stack.compose("--progress", "quiet", "run", "--detach", "--no-deps", *options, *waits)
    assert started.status == 0, started.err
    container = started.out.strip()
    try:
        yield Kept(container, service)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", container], check=True, capture_output=True)
