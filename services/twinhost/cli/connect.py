"""From the environment to clients: which agents exist, which keys they may prove, and which key to call with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinhost.cli.output import read
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.certificates import (
    FAILURE_FILE,
    Certificates,
    certificates_folder,
    folders_of_keys,
    load_certificates,
    pins_of,
    read_folders,
)
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    CERTS_INIT_PIPED,
    ConfigurationError,
    KeyFileMalformed,
    KeyFileMissing,
    KeyMismatch,
    RequestError,
    certs_init_command,
)
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, PublicKey, decode_z85_key, load_certificate
from twinhost.secure_zmq.server_address import FollowedAddress, ServerAddress, UnencryptedAddress, is_secure_zmq_enabled

if TYPE_CHECKING:
    from twinhost.secure_zmq.aio import AsyncClient

REGISTRY_AGENT = "SystemDigitalTwin"  # where the other agents register
OPEN_LINK = "SECURE_ZMQ=0: nothing is encrypted and nobody is authenticated"


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration and the keys of this host; `certificates` is None only with SECURE_ZMQ=0."""

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
        """Return a client of an agent, with this host's own key.

        Raises:
            TwinhostError: no key of the agent could be found to pin; see `pins`.
        """
        return Client(self._address(agent), max_payload_bytes=self.config.limits.max_payload_bytes)

    def async_client(self, name: str) -> "AsyncClient":
        """Return an asyncio client of an agent by its name; errors are those of `client`, or it is not configured."""
        from twinhost.secure_zmq.aio import AsyncClient  # noqa: PLC0415 - few commands use asyncio

        return AsyncClient(
            self._address(self.config.agent(name)), max_payload_bytes=self.config.limits.max_payload_bytes
        )

    def feed_address(self, agent: Agent) -> ServerAddress:
        """Return the address of an agent's event feed, with this host's own key.

        Raises:
            ConfigurationError: it has none.
            TwinhostError: no key of the agent could be found to pin.
        """
        if agent.events_port is None:
            raise ConfigurationError(f"{self.config.source}: {agent.name} has no `events` port; add one")
        return self._address(agent, agent.host.endpoint(agent.events_port))

    def pins(self, agent: Agent) -> list[PublicKey]:
        """Return the keys that an agent may prove to hold; none if all known ones are expired or revoked.

        They are in this host's folder, or in `trust/`, where its agent keeps mainpc's list. If no valid key is there,
        mainpc is asked: its answer is as trustworthy as the link to it, which is authenticated both ways.

        Raises:
            KeyFileMissing, KeyFileMalformed, KeyMismatch: a key is missing everywhere, or is not the agent's.
            ConnectionRefused: mainpc can't be asked.
        """
        assert self.certificates is not None
        folder = self.certificates.folder
        if found := pins_of(folder, agent.name):
            return found
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
        from twinhost.system_digital_twin.registry.actions import EndpointReply  # noqa: PLC0415 - for this case alone

        assert self.certificates is not None
        try:
            with self.client(self.registry_agent) as client:
                found = read(client.call("get_agent_endpoint", agent_name=agent.name), EndpointReply)["public_key"]
            if found is not None:
                key = PublicKey(decode_z85_key(found.encode("ascii", "replace"), f"the key from {REGISTRY_AGENT}"))
                revoked = read_folders(folders_of_keys(self.certificates.folder)).revoked
                return [] if key.fingerprint in revoked else [key]
            why = f"it knows no key of {agent.name}"
        except (RequestError, KeyFileMalformed) as error:
            why = str(error)
        raise KeyFileMissing(
            f"{complaint}, and {REGISTRY_AGENT} does not provide the key ({why}); start {agent.name}, or copy its "
            f"key: {CERTS_INIT_PIPED} public {agent.key} there, {CERTS_INIT_PIPED} trust - here"
        )

    def _address(self, agent: Agent, endpoint: str | None = None) -> ServerAddress:
        endpoint = endpoint or agent.endpoint
        if self.certificates is None:
            return UnencryptedAddress(endpoint)
        own_keys, pins = self.certificates.own_keys, self.pins(agent)
        return FollowedAddress(endpoint, lambda: own_keys, lambda: pins)


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings from SECURE_ZMQ, the network configuration, and the folder of keys.

    Raises:
        ConfigurationError: something is missing or wrong; the message is one sentence.
    """
    secure = is_secure_zmq_enabled(environment)
    config = load_network_config(environment=environment)
    return Settings(config, load_certificates(certificates_folder(environment)) if secure else None)


def certs_init_failure(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return why the last run of certs-init that makes keys failed; None if it did not."""
    try:
        return (certificates_folder(environment) / FAILURE_FILE).read_text("utf-8", "replace").strip()
    except OSError:
        return None
