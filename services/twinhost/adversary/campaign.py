"""All attacks against an agent, those on its event feed and its HTTP port among them.

After each one a legitimate client must still be served in time.
"""

import contextlib
import http.client
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from twinhost.adversary import insiders, payloads, strangers, tampering
from twinhost.adversary.attack import (
    SERVED_WITHIN_S,
    Attack,
    AttackedAgent,
    AttackOutcome,
    Finding,
    Verdict,
    breached,
    defended,
    not_played,
)
from twinhost.adversary.clients import NoLibsodium, PlainClient, Refused
from twinhost.adversary.zmtp import TIMEOUT_S, Disconnected, NoAnswer, RawConnection
from twinhost.secure_zmq.errors import TwinhostError, UnknownAction
from twinhost.secure_zmq.feed import MAX_COMMANDS, MAX_TOPIC_BYTES, MAX_TOPICS

_PATHS = ("/healthz", "/metrics", "/api/state", "/")
_REBOUND = "rebound.example"  # RFC 2606: reserved


def _dns_rebinding(target: AttackedAgent) -> AttackOutcome:
    return _refuses(target, 421, {"Host": f"{_REBOUND}:{target.agent.http_port}"})


def _cross_site(target: AttackedAgent) -> AttackOutcome:
    return _refuses(target, 403, {"Sec-Fetch-Site": "cross-site"})


def _refuses(target: AttackedAgent, wanted: int, headers: Mapping[str, str]) -> AttackOutcome:
    """Request every path as such a page would, after an ordinary request was answered."""
    sent = ", ".join(f"{name}: {value}" for name, value in headers.items())
    good = _status(target, "/healthz", {})
    if good is None:
        return not_played("no HTTP answer from here; run it on the agent's machine, where the port is published")
    if good not in (200, 503):
        return breached(f"HTTP answers {good} to its own address, so a refusal would prove nothing")
    for path in _PATHS:
        if (status := _status(target, path, headers)) != wanted:
            return breached(f"with {sent!r} it answered {status or 'nothing'} for {path}, instead of {wanted}")
    return defended(f"with {sent!r} it answered {wanted} for {', '.join(_PATHS)}")


def _status(target: AttackedAgent, path: str, headers: Mapping[str, str]) -> int | None:
    connection = http.client.HTTPConnection(target.agent.host.address, target.agent.http_port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


OTHER_SITES = (
    Attack("DNS rebinding", "HTTP answers only to configured names", _dns_rebinding),
    Attack("cross-site request", "HTTP refuses cross-site requests", _cross_site),
)


_SUBSCRIBE, _UNSUBSCRIBE = b"\x01", b"\x00"
_TOPIC = b"EVENT:"
_JUDGED_AFTER_S = 0.3  # a refused subscription is closed within 0.2 s
_CLOSED_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class AttackedFeed(AttackedAgent):
    """The event feed of an agent; its legitimate client is a granted subscriber that stays connected."""

    @property
    def properties(self) -> Mapping[str, bytes]:
        return {"Socket-Type": b"SUB"}

    def connect(self) -> RawConnection:
        assert self.agent.events_port is not None
        return RawConnection(self.agent.host.address, self.agent.events_port)

    def served_after_s(self) -> float:
        """Return how long a legitimate subscriber with a new connection waits for a PONG.

        Raises:
            Disconnected, NoAnswer, Refused: it got none, or its connection was closed.
            TwinhostError: its subscription is not granted.
        """
        with self.client() as client, contextlib.suppress(UnknownAction):  # an older agent closes the connection
            client.call("check_subscription", deadline_s=SERVED_WITHIN_S, topics=[_TOPIC.decode()])
        started = time.monotonic()
        while True:
            try:
                return self._subscribe()
            except Disconnected:  # the feed may have closed a reused descriptor: real clients reconnect
                if time.monotonic() > started + SERVED_WITHIN_S:
                    raise

    def _subscribe(self) -> float:
        started = time.monotonic()
        with self.insider() as subscriber:
            subscriber.send(_SUBSCRIBE + _TOPIC)
            subscriber.answers_ping(SERVED_WITHIN_S)
            took_s = time.monotonic() - started
            while time.monotonic() < started + took_s + _JUDGED_AFTER_S:
                time.sleep(0.1)
                subscriber.answers_ping(SERVED_WITHIN_S)
        return took_s


def at_the_feed(attack: Attack) -> Attack:
    """Return the same attack on an agent's feed; a legitimate subscriber must be served afterwards."""

    def play(target: AttackedAgent) -> AttackOutcome:
        feed = AttackedFeed(target.agent, target.config, target.own_keys, target.find_pins)
        outcome = attack.play(feed)
        if outcome.verdict is Verdict.OK and feed.served_after_s() > SERVED_WITHIN_S:
            return breached(
                f"{outcome.sentence}; then a legitimate subscriber waited for more than {SERVED_WITHIN_S:g} s"
            )
        return outcome

    return Attack(f"{attack.name}, at the event feed", attack.proves, play)


def _malformed_subscriptions(target: AttackedAgent) -> AttackOutcome:
    return _closed(target, {"a message that is not a subscription": [b"hello"], "an empty message": [b""]})


def _too_many_subscriptions(target: AttackedAgent) -> AttackOutcome:
    many = [_SUBSCRIBE + b"topic-%d" % number for number in range(MAX_TOPICS + 1)]
    restless = [command + _TOPIC for _ in range(MAX_COMMANDS // 2 + 1) for command in (_SUBSCRIBE, _UNSUBSCRIBE)]
    return _closed(
        target,
        {
            f"a topic of {MAX_TOPIC_BYTES + 1} bytes": [_SUBSCRIBE + b"x" * (MAX_TOPIC_BYTES + 1)],
            f"{len(many)} topics": many,
            f"{len(restless):,} changes of subscription": restless,
        },
    )


def _closed(target: AttackedAgent, messages: Mapping[str, Iterable[bytes]]) -> AttackOutcome:
    """Send each kind on its own connection, which must be closed."""
    for what, sent in messages.items():
        target.served_after_s()  # afterwards no connection is closed for an earlier message
        with target.insider() as client:
            if not _is_closed(client, sent):
                return breached(f"{what} was accepted for more than {_CLOSED_WITHIN_S:g} s")
    return defended(f"it closed the connection for {', and for '.join(messages)}")


def _is_closed(client: PlainClient, sent: Iterable[bytes]) -> bool:
    until = time.monotonic() + _CLOSED_WITHIN_S
    try:
        client.connection.send(b"".join(map(client.encode, sent)))
        while time.monotonic() < until:
            client.answers_ping(_CLOSED_WITHIN_S)
            time.sleep(0.05)
    except Disconnected:
        return True
    except NoAnswer:
        pass
    return False


FEED_ATTACKS = tuple(
    at_the_feed(attack)
    for attack in (
        *strangers.ATTACKS,
        *strangers.NOISE,
        *payloads.FRAME_ATTACKS,
        Attack("malformed subscriptions", "a subscriber may send nothing but subscriptions", _malformed_subscriptions),
        Attack("too many subscriptions", "nobody can fill the feed's memory with topics", _too_many_subscriptions),
    )
)


_NEEDS_OLD_KEY = "it needs the secret of an expired or revoked key, which nobody should keep"
_REVOKES = "it would revoke one of your keys, which can't be undone"
_NEEDS_FILES = "it needs the agent's files; check them on its host: docker compose run --rm certs-init verify"
NOT_FROM_OUTSIDE = (  # listed, to show that they are not tried
    Attack("revoked key", "a revoked key is refused", lambda _: not_played(_NEEDS_OLD_KEY)),
    Attack("expired key", "an expired key is refused", lambda _: not_played(_NEEDS_OLD_KEY)),
    Attack(
        "a key revoked in mid-frame", "requests of a frame that wait are refused then", lambda _: not_played(_REVOKES)
    ),
    Attack("malformed key files", "a malformed key file authorises nobody", lambda _: not_played(_NEEDS_FILES)),
    Attack(
        "a store that fails", "a change that was not stored is not acknowledged", lambda _: not_played(_NEEDS_FILES)
    ),
)
ATTACKS: Sequence[Attack] = (
    *strangers.ATTACKS,
    *strangers.IMPOSTOR,
    *insiders.ATTACKS,
    *tampering.ATTACKS,
    *tampering.DAMAGED,
    *strangers.NOISE,
    *payloads.ATTACKS,
    *payloads.MALFORMED,
    *OTHER_SITES,
    *NOT_FROM_OUTSIDE,
)
LEGITIMATE_CLIENT = "a legitimate client"
_PROVES_SERVED = "a legitimate client is served before anything is tried"


def play_all(target: AttackedAgent) -> Iterator[Finding]:
    """Return the findings as the attacks end, those on the event feed too if the agent has one."""
    return play_against(target, ATTACKS if target.agent.events_port is None else (*ATTACKS, *FEED_ATTACKS))


def play_against(target: AttackedAgent, attacks: Sequence[Attack]) -> Iterator[Finding]:
    """Play some attacks against one agent, one at a time."""
    name = target.agent.name
    try:
        took_s = target.served_after_s()
    except TwinhostError as error:
        sentence = f"it is not served, so no attack would prove anything: {error}; run: ./twinhost doctor"
        yield Finding(LEGITIMATE_CLIENT, name, Verdict.FAILED, sentence, _PROVES_SERVED)
        reason = "a legitimate client is not served to begin with"
        yield from (Finding(attack.name, name, Verdict.NOT_PLAYED, reason, attack.proves) for attack in attacks)
        return
    yield Finding(LEGITIMATE_CLIENT, name, Verdict.OK, f"answered after {took_s:.2f} s", _PROVES_SERVED, took_s)
    for attack in attacks:
        started = time.monotonic()
        outcome = _play(attack, target)
        if outcome.verdict is not Verdict.NOT_PLAYED:
            outcome = _still_serving(target, outcome)
        yield Finding(attack.name, name, outcome.verdict, outcome.sentence, attack.proves, time.monotonic() - started)


def _play(attack: Attack, target: AttackedAgent) -> AttackOutcome:
    try:
        return attack.play(target)
    except NoLibsodium as error:
        return not_played(str(error))
    except (Disconnected, NoAnswer, Refused) as end:
        return breached(f"the agent closed an authorised session: {end}")
    except (TwinhostError, OSError) as error:
        return breached(f"the attack could not be finished: {error}")


def _still_serving(target: AttackedAgent, outcome: AttackOutcome) -> AttackOutcome:
    try:
        took_s = target.served_after_s()
    except TwinhostError as error:
        waited = f"then a legitimate client was not served within {SERVED_WITHIN_S:g} s"
        return breached(f"{outcome.sentence}; {waited}: {error}")
    if took_s > SERVED_WITHIN_S:
        return breached(f"{outcome.sentence}; then a legitimate client waited {took_s:.1f} s")
    return outcome
