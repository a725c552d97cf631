"""REGISTER and DISCOVER, whose clients know no actions: served as they ask, judged as everybody."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA
from twinhost.secure_zmq.callers import Caller
from twinhost.system_digital_twin.__main__ import NAME, assemble
from twinhost.system_digital_twin.state_files import MIGRATIONS

WHOLE: dict[str, Any] = {"name": UMRA.name, "location": "pc2", "ip": "192.0.2.7", "port": 7230, "rank": 3}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Assembled]:
    """SystemDigitalTwin as it starts."""
    with Assembled(NAME, MIGRATIONS, assemble, environment_of(tmp_path, "mainpc")) as agent:
        yield agent


def command(agent: Assembled, word: str, caller: Caller = UMRA, **payload: Any) -> dict[str, Any]:
    answer: dict[str, Any] = agent.send(json.dumps({"command": word, "payload": payload}).encode(), caller)
    return answer


def test_what_is_registered_is_discovered(agent: Assembled) -> None:
    """With address and port, under the field that such a client reads."""
    answer = command(agent, "REGISTER", **WHOLE)
    assert (answer["status"], answer["message"]) == ("SUCCESS", f"agent {UMRA.name} registered")
    found = command(agent, "DISCOVER", name=UMRA.name)
    assert found["status"] == "SUCCESS"
    assert {name: found["payload"][name] for name in ("name", "location", "ip", "port")} == {
        "name": UMRA.name,
        "location": "pc2",
        "ip": "192.0.2.7",
        "port": 7230,
    }
    assert found["payload"]["status"] == "HEALTHY"


def test_without_an_address_it_is_registered_too(agent: Assembled) -> None:
    """By its name, on the host of its key."""
    assert command(agent, "REGISTER", name=UMRA.name)["status"] == "SUCCESS"
    payload = command(agent, "DISCOVER", name=UMRA.name)["payload"]
    assert (payload["location"], payload["ip"], payload["port"]) == ("pc2", None, None)


def test_somebody_who_is_not_there_is_not_found(agent: Assembled) -> None:
    """NOT_FOUND, and a message with the text at which clients stop asking."""
    answer = command(agent, "DISCOVER", name="Nobody")
    assert (answer["status"], answer["code"]) == ("NOT_FOUND", "not_found")
    assert "not found" in answer["message"]
    assert "'Nobody' is registered" in answer["message"]


def test_nobody_registers_another(agent: Assembled) -> None:
    """The dialect is older, and the rule is the same; an operator may."""
    answer = command(agent, "REGISTER", name="Somebody")
    assert (answer["status"], answer["code"]) == ("ERROR", "not_granted")
    assert command(agent, "REGISTER", OPERATOR, name="Somebody")["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("word", "payload", "path"),
    [
        ("REGISTER", {}, "name"),
        ("REGISTER", {"name": 7}, "$.name"),
        ("REGISTER", {"name": "x", "ip": "y", "port": 70_000}, "$.port"),
        ("DISCOVER", {}, "name"),
    ],
)
def test_an_invalid_payload_is_an_error_with_the_same_message(
    agent: Assembled, word: str, payload: dict[str, Any], path: str
) -> None:
    """ERROR, with the field."""
    answer = command(agent, word, **payload)
    assert (answer["status"], answer["code"]) == ("ERROR", "malformed_request")
    assert path in answer["message"]
    assert answer["message"].endswith(f"(in `payload` of {word})")


def test_an_unknown_command_is_refused(agent: Assembled) -> None:
    """In its dialect, with the existing commands."""
    assert command(agent, "DANCE", name="x") == {
        "status": "ERROR",
        "message": "there is no command 'DANCE' here; there are: DISCOVER, REGISTER",
        "code": "unknown_action",
    }
