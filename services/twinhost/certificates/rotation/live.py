"""What a rotation asks of the running agents."""

import time
from collections.abc import Callable, Sequence

from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    ConnectionRefused,
    NotAuthorized,
    PeerNotLive,
    SecurityMismatch,
    ServerUnreachable,
    WrongServerKey,
)
from twinhost.secure_zmq.keys import KeyPair, PublicKey, parse_certificate
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress

DEADLINE_S = 10.0  # of a call that must succeed
PROBE_S = 3.0  # of one that may fail
SWITCH_S = 60.0  # for an agent to use its other key; one that is just being started again takes some
_STEP_S = 0.1
NO_RESPONSE = "NO_RESPONSE"  # the status of an agent that is silent, in SystemDigitalTwin's registry

Say = Callable[[str], None]


def client_of(agent: Agent, own_keys: KeyPair, pins: Sequence[PublicKey]) -> Client:
    """Return a client of an agent that may have any of these keys."""
    return Client(FollowedAddress(agent.endpoint, lambda: own_keys, lambda: pins))


def answers(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> bool:
    """Return whether an agent proves to have exactly this key."""
    try:
        with Client(SecuredAddress(agent.endpoint, own_keys, pin)) as client:
            client.call("ping", deadline_s=PROBE_S)
    except ConnectionRefused:
        return False
    return True


def is_reached(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> bool:
    """Return whether there is an agent with CURVE, whatever its key is and whomever it lets in at this moment."""
    try:
        with Client(SecuredAddress(agent.endpoint, own_keys, pin)) as client:
            client.call("ping", deadline_s=PROBE_S)
    except (ServerUnreachable, SecurityMismatch):
        return False
    except ConnectionRefused:
        return True
    return True


def wait_until_served_with(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> None:
    """Wait until an agent uses its other key.

    Raises:
        ServerUnreachable: it does not within SWITCH_S; both keys are good until the command is run again.
    """
    _wait(
        lambda: answers(agent, own_keys, pin),
        f"{agent.name} at {agent.endpoint} does not use {pin.fingerprint} yet; see its log, and run the command again",
    )


def require_dead_pin(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> None:
    """Prove that an agent no longer has a key.

    Raises:
        ConfigurationError: it still answers to it.
    """
    try:
        with Client(SecuredAddress(agent.endpoint, own_keys, pin)) as client:
            client.call("ping", deadline_s=DEADLINE_S)
    except WrongServerKey:
        return
    except ConnectionRefused as error:
        raise ServerUnreachable(f"{agent.name} could not be asked for its retired key: {error}") from None
    raise ConfigurationError(f"{agent.name} still answers to its retired key {pin.fingerprint}; see its log")


def require_dead_key(agent: Agent, retired: KeyPair, pins: Sequence[PublicKey]) -> None:
    """Prove that an agent, which has one of `pins`, lets a retired key in no longer.

    Raises:
        ConfigurationError: it does.
    """
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            with client_of(agent, retired, pins) as client:
                client.call("ping", deadline_s=PROBE_S)
        except (NotAuthorized, PeerNotLive):
            return
        except ConnectionRefused as error:
            raise ServerUnreachable(f"{agent.name} could not be asked about the retired key: {error}") from None
        time.sleep(_STEP_S)  # it sees the folder within a moment
    raise ConfigurationError(f"{agent.name} still lets the retired key {retired.public.fingerprint} in; see its log")


def wait_until_followed(client: Client, server_name: str, next_key: PublicKey, patience_s: float, say: Say) -> None:
    """Wait until SystemDigitalTwin tells of the next key, and every agent that is alive has taken over what it tells.

    Args:
        client: SystemDigitalTwin's.
        server_name: SystemDigitalTwin's name.
        next_key: what has to be known; SystemDigitalTwin may not have read its folder since it was put there, and
            until then every agent agrees with it on a list without it.
        patience_s: for an agent with a key to tell how far it follows: not before its next heartbeat, where it or
            SystemDigitalTwin was just started.
        say: told of agents that are away or follow nothing.

    Raises:
        ServerUnreachable: somebody does not within SWITCH_S; nothing was switched.
    """
    told: set[str] = set()
    patient_until = time.monotonic() + patience_s
    last: list[str] = []

    def tell(name: str, how: str) -> None:
        if name not in told:
            say(f"{name} {how}: it needs the new public key by hand (certs-init trust, on its machine)")
            told.add(name)

    def done() -> bool:
        last[:] = _behind(client, server_name, next_key, time.monotonic() < patient_until, tell)
        return not last

    try:
        _wait(done, "")
    except ServerUnreachable:
        raise ServerUnreachable(
            f"{', '.join(last)} did not take over the next key within {SWITCH_S:g} s; nothing was switched: "
            "see its log, and run the command again"
        ) from None


def _behind(
    client: Client, server_name: str, next_key: PublicKey, patient: bool, tell: Callable[[str, str], None]
) -> list[str]:
    """Return who does not know the next key yet and will; `tell` is told of those who won't."""
    trust = client.call("get_trust", deadline_s=DEADLINE_S)
    current = [parse_certificate(text, "mainpc's answer") for text in trust["current"]]
    following = [parse_certificate(text, "mainpc's answer") for text in trust["next"]]
    if next_key not in {certificate.public for certificate in (*current, *following)}:
        return [server_name]
    owners = {certificate.owner.name for certificate in current}
    waiting = []
    for agent in client.call("get_registered_agents", deadline_s=DEADLINE_S)["agents"]:
        name, follows = str(agent["name"]), agent.get("trust_revision")
        if name == server_name:
            continue
        if agent["status"] == NO_RESPONSE:
            tell(name, "does not answer")
        elif follows is None and not (patient and name in owners):
            tell(name, "does not follow mainpc's keys")
        elif follows != trust["revision"]:
            waiting.append(name)
    return waiting


def _wait(done: Callable[[], bool], sentence: str) -> None:
    deadline = time.monotonic() + SWITCH_S
    while not done():
        if time.monotonic() > deadline:
            raise ServerUnreachable(sentence)
        time.sleep(_STEP_S)
