"""One agent under attack, what is at hand against it, and the good client that must be served all along."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from twinhost.adversary.clients import CurveClient, PlainClient
from twinhost.adversary.zmtp import Line
from twinhost.cli.connect import Settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.callers import OPERATOR_ROLE
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

GOOD_CALL_S = 2.0  # in which a good client is answered, whatever else goes on


@dataclass(frozen=True, slots=True)
class Target:
    """An agent of the configuration; nobody else is ever attacked."""

    settings: Settings
    agent: Agent

    @property
    def secure(self) -> bool:
        return self.settings.secure

    @property
    def own_keys(self) -> KeyPair | None:
        """The key at hand; None where SECURE_ZMQ=0."""
        return self.settings.certificates.own_keys if self.settings.certificates else None

    @property
    def pin(self) -> PublicKey | None:
        """The agent's public key; None where SECURE_ZMQ=0."""
        pins = self.settings.pins(self.agent) if self.settings.certificates else []
        return pins[0] if pins else None

    @property
    def operator(self) -> bool:
        """Whether the key at hand is an operator's, to whom everything is granted."""
        return self.own_keys is not None and OPERATOR_ROLE in self.own_keys.certificate.owner.roles

    @property
    def properties(self) -> Mapping[str, bytes]:
        """What a client says of its socket in the handshake."""
        return {"Socket-Type": b"DEALER"}

    @property
    def max_payload_bytes(self) -> int:
        return self.settings.config.limits.max_payload_bytes

    def line(self) -> Line:
        """Return a TCP connection to it."""
        return Line(self.agent.host.address, self.agent.zmq_port)

    def insider(self, properties: Mapping[str, bytes] | None = None) -> PlainClient:
        """Return a client by hand that has a session with a good key, or on an open link without one."""
        told = {**self.properties, **(properties or {})}
        client = (
            CurveClient(self.line(), self.own_keys, self.pin, told)
            if self.own_keys is not None and self.pin is not None
            else PlainClient(self.line(), told)
        )
        try:
            client.shake_hands()
        except BaseException:
            client.line.close()
            raise
        return client

    def client(self, address: str | None = None) -> Client:
        """Return the client that everybody uses, with a good key; to another address on the way where one is given."""
        address = address or self.agent.endpoint
        server: ServerAddress = UnencryptedAddress(address)
        if self.own_keys is not None and self.pin is not None:
            server = SecuredAddress(address, self.own_keys, self.pin)
        return Client(server, max_payload_bytes=self.max_payload_bytes)

    def good_call_s(self) -> float:
        """Return how long a good client, which connects anew, waits for its answer.

        Raises:
            TwinhostError: it got none within GOOD_CALL_S, or was refused.
        """
        started = time.monotonic()
        with self.client() as client:
            client.call("ping", deadline_s=GOOD_CALL_S)
            return time.monotonic() - started
