"""The Compose file of today starts both hosts on volumes that an earlier version wrote."""

import json
import subprocess
from pathlib import Path

import docker
import pytest

from tests.containers.stack import IMAGE, Stack
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
        for command in (("cli", "audit", "verify"), ("cli", "status"), ("certs-init", "verify")):
            done = stack.run(*command)
            assert done.status == 0, (command, done.out, done.err)
    finally:
        stack.stop()
