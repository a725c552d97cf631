"""The event feed under attack: by the strangers of the request socket, and by subscribers that exceed every limit."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from twinhost.adversary import payloads, strangers
from twinhost.adversary.attack import GOOD_CALL_S, Attack, Outcome, Target, Verdict, breached, defended
from twinhost.adversary.clients import PlainClient
from twinhost.adversary.zmtp import Disconnected, NoAnswer, RawConnection
from twinhost.secure_zmq.feed import MAX_COMMANDS, MAX_TOPIC_BYTES, MAX_TOPICS

_SUBSCRIBE, _UNSUBSCRIBE = b"\x01", b"\x00"
_TOPIC = b"EVENT:"
_JUDGED_AFTER_S = 0.3  # a refused subscription is closed within 0.2 s
_CLOSED_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class FeedTarget(Target):
    """The event feed of an agent; its good client is a subscriber that stays connected."""

    @property
    def properties(self) -> Mapping[str, bytes]:
        return {"Socket-Type": b"SUB"}

    def connect(self) -> RawConnection:
        assert self.agent.events_port is not None
        return RawConnection(self.agent.host.address, self.agent.events_port)

    def good_call_s(self) -> float:
        """Return how long a good subscriber, which connects anew, waits for a PONG.

        Raises:
            Disconnected, NoAnswer, Refused: it got none, or its connection was closed.
        """
        started = time.monotonic()
        while True:
            try:
                return self._subscribe()
            except Disconnected:  # the feed may have closed a reused descriptor: real clients reconnect
                if time.monotonic() > started + GOOD_CALL_S:
                    raise

    def _subscribe(self) -> float:
        started = time.monotonic()
        with self.insider() as subscriber:
            subscriber.send(_SUBSCRIBE + _TOPIC)
            subscriber.answers_ping(GOOD_CALL_S)
            took_s = time.monotonic() - started
            while time.monotonic() < started + took_s + _JUDGED_AFTER_S:
                time.sleep(0.1)
                subscriber.answers_ping(GOOD_CALL_S)
        return took_s


def at_the_feed(attack: Attack) -> Attack:
    """Return the same attack on an agent's feed; a good subscriber must be served afterwards."""

    def play(target: Target) -> Outcome:
        feed = FeedTarget(target.agent, target.config, target.own_keys, target.find_pins)
        outcome = attack.play(feed)
        if outcome.verdict is Verdict.OK and feed.good_call_s() > GOOD_CALL_S:
            return breached(f"{outcome.sentence}; but then a good subscriber waited for more than {GOOD_CALL_S:g} s")
        return outcome

    return Attack(f"{attack.name}, at the event feed", attack.proves, play)


def _no_subscription(target: Target) -> Outcome:
    return _closed(target, {"a message that is no subscription": [b"hello"], "an empty message": [b""]})


def _no_bounds(target: Target) -> Outcome:
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


def _closed(target: Target, messages: Mapping[str, Iterable[bytes]]) -> Outcome:
    """Send each kind on its own connection, which must be closed."""
    for what, said in messages.items():
        target.good_call_s()  # by then nobody is closed for an earlier message
        with target.insider() as client:
            if not _hung_up(client, said):
                return breached(f"{what} was accepted for more than {_CLOSED_WITHIN_S:g} s")
    return defended(f"it closed the connection for {', and for '.join(messages)}")


def _hung_up(client: PlainClient, said: Iterable[bytes]) -> bool:
    until = time.monotonic() + _CLOSED_WITHIN_S
    try:
        client.connection.send(b"".join(map(client.encode, said)))
        while time.monotonic() < until:
            client.answers_ping(_CLOSED_WITHIN_S)
            time.sleep(0.05)
    except Disconnected:
        return True
    except NoAnswer:
        pass
    return False


ATTACKS = tuple(
    at_the_feed(attack)
    for attack in (
        *strangers.ATTACKS,
        *strangers.NOISE,
        *payloads.FRAME_ATTACKS,
        Attack("what is no subscription", "a subscriber may send nothing but subscriptions", _no_subscription),
        Attack("subscriptions without bounds", "nobody can fill the feed's memory with topics", _no_bounds),
    )
)
