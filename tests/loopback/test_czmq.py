"""The key files and the wire are ZeroMQ's own: a C client that knows czmq alone reads the ones and speaks the other."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, Hosts

SOURCE = Path(__file__).parents[1] / "interop/czmq_ping.c"
pytestmark = [
    pytest.mark.sdt_security,
    pytest.mark.skipif(
        shutil.which("gcc") is None or not Path("/usr/include/czmq.h").exists(),
        reason="needs gcc and czmq's headers (Debian: libczmq-dev), as `make test` installs them",
    ),
]


@pytest.fixture(scope="module")
def czmq_ping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C client, compiled with every warning an error."""
    program = tmp_path_factory.mktemp("interop") / "czmq_ping"
    subprocess.run(
        ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE, "-lczmq", "-lzmq"], check=True
    )
    return program


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(tmp_path_factory.mktemp("hosts")) as both:
        both.start(SDT).wait_until_ready()
        yield both


def ping(program: Path, hosts: Hosts, own: Path, server: Path) -> subprocess.CompletedProcess[str]:
    command = [str(program), hosts.config.agent(SDT).endpoint, str(own), str(server)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)


@pytest.mark.parametrize(
    ("key", "owner"),
    [("operator/operator.key", "operator on mainpc"), ("pc2/client.key", "UnifiedMemoryReasoningAgent on pc2")],
)
def test_czmq_reads_the_key_files_and_is_accepted(czmq_ping: Path, hosts: Hosts, key: str, owner: str) -> None:
    """Halves, metadata, and the server's pin are read by zcert; mainpc answers the ping."""
    folder = hosts.keys / Path(key).parent
    done = ping(czmq_ping, hosts, hosts.keys / key, folder / "server.key")
    assert done.returncode == 0, done.stderr
    said, _, reply = done.stdout.partition(": ")
    assert said == owner
    assert json.loads(reply)["message"] == "pong"


def test_czmq_with_a_wrong_pin_gets_nothing(czmq_ping: Path, hosts: Hosts) -> None:
    """The pong above was not answered to just anybody."""
    done = ping(czmq_ping, hosts, hosts.keys / "operator/operator.key", hosts.keys / "operator/client.key")
    assert (done.returncode, done.stdout) == (1, "")
