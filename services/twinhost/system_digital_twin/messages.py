"""What SystemDigitalTwin is asked: every field with its type and its bounds."""

from typing import Annotated, Any

import msgspec

from twinhost.agent.common_actions import Ping
from twinhost.secure_zmq.wire import NAME, Request

MAX_METADATA_DEPTH = 16  # a list of registrations nests one deeper than its request did, and must still be written
MAX_METADATA_BYTES = 16_384  # as JSON without spaces, which is how it is stored and answered
PORT = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
HASH = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
NAMES = Annotated[list[NAME], msgspec.Meta(max_length=64)]

__all__ = [
    "Discover",
    "GetAgentEndpoint",
    "GetAgentInfo",
    "GetAllAgents",
    "GetOkAgents",
    "GetRegisteredAgents",
    "Heartbeat",
    "Ping",
    "RegisterAgent",
    "RegistrationData",
    "Unregister",
    "require_shallow",
]


class RegistrationData(msgspec.Struct, kw_only=True):
    """The longer form of a registration."""

    agent_id: NAME
    agent_type: NAME
    host: NAME
    port: PORT
    health_check_port: PORT | None = None
    capabilities: NAMES = []
    dependencies: NAMES = []
    metadata: dict[str, Any] = {}

    def __post_init__(self) -> None:
        require_shallow(self.metadata, "metadata", MAX_METADATA_DEPTH)


class RegisterAgent(Request, tag="register_agent"):
    """Register an agent, or register it again: name and status, or `registration_data`."""

    agent_name: Annotated[NAME, msgspec.Meta(examples=["my-agent"])] | None = None
    status: Annotated[NAME, msgspec.Meta(examples=["HEALTHY"])] | None = None
    location: NAME | None = None
    registration_data: RegistrationData | None = None


class AuditSeen(msgspec.Struct, kw_only=True):
    """A head of the audit log that the caller keeps, and the hash of the newest line `restored` up to it."""

    seq: Annotated[int, msgspec.Meta(ge=1, lt=10**18)]
    hash: HASH
    restored: HASH | None = None


class AuditRestored(msgspec.Struct, kw_only=True):
    """A restore that took away lines which the caller has seen, up to `seen_to`; no operator has acknowledged it."""

    seq: Annotated[int, msgspec.Meta(ge=1, lt=10**18)]
    time: NAME
    seen_to: Annotated[int, msgspec.Meta(ge=1, lt=10**18)]


class Heartbeat(Request, tag="heartbeat"):
    """An agent is alive; `status` replaces the one that it registered with."""

    agent_name: NAME
    status: NAME | None = None
    trust_revision: NAME | None = None  # of mainpc's trust document, as far as the agent follows it
    audit_seen: AuditSeen | None = None
    audit_restored: AuditRestored | None = None


class Unregister(Request, tag="unregister"):
    """An agent leaves."""

    agent_name: NAME


class Discover(Request, tag="discover"):
    """Where the agents are, of one type or of all."""

    agent_type: NAME | None = None


class GetAllAgents(Request, tag="get_all_agents"):
    """Location, status, and last sign of life, by name."""


class GetRegisteredAgents(Request, tag="get_registered_agents"):
    """Every registration, whole."""


class GetOkAgents(Request, tag="get_ok_agents"):
    """The names of the agents that are well."""


class GetAgentInfo(Request, tag="get_agent_info"):
    """One registration, whole."""

    agent_name: NAME


class GetAgentEndpoint(Request, tag="get_agent_endpoint"):
    """Where an agent is, and the public key to pin."""

    agent_name: NAME


def require_shallow(value: dict[str, Any] | None, field: str, depth: int) -> None:
    """Raise ValueError, which the decoder turns into a refusal, where a field nests deeper than an answer may."""
    level: list[Any] = [value] if value else []
    for _ in range(depth):
        level = [inner for each in level for inner in _containers_in(each)]
    if level:
        raise ValueError(f"Expected `{field}` nested at most {depth} deep")


def _containers_in(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return [item for item in inner if isinstance(item, dict | list)]
