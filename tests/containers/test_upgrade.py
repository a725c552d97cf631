"""The Compose file of today starts both hosts on volumes that an earlier version wrote."""

import json
import shlex
import subprocess
from pathlib import Path

import docker
import pytest

from tests.containers.checkout import Machine
from tests.containers.stack import AGENTS, IMAGE, REPOSITORY, Stack
from tests.containers.walk import Walk
from tests.upgrade.volumes import VERSIONS, Volumes

UNPACK = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|xz').extractall('/to', filter='tar')"
NAMES = ("certificates", "mainpc-state", "pc2-state")

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent]


def put(volumes: Volumes, stack: Stack) -> None:
    """Unpack the archive into the volumes of a stack, with owners and modes; only root may do that."""
    created = stack.compose("create")
    assert created.status == 0, created.err
    mounts = [part for name in NAMES for part in ("--volume", f"{stack.project}_{name}:/to/{name}")]
    command = ["docker", "run", "--rm", "--interactive", "--network", "none", "--user", "0", *mounts]
    command += ["--entrypoint", "python", IMAGE, "-c", UNPACK]
    done = subprocess.run(command, input=volumes.archive.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("version", VERSIONS)
def test_compose_goes_on_with_an_older_versions_volumes(
    engine: docker.DockerClient, tmp_path: Path, version: str
) -> None:
    """Keys, twins, log and stored replies are there, and nothing has to be done by hand."""
    volumes = Volumes(version)
    stack = Stack(tmp_path, {"SECURE_ZMQ": "1"})
    try:
        put(volumes, stack)
        stack.start()
        stack.wait_until_ready()
        for each in volumes.retried:
            host = "mainpc" if each["agent"] == "SystemDigitalTwin" else "pc2"
            with stack.client(host) as client:
                again = client.call(each["action"], request_id=each["request_id"], **each["fields"])
            assert again == each["reply"]
        shown = stack.run("cli", "call", "pc2", "get_twin", "user_id=ana", "--json")
        assert json.loads(shown.out)["twin"] == {"language": "fil", "port": 7}
        for command in (("cli", "audit", "verify"), ("cli", "status", "--wait", "10"), ("certs-init", "verify")):
            done = stack.run(*command)
            assert done.status == 0, (command, done.out, done.err)
    finally:
        stack.stop()


PAGE = (REPOSITORY / "docs/how-to/upgrade.md").read_text(encoding="utf-8")
NEWER = (
    "import sqlite3, sys; database = sqlite3.connect(f'/var/lib/twinhost/{sys.argv[1]}.sqlite3'); "
    "(version,) = database.execute('PRAGMA user_version').fetchone(); "
    "database.executescript(f'PRAGMA user_version = {version + 1}')"
)


class Site(Walk):
    """One machine for both hosts, on which the page is followed; a newer version has been there before it goes back."""

    def __init__(self, machine: Machine) -> None:
        super().__init__({"mainpc": machine, "pc2": machine})
        self.machine = machine

    def _run(self, host: str, command: str) -> None:
        super()._run(host, command)
        if command == "docker compose stop mainpc":
            for of, agent in AGENTS.items():
                words = f"docker compose run --rm --no-deps --entrypoint python {of} -c"
                assert self.machine.run(f"{words} {shlex.quote(NEWER)} {agent}").status == 0
                refused = self.machine.run(f"docker compose run --rm --no-deps {of}")
                assert refused.status == 78, refused.out + refused.err
                assert "run the newer version, or restore a backup" in refused.out + refused.err

    def remembered(self) -> set[str]:
        done = self.machine.run("docker compose run --rm -T cli call pc2 query_memory limit=100 --json")
        return {memory["content"] for memory in json.loads(done.out)["memories"]}

    def remember(self, content: str) -> None:
        done = self.machine.run(f"docker compose run --rm -T cli call pc2 store_memory content={content}")
        assert done.status == 0, done.err


def test_the_page_leads_there_and_back(engine: docker.DockerClient, tmp_path: Path) -> None:
    """Its commands as printed, on one machine: what was stored before is there, and what came later is put aside."""
    there, back = PAGE.split("## Go back")
    site = Site(Machine(tmp_path / "site", {}))
    try:
        assert site.machine.run("docker compose up -d --wait").status == 0
        site.wait_until_registered()
        site.remember("before")
        site.follow(there)
        assert site.remembered() == {"before"}
        site.remember("later")
        site.follow(back)
        assert site.remembered() == {"before"}
        aside = site.machine.run("docker compose exec pc2 ls /var/lib/twinhost/newer").out
        assert "UnifiedMemoryReasoningAgent.sqlite3" in aside.split()
    finally:
        site.machine.remove()
