"""Changes to both agents while a test breaks something, and the account afterwards: none lost, none made twice."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.containers.stack import REPOSITORY
from tests.ledger import check
from tests.two_hosts.machine_room import Namespace
from tests.waiting import PATIENCE_S, wait_until

FEWEST = 10  # changes of each agent before a test may break anything, and after it has mended it
ENDS_WITHIN_S = 130.0  # what is being called has its own deadline, which is 120 s


class Writing:
    """A client that runs in one machine's network, with the operator's key; `endpoints` is where each host is now."""

    def __init__(self, machine: Namespace, keys: Path, folder: Path, endpoints: Mapping[str, str]) -> None:
        self._machine, self._keys, self._folder, self.endpoints = machine, keys, folder, dict(endpoints)
        self._process = subprocess.Popen(self._command("write"), env=_environment(), cwd=REPOSITORY)

    def acknowledged(self, host: str) -> int:
        """Return how many changes one agent has acknowledged so far."""
        ledger = self._folder / f"{host}.ledger"
        return ledger.read_text(encoding="utf-8").count('"acknowledged"') if ledger.exists() else 0

    def wait_for_more(self, deadline_s: float = PATIENCE_S) -> None:
        """Wait until both agents have acknowledged some more changes."""
        goals = {host: self.acknowledged(host) + FEWEST for host in self.endpoints}
        for host, goal in goals.items():
            wait_until(lambda: self.acknowledged(host) >= goal, deadline_s, f"{host} acknowledges changes")  # noqa: B023

    def end(self) -> None:
        """End the client; a change that is under way is waited for."""
        self._process.terminate()
        self._process.wait(ENDS_WITHIN_S)

    def require_whole(self) -> None:
        """Fail where an acknowledged change is lost, or one was made twice."""
        done = subprocess.run(
            self._command("count"), env=_environment(), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for host, observed in json.loads(done.stdout).items():
            prefix = f"{self._folder.name}-"
            mine = {call: times for call, times in observed.items() if call.startswith(prefix)}
            verdict = check(self._folder / f"{host}.ledger", mine)
            assert verdict.whole, (host, verdict)
            assert verdict.acknowledged >= FEWEST

    def _command(self, what: str) -> list[str]:
        return _command(what, self._machine, self._keys, self._folder, self.endpoints)


@contextmanager
def writing(machine: Namespace, keys: Path, folder: Path, endpoints: Mapping[str, str]) -> Iterator[Writing]:
    """Change both agents while the block runs, and check the account at its end."""
    folder.mkdir()
    client = Writing(machine, keys, folder, endpoints)
    try:
        client.wait_for_more()
        yield client
        client.wait_for_more(ENDS_WITHIN_S)
    finally:
        client.end()
    client.require_whole()


@contextmanager
def giving_up(
    machine: Namespace, keys: Path, folder: Path, endpoints: Mapping[str, str]
) -> Iterator[Callable[[], None]]:
    """Connect a client to pc2; calling what is yielded has it send one change, named as `folder`, and give that up."""
    command = _command("give-up", machine, keys, folder, endpoints)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=_environment(), cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True, bufsize=1
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        send, read = client.stdin.write, client.stdout.readline
        assert read() == "connected\n"

        def give_up() -> None:
            send("\n")
            assert read() == "given up\n"

        yield give_up


def _command(what: str, machine: Namespace, keys: Path, folder: Path, endpoints: Mapping[str, str]) -> list[str]:
    arguments = [what, str(keys), str(folder), *endpoints.values()]
    return machine.command([sys.executable, "-m", "tests.two_hosts.ledger_client", *arguments])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'services'}{os.pathsep}{REPOSITORY}"}
