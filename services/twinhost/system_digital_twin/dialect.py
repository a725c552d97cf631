"""REGISTER and DISCOVER, the requests of clients that are older than actions, translated into today's."""

from typing import Any

import msgspec

from twinhost.agent.dialects import Command
from twinhost.secure_zmq.wire import NAME, Answer
from twinhost.system_digital_twin.registry.actions import PORT, GetAgentInfo, RegisterAgent, RegistrationData
from twinhost.system_digital_twin.registry.registry import HEALTHY


class _Register(msgspec.Struct):
    name: NAME
    location: NAME | None = None
    ip: NAME | None = None
    port: PORT | None = None
    health_check_port: PORT | None = None
    agent_type: NAME = "agent"
    capabilities: list[NAME] = []
    dependencies: list[NAME] = []


class _Discover(msgspec.Struct):
    name: NAME


def _register(payload: dict[str, Any]) -> RegisterAgent:
    old = msgspec.convert(payload, _Register)
    if old.ip is None or old.port is None:
        return RegisterAgent(agent_name=old.name, status=HEALTHY, location=old.location)
    return RegisterAgent(
        registration_data=RegistrationData(
            agent_id=old.name,
            agent_type=old.agent_type,
            host=old.ip,
            port=old.port,
            health_check_port=old.health_check_port,
            capabilities=old.capabilities,
            dependencies=old.dependencies,
            metadata={"location": old.location} if old.location is not None else {},
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
