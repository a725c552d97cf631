"""What rotations and revocations ask of the running agents."""

import time
from collections.abc import Callable, Sequence

from twinhost.certificates.layout import SERVER, Say
from twinhost.commands import CERTS_INIT, CERTS_INIT_PIPED
from twinhost.deployment import NO_RESPONSE
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
from twinhost.secure_zmq.server_address import FollowedAddress

DEADLINE_S = 10.0  # of a call that must succeed
PROBE_S = 3.0  # of one that may fail
SWITCH_S = 60.0  # for an agent to use its other key, with time for a restart
_STEP_S = 0.1
_TRUST = f"{CERTS_INIT_PIPED} trust -"


def client_of(agent: Agent, own_keys: KeyPair, pins: Sequence[PublicKey]) -> Client:
    """Return a client of an agent that may have any of these keys."""
    return Client(FollowedAddress(agent.endpoints, lambda: own_keys, lambda: pins))


def is_reached(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> bool:
    """Return whether there is an agent with CURVE, whatever its key is and whichever keys it authorises."""
    return not isinstance(_refusal(agent, own_keys, pin, PROBE_S), ServerUnreachable | SecurityMismatch)


def wait_until_served_with(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> None:
    """Wait until an agent uses its other key.

    Raises:
        ServerUnreachable: it does not within SWITCH_S; both keys are valid until the command is run again.
    """
    if not _wait(lambda: _refusal(agent, own_keys, pin, PROBE_S) is None):
        raise ServerUnreachable(
            f"{agent.name} at {agent.endpoint} does not use {pin.fingerprint} yet; see its log "
            f"({_log_of(agent)}), and run the command again"
        )


def require_pin_refused(agent: Agent, own_keys: KeyPair, pin: PublicKey) -> None:
    """Prove that an agent no longer serves clients that pin a retired key.

    Raises:
        ConfigurationError: it still serves them.
    """
    refusal = _refusal(agent, own_keys, pin, DEADLINE_S)
    if refusal is None:
        raise ConfigurationError(
            f"{agent.name} still serves clients that pin its retired key {pin.fingerprint}; see its log: "
            f"{_log_of(agent)}"
        )
    if not isinstance(refusal, WrongServerKey):
        raise ServerUnreachable(f"{agent.name} could not be tried with its retired key: {refusal}")


def require_key_refused(agent: Agent, retired: KeyPair, pins: Sequence[PublicKey]) -> None:
    """Prove that an agent, which has one of `pins`, refuses a retired key.

    Raises:
        ConfigurationError: it still accepts the key.
    """
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            with client_of(agent, retired, pins) as client:
                client.call("ping", deadline_s=PROBE_S)
        except (NotAuthorized, PeerNotLive):
            return
        except ConnectionRefused as error:
            raise ServerUnreachable(f"{agent.name} could not be called with the retired key: {error}") from None
        time.sleep(_STEP_S)  # it sees the folder within a moment
    raise ConfigurationError(
        f"{agent.name} still accepts the retired key {retired.public.fingerprint}; see its log: {_log_of(agent)}"
    )


def retire_older(client: Client) -> set[str]:
    """Have SystemDigitalTwin revoke the older keys of the caller once nobody uses them, and return their fingerprints.

    Raises:
        ConfigurationError: somebody uses one for SWITCH_S, or it did not agree; it is revoked a day later.
    """
    retired: set[str] = set()
    waiting: dict[str, str] = {}

    def done() -> bool:
        reply = client.call("retire_keys", deadline_s=DEADLINE_S)
        retired.update(reply["retired"])
        waiting.clear()
        waiting.update({key["fingerprint"]: key["until"] for key in reply.get("waiting", ())})
        return not waiting

    if not _wait(done):
        which = ", ".join(f"{fingerprint} until {until}" for fingerprint, until in waiting.items())
        raise ConfigurationError(
            f"{SERVER} still accepts {which}, because a program uses it, or it did not agree to its end; stop that "
            f"program and run the command again, or on mainpc run: {CERTS_INIT} revoke --only {next(iter(waiting))}"
        )
    return retired


def wait_until_followed(client: Client, next_key: PublicKey, grace_s: float, say: Say) -> None:
    """Wait until SystemDigitalTwin publishes the next key, and every live agent has applied the list of keys with it.

    SystemDigitalTwin may not have read its folder since the key was put there, and until then every agent agrees with
    it on a list without it. An agent with a key may take `grace_s` to report its revision, which it does with its next
    heartbeat, where it or SystemDigitalTwin was just started.

    Raises:
        ServerUnreachable: an agent does not within SWITCH_S; nothing was switched.
    """
    reported: set[str] = set()
    grace_ends = time.monotonic() + grace_s
    last: list[str] = []

    def report(name: str, how: str) -> None:
        if name not in reported:
            say(f"{name} {how}: give it the new public key by hand; on its machine: {_TRUST}")
            reported.add(name)

    def done() -> bool:
        last[:] = _behind(client, next_key, time.monotonic() < grace_ends, report)
        return not last

    if not _wait(done):
        raise ServerUnreachable(
            f"{', '.join(last)} did not apply the next key within {SWITCH_S:g} s, and nothing was switched; "
            "see its log, and run the command again"
        )


def _log_of(agent: Agent) -> str:
    return f"docker compose logs {agent.host.name}"


def _refusal(agent: Agent, own_keys: KeyPair, pin: PublicKey, deadline_s: float) -> ConnectionRefused | None:
    """Return why an agent with exactly this key does not answer; None where it does."""
    try:
        with client_of(agent, own_keys, [pin]) as client:
            client.call("ping", deadline_s=deadline_s)
    except ConnectionRefused as error:
        return error
    return None


def _behind(client: Client, next_key: PublicKey, in_grace: bool, report: Callable[[str, str], None]) -> list[str]:
    """Return the agents that have yet to apply the next key; call `report` for those that never will."""
    trust = client.call("get_trust", deadline_s=DEADLINE_S)
    current = [parse_certificate(text, "mainpc's answer") for text in trust["current"]]
    following = [parse_certificate(text, "mainpc's answer") for text in trust["next"]]
    if next_key not in {certificate.public for certificate in (*current, *following)}:
        return [SERVER]
    owners = {certificate.owner.name for certificate in current}
    waiting = []
    for agent in client.call("get_registered_agents", deadline_s=DEADLINE_S)["agents"]:
        name, follows = str(agent["name"]), agent.get("trust_revision")
        if name == SERVER:
            continue
        if agent["status"] == NO_RESPONSE:
            report(name, "does not answer")
        elif follows is None and not (in_grace and name in owners):
            report(name, "does not follow mainpc's keys")
        elif follows != trust["revision"]:
            waiting.append(name)
    return waiting


def _wait(done: Callable[[], bool]) -> bool:
    """Return whether it is done within SWITCH_S."""
    deadline = time.monotonic() + SWITCH_S
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP_S)
    return True
