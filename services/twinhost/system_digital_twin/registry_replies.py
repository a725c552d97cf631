"""What SystemDigitalTwin answers about registrations."""

from typing import Any, Literal, NotRequired, TypedDict


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
