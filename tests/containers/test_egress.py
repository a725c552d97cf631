"""An agent that is published on loopback alone has no way out of its machine, and is reached as before."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.containers.stack import AGENTS, REPOSITORY, ZMQ_PORTS, Stack
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.sdt_security

OUTSIDE, GATEWAY = "198.51.100.2", "198.51.100.1"  # RFC 5737, TEST-NET-2
PORT = 8080
CONNECT = f"""
import socket
try:
    socket.create_connection(("{OUTSIDE}", {PORT}), 3).close()
    print("open")
except OSError as error:
    print(type(error).__name__)
"""
LOOK_UP = """
import socket, time
begun = time.monotonic()
try:
    socket.getaddrinfo("nobody.example", 1)
except socket.gaierror:
    print(time.monotonic() - begun)
"""


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(scope="module")
def outside() -> Iterator[None]:
    """Another machine beside this one, which answers on one port and knows no way to the engine's own networks."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("a second machine is a network namespace, which needs root and iproute2")
    name = f"out-{uuid.uuid4().hex[:6]}"
    with ExitStack() as undone:
        run("ip", "netns", "add", name)
        undone.callback(run, "ip", "netns", "delete", name)  # and the cable with it
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "address", "add", f"{GATEWAY}/30", "dev", name)
        run("ip", "link", "set", name, "up")
        run("ip", "-n", name, "address", "add", f"{OUTSIDE}/30", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        serving = [sys.executable, "-m", "http.server", str(PORT), "--directory", str(REPOSITORY / "docs")]
        server = subprocess.Popen(
            ["ip", "netns", "exec", name, *serving], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        undone.callback(server.wait)
        undone.callback(server.terminate)
        here = [sys.executable, "-c", CONNECT]
        wait_until(lambda: b"open" in subprocess.check_output(here), PATIENCE_S, "the other machine answers")
        yield


def test_an_agent_opens_no_connection_to_outside(stack: Stack, outside: None) -> None:
    """The cli does, on a network as the engine makes it; both agents still answer by their published ports."""
    tool = stack.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "python", "cli", "-c", CONNECT)
    assert tool.out.strip() == "open", tool.err
    for host in AGENTS:
        assert stack.execute(host, "python", "-c", CONNECT).out.strip() == "TimeoutError"
        assert stack.published(host, ZMQ_PORTS[host]).startswith("127.0.0.1:")
        assert stack.http(host, "/readyz")[0] == 200
        with stack.client(host) as client:
            client.call("ping")


def test_an_unknown_name_fails_at_once(stack: Stack) -> None:
    """Not after the engine has waited for a server that can't answer: libzmq would wait with it."""
    for host in AGENTS:
        assert float(stack.execute(host, "python", "-c", LOOK_UP).out) < 2


def test_a_host_that_others_reach_can_reach_them() -> None:
    """Published beyond loopback, it is on a network that masquerades, and asks for names as the machine does."""
    for address, network, dns in (("", "ports", ["127.0.0.1"]), ("192.0.2.10", "ports-and-egress", None)):
        environment = {**os.environ, "TWINHOST_PUBLISH_ADDRESS": address}
        command = ["docker", "compose", "config", "--format", "json"]
        document = json.loads(subprocess.check_output(command, cwd=REPOSITORY, env=environment))
        for host in AGENTS:
            service = document["services"][host]
            assert service["networks"].keys() == {"link", f"{host}-{network}"}
            assert service.get("dns") == dns
            options = document["networks"][f"{host}-{network}"].get("driver_opts") or {}
            assert bool(options) == (not address)


def test_no_container_swaps(stack: Stack) -> None:
    """The limit on memory and swap together is that on memory."""
    for service in (*AGENTS, "certs-init"):
        limits = stack.container(service).attrs["HostConfig"]
        assert limits["MemorySwap"] == limits["Memory"] == 512 * 1024 * 1024
