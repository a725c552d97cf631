"""From the environment to clients of one deployment: its agents, the keys they may prove, and the key to call with."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from twinhost.commands import CERTS_INIT, CERTS_INIT_PIPED, certs_init_command
from twinhost.folder_events import Looks
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.certificates import (
    PROFILE_VARIABLE,
    REVOKED_FOLDER,
    Certificates,
    client_folder,
    folders_of_keys,
    load_certificates,
    pins_of,
    read_folders,
    valid_now,
)
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    KeyFileMalformed,
    KeyFileMissing,
    KeyMismatch,
    RequestError,
    TwinhostError,
)
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, KeyPair, PublicKey, decode_z85_key, load_certificate
from twinhost.secure_zmq.server_address import FollowedAddress, ServerAddress, UnencryptedAddress, is_secure_zmq_enabled

if TYPE_CHECKING:
    from twinhost.clients import (
        AsyncSystemDigitalTwin,
        AsyncUnifiedMemoryReasoningAgent,
        SystemDigitalTwin,
        UnifiedMemoryReasoningAgent,
    )

REGISTRY_AGENT = "SystemDigitalTwin"  # where the other agents register
MEMORY_AGENT = "UnifiedMemoryReasoningAgent"
NO_RESPONSE = "NO_RESPONSE"  # in the registry, the status of an agent that is silent
OK_STATUSES = frozenset({"HEALTHY", "ok"})  # of one that is well
_TYPED = (REGISTRY_AGENT, MEMORY_AGENT)  # the agents with a class of their own in twinhost.clients
_LOOK_S = 0.1  # at most so often a folder is looked at for changed keys; a wrong pin is given up after 0.3 s or more


def hosts_own(config: NetworkConfig) -> dict[str, str]:
    """Return the agent that each host has for itself, with that host: of several, the one of this project."""
    by_host: dict[str, str] = {}
    for agent in sorted(config.agents.values(), key=lambda agent: agent.name not in _TYPED):
        by_host.setdefault(agent.host.name, agent.name)
    return {name: host for host, name in by_host.items()}


class FollowedKeys:
    """This program's own pair, and an agent's keys, as they are in the folder now: a rotation changes both.

    Its methods are called for every request, also on the monitor's thread. They cost some `stat` ten times a second;
    small files are read when keys change.
    """

    def __init__(
        self, certificates: Certificates, agent: str, pins: Sequence[PublicKey], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Begin with keys that were read; `pins` are used while the folder has none of the agent."""
        self._folder, self._agent, self._pins = certificates.folder, agent, pins
        self._own = certificates.own_keys
        self._clock = clock
        self._looks, self._look_at = Looks(self._changes()), clock.monotonic() + _LOOK_S
        self._contents = read_folders(folders_of_keys(self._folder))
        self._incomplete = self._unread

    def own(self) -> KeyPair:
        """Return this program's pair."""
        self._look()
        return self._own

    def pins(self) -> list[PublicKey]:
        """Return the agent's keys that are valid now."""
        self._look()
        if known := self._contents.keys_of(self._agent):
            return valid_now(known)
        if self._unread:
            return []
        return [pin for pin in self._pins if pin.fingerprint not in self._contents.revoked]

    @property
    def _unread(self) -> bool:
        """Whether the keys, or the revocations, could not be read, so that any key may be revoked."""
        return bool(self._contents.rejected) and not self._contents.current

    def _look(self) -> None:
        """Read the keys again if a file was replaced; while our own pair can't be read, the one before stays in use."""
        if (now := self._clock.monotonic()) < self._look_at:
            return
        self._look_at = now + _LOOK_S
        seen = self._changes()
        if not seen[0]:  # the folder is gone, and no key is known to be revoked by that
            return
        if not self._looks.may_have_changed(seen) and not self._incomplete:
            return
        self._incomplete = True
        self._contents = read_folders(folders_of_keys(self._folder), self._contents.revoked)
        try:
            self._own = load_certificates(self._folder).own_keys
        except TwinhostError:  # it is being replaced, or can't be read: all is read again the next time
            return
        self._incomplete = self._unread

    def _changes(self) -> list[int]:
        return [
            _changed_ns(folder / inner) for folder in folders_of_keys(self._folder) for inner in ("", REVOKED_FOLDER)
        ]


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration and the keys of a program; `certificates` is None only with SECURE_ZMQ=0."""

    config: NetworkConfig
    certificates: Certificates | None

    @property
    def secure(self) -> bool:
        return self.certificates is not None

    @property
    def registry_agent(self) -> Agent:
        """The agent with which the others register."""
        return self.config.agent(REGISTRY_AGENT)

    def client(self, agent: Agent) -> Client:
        """Return a client of an agent, with this program's own key.

        Raises:
            TwinhostError: no key of the agent could be found to pin; see `pins`.
        """
        return Client(self.address(agent), max_payload_bytes=self.config.limits.max_payload_bytes)

    def typed_client(self, name: str, *, asynchronous: bool, kind: type | None = None) -> Any:
        """Return a client of an agent, of `kind`, or of the agent's own class; errors are those of `client`."""
        agent = self.config.agent(name)
        options: dict[str, Any] = {"max_payload_bytes": self.config.limits.max_payload_bytes}
        if kind is not None:
            return kind(self.address(agent), **options)
        if name == REGISTRY_AGENT and agent.events_port is not None:
            options["feed"] = self.feed_address(agent)
        prefix = "Async" if asynchronous else ""
        if name in _TYPED:
            own = getattr(import_module("twinhost.clients"), f"{prefix}{name}")
        else:
            own = getattr(import_module("twinhost"), f"{prefix}Client")
        return own(self.address(agent), **options)

    def feed_address(self, agent: Agent) -> ServerAddress:
        """Return the address of an agent's event feed, with this program's own key.

        Raises:
            ConfigurationError: it has none.
            TwinhostError: no key of the agent could be found to pin.
        """
        if not agent.feed_endpoints:
            raise ConfigurationError(f"{self.config.source}: {agent.name} has no `events` port; add one")
        return self.address(agent, agent.feed_endpoints)

    def address(self, agent: Agent, endpoints: Sequence[str] = ()) -> ServerAddress:
        """Return where an agent is, which follows the keys in the folder; `endpoints` replace those of its actions."""
        endpoints = endpoints or agent.endpoints
        if self.certificates is None:
            return UnencryptedAddress(endpoints[0], tuple(endpoints[1:]))
        keys = FollowedKeys(self.certificates, agent.name, self.pins(agent))
        return FollowedAddress(endpoints, keys.own, keys.pins, agent.name)

    def pins(self, agent: Agent) -> list[PublicKey]:
        """Return the keys that an agent may prove to hold; none if all known ones are expired or revoked.

        They are in this program's folder, or in `trust/`, where a host's agent keeps mainpc's list. If no valid key is
        there, mainpc is asked: its answer is as trustworthy as the link to it, which is authenticated both ways.

        Raises:
            KeyFileMissing, KeyFileMalformed, KeyMismatch: a key is missing everywhere, or is not the agent's.
            ConnectionRefused: mainpc can't be asked.
        """
        assert self.certificates is not None
        folder = self.certificates.folder
        if pins := pins_of(folder, agent.name):
            return pins
        path, why = folder / f"{agent.key}{PUBLIC_SUFFIX}", "is expired or revoked"
        try:
            owner = load_certificate(path).owner.name
            if owner != agent.name:
                raise KeyMismatch(
                    f"{path} is the key of {owner}, not of {agent.name}; run: {certs_init_command(path, 'verify')}"
                )
        except KeyFileMissing:
            if agent == self.registry_agent:
                raise
            why = "is missing"
        return [] if agent == self.registry_agent else self._ask_mainpc(agent, f"{path} {why}")

    def _ask_mainpc(self, agent: Agent, complaint: str) -> list[PublicKey]:
        assert self.certificates is not None
        try:
            with self.client(self.registry_agent) as client:
                text = client.call("get_agent_endpoint", agent_name=agent.name).get("public_key")
            if text is not None:
                key = PublicKey(decode_z85_key(str(text).encode("ascii", "replace"), f"the key from {REGISTRY_AGENT}"))
                revoked = read_folders(folders_of_keys(self.certificates.folder)).revoked
                return [] if key.fingerprint in revoked else [key]
            why = f"it knows no key of {agent.name}"
        except (RequestError, KeyFileMalformed) as error:
            why = str(error)
        advice = (
            f"it was revoked; for a new key, on mainpc run: {CERTS_INIT} replace {agent.name}"
            if self._was_revoked(agent.name)
            else f"start {agent.name}, or copy its key: {CERTS_INIT_PIPED} public {agent.key} there, "
            f"{CERTS_INIT_PIPED} trust - here"
        )
        raise KeyFileMissing(f"{complaint}, and {REGISTRY_AGENT} does not provide the key ({why}); {advice}")

    def _was_revoked(self, name: str) -> bool:
        """Return whether a key of a name was revoked in this program's folder."""
        assert self.certificates is not None
        for folder in folders_of_keys(self.certificates.folder):
            for path in (folder / REVOKED_FOLDER).glob(f"*{PUBLIC_SUFFIX}"):
                with suppress(TwinhostError):
                    if load_certificate(path).owner.name == name:
                        return True
        return False


def load_settings(
    environment: Mapping[str, str] = os.environ, *, profile: str | None = None, name: str | None = None
) -> Settings:
    """Return the settings from SECURE_ZMQ, the network configuration, and the folder of keys.

    Args:
        environment: where the variables are.
        profile: the profile, in place of TWINHOST_PROFILE.
        name: the name in this program's own key; the default is to use the key without that check.

    Raises:
        ConfigurationError: something is missing or wrong; the message is one sentence.
    """
    if profile is not None:
        environment = {**environment, PROFILE_VARIABLE: profile}
    secure = is_secure_zmq_enabled(environment)
    config = load_network_config(environment=environment)
    certificates = load_certificates(client_folder(environment)) if secure else None
    if certificates is not None and name not in (None, owner := certificates.own_keys.certificate.owner.name):
        raise ConfigurationError(
            f"{certificates.folder} has the key of {owner}, not of {name}; name the profile with that key, or set "
            "TWINHOST_CERTIFICATES to its folder; to make one: twinhost join --profile NAME LINE"
        )
    return Settings(config, certificates)


class _Clients:
    """The clients of a deployment, each made when it is first used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: list[Any] = []
        self._closed = False

    def close(self) -> None:
        """Close both clients, as each client's `close` does; one that is used for the first time later is closed."""
        self._closed = True
        for client in self._opened:
            client.close()

    def _open(self, name: str, *, asynchronous: bool) -> Any:
        client = self._settings.typed_client(name, asynchronous=asynchronous)
        self._opened.append(client)
        if self._closed:  # after the client can be found by `close`, which another thread may call
            client.close()
        return client


class Deployment(_Clients):
    """Both agents of a deployment: `memory` is UnifiedMemoryReasoningAgent, `system` is SystemDigitalTwin.

    Each is connected with its first call, and closed with the deployment. Not to be shared between threads, except that
    any thread may close it.

    >>> with twinhost.connect() as deployment:
    ...     deployment.memory.get(memory_id="roses").memory.content
    'The roses stand by the gate.'
    """

    @cached_property
    def memory(self) -> "UnifiedMemoryReasoningAgent":
        """The client of UnifiedMemoryReasoningAgent."""
        return cast("UnifiedMemoryReasoningAgent", self._open(MEMORY_AGENT, asynchronous=False))

    @cached_property
    def system(self) -> "SystemDigitalTwin":
        """The client of SystemDigitalTwin."""
        return cast("SystemDigitalTwin", self._open(REGISTRY_AGENT, asynchronous=False))

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncDeployment(_Clients):
    """The same for asyncio; both clients belong to one event loop.

    >>> async with twinhost.connect_async() as deployment:
    ...     (await deployment.memory.get(memory_id="roses")).memory.content
    'The roses stand by the gate.'
    """

    @cached_property
    def memory(self) -> "AsyncUnifiedMemoryReasoningAgent":
        """The client of UnifiedMemoryReasoningAgent."""
        return cast("AsyncUnifiedMemoryReasoningAgent", self._open(MEMORY_AGENT, asynchronous=True))

    @cached_property
    def system(self) -> "AsyncSystemDigitalTwin":
        """The client of SystemDigitalTwin."""
        return cast("AsyncSystemDigitalTwin", self._open(REGISTRY_AGENT, asynchronous=True))

    async def __aenter__(self) -> "AsyncDeployment":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
