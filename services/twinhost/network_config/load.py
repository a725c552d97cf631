"""From YAML to NetworkConfig; anything unknown, missing or of a wrong type is refused with file and path."""

import os
import re
import socket
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from twinhost.network_config.model import (
    BUILTIN,
    BUILTIN_IF_INSTALLED,
    BUILTIN_SPACES,
    BY_DAYS,
    EMBEDDING_DEADLINE_S,
    MAX_EMBEDDING_DEADLINE_S,
    SPACE_NAME,
    Agent,
    EmailDestination,
    Embeddings,
    Failover,
    Forgetting,
    Host,
    HttpDestination,
    Limits,
    NetworkConfig,
    Notify,
    Recall,
    Space,
    is_address,
    is_authority,
    is_loopback,
    require_web_address,
)
from twinhost.secure_zmq.budgets import Budget, BudgetTable
from twinhost.secure_zmq.callers import (
    ANY,
    EVERY_ACTION,
    OWN,
    OWNED,
    RESERVED_GRANTS,
    SUBSCRIBE,
    TOPICS,
    UNAUTHENTICATED_ROLE,
    own_grant,
    topic_grant,
)
from twinhost.secure_zmq.certificates import FOLDER_VARIABLE, PROFILE_VARIABLE, client_folder, to_join, user_folder
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed
from twinhost.secure_zmq.keys import KeyOwner

try:
    from yaml import CSafeLoader as _SafeLoader  # libyaml's takes a tenth of the time, at every start
except ImportError:  # PyYAML was built without it
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

PATH_VARIABLE = "NETWORK_CONFIG_PATH"
ADDRESS_VARIABLES = {"mainpc": "MAINPC_IP", "pc2": "PC2_IP"}
DATABASE_VARIABLE = "TWINHOST_DATABASE"  # the DSN of the log that standbys follow
PROCESS_VARIABLE = "TWINHOST_PROCESS"  # the name of this process in that log, where the host's is not its own
PUBLISH_VARIABLE = "TWINHOST_PUBLISH_ADDRESS"  # the address at which docker-compose.yml publishes ports
CLIENT_PORTS = ("zmq", "events")  # those of an agent that a program connects to
CONFIG_FILE = "network_config.yaml"
# Next to a program's key: addresses and ports at which its machine reaches the agents.
ENDPOINTS_FILE = "endpoints.yaml"
DEFAULT_PATH = Path(__file__).resolve().parents[3] / "config" / CONFIG_FILE  # of a checkout
CONTAINER_PATH = Path("/app/config") / CONFIG_FILE

T = TypeVar("T")
_WEIGHTS = ("bm25", "importance", "recency", "strength", "recency_half_life_days")  # of a search in version 0.2
_EMBEDDINGS = {"auto": BUILTIN_IF_INSTALLED, "builtin": BUILTIN, "off": None}
_ACTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PORT = re.compile(r"[0-9]{1,5}")
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")
_DESTINATION = re.compile(r"[A-Za-z0-9_-]{1,32}")
_MAIL = r"^[^\s@<>,;\"]{1,64}@[A-Za-z0-9.-]{1,253}\Z"
_STEM = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}\Z"

_Text = Annotated[str, Meta(description="a string")]
_FileName = Annotated[str, Meta(min_length=1, description="a string that is not empty")]
_Stem = Annotated[
    str,
    Meta(pattern=_STEM, description="the name of a key file without its ending, of the characters A-Z a-z 0-9 . _ -"),
]
_Truth = Annotated[bool, Meta(description="true or false")]
_Port = Annotated[int, Meta(ge=1, le=65_535, description="a port number from 1 to 65535")]
_longest = f"a number of seconds, more than 0 and at most {MAX_EMBEDDING_DEADLINE_S:g}"
_Deadline = Annotated[float, Meta(gt=0, le=MAX_EMBEDDING_DEADLINE_S, description=_longest)]
_topics = f"a list of topics ({', '.join(TOPICS)})"
_Topics = Annotated[tuple[Literal["AGENT", "ERROR", "EVENT", "TRUST"], ...], Meta(min_length=1, description=_topics)]
_Whose = Annotated[Literal["own", "any"], Meta(description=f"{OWN!r} or {ANY!r}")]

_time_of_day = 'a time of day in quotes, such as "08:00"'
_Address = Annotated[str, Meta(pattern=_MAIL, description="an e-mail address")]
_Addresses = Annotated[tuple[_Address, ...], Meta(min_length=1, description="a list of e-mail addresses")]
_Identities = Annotated[tuple[str, ...], Meta(description="a list of names of identities (./twinhost keys list)")]


class _ConfigFile(msgspec.Struct):
    hosts: Any
    agents: Any
    grants: Any
    limits: Any
    recall: Any = None  # it may be missing, or have nothing but comments
    memory: Any = None  # files of version 0.2 and before lack it
    spaces: Any = None
    notify: Any = None
    failover: Annotated[Failover, Meta(description="automatic or manual")] = "automatic"


class _Budgets(msgspec.Struct):
    everybody: Any = {}
    roles: Any = {}
    names: Any = {}


class _Space(msgspec.Struct):
    writers: _Identities
    readers: _Identities = ()


class _Endpoints(msgspec.Struct):
    hosts: Any
    agents: Any


class _HostEntry(msgspec.Struct):
    address: Annotated[str, Meta(description="a host name or an IP address")]


class _AgentEntry(msgspec.Struct):
    host: _Text
    key: _Stem
    ports: Any
    standby: Any = None


class _StandbyEntry(msgspec.Struct):
    host: _Text
    address: _Text = ""  # that of the host
    ports: Any = {}  # that differ from the agent's


class _StandbyPorts(msgspec.Struct):
    zmq: _Port = 0  # does not differ
    http: _Port = 0
    events: _Port = 0


class _ReachedAgent(msgspec.Struct):
    ports: Any
    standby: Any = None


class _ReachedStandby(msgspec.Struct):
    host: _Text
    address: _Text
    ports: Any


class _Ports(msgspec.Struct):
    zmq: _Port
    http: _Port
    events: _Port = 0  # has none


class _Recall(msgspec.Struct):
    word_pairs: _Truth = True
    tokenizer: _FileName = ""
    embeddings: Any = "auto"


class _Service(msgspec.Struct):
    url: _Text
    model: _Text
    api_key_file: _FileName = ""
    query_prefix: _Text = ""
    text_prefix: _Text = ""
    deadline_s: _Deadline = EMBEDDING_DEADLINE_S
    unencrypted: _Truth = False


class _Notify(msgspec.Struct):
    destinations: Any
    host: _Text = "pc2"
    timezone: _Text = "UTC"
    quiet_hours: _Text = ""
    quiet_lets_through: Annotated[Literal["broken", "nothing"], Meta(description="broken or nothing")] = "broken"
    digest: Annotated[str, Meta(description=_time_of_day)] = ""


class _Http(msgspec.Struct):
    webhook: _Text = ""
    webhook_file: _FileName = ""
    ntfy: _Text = ""
    ntfy_file: _FileName = ""
    token_file: _FileName = ""
    unencrypted: _Truth = False


class _Email(msgspec.Struct):
    email: _Addresses
    sender: _Address
    server: _Text
    encryption: Annotated[Literal["starttls", "tls", "none"], Meta(description="starttls, tls, or none")] = "starttls"
    user: _Text = ""
    password_file: _FileName = ""
    unencrypted: _Truth = False


# An item of a list of grants that names what it is limited to.
_Limited = msgspec.defstruct("_Limited", [(SUBSCRIBE, _Topics, ()), *((name, _Whose, ANY) for name in OWNED)])


def load_network_config(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> NetworkConfig:
    """Return the configuration.

    Args:
        path: the YAML file; the default is NETWORK_CONFIG_PATH, then `default_path()`. Addresses and ports in
            `endpoints.yaml` next to the program's key replace those of the latter, and say which agents have a standby.
        environment: MAINPC_IP and PC2_IP in it, if not empty, replace the hosts' addresses. Without TWINHOST_DATABASE
            no agent has a standby, but for those of `endpoints.yaml`.

    Raises:
        ConfigurationError: the file is missing or wrong; the message names the file and the path in it.

    >>> sorted(twinhost.load_network_config().agents)
    ['SystemDigitalTwin', 'UnifiedMemoryReasoningAgent']
    """
    named = path or environment.get(PATH_VARIABLE)
    path = Path(named or default_path(environment))
    reached_hosts, reached_agents = ({}, {}) if named else _endpoints(client_folder(environment) / ENDPOINTS_FILE)
    root = _Part(str(path), _read_yaml(path))
    file = root.read(_ConfigFile)
    hosts = {name: _host(name, part, environment, reached_hosts) for name, part in root.child("hosts").children()}
    agents = {
        name: _agent(name, part, hosts, environment, reached_agents) for name, part in root.child("agents").children()
    }
    grants = {role: _granted(role, part) for role, part in root.child("grants").children()}
    limits = _limits(root.child("limits"))
    recall = Recall() if file.recall is None else _recall(root.child("recall"), path.parent)
    memory = root.child("memory").read(Forgetting) if "memory" in root.value else BY_DAYS
    spaces = {name: _space(name, part) for name, part in root.child("spaces").children()} if file.spaces else {}
    notify = _notify(root.child("notify"), hosts, path.parent) if file.notify is not None else None
    return NetworkConfig(str(path), hosts, agents, limits, grants, recall, memory, spaces, notify, file.failover)


def default_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file where NETWORK_CONFIG_PATH is not set.

    The first that exists of: the one next to the program's key, where `twinhost join` puts it, which describes the
    deployment that the key is for; the checkout's; the container's; and the one in the default profile. With
    TWINHOST_PROFILE it is that profile's.
    """
    own, users = client_folder(environment) / CONFIG_FILE, user_folder(environment) / CONFIG_FILE
    candidates = (own, DEFAULT_PATH, CONTAINER_PATH, users)
    if environment.get(PROFILE_VARIABLE) and not environment.get(FOLDER_VARIABLE):
        return own
    return next((path for path in candidates if os.path.isfile(path)), users)  # noqa: PTH113 - never raises


def process_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return the name by which this process is known in the log: unique among those of one agent."""
    return environment.get(PROCESS_VARIABLE) or socket.gethostname()


def published_ports(
    agent: Agent, environment: Mapping[str, str] = os.environ, *, standby: bool = False
) -> dict[str, int]:
    """Return the ports, by name, that docker-compose.yml publishes under other numbers than the agent's own.

    Its variables say so, such as PC2_ZMQ_PORT; a port that the engine chooses (0) is not known here.
    """
    own = {**agent.ports, **agent.standby_ports} if standby else agent.ports
    texts = {name: environment.get(port_variable(agent, name, standby=standby), "") for name in CLIENT_PORTS}
    ports = {name: int(text) for name, text in texts.items() if name in own and _PORT.fullmatch(text)}
    return {name: port for name, port in ports.items() if 0 < port < 65_536 and port != own[name]}


def port_variable(agent: Agent, name: str, *, standby: bool = False) -> str:
    """Return the variable of docker-compose.yml under whose number a port of an agent, or its standby, is published."""
    return f"{agent.host.name}_{'STANDBY_' if standby else ''}{name}_PORT".upper()


def is_stem(text: str) -> bool:
    """Return whether a text can be the name of a key file without its ending."""
    return re.search(_STEM, text) is not None


def get_mainpc_address(service: str | None = None) -> str:
    """Return mainpc's address; with an agent's name, the ZeroMQ endpoint of that agent there."""
    return _address_of("mainpc", service)


def get_pc2_address(service: str | None = None) -> str:
    """Return pc2's address; with an agent's name, the ZeroMQ endpoint of that agent there."""
    return _address_of("pc2", service)


def _address_of(host_name: str, service: str | None) -> str:
    config = load_network_config()
    host = config.host(host_name)
    if service is None:
        return host.address
    agent = config.agent(service)
    if agent.host != host:
        raise ConfigurationError(f"{config.source}: {service} runs on {agent.host.name}, not on {host_name}")
    return agent.endpoint


@dataclass(frozen=True, slots=True)
class _Part:
    """A value of a file, and its path there, which every error names."""

    source: str
    value: Any
    path: str = ""

    def error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self.source}: {self.path or 'the top level'} {problem}")

    def misfit(self, wanted: str) -> ConfigurationError:
        return self.error(f"must be {wanted}, not {self.value!r}")

    def child(self, name: str) -> "_Part":
        return _Part(self.source, self.value[name], f"{self.path}.{name}" if self.path else name)

    def names(self) -> list[Any]:
        if not isinstance(self.value, dict):
            raise self.misfit("a mapping")
        return list(self.value)

    def children(self) -> "list[tuple[str, _Part]]":
        """Return the values of a mapping whose keys are the user's own names."""
        if not all(isinstance(name, str) for name in self.names()):
            raise self.error("has a key that is not a string")
        return [(name, self.child(name)) for name in self.value]

    def read(self, kind: type[T]) -> T:
        """Return a mapping as an object, whose annotations say what each key may have."""
        hints = get_type_hints(kind, include_extras=True)
        if unknown := sorted(str(name) for name in self.names() if name not in hints):
            raise self.error(f"has the unknown key {unknown[0]!r}; known keys: {', '.join(hints)}")
        try:
            return msgspec.convert(self.value, kind)
        except msgspec.ValidationError as error:
            problem, _, place = str(error).rpartition(" - at `$.")  # a value may have the same words
        if not problem:
            raise self.error(f"lacks the key {place.split('`')[1]!r}")
        name = re.split(r"\W", place)[0]
        raise self.child(name).misfit(hints[name].__metadata__[0].description)


def _endpoints(path: Path) -> "tuple[dict[str, _Part], dict[str, _Part]]":
    """Return the hosts and the agents of an endpoints file; none where there is no file."""
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        return {}, {}
    root = _Part(str(path), _read_yaml(path))
    root.read(_Endpoints)
    return dict(root.child("hosts").children()), dict(root.child("agents").children())


def _host(name: str, part: _Part, environment: Mapping[str, str], reached: "Mapping[str, _Part]") -> Host:
    part.read(_HostEntry)
    address = reached.get(name, part)
    host = Host(name, address.read(_HostEntry).address)
    if not is_address(host.address):
        raise address.child("address").misfit("a host name or an IP address")
    variable = ADDRESS_VARIABLES.get(name, "")
    override = environment.get(variable)
    if not override:
        return host
    if not is_address(override):
        raise ConfigurationError(f"{variable} must be a host name or an IP address, not {override!r}")
    return replace(host, address=override)


def _standby(
    part: _Part, host: str, hosts: Mapping[str, Host], environment: Mapping[str, str]
) -> tuple[Host, Mapping[str, int]]:
    """Return where an agent's standby is reached, and its ports that differ from the agent's."""
    entry = part.read(_StandbyEntry)
    if entry.host not in hosts or entry.host == host:
        others = ", ".join(name for name in hosts if name != host)
        raise part.child("host").misfit(f"another host than the agent's ({others})")
    if entry.address and not is_address(entry.address):
        raise part.child("address").misfit("a host name or an IP address")
    moved = environment.get(ADDRESS_VARIABLES.get(entry.host, ""))  # the host is a machine of its own
    address = entry.address if entry.address and not moved else hosts[entry.host].address
    return Host(entry.host, address), _standby_ports(part.child("ports")) if entry.ports else {}


def _reached_standby(part: _Part) -> tuple[Host, Mapping[str, int]]:
    """Return the same from an endpoints file, which may have a host of its own for it."""
    entry = part.read(_ReachedStandby)
    if not is_address(entry.address):
        raise part.child("address").misfit("a host name or an IP address")
    return Host(entry.host, entry.address), _standby_ports(part.child("ports"))


def _standby_ports(part: _Part) -> Mapping[str, int]:
    ports = msgspec.structs.asdict(part.read(_StandbyPorts))
    return {name: port for name, port in ports.items() if port}


def _agent(
    name: str,
    part: _Part,
    hosts: Mapping[str, Host],
    environment: Mapping[str, str],
    reached: "Mapping[str, _Part]",
) -> Agent:
    entry = part.read(_AgentEntry)
    if entry.host not in hosts:
        raise part.child("host").misfit(f"one of the hosts ({', '.join(hosts)})")
    standby: tuple[Host, Mapping[str, int]] | None = None
    if entry.standby is not None:
        standby = _standby(part.child("standby"), entry.host, hosts, environment)
    if not environment.get(DATABASE_VARIABLE):
        standby = None
    if name in reached:
        part = reached[name]
        if part.read(_ReachedAgent).standby is not None:
            standby = _reached_standby(part.child("standby"))
    ports = part.child("ports").read(_Ports)
    zmq, http, events = ports.zmq, ports.http, ports.events or None
    return Agent(name, hosts[entry.host], entry.key, zmq, http, events, *(standby or ()))


def _granted(role: str, part: _Part) -> frozenset[str]:
    if role in RESERVED_GRANTS:
        raise part.error(
            f"can't be set: the grants of the role {role} are built in, for keys that are not enrolled yet; remove it"
        )
    if not isinstance(part.value, list):
        raise part.misfit("a list of actions")
    grants = frozenset(grant for item in part.value for grant in _grants_of(replace(part, value=item)))
    if SUBSCRIBE in grants and any(name.startswith(topic_grant("")) for name in grants):
        raise part.error(f"has {SUBSCRIBE!r} with topics and without, which means all topics; keep one")
    for name in OWNED:
        if own_grant(name) in grants and name in grants:
            raise part.error(f"has {name!r} limited to {OWN!r} and without that limit; keep one")
    if role == UNAUTHENTICATED_ROLE and EVERY_ACTION in grants:
        raise part.error(
            f'must name its actions: "{EVERY_ACTION}" would make every caller an operator where SECURE_ZMQ=0'
        )
    return grants


def _grants_of(item: _Part) -> list[str]:
    """Return the grants of one item: an action, all of them, or one or more with what they are limited to."""
    if isinstance(item.value, str) and (_ACTION.fullmatch(item.value) or item.value == EVERY_ACTION):
        return [item.value]
    if not isinstance(item.value, dict):
        raise item.error(f'must list actions by name, or "{EVERY_ACTION}" for all of them, not {item.value!r}')
    if not item.value:
        raise item.error(f"lacks the key {SUBSCRIBE!r}, or one of {', '.join(OWNED)}, in an empty item")
    item.read(_Limited)
    topics = [topic_grant(topic) for topic in item.value.get(SUBSCRIBE, ())]
    return topics + [own_grant(name) if whose == OWN else name for name, whose in item.value.items() if name in OWNED]


def _limits(part: _Part) -> Limits:
    without_budgets = {name: part.value[name] for name in part.names() if name != "budgets"}
    limits = replace(part, value=without_budgets).read(Limits)
    return replace(limits, budgets=_budgets(part.child("budgets"))) if part.value.get("budgets") else limits


def _budgets(part: _Part) -> BudgetTable:
    file = part.read(_Budgets)
    everybody = part.child("everybody").read(Budget) if file.everybody else Budget()
    roles = {name: _limits_of(one) for name, one in part.child("roles").children()} if file.roles else {}
    names = {name: _limits_of(one) for name, one in part.child("names").children()} if file.names else {}
    for name in names:
        _require_identity(part.child("names"), name)
    return BudgetTable(everybody, roles, names)


def _limits_of(part: _Part) -> dict[str, Any]:
    """Return the limits that a role or a name has instead of everybody's."""
    budget = part.read(Budget)
    return {name: getattr(budget, name) for name in part.names()}


def _space(name: str, part: _Part) -> Space:
    if name in BUILTIN_SPACES or not SPACE_NAME.fullmatch(name):
        raise part.error(
            f"can't be a space: {', '.join(BUILTIN_SPACES)} are built in, and another name has 1 to 64 of the "
            "characters a-z 0-9 _ -"
        )
    space = part.read(_Space)
    for key, names in (("readers", space.readers), ("writers", space.writers)):
        for identity in names:
            _require_identity(part.child(key), identity)
    return Space(name, frozenset((*space.readers, *space.writers)), frozenset(space.writers))


def _require_identity(part: _Part, name: str) -> None:
    """Raise ConfigurationError for what no key can have as its owner's name."""
    try:
        KeyOwner(name, "any", frozenset())
    except KeyFileMalformed as problem:
        raise part.error(f"has {name!r}, which is no identity: {problem}; see ./twinhost keys list") from None


def _recall(part: _Part, folder: Path) -> Recall:
    if weights := [name for name in _WEIGHTS if name in part.names()]:
        raise part.error(f"has {', '.join(weights)}: since version 0.3 a search has no weights; delete these lines")
    recall = part.read(_Recall)
    tokenizer = folder / recall.tokenizer if recall.tokenizer else None
    word = "off" if recall.embeddings is False else recall.embeddings  # YAML reads `off` as false
    if isinstance(word, str) and word in _EMBEDDINGS:
        return Recall(recall.word_pairs, tokenizer, _EMBEDDINGS[word])
    return Recall(recall.word_pairs, tokenizer, _service(part.child("embeddings"), folder))


def _service(part: _Part, folder: Path) -> Embeddings:
    if not isinstance(part.value, dict):
        raise part.misfit(f"{', '.join(_EMBEDDINGS)}, or a mapping with `url` and `model`")
    service = part.read(_Service)
    try:
        url = require_web_address(service.url, unencrypted=service.unencrypted)
    except ValueError as problem:
        raise part.child("url").error(str(problem)) from None
    key = folder / service.api_key_file if service.api_key_file else None
    return Embeddings(url, service.model, key, service.query_prefix, service.text_prefix, service.deadline_s)


def _notify(part: _Part, hosts: Mapping[str, Host], folder: Path) -> Notify:
    file = part.read(_Notify)
    if file.host not in hosts:
        raise part.error(f"has the host {file.host!r}; name the one where it runs as `host`: {', '.join(hosts)}")
    if not _ZONE.fullmatch(file.timezone):
        raise part.child("timezone").misfit("the name of a time zone, such as Europe/Lisbon")
    quiet = None
    if file.quiet_hours:
        begin, _, end = file.quiet_hours.partition("-")
        quiet = _time_in(part.child("quiet_hours"), begin), _time_in(part.child("quiet_hours"), end)
    destinations = {}
    for name, one in part.child("destinations").children():
        if not _DESTINATION.fullmatch(name):
            raise one.error("can't be a destination: its name has 1 to 32 of the characters A-Z a-z 0-9 _ -")
        destinations[name] = _destination(one, folder)
    if not destinations:
        raise part.child("destinations").error("is empty; name a webhook, an ntfy topic, or e-mail addresses")
    digest = _time_in(part.child("digest"), file.digest) if file.digest else None
    return Notify(file.host, destinations, file.timezone, quiet, file.quiet_lets_through, digest)


def _time_in(part: _Part, text: str) -> time:
    if not (found := _TIME.fullmatch(text.strip())):
        range_of = ', or from one to another: "22:00-07:00"' if part.path.endswith("quiet_hours") else ""
        raise part.misfit(f"{_time_of_day}{range_of}")
    return time(int(found[1]), int(found[2]))


def _destination(part: _Part, folder: Path) -> HttpDestination | EmailDestination:
    if "email" in part.names():
        return _email(part, folder)
    entry = part.read(_Http)
    named = [key for key in ("webhook", "webhook_file", "ntfy", "ntfy_file") if getattr(entry, key)]
    if len(named) != 1:
        raise part.error("must have one of the keys webhook, webhook_file, ntfy, ntfy_file, email")
    kind: Literal["webhook", "ntfy"] = "ntfy" if named[0].startswith("ntfy") else "webhook"
    url = entry.ntfy or entry.webhook
    if url:
        try:
            require_web_address(
                url, unencrypted=entry.unencrypted, such_as=f"https://{kind}.example/topic", secret=True
            )
        except ValueError as problem:
            raise part.child(kind).error(str(problem)) from None
    file, token = entry.ntfy_file or entry.webhook_file, entry.token_file
    return HttpDestination(
        kind, url, folder / file if file else None, folder / token if token else None, entry.unencrypted
    )


def _email(part: _Part, folder: Path) -> EmailDestination:
    entry = part.read(_Email)
    if not is_authority(entry.server):
        raise part.child("server").misfit("the SMTP server and its port, such as smtp.example.org:587")
    host, _, port = entry.server.rpartition(":")
    host = host.strip("[]")
    if entry.encryption == "none" and not entry.unencrypted and not is_loopback(host):
        raise part.child("encryption").error(
            f"is none, which would send every message unencrypted to {host}; use starttls or tls, or, if you trust the "
            "network between them, also set `unencrypted: true`"
        )
    if bool(entry.user) != bool(entry.password_file):
        raise part.error("must have both user and password_file, or neither")
    password = folder / entry.password_file if entry.password_file else None
    return EmailDestination(entry.email, entry.sender, host, int(port), entry.encryption, entry.user, password)


def _read_yaml(path: Path) -> Any:
    """Return what a YAML file has.

    Raises:
        ConfigurationError: it is missing, not readable, or no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is missing; set {PATH_VARIABLE} to the configuration file, or, for a program outside the "
            f"containers, {to_join(path.parent)}"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be read ({error.strerror}); check its owner and mode: ls -l {path}"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:
        # PyYAML raises the last four for 2026-99-99, `!!bool x`, `!!int ""` and the like, and for what is not UTF-8
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


class _Loader(_SafeLoader):
    """Refuses a duplicate key; PyYAML would use its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} occurs twice, the second time in line {line}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
