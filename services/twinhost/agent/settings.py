"""The settings of an agent, read and validated before it starts; its configuration then follows the file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinhost.agent.http import http_hosts
from twinhost.agent.live_config import LiveConfig
from twinhost.agent.state_folder import STATE_VARIABLE, state_folder
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.network_config.load import DATABASE_VARIABLE, PUBLISH_VARIABLE, process_name, published_ports
from twinhost.network_config.model import is_loopback
from twinhost.secure_zmq.certificates import Certificates, certificates_folder, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled

UNENCRYPTED_VARIABLE = "TWINHOST_PUBLISH_UNENCRYPTED"
MODELS_VARIABLE = "TWINHOST_MODELS"


@dataclass(frozen=True, slots=True)
class Settings:
    """One agent's settings; `certificates` is None only if SECURE_ZMQ=0."""

    live: LiveConfig
    agent: Agent
    certificates: Certificates | None
    state: Path
    http_hosts: frozenset[str]
    models: Path | None = None  # the models' folder, whose disk is measured
    address: str = ""  # IPv4, on which the agent listens; an empty one is every address
    published: Mapping[str, int] = field(default_factory=dict)  # the ports that are published under other numbers
    standby_published: Mapping[str, int] = field(default_factory=dict)  # the same of its standby
    database: str | None = None  # the DSN of the log that a standby follows, if there is one
    process: str = ""  # the name of this process in that log

    @property
    def config(self) -> NetworkConfig:
        """The configuration in effect now; what is to follow the file asks for it again."""
        return self.live.current

    @property
    def place(self) -> str:
        """The host on which this process runs: the agent's own, or that of its standby."""
        return self.agent.host_of(self.process)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the agent's registration says about where programs outside the containers reach it, and its standby.

        It is the same whichever of the two processes is active.
        """
        found: dict[str, Any] = {"published_ports": dict(self.published)} if self.published else {}
        for place in self.agent.places[1:]:
            found["standby"] = {"host": place.host.name, "address": place.host.address, "ports": place.ports}
            if self.standby_published:
                found["standby"]["published_ports"] = dict(self.standby_published)
        return found

    @property
    def disks(self) -> dict[str, Path]:
        """The folders whose filesystems are measured, by name."""
        return {"state": self.state, **({"models": self.models} if self.models else {})}

    @property
    def secure(self) -> bool:
        return self.certificates is not None


def load_settings(agent_name: str, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of a named agent.

    Raises:
        ConfigurationError: something is missing or wrong; the message is one sentence.
    """
    secure = is_secure_zmq_enabled(environment)
    if not secure:
        _require_private(environment)
    config = load_network_config(environment=environment)
    agent = config.agent(agent_name)
    certificates = _own_certificates(agent, environment) if secure else None
    state = state_folder(environment)
    if not (state.is_dir() and os.access(state, os.W_OK | os.X_OK)):
        raise ConfigurationError(
            f"{state} is not a folder that this process can write; mount a volume there, or outside a container name "
            f"another folder: export {STATE_VARIABLE}=FOLDER"
        )
    models = environment.get(MODELS_VARIABLE, "")
    if models and not Path(models).is_dir():
        raise ConfigurationError(
            f"{MODELS_VARIABLE} is {models!r}, which is not a folder; correct it in .env, or remove it"
        )
    named = [name for host in config.hosts.values() for name in (host.name, host.address)]
    hosts = http_hosts(named, environment)
    live = LiveConfig(config, agent, environment)
    published, standby_published = (published_ports(agent, environment, standby=which) for which in (False, True))
    return Settings(
        live,
        agent,
        certificates,
        state,
        hosts,
        Path(models) if models else None,
        published=published,
        standby_published=standby_published,
        database=environment.get(DATABASE_VARIABLE) or None,
        process=process_name(environment),
    )


def _require_private(environment: Mapping[str, str]) -> None:
    """Refuse to serve the open link to other machines, unless that is explicitly allowed.

    Raises:
        ConfigurationError: the ports are published on an address that is not a loopback one.
    """
    address = environment.get(PUBLISH_VARIABLE, "127.0.0.1")  # an empty one publishes on every address
    allowed = environment.get(UNENCRYPTED_VARIABLE, "")
    if allowed not in ("", "0", "1"):
        raise ConfigurationError(f"{UNENCRYPTED_VARIABLE} is {allowed!r}; set it to 1, or remove it")
    if not is_loopback(address) and allowed != "1":
        raise ConfigurationError(
            f"SECURE_ZMQ is 0 and {PUBLISH_VARIABLE} is {address or 'empty'}: everybody who reaches that address "
            f"could read and write everything; set SECURE_ZMQ=1, or {UNENCRYPTED_VARIABLE}=1 to allow it"
        )


def _own_certificates(agent: Agent, environment: Mapping[str, str]) -> Certificates:
    certificates = load_certificates(certificates_folder(environment))
    owner = certificates.own_keys.certificate.owner
    if (owner.name, owner.host) != (agent.name, agent.host.name):
        raise ConfigurationError(
            f"{certificates.folder} holds the secret key of {owner.name} on {owner.host}, "
            f"and this agent is {agent.name} on {agent.host.name}; mount its own folder"
        )
    return certificates
