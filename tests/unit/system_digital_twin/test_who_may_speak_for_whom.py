"""An agent acts under its own name and on its own host; an operator for anyone; an open link proves nothing."""

from typing import Any

import pytest

from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, UMRA, Twin
from twinhost.secure_zmq.callers import Caller

pytestmark = pytest.mark.sdt_security

OTHER = Caller("PlanningAgent", "mainpc", frozenset({"agent"}), "SHA256:of-another")
DATA: dict[str, Any] = {"agent_id": OTHER.name, "agent_type": "planner", "host": "198.51.100.1", "port": 1}
IN_ANOTHERS_NAME = [
    ("register_agent", {"agent_name": OTHER.name, "status": "HEALTHY"}),
    ("register_agent", {"registration_data": DATA}),
    ("heartbeat", {"agent_name": OTHER.name}),
    ("heartbeat", {"agent_name": OTHER.name, "status": "DEGRADED"}),
    ("unregister", {"agent_name": OTHER.name}),
]


@pytest.mark.parametrize(("action", "fields"), IN_ANOTHERS_NAME)
def test_an_agent_may_not_act_for_another(twin: Twin, action: str, fields: dict[str, Any]) -> None:
    """Its key proves another name than the body has: `not_granted`, and the other's registration is as it was."""
    twin.register(OTHER)
    before = twin.ask("get_registered_agents")
    reply = twin.ask(action, UMRA, **fields)
    assert (reply["status"], reply["code"]) == ("error", "not_granted")
    assert f"{UMRA.name} may not act for '{OTHER.name}'; use the key of that agent, or an operator's" in reply["error"]
    assert twin.ask("get_registered_agents") == before


@pytest.mark.parametrize(("action", "fields"), IN_ANOTHERS_NAME)
def test_another_name_beside_the_registration_data_helps_nobody(
    twin: Twin, action: str, fields: dict[str, Any]
) -> None:
    """`agent_name` and `source_agent` in the body are never an identity."""
    twin.register(OTHER)
    reply = twin.ask(action, UMRA, **{"agent_name": UMRA.name, "status": "ok", **fields, "source_agent": OTHER.name})
    assert reply["code"] == "not_granted"


@pytest.mark.parametrize("caller", [OPERATOR, NOBODY])
@pytest.mark.parametrize(("action", "fields"), IN_ANOTHERS_NAME)
def test_an_operator_may_and_an_open_link_knows_no_callers(
    twin: Twin, caller: Caller, action: str, fields: dict[str, Any]
) -> None:
    """The operator's key acts for any agent; with SECURE_ZMQ=0 names prove nothing and ordinary actions work."""
    twin.register(OTHER)
    assert twin.ask(action, caller, **fields)["status"] == "success"


@pytest.mark.parametrize("caller", [UMRA, OPERATOR, NOBODY])
def test_every_record_says_who_wrote_it(twin: Twin, caller: Caller) -> None:
    """`registered_by` is the proven caller, `unauthenticated` where nobody was."""
    twin.register(caller, UMRA.name)
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["registered_by"] == caller.name


@pytest.mark.parametrize(
    "fields",
    [
        {"agent_name": UMRA.name, "status": "HEALTHY", "location": "mainpc"},
        {"registration_data": {**DATA, "agent_id": UMRA.name, "metadata": {"location": "mainpc"}}},
    ],
)
def test_an_agent_may_not_claim_another_host(twin: Twin, fields: dict[str, Any]) -> None:
    """Its key says which host it is on; a location that contradicts it is refused."""
    reply = twin.ask("register_agent", UMRA, **fields)
    assert reply["code"] == "not_granted"
    assert f"the key of {UMRA.name} is for host pc2, not 'mainpc'; omit `location`" in reply["error"]
    assert twin.rows() == {}


@pytest.mark.parametrize("action", ["get_all_agents", "get_registered_agents", "get_ok_agents", "discover"])
@pytest.mark.parametrize("caller", [UMRA, OPERATOR, NOBODY])
def test_everybody_who_got_in_may_read(twin: Twin, caller: Caller, action: str) -> None:
    """Reading asks for no name."""
    twin.register(OTHER)
    assert twin.ask(action, caller)["status"] == "success"


def test_no_body_can_make_an_operator(twin: Twin) -> None:
    """Roles come from the key; a body that brings some is a body with unknown fields."""
    twin.register(OTHER)
    reply = twin.ask("unregister", UMRA, agent_name=OTHER.name, roles=["operator"], operator=True)
    assert reply["code"] == "not_granted"
