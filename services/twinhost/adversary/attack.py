"""An attack, the agent that it is played against, and the finding."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from twinhost.adversary.clients import PlainClient, TooManySessions, open_session
from twinhost.adversary.zmtp import RawConnection
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.callers import OPERATOR_ROLE
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.server_address import FollowedAddress, ServerAddress, UnencryptedAddress

SERVED_WITHIN_S = 2.0  # within which a legitimate client must get a reply during an attack
_AGAIN_AFTER_S = 0.02
OPEN_LINK = "SECURE_ZMQ=0: there are no keys, so there is nothing to forge"
OPERATORS_KEY = (
    "this key is an operator's, which may do everything; try it with an agent's: "
    "TWINHOST_CLI_KEYS=pc2 ./twinhost doctor --intruder"
)


class Verdict(StrEnum):
    """The result of a check; a check that could not run does not count as passed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_PLAYED = "not played"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what it checks, where, and a sentence that says what was seen and, if it failed, what to do.

    `proves` is what a refused attack shows; `took_s` is its duration in seconds.
    """

    check: str
    where: str
    verdict: Verdict
    sentence: str
    proves: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AttackedAgent:
    """One configured agent under attack, the caller's key, and the legitimate client that must be served throughout.

    `own_keys` is None with SECURE_ZMQ=0; `find_pins` returns the agent's public keys, none on an open link.
    """

    agent: Agent
    config: NetworkConfig
    own_keys: KeyPair | None
    find_pins: Callable[[], Sequence[PublicKey]]

    @property
    def secure(self) -> bool:
        return self.own_keys is not None

    @property
    def pin(self) -> PublicKey | None:
        return next(iter(self.find_pins()), None) if self.secure else None

    @property
    def operator(self) -> bool:
        """Whether the key at hand is an operator's, which may do everything."""
        return self.own_keys is not None and OPERATOR_ROLE in self.own_keys.certificate.owner.roles

    @property
    def properties(self) -> Mapping[str, bytes]:
        """The metadata that a client sends in the handshake."""
        return {"Socket-Type": b"DEALER"}

    @property
    def max_payload_bytes(self) -> int:
        return self.config.limits.max_payload_bytes

    def connect(self) -> RawConnection:
        return RawConnection(self.agent.host.address, self.agent.zmq_port)

    def insider(self, properties: Mapping[str, bytes] | None = None, within_s: float = SERVED_WITHIN_S) -> PlainClient:
        """Return a hand-made client that has a session: with an authorised key, or without one on an open link.

        While the key has too many sessions it connects again, for `within_s`, as the ordinary client does: an agent may
        count one for a second after its end.

        Raises:
            Disconnected, NoAnswer, Refused: it got no session.
        """
        until = time.monotonic() + within_s
        while True:
            try:
                return open_session(self.connect(), self.own_keys, self.pin, {**self.properties, **(properties or {})})
            except TooManySessions:
                if time.monotonic() >= until:
                    raise
                time.sleep(_AGAIN_AFTER_S)

    def client(self, address: str | None = None) -> Client:
        """Return the ordinary client with an authorised key, connected to another address where one is given."""
        address = address or self.agent.endpoint
        server: ServerAddress = UnencryptedAddress(address)
        if (own_keys := self.own_keys) is not None:
            pins = self.find_pins()[:1]
            server = FollowedAddress(address, lambda: own_keys, lambda: pins)  # without a pin every call is refused
        return Client(server, max_payload_bytes=self.max_payload_bytes)

    def served_after_s(self) -> float:
        """Return how long a legitimate client with a new connection waits for its answer.

        Raises:
            TwinhostError: it was refused, or not answered within SERVED_WITHIN_S.
        """
        started = time.monotonic()
        with self.client() as client:
            client.call("ping", deadline_s=SERVED_WITHIN_S)
            return time.monotonic() - started


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """How an attack ended."""

    verdict: Verdict
    sentence: str


@dataclass(frozen=True, slots=True)
class Attack:
    """One entry of the adversary's list."""

    name: str
    proves: str
    play: Callable[[AttackedAgent], AttackOutcome]


def defended(sentence: str) -> AttackOutcome:
    """The agent refused it as it should."""
    return AttackOutcome(Verdict.OK, sentence)


def breached(sentence: str) -> AttackOutcome:
    """The attack succeeded."""
    return AttackOutcome(Verdict.FAILED, sentence)


def not_played(reason: str) -> AttackOutcome:
    """The attack needs something that is not available here."""
    return AttackOutcome(Verdict.NOT_PLAYED, reason)
