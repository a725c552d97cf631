"""What SystemDigitalTwin is asked: every field with its type and its bounds."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from twinhost.secure_zmq.wire import NAME, Request

MAX_METADATA_DEPTH = 16  # a list of registrations nests one deeper than its request did, and must still be written
MAX_METADATA_BYTES = 16_384  # as JSON without spaces, which is how it is stored and answered
PORT = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
HASH = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
NAMES = Annotated[list[NAME], msgspec.Meta(max_length=64)]


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


class AgentBrief(TypedDict):
    """Where an agent is, and how; `status` is what it registered, or NO_RESPONSE while it is silent."""

    location: str
    status: str
    last_seen: str


class AgentInfo(AgentBrief):
    """The whole of a registration; null where it didn't say."""

    name: str
    last_updated: str
    host: str | None
    port: int | None
    health_check_port: int | None
    agent_type: str | None
    capabilities: tuple[str, ...]
    dependencies: tuple[str, ...]
    missing_dependencies: list[str]
    script_path: str | None
    metadata: dict[str, Any]
    registered_by: str
    trust_revision: str | None
    revision: int


class Endpoint(TypedDict):
    """Where an agent is reached, and its server key in Z85; null where that isn't known."""

    agent_name: str
    host: str | None
    port: int | None
    health_check_port: int | None
    public_key: str | None


class Discovered(Endpoint):
    """An endpoint, and what kind of agent it is."""

    agent_type: str | None
    status: str


class Registered(TypedDict):
    """Registered: `agent_id` repeats the name of a whole registration, `agent` shows a brief one.

    `registration` is a digest of the record; an answer to a heartbeat repeats it for as long as the record is the same.
    """

    status: Literal["success"]
    message: str
    registration: str
    agent_id: NotRequired[str]
    agent: NotRequired[AgentBrief]


class WitnessedHead(TypedDict):
    """The newest line of the audit log: its number and hash, and the hash of the newest line `restored` up to it."""

    seq: int
    hash: str
    restored: str | None


class WitnessedRestore(TypedDict):
    """A line `restored` of the audit log."""

    seq: int
    hash: str
    time: str


class Compared(TypedDict):
    """Whether the log has the line of `audit_seen`, and the restore that explains it where it has not."""

    extends: bool
    restore: WitnessedRestore | None


class Witnessed(TypedDict):
    """The audit log's head, null on an open link; `audit_compared` answers a witness that sent `audit_seen`."""

    audit_head: WitnessedHead | None
    audit_compared: NotRequired[Compared]


class Beaten(Witnessed):
    """The moment of this sign of life, and the present revision of the trust list, null on an open link.

    A `registration` other than that of the agent's own registration says that somebody changed the record.
    """

    status: Literal["success"]
    timestamp: str
    registration: str
    trust_revision: str | None


class Unregistered(TypedDict):
    """The registration is gone."""

    status: Literal["success"]
    message: str


class Discovery(TypedDict):
    """The agents of a type, or all."""

    status: Literal["success"]
    agents: list[Discovered]


class AllAgents(TypedDict):
    """Every registered agent, by name."""

    status: Literal["success"]
    agents: dict[str, AgentBrief]


class RegisteredAgents(TypedDict):
    """Every registration, whole."""

    status: Literal["success"]
    agents: list[AgentInfo]


class OkAgents(TypedDict):
    """The names of those that are well."""

    status: Literal["success"]
    count: int
    agents: list[str]


class AgentFound(TypedDict):
    """One registration."""

    status: Literal["success"]
    agent_info: AgentInfo


class EndpointFound(Endpoint):
    """Where one agent is reached."""

    status: Literal["success"]
