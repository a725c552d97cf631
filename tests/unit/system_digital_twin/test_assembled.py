"""The agent as it starts: it registers itself, and speaks the older dialect beside today's."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Clock
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.keys import load_certificate
from twinhost.system_digital_twin.__main__ import NAME, assemble
from twinhost.system_digital_twin.state_files import MIGRATIONS


@pytest.fixture(params=[True, False], ids=["secured", "open"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """mainpc, with SECURE_ZMQ=1 and 0."""
    return environment_of(tmp_path, "mainpc", secure=request.param)


@pytest.fixture
def agent(environment: dict[str, str], clock: Clock) -> Iterator[Assembled]:
    """SystemDigitalTwin after its first start."""
    with Assembled(NAME, MIGRATIONS, assemble, environment, clock) as agent:
        yield agent


def test_it_knows_itself(agent: Assembled, tmp_path: Path) -> None:
    """Whoever asks mainpc for its own agent gets what the configuration says, and the key where there is one."""
    info = agent.ask("get_agent_info", UMRA, agent_name=NAME)["agent_info"]
    assert (info["host"], info["port"], info["health_check_port"]) == ("mainpc", 7120, 8120)
    assert (info["location"], info["registered_by"], info["status"]) == ("mainpc", NAME, "HEALTHY")
    key = agent.ask("get_agent_endpoint", UMRA, agent_name=NAME)["public_key"]
    public = load_certificate(tmp_path / "certificates/mainpc/server.key").public
    assert key in (None, public.z85.decode())
    assert (key is None) is not agent.health.document()["secure"]


def test_it_counts_its_own_starts(environment: dict[str, str]) -> None:
    """Its registration is renewed at every start."""
    for start in (1, 2, 3):
        with Assembled(NAME, MIGRATIONS, assemble, environment) as agent:
            info = agent.ask("get_agent_info", UMRA, agent_name=NAME)["agent_info"]
            assert info["revision"] == start


def test_it_never_goes_silent_while_it_runs(agent: Assembled, clock: Clock) -> None:
    """The server's tick is its own sign of life; without it, it too would read as NO_RESPONSE."""
    clock.let_pass(60)
    assert agent.ask("get_ok_agents", UMRA)["agents"] == []
    agent.assembly.on_tick()
    assert agent.ask("get_ok_agents", UMRA)["agents"] == [NAME]


def test_not_even_an_operator_removes_it(agent: Assembled) -> None:
    """Every client that looks for mainpc's agent would get the answer that there is none."""
    assert agent.ask("unregister", OPERATOR, agent_name=NAME)["code"] == "not_granted"
    assert agent.ask("get_agent_info", UMRA, agent_name=NAME)["agent_info"]["status"] == "HEALTHY"


@pytest.mark.parametrize("caller", [UMRA, UNAUTHENTICATED])
def test_the_raw_ping_is_answered_with_the_health_document(agent: Assembled, caller: object) -> None:
    """A bare `ping` is not JSON; its clients expect the document, as `health` gives it."""
    raw, today = agent.send(b"ping", UMRA), agent.ask("health", UMRA)
    assert raw["agent"] == NAME
    for document in (raw, today):
        del document["timestamp"], document["uptime_s"]
    assert raw == today


def test_get_all_status_is_answered_with_the_bare_map(agent: Assembled) -> None:
    """name → {location, status, last_seen}: no envelope, no `status: success`."""
    agent.ask("register_agent", UMRA, agent_name=UMRA.name, status="BUSY")
    bare = agent.send(b"GET_ALL_STATUS", UMRA)
    assert bare == agent.ask("get_all_agents", UMRA)["agents"]
    assert bare.keys() == {NAME, UMRA.name}
    assert bare[UMRA.name]["status"] == "BUSY"


@pytest.mark.parametrize("message", [b"PING", b"ping ", b"get_all_status", b"GET_ALL_STATUS\n", b"", b'"ping"'])
def test_other_bare_commands_are_malformed(agent: Assembled, message: bytes) -> None:
    """The dialect has two commands, to the letter; anything else is answered as bad JSON is."""
    reply = agent.send(message, UMRA)
    assert (reply["status"], reply["code"]) == ("error", "malformed_request")
    assert agent.ask("ping", UMRA)["message"] == "pong"


def test_errors_stand_under_error_alone(agent: Assembled) -> None:
    """`reason` is the other agent's field."""
    assert agent.ask("get_agent_info", UMRA, agent_name="Ghost").keys() == {"status", "code", "error"}


LAPTOP = Caller("Planner", "laptop", frozenset({"agent"}), "SHA256:of-a-laptop")
HERE = Caller("Local", "mainpc", frozenset({"agent"}), "SHA256:of-another-here")


def registered_at(agent: Assembled, caller: Caller, host: str, name: str | None = None, **metadata: str) -> str:
    """Return `success`, or the sentence of the refusal."""
    data = {"agent_id": name or caller.name, "agent_type": "x", "host": host, "port": 1, "metadata": metadata}
    reply = agent.ask("register_agent", caller, registration_data=data)
    return str(reply.get("error", reply["status"]))


@pytest.mark.sdt_security
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::ffff:127.0.0.1", "localhost", "169.254.169.254", "0.0.0.0", "ff02::1"]
)
def test_an_agent_on_another_host_has_no_local_address(agent: Assembled, host: str) -> None:
    """It would lead each host to itself; in the older dialect, and by an operator, likewise. Nothing is registered."""
    sentence = f"'{host}' is a loopback, link-local, or multicast address"
    for refused in (
        registered_at(agent, UMRA, host),
        registered_at(agent, LAPTOP, host),
        registered_at(agent, OPERATOR, host, "Planner", location="pc2"),
        registered_at(agent, UNAUTHENTICATED, host, "Planner", location="pc2"),
        agent.send(
            json.dumps({"command": "REGISTER", "payload": {"name": UMRA.name, "ip": host, "port": 1}}).encode(), UMRA
        )["message"],
    ):
        assert refused.startswith(sentence)
        assert "register an address that other hosts can reach" in refused
    assert agent.ask("get_ok_agents", UMRA)["agents"] == [NAME]
    assert registered_at(agent, UMRA, "192.0.2.7") == "success"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_agent_on_mainpc_may_have_a_local_address(agent: Assembled, host: str) -> None:
    """Its clients are there too; where nobody says where it is, nothing is known of that."""
    assert registered_at(agent, HERE, host) == "success"
    assert registered_at(agent, HERE, host, location="MAINPC") == "success"
    assert registered_at(agent, OPERATOR, host, "Another") == "success"
    assert registered_at(agent, UNAUTHENTICATED, host, "Anybody") == "success"


@pytest.mark.parametrize(
    ("addresses", "who"),
    [({"PC2_IP": "127.0.0.1"}, [UMRA]), ({"PC2_IP": "::1", "MAINPC_IP": "localhost"}, [UMRA, LAPTOP])],
)
def test_where_hosts_are_one_machine_they_are_at_its_loopback(
    environment: dict[str, str], addresses: dict[str, str], who: list[Caller]
) -> None:
    """A host that is configured with such an address; any host, where all of them are."""
    with Assembled(NAME, MIGRATIONS, assemble, {**environment, **addresses}) as agent:
        outcomes = {caller.name: registered_at(agent, caller, "127.0.0.1") for caller in (UMRA, LAPTOP)}
    assert [name for name, outcome in outcomes.items() if outcome == "success"] == [caller.name for caller in who]
