"""The load generator brings agents up, keeps them, and sees them come back; of its figures nothing is required here."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.loaded_mainpc import PAYLOAD_LIMIT, LoadedMainpc, new_pairs
from tests.loopback.agent_processes import SDT
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.membership.member import MainpcLink
from twinhost.agent.trust import TRUST_TOPIC, TrustFolder
from twinhost.certificates.layout import AGENT_ROLE
from twinhost.network_config import Agent, Host
from twinhost.secure_zmq.client import Subscriber
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

REPOSITORY = Path(__file__).resolve().parents[2]
AGENTS, AWAY_S, SECONDS = 15, 0.5, 1.5
COMMAND = ["-m", "tests.benchmarks.bench_agents", "--agents", str(AGENTS), "--processes", "2", "--json"]
QUICK = ["--seconds", str(SECONDS), "--heartbeat", "0.5", "--away", str(AWAY_S), "--subscribed"]
HEARTBEAT_S, HEARTBEATS = 0.1, 10
STRETCHES = 3  # of which the shortest counts: a busy machine makes the others longer


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The report of one quick run, from the documented command."""
    command, environment = [sys.executable, *COMMAND, *QUICK], {"PYTHONPATH": "services"}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (only,) = json.loads(ran.stdout)
    return dict(only)


def test_every_agent_comes_and_none_fails(report: dict[str, Any]) -> None:
    """Each registers once over a handshake of its own; beside them there are the operator's connections."""
    came = report["bring_up"]
    assert report["agents"] == AGENTS
    assert came["register"]["calls"] == AGENTS
    assert came["failures"] == {}
    assert set(came["handshakes"]) == {"accepted"}
    assert came["handshakes"]["accepted"] >= 2 * AGENTS  # requests and the feed
    assert 0 < came["idle_mb"] <= came["rss_mb"]


def test_heartbeats_go_on_and_nobody_is_held_for_gone(report: dict[str, Any]) -> None:
    """Every agent sends some, and none of them fails."""
    stayed = report["steady"]
    assert stayed["failures"] == stayed["no_response"] == 0
    assert stayed["heartbeat"]["calls"] >= AGENTS
    for latency in (stayed["heartbeat"], stayed["register"]):
        assert 0 < latency["p50"] <= latency["p99"] <= latency["most"]


def test_all_are_back_after_a_restart(report: dict[str, Any]) -> None:
    """The seconds in which they came add up to all of them, and no handshake was refused."""
    (restart,) = report["restarts"]
    assert restart["away_s"] == AWAY_S
    assert sum(restart["by_second"]) == AGENTS
    assert restart["half_back_s"] <= restart["all_back_s"]
    assert restart["most_in_a_slice"] <= AGENTS
    assert restart["failed_after"] == 0
    assert set(restart["handshakes"]) <= {"accepted", "broken_off_or_plain_client", "timed_out"}
    assert restart["handshakes"]["accepted"] >= AGENTS


def test_further_figures_are_reported(report: dict[str, Any]) -> None:
    """A new key reaches all; and what is read has a size and a time."""
    assert report["key_change"]["document_bytes"] > 200 * AGENTS  # a key file each
    assert {"get_all_agents", "get_peers", "/api/state"} <= set(report["reads"])
    assert all(size > 0 and ms > 0 for size, ms in report["reads"].values())


def test_a_light_agent_sends_what_a_real_one_sends(tmp_path: Path) -> None:
    """The same actions equally often, also after a key has changed, and heartbeats at the same interval."""
    pairs = new_pairs(2)
    with LoadedMainpc(tmp_path, pairs, 2, heartbeat_s=HEARTBEAT_S, subscribed=True) as load:
        load.start_mainpc()
        server, agent = load.hosts.address(SDT), load.hosts.config.agent(SDT)
        assert isinstance(server, SecuredAddress)
        feed = SecuredAddress(agent.host.endpoint(agent.events_port or 0), pairs[0], server.server_key)
        described = Agent("agent-0", Host("site-0", "127.0.0.1"), "agent-0", 7_000, 8_000, None)
        trust = TrustFolder(tmp_path / "trust", lambda _: None)
        link = MainpcLink(
            SecuredAddress(server.address, pairs[0], server.server_key), described, HEARTBEAT_S, PAYLOAD_LIMIT, trust
        )
        subscriber = Subscriber(feed, [TRUST_TOPIC], lambda _: link.wake())

        def start_real() -> None:
            link.start()
            subscriber.start()

        real, real_s = _sent(load, start_real)
        link.stop()
        subscriber.stop()
        light, light_s = _sent(load, load.fleets[1].start)
    assert light == real == {"register_agent": 1, "get_trust": 2}
    assert min(real_s, light_s) >= (HEARTBEATS - 2) * HEARTBEAT_S  # the first one may follow at once
    assert light_s <= 2 * real_s


def _sent(load: LoadedMainpc, start: Callable[[], None]) -> tuple[Counter[str], float]:
    """Return what an agent sends beside heartbeats until it follows a new key, and the seconds of ten heartbeats."""
    before = _answered(load)
    start()
    wait_until(lambda: (_answered(load) - before)["heartbeat"] >= 3, PATIENCE_S, "the agent sends heartbeats")
    load.let_in(KeyPair.generate(KeyOwner(f"newcomer-{time.monotonic_ns()}", "site-0", frozenset({AGENT_ROLE}))))
    wait_until(lambda: (_answered(load) - before)["get_trust"] >= 2, PATIENCE_S, "the agent follows the new key")
    took_s = []
    for _ in range(STRETCHES):
        began, first = time.monotonic(), _answered(load)["heartbeat"]
        wait_until(lambda: _answered(load)["heartbeat"] >= first + HEARTBEATS, PATIENCE_S, "heartbeats go on")  # noqa: B023
        took_s.append(time.monotonic() - began)
    sent = _answered(load) - before
    del sent["heartbeat"]
    return sent, min(took_s)


def _answered(load: LoadedMainpc) -> Counter[str]:
    """Return how many requests of agents mainpc has answered, by action."""
    with urllib.request.urlopen(f"http://127.0.0.1:{load.hosts.config.agent(SDT).http_port}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'twinhost_requests_total\{action="(register_agent|heartbeat|get_trust)",.*"\} (\S+)', text)
    return Counter({action: int(float(number)) for action, number in found})
