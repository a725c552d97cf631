"""Every action of the contract: its fields, its reply, and its errors."""

import json
from typing import Any

import pytest

from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, PUBLIC_KEYS, SDT, UMRA, Clock, Twin

WHOLE = {
    "agent_id": UMRA.name,
    "agent_type": "memory",
    "host": "192.0.2.7",
    "port": 7230,
    "health_check_port": 8230,
    "capabilities": ["twins"],
    "dependencies": ["SystemDigitalTwin"],
    "metadata": {"location": "pc2", "script_path": "/opt/umra.py", "rack": 7},
}


def test_ping_is_answered_with_the_time(twin: Twin) -> None:
    """`status: ok, message: pong, timestamp`."""
    reply = twin.ask("ping")
    assert reply.pop("timestamp")
    assert reply == {"status": "ok", "message": "pong"}


def test_the_short_registration_answers_with_the_agent(twin: Twin) -> None:
    """Name and status; `message` and `agent` come back, the location being the caller's host."""
    reply = twin.ask("register_agent", agent_name=UMRA.name, status="HEALTHY", request_id="r1")
    assert reply.pop("agent")["last_seen"]
    assert reply.pop("registration")
    assert reply == {"status": "success", "message": f"agent {UMRA.name} registered", "request_id": "r1"}
    agent = twin.ask("get_all_agents")["agents"][UMRA.name]
    assert (agent["location"], agent["status"]) == ("pc2", "HEALTHY")


def test_the_long_registration_answers_with_the_id(twin: Twin) -> None:
    """`registration_data`; `message` and `agent_id` come back, the status is HEALTHY."""
    reply = twin.ask("register_agent", registration_data=WHOLE)
    assert reply.pop("registration")
    assert reply == {"status": "success", "message": f"agent {UMRA.name} registered", "agent_id": UMRA.name}
    assert twin.status_of(UMRA.name) == "HEALTHY"


@pytest.mark.parametrize("caller", [UMRA, OPERATOR])
def test_the_short_registration_keeps_the_long_one(twin: Twin, caller: Any) -> None:
    """What it does not name stays, after a restart too; the status and who registered it are the newer ones."""
    twin.ask("register_agent", registration_data=WHOLE)
    before = twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]
    assert twin.ask("register_agent", caller, agent_name=UMRA.name, status="BUSY")["agent"]["location"] == "pc2"
    twin.reopen()
    after = twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"status", "registered_by", "last_updated", "last_seen", "revision"}
    assert (after["status"], after["registered_by"], after["revision"]) == ("BUSY", caller.name, 2)
    assert twin.ask("get_agent_endpoint", agent_name=UMRA.name)["port"] == 7230


def test_the_short_registration_moves_who_says_where(twin: Twin) -> None:
    """A location that is named counts, and an agent is where its key says."""
    twin.ask("register_agent", OPERATOR, registration_data={**WHOLE, "metadata": {"location": "elsewhere"}})
    assert twin.ask("register_agent", agent_name=UMRA.name, status="ok")["agent"]["location"] == "pc2"
    moved = twin.ask("register_agent", OPERATOR, agent_name=UMRA.name, status="ok", location="mainpc")
    assert moved["agent"]["location"] == "mainpc"


def test_a_heartbeat_shows_whether_the_record_is_the_same(twin: Twin) -> None:
    """By the digest of the registration, which a status, a restart, and a registration alike leave as it is."""

    def beaten(**fields: Any) -> str:
        return str(twin.ask("heartbeat", agent_name=UMRA.name, **fields)["registration"])

    own = twin.ask("register_agent", registration_data=WHOLE)["registration"]
    assert own
    assert beaten() == beaten(status="DEGRADED") == own
    twin.reopen()
    assert beaten() == own
    assert twin.ask("register_agent", agent_name=UMRA.name, status="ok")["registration"] == own
    assert beaten() == own
    other = twin.ask("register_agent", registration_data={**WHOLE, "port": 7231})["registration"]
    assert beaten() == other != own
    assert twin.ask("register_agent", registration_data=WHOLE)["registration"] == own
    moved = twin.ask("register_agent", OPERATOR, agent_name=UMRA.name, status="ok", location="pc9")["registration"]
    assert beaten() == moved not in (own, other)
    twin.ask("unregister", agent_name=UMRA.name)
    twin.ask("register_agent", agent_name=UMRA.name, status="ok")
    assert beaten() not in (own, other)


def test_a_record_of_an_older_version_has_no_digest(twin: Twin) -> None:
    """It is read, and differs from every registration, so that its agent registers again; then it has one."""
    own = twin.ask("register_agent", registration_data=WHOLE)["registration"]
    row = twin.rows()[UMRA.name]
    del row["registration"]
    twin.database.execute("UPDATE agents SET record = ?", (json.dumps(row).encode(),))
    twin.reopen()
    assert twin.ask("heartbeat", agent_name=UMRA.name)["registration"] == ""
    assert twin.ask("register_agent", agent_name=UMRA.name, status="ok")["registration"] == own


def test_get_agent_info_has_every_field(twin: Twin) -> None:
    """What the contract lists, and who registered it, how often, with what metadata."""
    twin.ask("register_agent", registration_data=WHOLE)
    info = twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]
    assert info.pop("last_seen")
    assert info.pop("last_updated")
    assert info == {
        "name": UMRA.name,
        "status": "HEALTHY",
        "location": "pc2",
        "host": "192.0.2.7",
        "port": 7230,
        "health_check_port": 8230,
        "agent_type": "memory",
        "capabilities": ["twins"],
        "dependencies": ["SystemDigitalTwin"],
        "missing_dependencies": ["SystemDigitalTwin"],
        "script_path": "/opt/umra.py",
        "metadata": {"location": "pc2", "script_path": "/opt/umra.py", "rack": 7},
        "registered_by": UMRA.name,
        "revision": 1,
        "trust_revision": None,
    }


def test_get_registered_agents_is_the_list_of_infos(twin: Twin) -> None:
    """A list by name, each entry as `get_agent_info` has it."""
    for caller in (UMRA, SDT):
        twin.register(caller)
    assert twin.ask("get_registered_agents") == {
        "status": "success",
        "agents": [twin.ask("get_agent_info", agent_name=agent.name)["agent_info"] for agent in (SDT, UMRA)],
    }


def test_get_all_agents_is_a_map_of_three_fields(twin: Twin) -> None:
    """name → {location, status, last_seen}, and nothing else."""
    twin.register()
    (agent,) = twin.ask("get_all_agents")["agents"].items()
    assert (agent[0], agent[1].keys()) == (UMRA.name, {"location", "status", "last_seen"})


@pytest.mark.parametrize(("status", "well"), [("HEALTHY", True), ("ok", True), ("OK", False), ("DEGRADED", False)])
def test_get_ok_agents_counts_those_that_are_well(twin: Twin, status: str, well: bool) -> None:
    """HEALTHY and ok, to the letter."""
    twin.register(SDT)
    twin.ask("register_agent", agent_name=UMRA.name, status=status)
    names = [SDT.name, UMRA.name] if well else [SDT.name]
    assert twin.ask("get_ok_agents") == {"status": "success", "count": len(names), "agents": names}


def test_get_agent_endpoint_has_the_key_to_pin(twin: Twin) -> None:
    """Address, ports, and the public key that the agent's owner has; null where no key is known."""
    twin.ask("register_agent", registration_data=WHOLE)
    twin.register(SDT)
    endpoint = {"agent_name": UMRA.name, "host": "192.0.2.7", "port": 7230, "health_check_port": 8230}
    assert twin.ask("get_agent_endpoint", agent_name=UMRA.name) == {
        "status": "success",
        **endpoint,
        "public_key": PUBLIC_KEYS[UMRA.name].decode(),
    }
    assert twin.ask("get_agent_endpoint", agent_name=SDT.name)["public_key"] is None


def test_discover_finds_by_type_or_all(twin: Twin) -> None:
    """Endpoints of one type, of all, or of none."""
    twin.register(UMRA, agent_type="memory")
    twin.register(SDT, agent_type="system_twin")

    def found(**fields: Any) -> list[str]:
        return [agent["agent_name"] for agent in twin.ask("discover", **fields)["agents"]]

    assert found() == [SDT.name, UMRA.name]
    assert found(agent_type="memory") == [UMRA.name]
    assert found(agent_type="Memory") == []
    (agent,) = twin.ask("discover", agent_type="memory")["agents"]
    assert agent.keys() == {
        "agent_name", "host", "port", "health_check_port", "public_key", "agent_type", "status"
    }  # fmt: skip


@pytest.mark.parametrize("action", ["get_agent_info", "get_agent_endpoint", "heartbeat", "unregister"])
def test_an_agent_that_is_not_there_is_not_found(twin: Twin, action: str) -> None:
    """One sentence that names it, and how to see those that are there."""
    reply = twin.ask(action, OPERATOR, agent_name="Ghost")
    assert (reply["status"], reply["code"]) == ("error", "not_found")
    assert reply["error"] == "no agent 'Ghost' is registered; list them with: ./twinhost agents"


def test_an_error_does_not_repeat_a_long_name_in_full(twin: Twin) -> None:
    """What a caller made up does not fill the log or the reply."""
    assert len(twin.ask("get_agent_info", agent_name="x" * 256)["error"]) < 150


@pytest.mark.parametrize(
    ("caller", "metadata", "location"),
    [
        (UMRA, {}, "pc2"),
        (UMRA, {"location": "PC2"}, "PC2"),
        (UMRA, {"location": ""}, "pc2"),
        (UMRA, {"location": 7}, "pc2"),
        (OPERATOR, {}, "mainpc"),
        (OPERATOR, {"location": "pc9"}, "pc9"),
        (NOBODY, {}, "Unknown"),
        (NOBODY, {"location": "pc9"}, "pc9"),
    ],
)
def test_the_location_defaults_to_the_callers_host(
    twin: Twin, caller: Any, metadata: dict[str, Any], location: str
) -> None:
    """`metadata.location` where there is one that may be believed, else the caller's host, `Unknown` for nobody."""
    twin.register(caller, UMRA.name, metadata=metadata)
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["location"] == location


@pytest.mark.parametrize(
    ("caller", "claimed", "location"),
    [(UMRA, None, "pc2"), (UMRA, "Pc2", "Pc2"), (NOBODY, None, "Unknown"), (OPERATOR, "pc9", "pc9")],
)
def test_the_short_registration_defaults_alike(twin: Twin, caller: Any, claimed: str | None, location: str) -> None:
    """`location` where it is given, else the caller's host."""
    twin.ask("register_agent", caller, agent_name=UMRA.name, status="ok", location=claimed)
    assert twin.ask("get_all_agents")["agents"][UMRA.name]["location"] == location


def test_unknown_fields_are_ignored(twin: Twin) -> None:
    """Existing clients send `source_agent`, `timestamp`, and fields of their own."""
    data = {**WHOLE, "colour": "blue"}
    reply = twin.ask("register_agent", registration_data=data, source_agent="Somebody", timestamp=1.5, extra=[1])
    assert (reply["status"], reply["ignored_fields"]) == ("success", ["extra"])
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["registered_by"] == UMRA.name


def test_an_agent_may_declare_its_status_as_no_response(twin: Twin, clock: Clock) -> None:
    """An agent that registers with a status of its own choosing is shown with it while its heartbeats arrive."""
    twin.ask("register_agent", agent_name=UMRA.name, status="NO_RESPONSE")
    assert twin.ask("get_ok_agents")["count"] == 0
    twin.ask("heartbeat", agent_name=UMRA.name, status="HEALTHY")
    assert twin.ask("get_ok_agents")["count"] == 1
