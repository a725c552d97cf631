"""What one registration and the registry may hold, and that nobody but the twin itself speaks for the twin."""

from typing import Any

import pytest

from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, SDT, UMRA, Twin
from twinhost.secure_zmq.callers import Caller
from twinhost.system_digital_twin.registry.actions import MAX_METADATA_BYTES
from twinhost.system_digital_twin.registry.registry import MAX_REGISTRATIONS, AgentRecord

DATA: dict[str, Any] = {"agent_id": SDT.name, "agent_type": "system_twin", "host": "198.51.100.1", "port": 1}
IN_THE_TWINS_NAME = [
    ("register_agent", {"agent_name": SDT.name, "status": "HEALTHY"}),
    ("register_agent", {"registration_data": DATA}),
    ("heartbeat", {"agent_name": SDT.name}),
    ("heartbeat", {"agent_name": SDT.name, "status": "DEGRADED"}),
    ("unregister", {"agent_name": SDT.name}),
]


def record(name: str) -> AgentRecord:
    return AgentRecord(name=name, status="HEALTHY", location="pc2", registered_by=name, last_updated=1.0)


@pytest.mark.parametrize("field", ["capabilities", "dependencies"])
def test_a_list_has_at_most_64_items(twin: Twin, field: str) -> None:
    """One more is `malformed_request` with the list's path, and the registration stays as it was."""
    allowed: dict[str, Any] = {field: ["x"] * 64}
    assert twin.register(**allowed)["status"] == "success"
    one_more: dict[str, Any] = {field: ["x"] * 65}
    refused = twin.register(**one_more)
    assert refused["code"] == "malformed_request"
    assert f"Expected `array` of length <= 64 - at `$.registration_data.{field}`" in refused["error"]
    assert twin.rows()[UMRA.name]["revision"] == 1


@pytest.mark.parametrize("character", ["x", "é", "\n"])
def test_metadata_has_at_most_16_kib(twin: Twin, character: str) -> None:
    """Counted in bytes as it is stored; one more is `malformed_request` with its path."""
    room = MAX_METADATA_BYTES - len('{"a":""}')
    as_stored = 1 if character == "x" else 2
    assert MAX_METADATA_BYTES == 16 * 1024
    assert twin.register(metadata={"a": character * (room // as_stored)})["status"] == "success"
    refused = twin.register(metadata={"a": character * (room // as_stored) + "x"})
    assert refused["code"] == "malformed_request"
    assert refused["error"].startswith("Expected at most 16384 bytes of JSON, got 16385 - at `$.registration_data.meta")
    assert twin.rows()[UMRA.name]["revision"] == 1


def test_the_registry_takes_10_000_names(twin: Twin) -> None:
    """One more is `limit_reached`; those that are there go on, and room that is made is room."""
    with twin.database.transaction():
        for number in range(MAX_REGISTRATIONS - 1):
            twin.registry.put(record(f"agent-{number}"))
    assert MAX_REGISTRATIONS == 10_000
    assert twin.register()["status"] == "success"
    for refused in (
        twin.register(OPERATOR, "OneMore"),
        twin.ask("register_agent", OPERATOR, agent_name="OneMore", status="ok"),
    ):
        assert (refused["status"], refused["code"]) == ("error", "limit_reached")
        assert refused["error"] == (
            "10000 agents are registered, which is the limit; to unregister one, run: "
            "./twinhost call SystemDigitalTwin unregister agent_name=NAME"
        )
    assert twin.register()["status"] == "success"
    assert twin.ask("heartbeat", agent_name=UMRA.name)["status"] == "success"
    assert twin.ask("unregister", OPERATOR, agent_name="agent-0")["status"] == "success"
    assert twin.register(OPERATOR, "OneMore")["status"] == "success"
    assert len(twin.rows()) == MAX_REGISTRATIONS


@pytest.mark.sdt_security
@pytest.mark.parametrize("caller", [UMRA, OPERATOR, NOBODY, Caller(SDT.name, "pc2", frozenset(), None)])
@pytest.mark.parametrize(("action", "fields"), IN_THE_TWINS_NAME)
def test_nobody_speaks_for_the_twin(twin: Twin, caller: Caller, action: str, fields: dict[str, Any]) -> None:
    """Where clients look up the trusted keys is not an operator's to change, nor anybody's on an open link."""
    twin.register(SDT)
    before = twin.ask("get_registered_agents")
    refused = twin.ask(action, caller, **fields)
    assert (refused["status"], refused["code"]) == ("error", "not_granted")
    assert refused["error"].startswith(f"only {SDT.name} may act for {SDT.name}, ")
    assert twin.ask("get_registered_agents") == before


@pytest.mark.sdt_security
def test_nobody_takes_the_twins_name_where_it_is_free(twin: Twin) -> None:
    """The name is the twin's, registered or not."""
    assert twin.register(OPERATOR, SDT.name)["code"] == "not_granted"
    assert twin.rows() == {}


@pytest.mark.sdt_security
def test_the_twin_itself_may_register_and_not_leave(twin: Twin) -> None:
    """It would never come back before its next start."""
    assert twin.register(SDT)["status"] == "success"
    assert twin.ask("heartbeat", SDT, agent_name=SDT.name)["status"] == "success"
    refused = twin.ask("unregister", SDT, agent_name=SDT.name)
    assert (refused["code"], refused["error"]) == (
        "not_granted",
        "SystemDigitalTwin is registered for as long as it runs; stop the agent instead",
    )


def test_looking_up_a_name_reads_no_others_record(twin: Twin) -> None:
    """A table WITHOUT ROWID compares whole rows, so that one large record slows every look-up."""
    (without_rowid,) = twin.database.execute("SELECT wr FROM pragma_table_list WHERE name = 'agents'").fetchone()
    assert without_rowid == 0
