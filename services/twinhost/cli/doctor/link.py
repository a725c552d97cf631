"""The checks of the wire: name, ports, mode, the handshake step by step, and the refusal of unauthorised clients.

A client of libzmq can't distinguish a wrong pin from a fault of the server's ZAP handler. A hand-made handshake can:
WELCOME opens only with the right pin, and a later refusal concerns our own key.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from twinhost.adversary.attack import Finding, Verdict
from twinhost.adversary.clients import CurveClient, NoLibsodium, Refused, new_pair
from twinhost.adversary.zmtp import Disconnected, NoAnswer, RawConnection
from twinhost.deployment import Settings
from twinhost.network_config import Agent
from twinhost.network_config.load import ADDRESS_VARIABLES
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    NotAuthorized,
    SecurityMismatch,
    ServerUnreachable,
    TwinhostError,
    WrongServerKey,
)
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.server_address import (
    FollowedAddress,
    SecuredAddress,
    ServerAddress,
    UnencryptedAddress,
    mechanism_of,
)

RESOLVES, PORT, EVENTS_PORT, SAME_MODE = "address", "port", "port of the event feed", "SECURE_ZMQ the same"
_TIMEOUT_S = 3.0
_WORDS = {"CURVE": "SECURE_ZMQ=1", "NULL": "SECURE_ZMQ=0"}
_GREETING_S = 2.0  # short, because an earlier check has waited for a silent port
_ANOTHER_KEY = "the agent's key is not the pinned"
PLAIN, UNKNOWN_KEY, WRONG_PIN = "plain client refused", "unknown key refused", "wrong pin refused"
_DEADLINE_S = 4.0
_EXPECTED_REFUSALS: Mapping[type[ConnectionRefused], str] = {
    SecurityMismatch: "refused, with the reason that CURVE is required",
    NotAuthorized: "refused, with the reason that {} is not authorised",
    WrongServerKey: "refused, with the reason that the agent's key is not {}",
}
_NO_KEYS = "SECURE_ZMQ=0 here: there are no keys to try"


def where_it_answers(agent: Agent) -> Agent:
    """Return an agent as it is reached where it is active: at its host, if it answers nowhere, or has no standby."""
    home, *others = agent.places
    if others and mechanism_of(home.endpoint) is None:
        return next((place for place in others if mechanism_of(place.endpoint)), home)
    return home


def examine_network(agent: Agent, secure: bool) -> Iterator[Finding]:
    """Check an agent's address and ports, and the greeting that it sends."""
    resolved = _resolve(agent)
    yield resolved
    if resolved.verdict is not Verdict.OK:
        return
    port = _port(agent, agent.zmq_port)
    yield Finding(PORT, agent.name, Verdict.FAILED if port else Verdict.OK, port or f"{agent.zmq_port} is open")
    if agent.events_port is not None:
        closed = _port(agent, agent.events_port)
        sentence = f"{closed}; a revocation now waits for a heartbeat" if closed else f"{agent.events_port} is open"
        yield Finding(EVENTS_PORT, agent.name, Verdict.FAILED if closed else Verdict.OK, sentence)
    if port is None:
        yield _mode(agent, secure)


def _resolve(agent: Agent) -> Finding:
    address = agent.host.address
    try:
        resolved = socket.getaddrinfo(address, agent.zmq_port, type=socket.SOCK_STREAM)
    except OSError as error:
        variable = ADDRESS_VARIABLES.get(agent.host.name)
        advice = (
            f"set {variable} in .env, or correct network_config.yaml" if variable else "correct network_config.yaml"
        )
        sentence = f"{address!r} does not resolve ({error.strerror or error}); {advice}"
        return Finding(RESOLVES, agent.name, Verdict.FAILED, sentence)
    return Finding(RESOLVES, agent.name, Verdict.OK, f"{address} is {resolved[0][4][0]}")


def _port(agent: Agent, port: int) -> str | None:
    """Return what is wrong with a port, or None."""
    try:
        with socket.create_connection((agent.host.address, port), timeout=_TIMEOUT_S):
            return None
    except OSError as error:
        why = "the connection was not accepted" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return (
            f"{agent.host.authority(port)} can't be reached ({why}): the agent does not run, or a firewall or "
            "TWINHOST_PUBLISH_ADDRESS closes the port to this host"
        )


def _mode(agent: Agent, secure: bool) -> Finding:
    mechanism = mechanism_of(agent.endpoint)
    if mechanism is None:
        sentence = (
            f"{agent.endpoint} accepts TCP connections and sends no ZeroMQ greeting: "
            "another program listens there, or the agent hangs; check the port, and read the agent's log"
        )
        return Finding(SAME_MODE, agent.name, Verdict.FAILED, sentence)
    there = _WORDS.get(mechanism, mechanism)
    if (mechanism == "CURVE") == secure:
        return Finding(SAME_MODE, agent.name, Verdict.OK, f"{there} there and here")
    here = _WORDS["CURVE" if secure else "NULL"]
    sentence = (
        f"{there} there and {here} here, so each side silently disconnects the other; "
        "set SECURE_ZMQ=1 in .env on both hosts, and restart the agents"
    )
    return Finding(SAME_MODE, agent.name, Verdict.FAILED, sentence)


def explain_handshake(settings: Settings, agent: Agent) -> str | None:
    """Return a sentence with the cause of a failed handshake; None if it succeeds, or the cause is unknown."""
    if settings.certificates is None:
        return None
    own, pins = settings.certificates.own_keys, settings.pins(agent)
    named = " or ".join(pin.fingerprint for pin in pins)
    cause = None
    try:
        for pin in pins:
            with CurveClient(RawConnection(agent.host.address, agent.zmq_port), own, pin) as client:
                cause = _walk(client, own.public.fingerprint, named)
            if cause is None or not cause.startswith(_ANOTHER_KEY):
                return cause
    except (OSError, NoLibsodium):
        return None
    return cause


def _walk(client: CurveClient, own: str, pins: str) -> str | None:
    try:
        speaks_curve = client.connection.greet(client.mechanism, _GREETING_S)[12:32].startswith(client.mechanism)
    except (Disconnected, NoAnswer):
        return None
    if not speaks_curve:
        return None
    try:
        cookie = client.hello()
    except (Disconnected, NoAnswer, Refused):
        return (
            f"{_ANOTHER_KEY} {pins}: it could not read our HELLO. Its key was changed, or this is "
            "another machine: ask its owner for the fingerprint, and copy its public key here"
        )
    return _initiate(client, cookie, own)


def _initiate(client: CurveClient, cookie: bytes, own: str) -> str | None:
    """Show our key, whose halves are known to match, to an agent that holds the pinned key."""
    try:
        client.initiate(cookie)
    except Disconnected:
        return (
            "its ZAP handler has a fault: it holds the pinned key, and disconnected when it had to look up ours. "
            "Read the agent's log, and restart it"
        )
    except NoAnswer:
        return "its ZAP handler hangs: it holds the pinned key, and does not look up ours. Restart the agent"
    except Refused:
        return (
            f"it holds the pinned key and refuses ours ({own}): not listed there, revoked, or expired by its clock. "
            "`./twinhost audit tail` with an operator's key, or the agent's log, says which"
        )
    return None


def examine_refusals(settings: Settings, agent: Agent) -> Sequence[Finding]:
    """Try three connections at once that must all be refused."""
    attempts: Sequence[Callable[[], Finding]] = (
        lambda: try_plain(agent),
        lambda: try_key(settings, agent, new_pair()),
        lambda: try_pin(settings, agent, new_pair().public),
    )
    with ThreadPoolExecutor(len(attempts)) as pool:
        return tuple(pool.map(lambda attempt: attempt(), attempts))


def refusals_not_tried(agent: Agent, reason: str) -> Sequence[Finding]:
    """Return findings which say that none of the refusals was tried."""
    return [Finding(check, agent.name, Verdict.NOT_PLAYED, reason) for check in (PLAIN, UNKNOWN_KEY, WRONG_PIN)]


def try_plain(agent: Agent) -> Finding:
    """Ask without any encryption."""
    served = "it served a client without a key and without encryption; set SECURE_ZMQ=1 there, and restart it"
    return _try(PLAIN, agent, UnencryptedAddress(agent.endpoint), SecurityMismatch, "", served)


def try_key(settings: Settings, agent: Agent, keys: KeyPair) -> Finding:
    """Ask with a key that is not authorised."""
    if settings.certificates is None:
        return Finding(UNKNOWN_KEY, agent.name, Verdict.NOT_PLAYED, _NO_KEYS)
    pins = settings.pins(agent)
    address = FollowedAddress(agent.endpoint, lambda: keys, lambda: pins)
    served = "it served a key that nobody has authorised, so no ZAP handler is running; stop it, and check its version"
    return _try(UNKNOWN_KEY, agent, address, NotAuthorized, keys.public.fingerprint, served)


def try_pin(settings: Settings, agent: Agent, pin: PublicKey) -> Finding:
    """Ask with our own key and a wrong pin of the agent's."""
    if settings.certificates is None:
        return Finding(WRONG_PIN, agent.name, Verdict.NOT_PLAYED, _NO_KEYS)
    address = SecuredAddress(agent.endpoint, settings.certificates.own_keys, pin)
    served = f"a client that pinned {pin.fingerprint} was served, so nothing authenticates it; stop it"
    return _try(WRONG_PIN, agent, address, WrongServerKey, pin.fingerprint, served)


def _try(
    check: str, agent: Agent, address: ServerAddress, wanted: type[ConnectionRefused], must_name: str, served: str
) -> Finding:
    """Make a call that must be refused, with an error of the type `wanted` that names `must_name`."""
    try:
        with Client(address) as client:
            client.call("ping", deadline_s=_DEADLINE_S)
    except TwinhostError as refusal:
        return Finding(check, agent.name, *_judged(refusal, wanted, must_name))
    return Finding(check, agent.name, Verdict.FAILED, served)


def _judged(refusal: TwinhostError, wanted: type[ConnectionRefused], must_name: str) -> tuple[Verdict, str]:
    if isinstance(refusal, wanted) and must_name in str(refusal):
        return Verdict.OK, _EXPECTED_REFUSALS[wanted].format(must_name)
    if isinstance(refusal, ServerUnreachable | SecurityMismatch | WrongServerKey):  # unrelated to this key or pin
        return Verdict.NOT_PLAYED, f"it was not reached: {refusal}"
    if isinstance(refusal, ConnectionRefused):
        return Verdict.FAILED, f"refused, with a wrong reason: {refusal}"
    return Verdict.FAILED, f"it got a session, and only the request was refused: {refusal}"
