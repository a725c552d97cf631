"""What SystemDigitalTwin does with each request: domain rules only, no socket, no SQL."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NotRequired, TypedDict

import msgspec

from twinhost.agent.common_actions import Ping, pong
from twinhost.agent.health import iso_time
from twinhost.agent.replies import Pong
from twinhost.network_config import is_local_only
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.system_digital_twin.registry.registry import HEALTHY, AgentRecord, Registry

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


ITSELF = "SystemDigitalTwin"
SUCCESS: Final = "success"  # the word that this agent's clients test for

PublicKeyOf = Callable[[str], bytes | None]


def _no_log(_: Heartbeat, __: Caller) -> Witnessed:
    return {"audit_head": None}


class Handlers(Feature):
    """The actions on the registry."""

    def __init__(
        self,
        registry: Registry,
        public_key_of: PublicKeyOf,
        trust_revision: Callable[[], str | None] = lambda: None,
        witnessed: Callable[[Heartbeat, Caller], Witnessed] = _no_log,
        may_be_local: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Serve a registry.

        Args:
            may_be_local: whether agents at a location may register an address that leads each host to itself.
        """
        self._registry = registry
        self._may_be_local = may_be_local
        self._trust_revision = trust_revision
        self._witnessed = witnessed
        self._public_key_of = public_key_of

    @action(forwardable=True)
    def ping(self, request: Ping, caller: Caller) -> Pong:
        return pong(request, caller)

    @action(mutates=True)
    def register(self, request: RegisterAgent, caller: Caller) -> Registered:
        data = request.registration_data
        if data is not None:
            record = _from_data(data, caller)
            if is_local_only(data.host) and not self._may_be_local(record.location):
                raise MalformedRequest(
                    f"{data.host[:64]!r} is a loopback, link-local, or multicast address, "
                    f"and {record.name[:64]} is on another host; "
                    "register an address that other hosts reach - at `$.registration_data.host`"
                )
            record = self._registry.put(record)
            return {**_registered(record), "agent_id": record.name}
        if request.agent_name is None or request.status is None:
            given = {"agent_name": request.agent_name, "status": request.status}
            missing = [f"Object missing required field `{name}`" for name, value in given.items() if value is None]
            raise MalformedRequest(
                f"{'; '.join(missing)}; give these, or `registration_data`; "
                "./twinhost explain register_agent lists the fields"
            )
        location = _location(request.location, caller)
        require_speaks_for(caller, request.agent_name)
        record = AgentRecord(
            name=request.agent_name,
            status=request.status,
            location=location,
            registered_by=caller.name,
            last_updated=time.time(),
        )
        known = self._registry.find(record.name)
        if known is not None:  # what the request does not name stays
            if request.location is None and (caller.operator or not caller.authenticated):
                location = known.location
            record = msgspec.structs.replace(
                known,
                status=record.status,
                location=location,
                registered_by=record.registered_by,
                last_updated=record.last_updated,
            )
        record = self._registry.put(record)
        return {**_registered(record), "agent": self._brief(record)}

    @action(mutates=True)
    def heartbeat(self, request: Heartbeat, caller: Caller) -> Beaten:
        require_speaks_for(caller, request.agent_name)
        seen = self._registry.heartbeat(request.agent_name, request.status)
        self._registry.note_trust(request.agent_name, request.trust_revision)
        return {
            "status": SUCCESS,
            "timestamp": iso_time(seen.wall),
            "trust_revision": self._trust_revision(),
            "registration": self._registry.get(request.agent_name).registration,
            **self._witnessed(request, caller),
        }

    @action(mutates=True)
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
        return {"status": SUCCESS, "agents": {record.name: self._brief(record) for record in self._registry.all()}}

    @action(forwardable=True)
    def registered_agents(self, _: GetRegisteredAgents, __: Caller) -> RegisteredAgents:
        return {"status": SUCCESS, "agents": [self._whole(record) for record in self._registry.all()]}

    @action(forwardable=True)
    def ok_agents(self, _: GetOkAgents, __: Caller) -> OkAgents:
        names = [record.name for record in self._registry.all() if self._registry.is_ok(record)]
        return {"status": SUCCESS, "count": len(names), "agents": names}

    @action(forwardable=True)
    def agent_info(self, request: GetAgentInfo, _: Caller) -> AgentFound:
        return {"status": SUCCESS, "agent_info": self._whole(self._registry.get(request.agent_name))}

    @action(forwardable=True)
    def agent_endpoint(self, request: GetAgentEndpoint, _: Caller) -> EndpointFound:
        return {"status": SUCCESS, **self._endpoint(self._registry.get(request.agent_name))}

    def _brief(self, record: AgentRecord) -> AgentBrief:
        return {
            "location": record.location,
            "status": self._registry.status(record),
            "last_seen": iso_time(self._registry.last_seen(record.name)),
        }

    def _whole(self, record: AgentRecord) -> AgentInfo:
        return {
            "name": record.name,
            **self._brief(record),
            "last_updated": iso_time(record.last_updated),
            "host": record.host,
            "port": record.port,
            "health_check_port": record.health_check_port,
            "agent_type": record.agent_type,
            "capabilities": record.capabilities,
            "dependencies": record.dependencies,
            "missing_dependencies": self._registry.missing_dependencies(record),
            "script_path": record.script_path,
            "metadata": record.metadata,
            "registered_by": record.registered_by,
            "trust_revision": self._registry.trust_revision(record.name),
            "revision": record.revision,
        }

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


def _from_data(data: RegistrationData, caller: Caller) -> AgentRecord:
    require_speaks_for(caller, data.agent_id)
    _require_small(data.metadata)
    claimed = data.metadata.get("location")
    script_path = data.metadata.get("script_path")
    return AgentRecord(
        name=data.agent_id,
        status=HEALTHY,
        location=_location(claimed if isinstance(claimed, str) and claimed else None, caller),
        registered_by=caller.name,
        last_updated=time.time(),
        host=data.host,
        port=data.port,
        health_check_port=data.health_check_port,
        agent_type=data.agent_type,
        capabilities=tuple(data.capabilities),
        dependencies=tuple(data.dependencies),
        script_path=script_path if isinstance(script_path, str) else None,
        metadata=data.metadata,
    )


def _require_small(metadata: dict[str, Any]) -> None:
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA_BYTES:
        raise MalformedRequest(
            f"Expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size} - at `$.registration_data.metadata`; "
            "keep there what others need to find the agent"
        )


def require_speaks_for(caller: Caller, agent_name: str) -> None:
    """Raise NotGranted where an authenticated agent acts under another's name; an operator may, but not as the twin."""
    if agent_name == ITSELF and not (caller.authenticated and caller.name == ITSELF):
        raise NotGranted(f"nobody but {ITSELF} may act for {ITSELF}; it registers itself at every start")
    if caller.authenticated and not caller.operator and caller.name != agent_name:
        raise NotGranted(
            f"{caller.name} may not act for {agent_name[:64]!r}; use the key of that agent, or an operator's"
        )


def _location(claimed: str | None, caller: Caller) -> str:
    """Return where an agent is: the caller's own host, unless an operator, or nobody known, says otherwise."""
    if claimed is None:
        return caller.host
    if caller.authenticated and not caller.operator and claimed.lower() != caller.host.lower():
        raise NotGranted(f"{caller.name} is on {caller.host} by its key, not on {claimed[:64]!r}; leave location out")
    return claimed
