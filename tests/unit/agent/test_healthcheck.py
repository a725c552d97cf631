"""The container's health check: 0 where the agent answers its own host's key and can serve, else 1 and why."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, at_most
from twinhost.secure_zmq.errors import StoreUnavailable

pytestmark = pytest.mark.thorough


@dataclass(frozen=True)
class Checked:
    """What a health check ended with."""

    status: int
    out: str


def check(hosts: Hosts, name: str, **changed: str) -> Checked:
    """Run the check as the engine does in the agent's container."""
    ran = subprocess.run(
        [sys.executable, "-m", "twinhost.agent.healthcheck", name],
        env={**hosts.environment(name if name in (SDT, UMRA) else SDT), **changed},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.count("\n") == 1
    return Checked(ran.returncode, ran.stdout)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as hosts:
        yield hosts


def test_a_healthy_agent_passes(hosts: Hosts) -> None:
    """Both agents in touch: `ok, ready: True`."""
    hosts.start_both()
    for name in (SDT, UMRA):
        assert check(hosts, name) == Checked(0, "ok, ready: True\n")


def test_a_degraded_agent_passes(hosts: Hosts) -> None:
    """pc2 without mainpc serves, and a restart would not help it."""
    hosts.start(UMRA).wait_until_serving()
    assert check(hosts, UMRA) == Checked(0, "degraded, ready: False\n")


def test_an_agent_whose_store_fails_does_not_pass(hosts: Hosts) -> None:
    """It answers, and says that it can't serve."""
    agent = hosts.start(SDT).wait_until_serving()
    agent.forbid_files_to_grow()
    with hosts.client(SDT) as client:
        assert client.call("ping")["status"] == "ok"
        with pytest.raises(StoreUnavailable):
            client.call("register_agent", agent_name="Somebody", status="ok")
    assert check(hosts, SDT) == Checked(1, "error, ready: False\n")


def test_no_agent_does_not_pass(hosts: Hosts) -> None:
    """One sentence, before the engine's own time-out of 5 s."""
    with at_most(5):
        checked = check(hosts, SDT)
    assert checked.status == 1
    assert checked.out.startswith("no reply to health from tcp://127.0.0.1:")


def test_an_agent_that_hangs_does_not_pass(hosts: Hosts) -> None:
    """A process that is there, takes the connection, and does nothing is not healthy: a TCP probe would not see it."""
    agent = hosts.start(SDT).wait_until_serving()
    agent.send(signal.SIGSTOP)
    try:
        with at_most(5):
            assert check(hosts, SDT).status == 1
    finally:
        agent.send(signal.SIGCONT)


@pytest.mark.sdt_security
def test_another_key_does_not_pass(hosts: Hosts) -> None:
    """The check is authenticated: with the key of another host the agent's answer is not believed."""
    hosts.start(SDT).wait_until_serving()
    checked = check(hosts, SDT, TWINHOST_CERTIFICATES=str(hosts.folder(UMRA)))
    assert checked.status == 1
    assert "most likely its key is not the pinned SHA256:" in checked.out


@pytest.mark.sdt_security
def test_a_check_in_the_open_does_not_pass_on_a_secured_agent(hosts: Hosts) -> None:
    """Two settings for one host are a fault, whichever of them is wrong."""
    hosts.start(SDT).wait_until_serving()
    checked = check(hosts, SDT, SECURE_ZMQ="0")
    assert checked.status == 1
    assert "requires CURVE and this client is not encrypted" in checked.out


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"SECURE_ZMQ": "yes"}, "SECURE_ZMQ is 'yes'; set it to 1"),
        ({"TWINHOST_CERTIFICATES": "/nonexistent"}, "/nonexistent holds no secret key"),
        ({"NETWORK_CONFIG_PATH": "/nonexistent"}, "/nonexistent is missing; set NETWORK_CONFIG_PATH"),
    ],
)
def test_wrong_settings_do_not_pass(hosts: Hosts, changed: dict[str, str], sentence: str) -> None:
    """The reason is kept by the engine with the container's health."""
    checked = check(hosts, SDT, **changed)
    assert checked.status == 1
    assert checked.out.startswith(sentence)


def test_an_unknown_agent_does_not_pass(hosts: Hosts) -> None:
    """A slip in the Compose file is named."""
    checked = check(hosts, "Somebody")
    assert checked.status == 1
    assert "there is no agent 'Somebody'; there are: SystemDigitalTwin, UnifiedMemoryReasoningAgent" in checked.out
