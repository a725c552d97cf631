"""What SystemDigitalTwin does not take: each wrong field is named by its path, and nothing is registered."""

from typing import Any

import pytest

from tests.unit.system_digital_twin.twin import UMRA, Twin

DATA: dict[str, Any] = {"agent_id": UMRA.name, "agent_type": "memory", "host": "pc2", "port": 7230}
LONG = "x" * 257


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in DATA.items() if key != name}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({**DATA, "port": 0}, "Expected `int` >= 1 - at `$.registration_data.port`"),
        ({**DATA, "port": -1}, "Expected `int` >= 1 - at `$.registration_data.port`"),
        ({**DATA, "port": 65_536}, "Expected `int` <= 65535 - at `$.registration_data.port`"),
        ({**DATA, "port": 2**70}, "at `$.registration_data.port`"),
        ({**DATA, "port": True}, "Expected `int`, got `bool` - at `$.registration_data.port`"),
        ({**DATA, "port": "7230"}, "Expected `int`, got `str` - at `$.registration_data.port`"),
        ({**DATA, "port": 7230.5}, "Expected `int`, got `float` - at `$.registration_data.port`"),
        ({**DATA, "port": None}, "Expected `int`, got `null` - at `$.registration_data.port`"),
        ({**DATA, "health_check_port": 0}, "Expected `int` >= 1 - at `$.registration_data.health_check_port`"),
        ({**DATA, "health_check_port": "x"}, "got `str` - at `$.registration_data.health_check_port`"),
        ({**DATA, "agent_id": ""}, "Expected `str` of length >= 1 - at `$.registration_data.agent_id`"),
        ({**DATA, "agent_id": LONG}, "Expected `str` of length <= 256 - at `$.registration_data.agent_id`"),
        ({**DATA, "agent_id": 7}, "Expected `str`, got `int` - at `$.registration_data.agent_id`"),
        ({**DATA, "agent_type": ""}, "Expected `str` of length >= 1 - at `$.registration_data.agent_type`"),
        ({**DATA, "host": []}, "Expected `str`, got `array` - at `$.registration_data.host`"),
        ({**DATA, "capabilities": "twins"}, "Expected `array`, got `str` - at `$.registration_data.capabilities`"),
        ({**DATA, "capabilities": ["a", 7]}, "got `int` - at `$.registration_data.capabilities[1]`"),
        ({**DATA, "capabilities": [""]}, "of length >= 1 - at `$.registration_data.capabilities[0]`"),
        ({**DATA, "dependencies": {}}, "Expected `array`, got `object` - at `$.registration_data.dependencies`"),
        ({**DATA, "metadata": []}, "Expected `object`, got `array` - at `$.registration_data.metadata`"),
        (without("agent_id"), "missing required field `agent_id` - at `$.registration_data`"),
        (without("agent_type"), "missing required field `agent_type` - at `$.registration_data`"),
        (without("host"), "missing required field `host` - at `$.registration_data`"),
        (without("port"), "missing required field `port` - at `$.registration_data`"),
        ([], "Expected `object | null`, got `array` - at `$.registration_data`"),
        ("x", "Expected `object | null`, got `str` - at `$.registration_data`"),
    ],
)
def test_a_wrong_registration_is_refused_with_its_path(twin: Twin, data: Any, sentence: str) -> None:
    """`malformed_request`, the path, and no row."""
    reply = twin.ask("register_agent", registration_data=data)
    assert (reply["status"], reply["code"]) == ("error", "malformed_request")
    assert sentence in reply["error"]
    assert twin.rows() == {}


@pytest.mark.parametrize("port", [1, 65_535])
def test_the_bounds_themselves_are_allowed(twin: Twin, port: int) -> None:
    """Ports 1 and 65535, names of 1 and 256 characters."""
    assert twin.register(port=port, health_check_port=port, agent_type="x", host=LONG[1:])["status"] == "success"


@pytest.mark.parametrize(
    ("action", "fields", "sentence"),
    [
        (
            "register_agent",
            {},
            "Object missing required field `agent_name`; Object missing required field `status`; "
            "give these, or `registration_data`; ./twinhost explain register_agent lists the fields",
        ),
        ("register_agent", {"status": "ok"}, "Object missing required field `agent_name`"),
        ("register_agent", {"agent_name": UMRA.name}, "Object missing required field `status`"),
        ("register_agent", {"agent_name": "", "status": "ok"}, "of length >= 1 - at `$.agent_name`"),
        ("register_agent", {"agent_name": LONG, "status": "ok"}, "of length <= 256 - at `$.agent_name`"),
        ("register_agent", {"agent_name": 7, "status": "ok"}, "Expected `str | null`, got `int` - at `$.agent_name`"),
        ("register_agent", {"agent_name": UMRA.name, "status": ""}, "of length >= 1 - at `$.status`"),
        ("register_agent", {"agent_name": UMRA.name, "status": "ok", "location": 7}, "got `int` - at `$.location`"),
        ("heartbeat", {}, "Object missing required field `agent_name`"),
        ("heartbeat", {"agent_name": None}, "Expected `str`, got `null` - at `$.agent_name`"),
        ("heartbeat", {"agent_name": UMRA.name, "status": ""}, "of length >= 1 - at `$.status`"),
        ("unregister", {}, "Object missing required field `agent_name`"),
        ("unregister", {"agent_name": ["x"]}, "Expected `str`, got `array` - at `$.agent_name`"),
        ("discover", {"agent_type": ""}, "of length >= 1 - at `$.agent_type`"),
        ("discover", {"agent_type": {}}, "Expected `str | null`, got `object` - at `$.agent_type`"),
        ("get_agent_info", {}, "Object missing required field `agent_name`"),
        ("get_agent_info", {"agent_name": ""}, "of length >= 1 - at `$.agent_name`"),
        ("get_agent_endpoint", {"agent_name": 1.5}, "Expected `str`, got `float` - at `$.agent_name`"),
        ("ping", {"request_id": 7}, "Expected `str | null`, got `int` - at `$.request_id`"),
        ("ping", {"request_id": "x" * 129}, "of length <= 128 - at `$.request_id`"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path(twin: Twin, action: str, fields: dict[str, Any], sentence: str) -> None:
    """`malformed_request` and the path; the next good request is served."""
    reply = twin.ask(action, **fields)
    assert (reply["status"], reply["code"]) == ("error", "malformed_request")
    assert sentence in reply["error"]
    assert twin.rows() == {}
    assert twin.register()["status"] == "success"


def nested(depth: int) -> dict[str, Any]:
    """Return an object that is `depth` containers deep, objects and lists in turn."""
    value: Any = {} if depth % 2 else []
    for level in range(depth - 1):
        value = [value] if (depth + level) % 2 else {"a": value}
    assert isinstance(value, dict)
    return value


def test_metadata_that_no_answer_could_carry_is_refused(twin: Twin) -> None:
    """One registration, as deep as a request may just be, must not spoil the list of all agents for everybody."""
    assert twin.register(metadata=nested(16))["status"] == "success"
    refused = twin.register(metadata=nested(17))
    assert refused["code"] == "malformed_request"
    assert "Expected `metadata` nested at most 16 deep - at `$.registration_data`" in refused["error"]
    assert twin.ask("get_registered_agents")["agents"][0]["revision"] == 1
