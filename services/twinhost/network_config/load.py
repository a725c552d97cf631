"""From YAML to NetworkConfig; anything unknown, missing or of a wrong type is refused with file and path."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from twinhost.network_config.model import (
    BUILTIN,
    BUILTIN_IF_INSTALLED,
    EMBEDDING_DEADLINE_S,
    MAX_EMBEDDING_DEADLINE_S,
    Agent,
    Embeddings,
    Forgetting,
    Host,
    Limits,
    NetworkConfig,
    Recall,
    is_address,
    require_web_address,
)
from twinhost.network_config.read import PATH_VARIABLE, read_yaml
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
from twinhost.secure_zmq.certificates import FOLDER_VARIABLE, PROFILE_VARIABLE, client_folder, user_folder
from twinhost.secure_zmq.errors import ConfigurationError

ADDRESS_VARIABLES = {"mainpc": "MAINPC_IP", "pc2": "PC2_IP"}
PUBLISH_VARIABLE = "TWINHOST_PUBLISH_ADDRESS"  # the address at which docker-compose.yml publishes ports
CONFIG_FILE = "network_config.yaml"
ENDPOINTS_FILE = (
    "endpoints.yaml"  # next to a program's key: addresses and ports at which its machine reaches the agents
)
DEFAULT_PATH = Path(__file__).resolve().parents[3] / "config" / CONFIG_FILE  # of a checkout
CONTAINER_PATH = Path("/app/config") / CONFIG_FILE

MAX_DAYS = 36_500  # a hundred years
MAX_NUMBER = 2**63  # as in SQLite

T = TypeVar("T")
_WEIGHTS = ("bm25", "importance", "recency", "strength", "recency_half_life_days")
_EMBEDDINGS = {"auto": BUILTIN_IF_INSTALLED, "builtin": BUILTIN, "off": None}
_ACTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PORT = re.compile(r"[0-9]{1,5}")
_STEM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def load_network_config(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> NetworkConfig:
    """Return the configuration.

    Args:
        path: the YAML file; the default is NETWORK_CONFIG_PATH, then `default_path()`. Addresses and ports in
            `endpoints.yaml` next to the program's key replace those of the latter.
        environment: MAINPC_IP and PC2_IP in it, if not empty, replace the hosts' addresses.

    Raises:
        ConfigurationError: the file is missing or wrong; the message names the file and the path in it.

    >>> sorted(twinhost.load_network_config().agents)
    ['SystemDigitalTwin', 'UnifiedMemoryReasoningAgent']
    """
    named = path or environment.get(PATH_VARIABLE)
    path = Path(named or default_path(environment))
    endpoints = None if named else _endpoints(client_folder(environment) / ENDPOINTS_FILE)
    root = _Node(str(path), "", read_yaml(path))
    root.only("hosts", "agents", "grants", "limits", "recall", "memory")
    hosts = {name: _host(name, node, environment, endpoints) for name, node in root.child("hosts").children()}
    agents = {name: _agent(name, node, hosts, endpoints) for name, node in root.child("agents").children()}
    grants = {role: _granted(role, node) for role, node in root.child("grants").children()}
    limits = _limits(root.child("limits"))
    recall, memory = root.filled("recall"), root.optional("memory")  # older files lack the latter
    searched = _recall(recall, path.parent) if recall else Recall()
    forgetting = _forgetting(memory) if memory else Forgetting()
    return NetworkConfig(str(path), hosts, agents, limits, grants, searched, forgetting)


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


def published_ports(agent: Agent, environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Return the ports, by name, that docker-compose.yml publishes under other numbers than the agent's own.

    Its variables say so, such as PC2_ZMQ_PORT; a port that the engine chooses (0) is not known here.
    """
    found = {}
    for name, own in (("zmq", agent.zmq_port), ("events", agent.events_port)):
        text = environment.get(port_variable(agent, name), "")
        if own is not None and _PORT.fullmatch(text) and 0 < int(text) < 65_536 and int(text) != own:
            found[name] = int(text)
    return found


def port_variable(agent: Agent, name: str) -> str:
    """Return the variable of docker-compose.yml under whose number a port of an agent's host is published."""
    return f"{agent.host.name}_{name}_PORT".upper()


def is_stem(text: str) -> bool:
    """Return whether a text can be the name of a key file without its ending."""
    return _STEM.fullmatch(text) is not None


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


class _Node:
    """A value of the file and its path, which every error names."""

    def __init__(self, source: str, path: str, value: Any) -> None:
        self._source, self._path, self._value = source, path, value

    def error(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self._source}: {self._path or 'the top level'} {problem}")

    def only(self, *names: str) -> None:
        mapping = self._mapping()
        if unknown := sorted(str(name) for name in mapping if name not in names):
            raise self.error(f"has the unknown key {unknown[0]!r}; known keys: {', '.join(names)}")

    def without_weights(self) -> None:
        """Refuse the keys of version 0.2 that weighed a search."""
        if found := [name for name in _WEIGHTS if name in self._mapping()]:
            raise self.error(f"has {', '.join(found)}: since version 0.3 a search has no weights; delete these lines")

    def children(self) -> list[tuple[str, "_Node"]]:
        names = list(self._mapping())
        if not all(isinstance(name, str) for name in names):
            raise self.error("has a key that is not a string")
        return [(name, self.child(name)) for name in names]

    def child(self, name: str) -> "_Node":
        mapping = self._mapping()
        if name not in mapping:
            raise self.error(f"lacks the key {name!r}")
        return _Node(self._source, f"{self._path}.{name}" if self._path else name, mapping[name])

    def optional(self, name: str) -> "_Node | None":
        return self.child(name) if name in self._mapping() else None

    def filled(self, name: str) -> "_Node | None":
        """Return a child that may be missing, or have nothing below it, such as a section of comments."""
        return self.child(name) if self._mapping().get(name) is not None else None

    def text(self) -> str:
        return self._typed(str, "a string")

    def stem(self) -> str:
        value = self.text()
        if not is_stem(value):
            raise self.error(
                f"must be the name of a key file without its ending, of the characters A-Z a-z 0-9 . _ -, not {value!r}"
            )
        return value

    def actions(self) -> frozenset[str]:
        values = self._typed(list, "a list of actions")
        granted: list[str] = []
        for value in values:
            if isinstance(value, dict):
                granted += _Node(self._source, self._path, value).limited()
            elif isinstance(value, str) and (_ACTION.fullmatch(value) or value == EVERY_ACTION):
                granted.append(value)
            else:
                raise self.error(f'must list actions by name, or "{EVERY_ACTION}" for all of them, not {value!r}')
        if SUBSCRIBE in granted and any(name.startswith(topic_grant("")) for name in granted):
            raise self.error(f"has {SUBSCRIBE!r} with topics and without, which means all topics; keep one")
        for name in OWNED:
            if own_grant(name) in granted and name in granted:
                raise self.error(f"has {name!r} limited to {OWN!r} and without that limit; keep one")
        return frozenset(granted)

    def limited(self) -> list[str]:
        """Return the grants of an item that names what it is limited to: one action, with topics, `own`, or `any`."""
        self.only(SUBSCRIBE, *OWNED)
        if not self._value:
            raise self.error(f"lacks the key {SUBSCRIBE!r}, or one of {', '.join(OWNED)}, in an empty item")
        return [grant for name, node in self.children() for grant in node.limit(name)]

    def limit(self, action: str) -> list[str]:
        """Return the grants of one action with its limit."""
        if action == SUBSCRIBE:
            return self.topics()
        if self._value not in (OWN, ANY):
            raise self.error(f"must be {OWN!r} or {ANY!r}, not {self._value!r}")
        return [own_grant(action) if self._value == OWN else action]

    def topics(self) -> list[str]:
        """Return the grants of the topics under `subscribe`."""
        values = self._typed(list, f"a list of topics ({', '.join(TOPICS)})")
        if not values:
            raise self.error("names no topic; leave it out, or name some")
        for value in values:
            if value not in TOPICS:
                raise self.error(f"has the unknown topic {value!r}; known topics: {', '.join(TOPICS)}")
        return [topic_grant(value) for value in values]

    def port(self) -> int:
        return int(self._number(int, "a port number from 1 to 65535", lambda value: 0 < value < 65_536))

    def count(self) -> int:
        return int(self._number(int, "a whole number, more than 0", lambda value: value > 0))

    def days(self) -> int:
        return int(self._number(int, f"a number of days from 1 to {MAX_DAYS}", lambda value: 0 < value <= MAX_DAYS))

    def seconds(self) -> float:
        return self._number(float, "a number of seconds, more than 0", lambda value: value > 0)

    def half_life_days(self) -> float:
        wanted = f"a number of days, more than 0 and at most {MAX_DAYS}"
        return self._number(float, wanted, lambda value: 0 < value <= MAX_DAYS)

    def web_address(self, unencrypted: bool) -> str:
        try:
            return require_web_address(self.text(), unencrypted=unencrypted)
        except ValueError as problem:
            raise self.error(str(problem)) from None

    def deadline(self) -> float:
        wanted = f"a number of seconds, more than 0 and at most {MAX_EMBEDDING_DEADLINE_S:g}"
        return self._number(float, wanted, lambda value: 0 < value <= MAX_EMBEDDING_DEADLINE_S)

    def word_or_mapping(self, words: Collection[str]) -> str | None:
        """Return one of some words, such as `off`, which YAML reads as false; None for a mapping."""
        word = "off" if self._value is False else self._value
        if isinstance(word, str) and word in words:
            return word
        self._mapping(f"{', '.join(words)}, or a mapping with `url` and `model`")
        return None

    def truth(self) -> bool:
        return self._typed(bool, "true or false")

    def forgetting(self) -> Literal["days", "passes"]:
        if self._value == "days":
            return "days"
        if self._value == "passes":
            return "passes"
        raise self.error(f"must be days or passes, not {self._value!r}")

    def address(self) -> str:
        value = self.text()
        if not is_address(value):
            raise self.error(f"must be a host name or an IP address, not {value!r}")
        return value

    def _number(self, kind: type[int] | type[float], description: str, fits: Callable[[float], bool]) -> float:
        value = self._value
        is_number = isinstance(value, int | kind) and not isinstance(value, bool)
        if not is_number or not -MAX_NUMBER < value < MAX_NUMBER or not fits(value):  # NaN compares as False
            raise self.error(f"must be {description}, not {value!r}")
        return float(value) if kind is float else value

    def _typed(self, kind: type[T], description: str) -> T:
        if not isinstance(self._value, kind):
            raise self.error(f"must be {description}, not {self._value!r}")
        return self._value

    def _mapping(self, description: str = "a mapping") -> dict[Any, Any]:
        return self._typed(dict, description)


def _endpoints(path: Path) -> _Node | None:
    """Return the addresses and ports of an endpoints file; None where there is none."""
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        return None
    root = _Node(str(path), "", read_yaml(path))
    root.only("hosts", "agents")
    return root


def _host(name: str, node: _Node, environment: Mapping[str, str], endpoints: _Node | None) -> Host:
    node.only("address")
    published = endpoints.child("hosts").optional(name) if endpoints else None
    host = Host(name, (published or node).child("address").address())
    variable = ADDRESS_VARIABLES.get(name, "")
    override = environment.get(variable)
    if not override:
        return host
    if not is_address(override):
        raise ConfigurationError(f"{variable} must be a host name or an IP address, not {override!r}")
    return replace(host, address=override)


def _agent(name: str, node: _Node, hosts: Mapping[str, Host], endpoints: _Node | None) -> Agent:
    node.only("host", "key", "ports")
    host_name = node.child("host").text()
    if host_name not in hosts:
        raise node.child("host").error(f"must be one of the hosts ({', '.join(hosts)}), not {host_name!r}")
    published = endpoints.child("agents").optional(name) if endpoints else None
    ports = (published or node).child("ports")
    ports.only("zmq", "http", "events")
    events = ports.optional("events")
    return Agent(
        name,
        hosts[host_name],
        node.child("key").stem(),
        ports.child("zmq").port(),
        ports.child("http").port(),
        events.port() if events else None,
    )


def _granted(role: str, node: _Node) -> frozenset[str]:
    if role in RESERVED_GRANTS:
        raise node.error(
            f"can't be set: the grants of the role {role} are built in, for keys that are not enrolled yet; remove it"
        )
    actions = node.actions()
    if role == UNAUTHENTICATED_ROLE and EVERY_ACTION in actions:
        raise node.error(
            f'must name its actions: "{EVERY_ACTION}" would make every caller an operator where SECURE_ZMQ=0'
        )
    return actions


def _limits(node: _Node) -> Limits:
    readers: dict[str, Callable[[_Node], float]] = {
        "max_payload_bytes": _Node.count,
        "heartbeat_s": _Node.seconds,
        "registration_ttl_s": _Node.seconds,
        "stored_replies_s": _Node.seconds,
        "stored_replies_per_caller": _Node.count,
        "key_lifetime_days": _Node.days,
        "metrics_interval_s": _Node.seconds,
    }
    newer = {"sessions_per_key": _Node.count}  # older files lack it
    node.only(*readers, *newer)
    values: dict[str, Any] = {name: read(node.child(name)) for name, read in readers.items()}
    values |= {name: read(child) for name, read in newer.items() if (child := node.optional(name)) is not None}
    return Limits(**values)


def _recall(node: _Node, folder: Path) -> Recall:
    node.without_weights()
    node.only("word_pairs", "tokenizer", "embeddings")
    pairs, file, embeddings = map(node.optional, ("word_pairs", "tokenizer", "embeddings"))
    return Recall(
        word_pairs=pairs is None or pairs.truth(),
        tokenizer=folder / file.text() if file is not None else None,
        embeddings=_embeddings(embeddings, folder) if embeddings is not None else BUILTIN_IF_INSTALLED,
    )


def _embeddings(node: _Node, folder: Path) -> Embeddings | None:
    if (word := node.word_or_mapping(_EMBEDDINGS)) is not None:
        return _EMBEDDINGS[word]
    node.only("url", "model", "api_key_file", "query_prefix", "text_prefix", "deadline_s", "unencrypted")
    unencrypted, key, deadline = map(node.optional, ("unencrypted", "api_key_file", "deadline_s"))
    before_query, before_text = map(node.optional, ("query_prefix", "text_prefix"))
    return Embeddings(
        node.child("url").web_address(unencrypted is not None and unencrypted.truth()),
        node.child("model").text(),
        folder / key.text() if key else None,
        before_query.text() if before_query else "",
        before_text.text() if before_text else "",
        deadline.deadline() if deadline else EMBEDDING_DEADLINE_S,
    )


def _forgetting(node: _Node) -> Forgetting:
    rule, half_life = "forgetting", "memory_half_life_days"
    node.only(rule, half_life)
    return Forgetting(node.child(rule).forgetting(), node.child(half_life).half_life_days())
