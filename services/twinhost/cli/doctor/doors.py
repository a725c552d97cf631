"""Does an agent refuse whom it must, and say why: asked with the client that everybody uses."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from twinhost.cli.connect import Settings
from twinhost.cli.findings import Finding, Verdict
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    NotAuthorized,
    SecurityMismatch,
    ServerUnreachable,
    TwinhostError,
    WrongServerKey,
)
from twinhost.secure_zmq.handshakes import MAX_ATTEMPTS
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, PublicKey
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, ServerAddress, UnencryptedAddress

PLAIN, UNKNOWN_KEY, WRONG_PIN = "plain client refused", "unknown key refused", "wrong pin refused"
_DEADLINE_S = 4.0
_ANNOUNCED_WITHIN_S = 2.0  # where nothing answers, the checks that follow say so
_TOLD_WHY: Mapping[type[ConnectionRefused], str] = {
    SecurityMismatch: "refused, and told that CURVE is wanted",
    NotAuthorized: "refused, and told that {} is not authorised",
    WrongServerKey: "refused, and told that the agent's key is not {}",
}
_NO_KEYS = "SECURE_ZMQ=0 here: there are no keys to try"


def announce_probes(settings: Settings, agent: Agent, stranger: KeyPair) -> None:
    """Have what is refused during this examination counted apart, where the agent knows that and our key may."""
    if settings.secure:
        with contextlib.suppress(TwinhostError), settings.client(agent) as client:
            client.call(
                "announce_probes",
                deadline_s=_ANNOUNCED_WITHIN_S,
                attempts=MAX_ATTEMPTS,
                key_fingerprints=[stranger.public.fingerprint],
            )


def examine_doors(settings: Settings, agent: Agent, stranger: KeyPair) -> Sequence[Finding]:
    """Knock three times at once, each time as nobody should get in; `stranger` is a key that is on no list."""
    doors: Sequence[Callable[[], Finding]] = (
        lambda: try_plain(agent),
        lambda: try_key(settings, agent, stranger),
        lambda: try_pin(settings, agent, a_stranger().public),
    )
    with ThreadPoolExecutor(len(doors)) as pool:
        return tuple(pool.map(lambda knock: knock(), doors))


def not_knocked(agent: Agent, reason: str) -> Sequence[Finding]:
    """Say of each door that it was not tried."""
    return [Finding(check, agent.name, Verdict.NOT_PLAYED, reason) for check in (PLAIN, UNKNOWN_KEY, WRONG_PIN)]


def a_stranger() -> KeyPair:
    """Return a pair that nobody has seen before."""
    return KeyPair.generate(KeyOwner("stranger", "nowhere", frozenset({"agent"})))


def try_plain(agent: Agent) -> Finding:
    """Ask without any encryption."""
    refusal = _refusal(UnencryptedAddress(agent.endpoint))
    if refusal is None:
        told = "it served a client that has no key and encrypts nothing; set SECURE_ZMQ=1 there, and start it again"
        return Finding(PLAIN, agent.name, Verdict.FAILED, told)
    return _judge(PLAIN, agent, refusal, SecurityMismatch, "")


def try_key(settings: Settings, agent: Agent, keys: KeyPair) -> Finding:
    """Ask with a key that is on no list."""
    if settings.certificates is None:
        return Finding(UNKNOWN_KEY, agent.name, Verdict.NOT_PLAYED, _NO_KEYS)
    pins = settings.pins(agent)
    refusal = _refusal(FollowedAddress(agent.endpoint, lambda: keys, lambda: pins))
    if refusal is None:
        told = "it served a key that was made just now, so it asks no ZAP handler; stop it, and look at its version"
        return Finding(UNKNOWN_KEY, agent.name, Verdict.FAILED, told)
    return _judge(UNKNOWN_KEY, agent, refusal, NotAuthorized, keys.public.fingerprint)


def try_pin(settings: Settings, agent: Agent, pin: PublicKey) -> Finding:
    """Ask with our own key and the wrong idea of the agent's."""
    if settings.certificates is None:
        return Finding(WRONG_PIN, agent.name, Verdict.NOT_PLAYED, _NO_KEYS)
    refusal = _refusal(SecuredAddress(agent.endpoint, settings.certificates.own_keys, pin))
    if refusal is None:
        told = f"a client that pinned {pin.fingerprint} was served; do not trust what answers there"
        return Finding(WRONG_PIN, agent.name, Verdict.FAILED, told)
    return _judge(WRONG_PIN, agent, refusal, WrongServerKey, pin.fingerprint)


def _refusal(address: ServerAddress) -> TwinhostError | None:
    """Return the error of a call, None where it was answered."""
    try:
        with Client(address) as client:
            client.call("ping", deadline_s=_DEADLINE_S)
    except TwinhostError as error:
        return error
    return None


def _judge(
    check: str, agent: Agent, refusal: TwinhostError, wanted: type[ConnectionRefused], must_name: str
) -> Finding:
    told = str(refusal)
    if isinstance(refusal, wanted) and must_name in told:
        return Finding(check, agent.name, Verdict.OK, _TOLD_WHY[wanted].format(must_name))
    if isinstance(refusal, ServerUnreachable | SecurityMismatch | WrongServerKey):  # who it is decides nothing there
        return Finding(check, agent.name, Verdict.NOT_PLAYED, f"it did not come to that: {told}")
    if isinstance(refusal, ConnectionRefused):
        return Finding(check, agent.name, Verdict.FAILED, f"refused, with another reason than the true one: {told}")
    return Finding(check, agent.name, Verdict.FAILED, f"it got in, and only the request was refused: {told}")
