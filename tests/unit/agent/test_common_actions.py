"""What both agents answer alike: who is connected is for an operator's eyes."""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.health import HealthCheck
from twinhost.agent.subscriptions import CheckSubscription
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted
from twinhost.secure_zmq.feed import MAX_TOPIC_BYTES
from twinhost.secure_zmq.wire import RequestDecoder

pytestmark = pytest.mark.sdt_security


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents, in touch."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        hosts.start_both()
        yield hosts


def peers_of(client: Client) -> dict[str, dict[str, Any]]:
    """Return what an agent reports of its peers, by name."""
    return {peer["name"]: peer for peer in client.call("get_peers")["peers"]}


@pytest.mark.parametrize(("agent", "success"), [(SDT, "success"), (UMRA, "ok")])
def test_an_operator_sees_peers_and_handshakes(hosts: Hosts, agent: str, success: str) -> None:
    """Each authorised key with host, roles, fingerprint, sessions, last sign of life; and what became of handshakes."""
    with hosts.client(agent) as operator:
        reply = operator.call("get_peers")
        peers = peers_of(operator)
    assert reply["status"] == success
    assert {name: (peer["host"], peer["roles"]) for name, peer in peers.items()} == {
        SDT: ("mainpc", ["agent"]),
        UMRA: ("pc2", ["agent"]),
        "operator": ("mainpc", ["operator"]),
    }
    assert all(peer["fingerprint"].startswith("SHA256:") for peer in peers.values())
    assert (peers["operator"]["sessions"], peers["operator"]["last_seen"] is None) == (1, False)
    assert set(reply["handshakes"]) >= {"accepted"}


@pytest.mark.parametrize(("agent", "other"), [(SDT, UMRA), (UMRA, SDT)])
def test_when_a_key_was_last_seen_outlives_a_restart(tmp_path: Path, agent: str, other: str) -> None:
    """An operator who revokes keys that were never used keeps those that were; and sees since when that is known."""
    with Hosts(tmp_path) as hosts:
        running = hosts.start(agent).wait_until_serving()
        before = int(time.time())
        with hosts.client(agent, by=other) as client:
            client.call("ping")
        with hosts.client(agent) as operator:
            seen, since = peers_of(operator)[other]["last_seen"], operator.call("get_peers")["seen_since"]
        assert before <= datetime.fromisoformat(seen).timestamp()
        assert running.terminate() == 0
        hosts.start(agent).wait_until_serving()
        with hosts.client(agent) as operator:
            reply = operator.call("get_peers")
    assert {peer["name"]: peer["last_seen"] for peer in reply["peers"]}[other] == seen
    assert reply["seen_since"] == since


@pytest.mark.parametrize("agent", [SDT, UMRA])
def test_an_agent_does_not(hosts: Hosts, agent: str) -> None:
    """`not_granted` for every key without the operator's role, the agent's own included."""
    for name in (SDT, UMRA):
        with (
            hosts.client(agent, by=name) as client,
            pytest.raises(NotGranted, match=f"get_peers is not granted to {name}"),
        ):
            client.call("get_peers")


@pytest.mark.parametrize("agent", [SDT, UMRA])
def test_health_has_two_names(hosts: Hosts, agent: str) -> None:
    """`health` and the older `health_check` give the same document, of the checks that the contract lists."""
    with hosts.client(agent) as client:
        documents = [client.call(action) for action in ("health", "health_check")]
    for document in documents:
        assert document["checks"].keys() >= {"socket_loop", "zap_handler", "store"}
        assert (document["agent"], document["status"], document["secure"]) == (agent, "ok", True)
    assert documents[0].keys() == documents[1].keys()


def test_a_topic_is_as_long_as_the_feed_allows() -> None:
    """The feed counts bytes: it would close the connection for what this had called granted."""
    decoder = RequestDecoder([CheckSubscription, HealthCheck], 4_096)
    fits = "\u00e9" * (MAX_TOPIC_BYTES // 2)
    request = {"action": "check_subscription", "topics": ["EVENT:", fits]}
    assert decoder.decode(msgspec.json.encode(request)) == CheckSubscription(topics=("EVENT:", fits))
    request["topics"] = ["EVENT:", f"{fits}x"]
    with pytest.raises(MalformedRequest, match=r"at most 64 bytes - at `\$\.topics\[1\]`"):
        decoder.decode(msgspec.json.encode(request))


@pytest.mark.parametrize(("agent", "limits"), [(SDT, {"stored_bytes", "errors"}), (UMRA, {"stored_bytes", "names"})])
def test_the_use_of_budgets_is_for_operators_and_its_own(hosts: Hosts, agent: str, limits: set[str]) -> None:
    """Of what was stored over the link; the metrics have the same, by names that have a key."""
    other = UMRA if agent == SDT else SDT
    by = "pc2" if other == UMRA else "mainpc"
    with hosts.client(agent, by=by) as program:
        if agent == SDT:
            report = {"error_id": "e", "agent_id": UMRA, "severity": "info", "error_type": "t", "message": "m"}
            program.call("report_error", error=report)
        else:
            program.call("add_interaction", session_id="s", interaction_type="code", content="x")
        used: dict[str, float] = {}

        def counted() -> bool:
            used.update({use["limit"]: use["used"] for use in program.call("health")["usage"] if use["name"] == other})
            return limits <= used.keys()

        wait_until(counted, PATIENCE_S, "what was stored is counted")
        assert {use["name"] for use in program.call("health")["usage"]} == {other}
    with hosts.client(agent) as operator:
        everybody = operator.call("health")["usage"]
    assert {use["limit"] for use in everybody if use["name"] == other} >= limits
    assert [use["share"] for use in everybody] == sorted((use["share"] for use in everybody), reverse=True)
