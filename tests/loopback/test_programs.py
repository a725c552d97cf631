"""Programs that only call agents, as their authors write them: with this version's names, and with those of 0.1.0."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S

EXAMPLE_OF_0_1_0 = """\
from network_config import load_network_config
from secure_zmq import Client, SecuredAddress, load_certificates

config, keys = load_network_config(), load_certificates()
twin = config.agent("SystemDigitalTwin")
with Client(SecuredAddress(twin.endpoint, keys.own_keys, keys.public_key(twin.key))) as client:
    client.call("register_agent", agent_name=keys.own_keys.certificate.owner.name, status="HEALTHY")
    print(client.call("get_ok_agents")["agents"])
"""
TYPED_ERRORS_OF_0_1_0 = """\
from secure_zmq.errors import NotGranted, TwinhostError
from secure_zmq import Client, SecuredAddress, load_certificates
from network_config import load_network_config
import twinhost

assert NotGranted is twinhost.NotGranted
config, keys = load_network_config(), load_certificates()
twin = config.agent("SystemDigitalTwin")
with Client(SecuredAddress(twin.endpoint, keys.own_keys, keys.public_key(twin.key))) as client:
    try:
        client.call("get_audit")
    except NotGranted as error:
        print(error.code)
"""
CONNECTED = """\
from twinhost import NotFound, connect

with connect("SystemDigitalTwin", name="UnifiedMemoryReasoningAgent") as twin:
    twin.call("register_agent", agent_name="UnifiedMemoryReasoningAgent", status="HEALTHY")
    print(twin.call("get_ok_agents")["agents"])
    try:
        twin.call("get_agent_info", agent_name="nobody")
    except NotFound as error:
        print(error.code)
"""
ASYNCHRONOUS = """\
import asyncio
from twinhost import AsyncClient, SecuredAddress, load_certificates, load_network_config

async def main():
    keys, twin = load_certificates(), load_network_config().agent("SystemDigitalTwin")
    async with AsyncClient(SecuredAddress(twin.endpoint, keys.own_keys, keys.public_key(twin.key))) as client:
        print((await client.call("ping"))["message"])

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """mainpc, which runs; the programs have the key of pc2's agent."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        hosts.start(SDT).wait_until_serving()
        yield hosts


def run(hosts: Hosts, program: str, folder: Path) -> str:
    """Run a program with `PYTHONPATH=services` alone; return what it prints."""
    path = folder / "program.py"
    path.write_text(program)
    command = [sys.executable, "-B", str(path)]
    done = subprocess.run(
        command, env=hosts.environment(UMRA), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (EXAMPLE_OF_0_1_0, f"['{SDT}', '{UMRA}']\n"),
        (TYPED_ERRORS_OF_0_1_0, "not_granted\n"),
        (CONNECTED, f"['{SDT}', '{UMRA}']\nnot_found\n"),
        (ASYNCHRONOUS, "pong\n"),
    ],
    ids=["example of 0.1.0", "typed errors of 0.1.0", "connect", "asyncio"],
)
def test_a_program_talks_to_an_agent(hosts: Hosts, tmp_path: Path, program: str, printed: str) -> None:
    """With keys, addresses and mode from the environment alone."""
    assert run(hosts, program, tmp_path) == printed
