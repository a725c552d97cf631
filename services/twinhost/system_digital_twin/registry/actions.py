"""The actions on the registry: register, heartbeat, look up."""

from collections.abc import Callable
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from twinhost.agent.clocks import ClockReport
from twinhost.agent.conditions import MAX_CONDITIONS, Condition
from twinhost.agent.memory_figures import MemoryFigures
from twinhost.moments import iso_time
from twinhost.network_config import is_local_only
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted
from twinhost.secure_zmq.wire import NAME, OWN_NAME, Request
from twinhost.system_digital_twin import ITSELF, SUCCESS, Success
from twinhost.system_digital_twin.registry.registry import HEALTHY, AgentBrief, AgentInfo, AgentRecord, Registry
from twinhost.system_digital_twin.trust.audit import AuditRestored, AuditSeen, WitnessReply, no_witness

MAX_METADATA_DEPTH = 16  # a list of registrations nests them one level deeper, and must still be encoded
MAX_METADATA_BYTES = 16_384  # as JSON without spaces, which is how it is stored and answered
PORT = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
NAMES = Annotated[list[NAME], msgspec.Meta(max_length=64)]


class RegistrationData(msgspec.Struct, kw_only=True):
    """A complete registration."""

    agent_id: OWN_NAME
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
    """Register an agent, or update its registration: `agent_name` and `status`, or `registration_data`."""

    agent_name: Annotated[OWN_NAME, msgspec.Meta(examples=["my-agent"])] | None = None
    status: Annotated[NAME, msgspec.Meta(examples=["HEALTHY"])] | None = None
    location: NAME | None = None
    registration_data: RegistrationData | None = None


class Heartbeat(Request, tag="heartbeat"):
    """Report that an agent is alive; `status`, if given, replaces the registered one.

    With `stopping` it is the last one: the agent has the status NO_RESPONSE at once, until its next heartbeat. A host's
    agent of the configuration also says what is wrong with it (`conditions`), how its clock differs (`clock`), and how
    much is in its `memory`, if it has one.
    """

    agent_name: OWN_NAME
    status: NAME | None = None
    trust_revision: NAME | None = None  # of the trust document that the agent has applied
    audit_seen: AuditSeen | None = None
    audit_restored: AuditRestored | None = None
    stopping: bool = False
    conditions: Annotated[list[Condition], msgspec.Meta(max_length=MAX_CONDITIONS)] | None = None
    clock: ClockReport | None = None
    memory: MemoryFigures | None = None


class Unregister(Request, tag="unregister"):
    """Delete an agent's registration."""

    agent_name: OWN_NAME


class Discover(Request, tag="discover"):
    """Return the endpoints of the agents of one type, or of all agents."""

    agent_type: NAME | None = None


class GetAllAgents(Request, tag="get_all_agents"):
    """Return every agent's location, status, and last heartbeat, by name."""


class GetRegisteredAgents(Request, tag="get_registered_agents"):
    """Return every complete registration."""


class GetOkAgents(Request, tag="get_ok_agents"):
    """Return the names of the agents whose status is HEALTHY or ok."""


class GetAgentInfo(Request, tag="get_agent_info"):
    """Return one complete registration."""

    agent_name: NAME


class GetAgentEndpoint(Request, tag="get_agent_endpoint"):
    """Return an agent's address and the public key to pin."""

    agent_name: NAME


class Endpoint(TypedDict):
    """An agent's address, and its server key in Z85. A field that is not known is null."""

    agent_name: str
    host: str | None
    port: int | None
    health_check_port: int | None
    public_key: str | None


class DiscoveredAgent(Endpoint):
    """An endpoint with the agent's type and status."""

    agent_type: str | None
    status: str


class Registered(Success):
    """The registration is stored. `agent_id` repeats the name of a complete one, `agent` describes a brief one.

    `registration` is a digest of the record. The reply to a heartbeat repeats it while the record is unchanged.
    """

    message: str
    registration: str
    agent_id: NotRequired[str]
    agent: NotRequired[AgentBrief]


class HeartbeatReply(Success, WitnessReply):
    """The time of this heartbeat, and the current revision of the trust document, null on an open link.

    If `registration` is not the digest that the agent got when it registered, somebody else changed the record.
    `attention_revision` changes with the list that `get_attention` returns.
    """

    timestamp: str
    registration: str
    trust_revision: str | None
    attention_revision: str


class Unregistered(Success):
    """The registration is deleted."""

    message: str


class Discovery(Success):
    """The endpoints of the agents."""

    agents: list[DiscoveredAgent]


class AllAgents(Success):
    """Every registered agent, by name."""

    agents: dict[str, AgentBrief]


class RegisteredAgents(Success):
    """Every complete registration."""

    agents: list[AgentInfo]


class OkAgents(Success):
    """The names of the agents whose status is HEALTHY or ok."""

    count: int
    agents: list[str]


class AgentInfoReply(Success):
    """One complete registration."""

    agent_info: AgentInfo


class EndpointReply(Success, Endpoint):
    """The endpoint of one agent."""


class RegistryActions(Feature):
    """The actions on the registry."""

    def __init__(
        self,
        registry: Registry,
        public_key_of: Callable[[str], bytes | None],
        trust_revision: Callable[[], str | None] = lambda: None,
        witness: Callable[[str, Caller, AuditSeen | None, AuditRestored | None], WitnessReply] = no_witness,
        may_be_local: Callable[[str], bool] = lambda _: False,
        on_heartbeat: Callable[[Heartbeat], None] = lambda _: None,
        attention_revision: Callable[[], str] = str,
    ) -> None:
        """Serve a registry.

        Args:
            public_key_of: returns an agent's public key in Z85.
            trust_revision: returns the current revision of the trust document.
            witness: compares the audit log with what the sender of a heartbeat has seen of it.
            may_be_local: whether agents at a location may register a loopback or link-local address.
            on_heartbeat: called with each heartbeat of a registered agent.
            attention_revision: returns the revision of the attention list.
        """
        self._registry = registry
        self._clock = registry.clock
        self._may_be_local = may_be_local
        self._trust_revision = trust_revision
        self._witness = witness
        self._on_heartbeat, self._attention_revision = on_heartbeat, attention_revision
        self._public_key_of = public_key_of

    @action(mutates=True, from_reserve=True)
    def register(self, request: RegisterAgent, caller: Caller) -> Registered:
        if request.registration_data is not None:
            record = self._registry.put(self._complete(request.registration_data, caller))
            return {**_registered(record), "agent_id": record.name}
        record = self._registry.put(self._updated(request, caller))
        return {**_registered(record), "agent": self._registry.brief(record)}

    @action(mutates=True, from_reserve=True)
    def heartbeat(self, request: Heartbeat, caller: Caller) -> HeartbeatReply:
        require_speaks_for(caller, request.agent_name)
        seen = self._registry.heartbeat(request.agent_name, request.status, stopping=request.stopping)
        self._registry.note_trust(request.agent_name, request.trust_revision)
        self._on_heartbeat(request)
        return {
            "status": SUCCESS,
            "timestamp": iso_time(seen.wall),
            "trust_revision": self._trust_revision(),
            "attention_revision": self._attention_revision(),
            "registration": self._registry.get(request.agent_name).registration,
            **self._witness(request.agent_name, caller, request.audit_seen, request.audit_restored),
        }

    @action(mutates=True, from_reserve=True)
    def unregister(self, request: Unregister, caller: Caller) -> Unregistered:
        require_speaks_for(caller, request.agent_name)
        if request.agent_name == ITSELF:
            raise NotGranted(f"{ITSELF} is registered for as long as it runs; stop the agent instead")
        self._registry.remove(request.agent_name)
        return {"status": SUCCESS, "message": f"agent {request.agent_name} unregistered"}

    @action(forwardable=True)
    def discover(self, request: Discover, _: Caller) -> Discovery:
        return {
            "status": SUCCESS,
            "agents": [
                {**self._endpoint(record), "agent_type": record.agent_type, "status": self._registry.status(record)}
                for record in self._registry.all()
                if request.agent_type in (None, record.agent_type)
            ],
        }

    @action(forwardable=True)
    def all_agents(self, _: GetAllAgents, __: Caller) -> AllAgents:
        agents = {record.name: self._registry.brief(record) for record in self._registry.all()}
        return {"status": SUCCESS, "agents": agents}

    @action(forwardable=True)
    def registered_agents(self, _: GetRegisteredAgents, __: Caller) -> RegisteredAgents:
        return {"status": SUCCESS, "agents": [self._registry.info(record) for record in self._registry.all()]}

    @action(forwardable=True)
    def ok_agents(self, _: GetOkAgents, __: Caller) -> OkAgents:
        names = [record.name for record in self._registry.all() if self._registry.is_ok(record)]
        return {"status": SUCCESS, "count": len(names), "agents": names}

    @action(forwardable=True)
    def agent_info(self, request: GetAgentInfo, _: Caller) -> AgentInfoReply:
        return {"status": SUCCESS, "agent_info": self._registry.info(self._registry.get(request.agent_name))}

    @action(forwardable=True)
    def agent_endpoint(self, request: GetAgentEndpoint, _: Caller) -> EndpointReply:
        return {"status": SUCCESS, **self._endpoint(self._registry.get(request.agent_name))}

    def _complete(self, data: RegistrationData, caller: Caller) -> AgentRecord:
        require_speaks_for(caller, data.agent_id)
        size = len(msgspec.json.encode(data.metadata))
        if size > MAX_METADATA_BYTES:
            raise MalformedRequest(
                f"Expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size} - at `$.registration_data.metadata`; "
                "omit what others do not need to reach the agent"
            )
        claimed, script_path = data.metadata.get("location"), data.metadata.get("script_path")
        location = _location(claimed if isinstance(claimed, str) and claimed else None, caller)
        if is_local_only(data.host) and not self._may_be_local(location):
            raise MalformedRequest(
                f"{data.host[:64]!r} is a loopback, link-local, or multicast address, "
                f"and {data.agent_id[:64]} is on another host; "
                "register an address that other hosts can reach - at `$.registration_data.host`"
            )
        return AgentRecord(
            name=data.agent_id,
            status=HEALTHY,
            location=location,
            registered_by=caller.name,
            last_updated=self._clock.time(),
            host=data.host,
            port=data.port,
            health_check_port=data.health_check_port,
            agent_type=data.agent_type,
            capabilities=tuple(data.capabilities),
            dependencies=tuple(data.dependencies),
            script_path=script_path if isinstance(script_path, str) else None,
            metadata=data.metadata,
        )

    def _updated(self, request: RegisterAgent, caller: Caller) -> AgentRecord:
        """Return the record of a brief registration: fields that the request omits are unchanged."""
        name, status = request.agent_name, request.status
        if name is None or status is None:
            required = {"agent_name": name, "status": status}
            missing = [f"Object missing required field `{field}`" for field, value in required.items() if value is None]
            raise MalformedRequest(
                f"{'; '.join(missing)}; give these, or `registration_data`; "
                "./twinhost explain register_agent lists the fields"
            )
        location = _location(request.location, caller)
        require_speaks_for(caller, name)
        now, known = self._clock.time(), self._registry.find(name)
        if known is None:
            return AgentRecord(name=name, status=status, location=location, registered_by=caller.name, last_updated=now)
        if request.location is None and (caller.operator or not caller.authenticated):
            location = known.location
        return msgspec.structs.replace(
            known,
            status=status,
            location=location,
            registered_by=caller.name,
            last_updated=now,
            registration=known.registration if location == known.location else "",
        )

    def _endpoint(self, record: AgentRecord) -> Endpoint:
        key = self._public_key_of(record.name)
        return {
            "agent_name": record.name,
            "host": record.host,
            "port": record.port,
            "health_check_port": record.health_check_port,
            "public_key": key.decode() if key else None,
        }


def _registered(record: AgentRecord) -> Registered:
    return {
        "status": SUCCESS,
        "message": f"agent {record.name} registered",
        "registration": record.registration,
    }


def require_shallow(value: dict[str, Any] | None, field: str, depth: int) -> None:
    """Raise ValueError if a field is nested deeper than a reply may be; the decoder reports it as MalformedRequest."""
    level: list[Any] = [value] if value else []
    for _ in range(depth):
        level = [inner for container in level for inner in _containers_in(container)]
    if level:
        raise ValueError(f"Expected `{field}` nested at most {depth} deep")


def _containers_in(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return [item for item in inner if isinstance(item, dict | list)]


def require_speaks_for(caller: Caller, agent_name: str) -> None:
    """Raise NotGranted if the caller acts under another agent's name; an operator may, but not as this agent."""
    if agent_name == ITSELF and not (caller.authenticated and caller.name == ITSELF):
        raise NotGranted(f"only {ITSELF} may act for {ITSELF}, which registers itself at every start; use another name")
    if caller.authenticated and not caller.owns(agent_name):
        raise NotGranted(
            f"{caller.name} may not act for {agent_name[:64]!r}; use the key of that agent, or an operator's"
        )


def _location(claimed: str | None, caller: Caller) -> str:
    """Return the caller's own host, unless an operator or an unauthenticated caller claims another."""
    if claimed is None:
        return caller.host
    if caller.authenticated and not caller.operator and claimed.lower() != caller.host.lower():
        raise NotGranted(f"the key of {caller.name} is for host {caller.host}, not {claimed[:64]!r}; omit `location`")
    return claimed
