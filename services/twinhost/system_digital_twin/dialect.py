"""REGISTER and DISCOVER, as clients ask for them that are older than actions."""

from typing import Any

import msgspec

from twinhost.agent.dialects import Command
from twinhost.secure_zmq.wire import NAME, Answer
from twinhost.system_digital_twin.registry.actions import PORT, GetAgentInfo, RegisterAgent, RegistrationData
from twinhost.system_digital_twin.registry.registry import HEALTHY

_UNTOLD = "agent"  # the type of one that does not tell it


class _Register(msgspec.Struct):
    name: NAME
    location: NAME | None = None
    ip: NAME | None = None
    port: PORT | None = None
    health_check_port: PORT | None = None
    agent_type: NAME = _UNTOLD
    capabilities: list[NAME] = []
    dependencies: list[NAME] = []


class _Discover(msgspec.Struct):
    name: NAME


def _register(payload: dict[str, Any]) -> RegisterAgent:
    told = msgspec.convert(payload, _Register)
    if told.ip is None or told.port is None:
        return RegisterAgent(agent_name=told.name, status=HEALTHY, location=told.location)
    return RegisterAgent(
        registration_data=RegistrationData(
            agent_id=told.name,
            agent_type=told.agent_type,
            host=told.ip,
            port=told.port,
            health_check_port=told.health_check_port,
            capabilities=told.capabilities,
            dependencies=told.dependencies,
            metadata={"location": told.location} if told.location is not None else {},
        )
    )


def _discover(payload: dict[str, Any]) -> GetAgentInfo:
    return GetAgentInfo(agent_name=msgspec.convert(payload, _Discover).name)


def _found(reply: Answer) -> Answer:
    info = reply["agent_info"]
    return {"payload": {**info, "ip": info["host"]}}


COMMANDS = {
    "REGISTER": Command(_register, lambda reply: {"message": reply["message"]}),
    "DISCOVER": Command(_discover, _found),
}
