"""The event feed: a subscriber receives only granted topics, and nothing once its key is no longer live."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from tests.identities import authorize, new_pair
from tests.loopback.agent import ANY_PORT
from tests.loopback.bare_zmq import endpoint
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import open_feed_socket, open_unencrypted_feed_socket
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.client import MAX_WAITING, Subscriber
from twinhost.secure_zmq.errors import MessageTooLarge, NotAuthorized, WrongServerKey
from twinhost.secure_zmq.feed import (
    MAX_COMMANDS,
    MAX_EVENT_BYTES,
    MAX_QUEUED,
    MAX_TOPIC_BYTES,
    MAX_TOPICS,
    Feed,
    _Event,
)
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.monitor import EventKind, SocketEvent
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress, UnencryptedAddress

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]
REVOKED_WITHIN_S = 1.0  # the promise, from the file's removal
QUIET_S = 0.3  # without an event, and none comes: publishers pause for milliseconds


class ServedFeed:
    """A feed on 127.0.0.1, and who may subscribe to what; the topics that a test changes at will."""

    def __init__(self, home: Path, own_keys: KeyPair | None) -> None:
        self.granted: set[bytes] = {b"EVENT:", b"ERROR:"}
        self.asked: list[Caller] = []
        self.going = threading.Event()  # cleared: the feed's thread waits as soon as it asks
        self.going.set()
        self.own_keys = own_keys
        self.context: Context = zmq.Context()
        self.peers = AuthorizedPeers([home])
        self.authenticator = Authenticator(self.context, self.peers) if own_keys else None
        if self.authenticator is not None and own_keys is not None:
            self.socket = open_feed_socket(self.authenticator, own_keys, ANY_PORT, MAX_EVENT_BYTES)
        else:
            self.socket = open_unencrypted_feed_socket(self.context, ANY_PORT, MAX_EVENT_BYTES, Handshakes())
        self.feed = Feed(self.socket, self.may_subscribe)
        self.address = self.feed.address
        self.feed.start()

    def may_subscribe(self, caller: Caller, topic: bytes) -> bool:
        self.asked.append(caller)
        self.going.wait(PATIENCE_S)
        return topic in self.granted

    def secured(self, keys: KeyPair) -> SecuredAddress:
        assert self.own_keys is not None
        return SecuredAddress(self.address, keys, self.own_keys.public)

    @property
    def closed_count(self) -> int:
        return self.socket.sessions.connections.closed_count

    def stop(self) -> None:
        self.feed.stop()
        self.context.term()
        if self.authenticator is not None:
            self.authenticator.stop()
        self.peers.close()


@contextmanager
def serving(home: Path, own_keys: KeyPair | None) -> Iterator[ServedFeed]:
    served = ServedFeed(home, own_keys)
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def served(neighbour_keys: KeyPair, home: Path, server_keys: KeyPair) -> Iterator[ServedFeed]:
    with serving(home, server_keys) as served:
        yield served


@contextmanager
def subscribed(served: ServedFeed, keys: KeyPair, *topics: bytes) -> Iterator[Subscriber]:
    """Subscribe, and wait until the feed has granted all of it."""
    granted = served.feed.counters.granted
    subscriber = Subscriber(served.secured(keys), topics)
    subscriber.start()
    try:
        wait_until(lambda: served.feed.counters.granted >= granted + len(topics), PATIENCE_S, "it is subscribed")
        yield subscriber
    finally:
        subscriber.stop()


Connect = Callable[..., Socket]


@pytest.fixture
def connect(context: Context, served: ServedFeed, peer_keys: KeyPair) -> Connect:
    """Connect an XSUB of bare pyzmq, which sends what it likes."""

    def connect(keys: KeyPair = peer_keys, *, small: bool = False) -> Socket:
        assert served.own_keys is not None
        socket = context.socket(zmq.XSUB)
        socket.curve_serverkey = served.own_keys.public.z85
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.rcvtimeo = int(PATIENCE_S * 1_000)
        socket.sndhwm = 0
        if small:  # it holds little of what is not read
            socket.rcvhwm, socket.rcvbuf = 1, 4_096
        socket.reconnect_ivl = -1
        accepted = served.socket.handshakes.counts()[Outcome.ACCEPTED]
        socket.connect(served.address)
        wait_until(
            lambda: served.socket.handshakes.counts()[Outcome.ACCEPTED] > accepted,
            PATIENCE_S,
            "its handshake is accepted",
        )
        return socket

    return connect


def number(subscriber: Subscriber) -> int:
    event = subscriber.get(PATIENCE_S)
    assert event is not None
    return int(json.loads(event.payload)["number"])


def published_to(subscriber: Subscriber, served: ServedFeed, number: int) -> bool:
    """Publish until an event of this number is received: one that was sent while its connection ended is lost."""

    def received() -> bool:
        served.feed.publish(b"EVENT:", b'{"number": %d}' % number)
        event = subscriber.get(QUIET_S)
        return event is not None and json.loads(event.payload)["number"] == number

    return wait_until(received, PATIENCE_S, f"event {number} is received")


class Publishing(threading.Thread):
    """Publishes numbers, two hundred a second at most: a subscriber that is read late keeps a thousand."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(name="publisher")
        self.published = 0
        self._feed = feed
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(0.005):
            self._feed.publish(b"EVENT:", b'{"number": %d}' % self.published)
            self.published += 1

    def end(self) -> None:
        self._enough.set()
        self.join()


def test_a_granted_subscriber_hears_its_topics(served: ServedFeed, peer_keys: KeyPair) -> None:
    """Two frames, in the order of publication, and no other topic."""
    with subscribed(served, peer_keys, b"EVENT:") as subscriber:
        served.feed.publish(b"ERROR:", b"{}")
        for index in range(100):
            served.feed.publish(b"EVENT:", b'{"number": %d}' % index)
        assert [number(subscriber) for _ in range(100)] == list(range(100))
        wait_until(lambda: subscriber.connected, PATIENCE_S, "libzmq's monitor has reported the session")
        assert subscriber.responsive
        assert served.feed.responsive
    assert {caller.name for caller in served.asked} == {peer_keys.certificate.owner.name}
    assert {caller.fingerprint for caller in served.asked} == {peer_keys.public.fingerprint}


@pytest.mark.sdt_security
@pytest.mark.parametrize("topic", [b"TRUST:", b"", b"E"], ids=["a topic", "everything", "a prefix of others"])
@pytest.mark.parametrize("place", [0, 1], ids=["first", "last"])
def test_an_ungranted_topic_is_not_sent_and_others_are(
    served: ServedFeed, connect: Connect, topic: bytes, place: int
) -> None:
    """The connection stays, as do the subscriptions before and after the refused one."""
    topics = [b"EVENT:", b"ERROR:"]
    topics.insert(place, topic)
    greedy = connect()
    for wanted in topics:
        greedy.send(b"\1" + wanted)
    wait_until(lambda: served.feed.subscriptions == 2, PATIENCE_S, "what is granted is granted")
    for published in (b"TRUST:", b"EVENT:", b"TRUST:more", b"AGENT:", b"ERROR:", b"E"):
        served.feed.publish(published, b"{}")
    assert [greedy.recv_multipart()[0] for _ in range(2)] == [b"EVENT:", b"ERROR:"]
    assert not greedy.poll(int(QUIET_S * 1_000))
    assert (served.feed.counters.refused, served.feed.counters.granted, served.closed_count) == (1, 2, 0)
    assert not served.feed.wants(b"TRUST:")


def test_a_refused_subscriber_does_not_reconnect(served: ServedFeed, peer_keys: KeyPair) -> None:
    """With no grant at all, and after the withdrawal of one: what is left is received again, and nothing loops."""
    counters = served.feed.counters

    def counts() -> tuple[int, int, int]:
        return counters.granted, counters.refused, served.socket.handshakes.counts()[Outcome.ACCEPTED]

    silent = Subscriber(served.secured(peer_keys), [b"TRUST:"])
    silent.start()
    try:
        wait_until(lambda: counters.refused == 1, PATIENCE_S, "it is refused")
        with subscribed(served, peer_keys, b"EVENT:", b"ERROR:") as subscriber:
            served.granted.remove(b"EVENT:")
            served.feed.request_review()
            # It is ended, and subscribes to both again: the order is not promised.
            wait_until(lambda: counts() == (3, 3, 3), PATIENCE_S, "it has the rest again")
            time.sleep(4 * QUIET_S)
            served.feed.publish(b"EVENT:", b"{}")
            served.feed.publish(b"ERROR:", b'{"number": 9}')
            assert number(subscriber) == 9
            assert counts() == (3, 3, 3)
    finally:
        silent.stop()


def test_a_topic_that_is_granted_later_is_received(served: ServedFeed, peer_keys: KeyPair) -> None:
    """The feed ends the connection once, so that the client subscribes again."""
    with subscribed(served, peer_keys, b"EVENT:") as subscriber:
        late = Subscriber(served.secured(peer_keys), [b"EVENT:", b"TRUST:"])
        late.start()
        try:
            wait_until(lambda: served.feed.counters.refused, PATIENCE_S, "it is refused")
            served.granted.add(b"TRUST:")
            served.feed.request_review()
            wait_until(lambda: served.feed.wants(b"TRUST:"), PATIENCE_S, "it is granted")
            served.feed.publish(b"TRUST:", b'{"number": 3}')
            assert number(late) == 3
            assert served.closed_count == 1
            assert subscriber.get(0) is None
        finally:
            late.stop()


@pytest.mark.sdt_security
def test_a_subscriber_that_can_not_be_recorded_hears_nothing(served: ServedFeed, peer_keys: KeyPair) -> None:
    """Its connection is closed, and it is granted nothing; once that works, it can subscribe."""
    failing = True

    def record(*_: object) -> None:
        if failing:
            raise OSError("no space left on device")

    served.socket.handshakes.listen(record)
    subscriber = Subscriber(served.secured(peer_keys), [b"EVENT:"])
    subscriber.start()
    try:
        wait_until(lambda: served.feed.counters.refused, PATIENCE_S, "it is refused")
        wait_until(lambda: served.closed_count, PATIENCE_S, "it is closed")
        assert (served.feed.counters.granted, served.socket.handshakes.counts()["accepted"]) == (0, 0)
        failing = False
        wait_until(lambda: served.feed.counters.granted, PATIENCE_S, "it comes back")
        assert served.socket.handshakes.counts()["accepted"] >= 2, "those that failed were made up for"
    finally:
        subscriber.stop()


def test_it_is_known_which_topics_somebody_wants(served: ServedFeed, peer_keys: KeyPair) -> None:
    """So that nobody makes an event for no one; what was asked for and not granted counts as little as an end."""
    assert not served.feed.wants(b"EVENT:")
    with subscribed(served, peer_keys, b"EVENT:"):
        assert served.feed.wants(b"EVENT:")
        assert not served.feed.wants(b"ERROR:")
        served.granted.add(b"")
        with subscribed(served, peer_keys, b""):
            assert served.feed.wants(b"AGENT:"), "the empty prefix is everything"
        wait_until(lambda: not served.feed.wants(b"AGENT:"), PATIENCE_S, "the end of it is seen")
        served.granted.remove(b"")
        refused = Subscriber(served.secured(peer_keys), [b"TRUST:"])
        refused.start()
        wait_until(lambda: served.feed.counters.refused, PATIENCE_S, "it is refused")
        refused.stop()
        assert not served.feed.wants(b"TRUST:")
        assert served.feed.wants(b"EVENT:")
    wait_until(lambda: not served.feed.wants(b"EVENT:"), PATIENCE_S, "nobody is left")


def test_a_stranger_hears_nothing(served: ServedFeed, stranger_keys: KeyPair) -> None:
    subscriber = Subscriber(served.secured(stranger_keys), [b"EVENT:"])
    subscriber.start()
    wait_until(lambda: isinstance(subscriber.fault, NotAuthorized), PATIENCE_S, "it gets the reason")
    assert subscriber.get(0) is None
    subscriber.stop()
    assert served.asked == []


def test_a_withdrawn_key_gets_nothing_and_others_lose_nothing(
    neighbour_keys: KeyPair, home: Path, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """Within a second of the file's removal, under steady traffic."""
    with ExitStack() as stack:
        served = stack.enter_context(serving(home, server_keys))
        served.peers.watch()
        withdrawn = stack.enter_context(subscribed(served, peer_keys, b"EVENT:"))
        neighbour = stack.enter_context(subscribed(served, neighbour_keys, b"EVENT:"))
        publisher = Publishing(served.feed)
        publisher.start()
        stack.callback(publisher.end)
        assert [number(withdrawn) for _ in range(50)] == list(range(50))
        (home / f"{peer_keys.certificate.owner.name}.key").unlink()
        silent_from = time.monotonic() + REVOKED_WITHIN_S
        heard_at = time.monotonic()
        while (event := withdrawn.get(QUIET_S)) is not None:
            heard_at = time.monotonic()
            assert heard_at < silent_from, event
        wait_until(lambda: isinstance(withdrawn.fault, NotAuthorized), PATIENCE_S, "it does not get in again")
        published = publisher.published
        assert published > json.loads(event.payload)["number"] if event else True
        received = [number(neighbour) for _ in range(published)]
        assert received == list(range(published))
        assert served.closed_count >= 1  # it may have connected again, to be refused


def test_nothing_is_published_between_noticing_and_closing(
    served: ServedFeed, home: Path, peer_keys: KeyPair, neighbour_keys: KeyPair
) -> None:
    """What is published after the list has changed reaches nobody who is off it, not even within the tick."""
    open_now = served.socket.sessions.connections.open
    for _ in range(10):
        # An end that is reported late may be taken for that of the next connection with the same descriptor.
        wait_until(lambda: not open_now(), PATIENCE_S, "the ends of the connections are noticed")
        authorize(home, peer_keys)
        served.peers.reload()
        with (
            subscribed(served, peer_keys, b"EVENT:") as withdrawn,
            subscribed(served, neighbour_keys, b"EVENT:") as neighbour,
        ):
            served.feed.publish(b"EVENT:", b'{"number": 1}')
            assert number(withdrawn) == number(neighbour) == 1
            closed = served.closed_count
            (home / f"{peer_keys.certificate.owner.name}.key").unlink()
            served.peers.reload()
            served.feed.publish(b"EVENT:", b'{"number": 2}')
            assert number(neighbour) == 2
            assert served.closed_count > closed  # it may have connected again, to be refused
            assert withdrawn.get(0.05) is None


def test_an_event_after_a_revocation_waits_for_the_close(
    served: ServedFeed, home: Path, peer_keys: KeyPair, neighbour_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is revoked, and an event published, while the feed sends an earlier event."""
    send, sent = served.feed._send, []

    def send_and_revoke(event: _Event) -> None:
        send(event)
        sent.append(event)
        if len(sent) == 1:
            (home / f"{peer_keys.certificate.owner.name}.key").unlink()
            served.peers.reload()
            served.feed.publish(b"EVENT:", b'{"number": 2}')

    authorize(home, peer_keys)
    served.peers.reload()
    with (
        subscribed(served, peer_keys, b"EVENT:") as withdrawn,
        subscribed(served, neighbour_keys, b"EVENT:") as neighbour,
    ):
        monkeypatch.setattr(served.feed, "_send", send_and_revoke)
        served.feed.publish(b"EVENT:", b'{"number": 1}')
        assert (number(neighbour), number(neighbour)) == (1, 2)
        received = [withdrawn.get(QUIET_S), withdrawn.get(QUIET_S)]
        assert b'{"number": 2}' not in [event.payload for event in received if event is not None]


def test_a_grant_that_is_withdrawn_ends_the_subscription(served: ServedFeed, peer_keys: KeyPair) -> None:
    with subscribed(served, peer_keys, b"EVENT:") as subscriber:
        served.granted.clear()
        served.feed.request_review()
        wait_until(lambda: served.closed_count, REVOKED_WITHIN_S, "it is closed")
        served.feed.publish(b"EVENT:", b"{}")
        assert subscriber.get(QUIET_S) is None


def test_a_late_end_event_lets_no_subscriber_escape(served: ServedFeed, peer_keys: KeyPair) -> None:
    """It has the same descriptor, and spoke before the monitor's thread found time for the other's end."""
    monitor, may_report = served.socket.monitor, threading.Event()
    report = monitor._on_event

    def tell_late(event: SocketEvent) -> None:
        if event.kind is EventKind.DISCONNECTED:
            may_report.wait(PATIENCE_S)
        report(event)

    monitor._on_event = tell_late
    subscribers = served.feed._subscribers
    with ExitStack() as stack:
        while True:  # until the kernel has given the same descriptor again
            with subscribed(served, peer_keys, b"EVENT:"):
                (before,) = subscribers.values()
            subscriber = stack.enter_context(subscribed(served, peer_keys, b"EVENT:"))
            if [subscriber.fd for subscriber in subscribers.values()] == [before.fd]:
                break
            may_report.set()
            stack.close()
            wait_until(lambda: not subscribers, PATIENCE_S, "both have ended")
            may_report.clear()
        granted = served.feed.counters.granted
        may_report.set()
        wait_until(lambda: served.feed.counters.granted > granted, PATIENCE_S, "it has to subscribe again")
        closed = served.closed_count
        served.granted.clear()
        served.feed.request_review()
        wait_until(lambda: served.closed_count > closed, REVOKED_WITHIN_S, "and is closed with its grant")
        served.feed.publish(b"EVENT:", b"{}")
        assert subscriber.get(QUIET_S) is None


def test_a_subscriber_that_is_closed_comes_back(served: ServedFeed, peer_keys: KeyPair) -> None:
    """Closed by mistake, say: it subscribes again by itself."""
    with subscribed(served, peer_keys, b"EVENT:") as subscriber:
        (known,) = served.feed._subscribers.values()
        served.socket.sessions.connections.mark_for_closing(known.fd, known.address, "by mistake")
        wait_until(lambda: served.feed.counters.granted >= 2, PATIENCE_S, "it is back")
        assert published_to(subscriber, served, 3)


def test_a_grant_can_not_be_diverted(
    served: ServedFeed, connect: Connect, peer_keys: KeyPair, neighbour_keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer without a grant sends a message that is no subscription, so that the neighbour's grant goes astray."""
    served.feed._may_subscribe = lambda caller, topic: caller.name == "neighbour" or topic == b"EVENT:"
    thief, victim, accomplice = connect(), connect(neighbour_keys), connect()
    read, go_on = threading.Event(), threading.Event()
    read_subscriptions = served.feed._read_subscriptions

    def when_all_have_come() -> None:  # on the feed's thread: nothing is read until all wait in libzmq
        read.set()
        assert go_on.wait(PATIENCE_S)
        read_subscriptions()

    monkeypatch.setattr(served.feed, "_read_subscriptions", when_all_have_come)
    served.feed._waker.wake()
    assert read.wait(PATIENCE_S)
    thief.send(b"no subscription")
    time.sleep(0.1)  # the order of arrival is what the attack lives on
    victim.send(b"\1TRUST:")
    time.sleep(0.1)
    accomplice.send(b"\1EVENT:")
    time.sleep(0.1)
    go_on.set()
    wait_until(lambda: served.closed_count, PATIENCE_S, "the thief is closed")
    served.feed.publish(b"TRUST:", b"{}")
    for socket in (thief, accomplice):
        assert not socket.poll(int(QUIET_S * 1_000))


@pytest.mark.parametrize(
    "commands",
    [
        [b"\1" + b"T" * (MAX_TOPIC_BYTES + 1)],
        [b"\1%d" % index for index in range(MAX_TOPICS + 1)],
        [b"\1refused %d" % index for index in range(MAX_TOPICS + 1)],
        [b"\1EVENT:", b"\0EVENT:"] * (MAX_COMMANDS // 2) + [b"\1EVENT:"],
        [b"no subscription"],
        [b""],
    ],
    ids=["a long topic", "many topics", "many refused topics", "much change", "a message", "an empty message"],
)
def test_what_a_subscriber_costs_is_bounded(
    served: ServedFeed, connect: Connect, neighbour_keys: KeyPair, commands: list[bytes]
) -> None:
    """A connection with more is closed, and its neighbour still receives."""
    served.feed._may_subscribe = lambda _, topic: not topic.startswith(b"refused")
    with subscribed(served, neighbour_keys, b"EVENT:") as neighbour:
        greedy = connect()
        for command in commands[:-1]:
            greedy.send(command)
        assert served.closed_count == 0
        greedy.send(commands[-1])
        wait_until(lambda: served.closed_count, PATIENCE_S, "it is closed")
        served.feed.publish(b"EVENT:", b'{"number": 4}')
        assert number(neighbour) == 4
        assert served.closed_count == 1


def test_a_million_topics_are_not_held(served: ServedFeed, connect: Connect) -> None:
    """The connection ends long before; what libzmq had taken from it is freed."""
    served.feed._may_subscribe = lambda _, __: True
    greedy = connect()
    greedy.sndtimeo = 100
    sender = threading.Thread(target=_subscribe_to_all, args=(greedy, 1_000_000), daemon=True)
    sender.start()
    wait_until(lambda: served.closed_count, PATIENCE_S, "it is closed")
    sender.join(PATIENCE_S)
    wait_until(lambda: served.feed.subscriptions == 0, PATIENCE_S, "nothing of it is left")
    assert served.feed.counters.granted <= MAX_TOPICS


def _subscribe_to_all(socket: Socket, count: int) -> None:
    for index in range(count):
        try:
            socket.send(b"\1%d" % index, zmq.NOBLOCK)
        except zmq.Again:
            return


def test_an_unsubscribed_topic_is_no_longer_received(served: ServedFeed, connect: Connect) -> None:
    socket = connect()
    socket.send(b"\1EVENT:")
    socket.send(b"\1ERROR:")
    wait_until(lambda: served.feed.subscriptions == 2, PATIENCE_S, "it is subscribed")
    socket.send(b"\0EVENT:")
    wait_until(lambda: served.feed.subscriptions == 1, PATIENCE_S, "it is unsubscribed")
    served.feed.publish(b"EVENT:", b"{}")
    served.feed.publish(b"ERROR:", b"{}")
    assert socket.recv_multipart() == [b"ERROR:", b"{}"]


def test_a_slow_subscriber_harms_nobody(served: ServedFeed, connect: Connect, neighbour_keys: KeyPair) -> None:
    """Who does not read misses events; the feed and the others go on."""
    slow = connect()
    slow.send(b"\1EVENT:")
    wait_until(lambda: served.feed.subscriptions, PATIENCE_S, "the slow one is subscribed")
    with subscribed(served, neighbour_keys, b"EVENT:") as neighbour:
        payload = b'{"number": 5, "text": "%s"}' % (b"x" * 20_000)
        for _ in range(3_000):
            served.feed.publish(b"EVENT:", payload)
            assert number(neighbour) == 5
    assert served.feed.counters.dropped == 0


def test_the_oldest_event_gives_way(home: Path, server_keys: KeyPair) -> None:
    """A publisher never waits."""
    with serving(home, server_keys) as served:
        served.feed.stop()
        for _ in range(MAX_QUEUED + 5):
            served.feed.publish(b"EVENT:", b"{}")
        assert served.feed.counters.dropped == 5
        with pytest.raises(MessageTooLarge):
            served.feed.publish(b"EVENT:", bytes(MAX_EVENT_BYTES + 1))


def test_a_flood_drops_no_event_of_another_publisher(served: ServedFeed, peer_keys: KeyPair) -> None:
    with subscribed(served, peer_keys, b"EVENT:") as subscriber:
        asked = len(served.asked)
        served.going.clear()
        served.feed.request_review()
        wait_until(lambda: len(served.asked) > asked, PATIENCE_S, "the feed's thread waits")
        served.feed.publish(b"EVENT:", b'{"number": -1}', "polite")
        for index in range(MAX_QUEUED + 99):
            served.feed.publish(b"EVENT:", b'{"number": %d}' % index, "loud")
        served.going.set()
        assert [number(subscriber) for _ in range(MAX_QUEUED)] == [-1, *range(100, MAX_QUEUED + 99)]
    assert served.feed.counters.dropped == 100


def test_who_leaves_most_unread_is_closed_first(served: ServedFeed, connect: Connect, neighbour_keys: KeyPair) -> None:
    """All connections of an identity together, though a slow one of somebody else is further behind than each."""
    published = 0

    def publish() -> None:
        nonlocal published
        served.feed.publish(b"EVENT:", b'{"number": %d, "text": "%s"}' % (published, b"x" * 60_000))
        published += 1
        wait_until(lambda: served.feed.counters.published == published, PATIENCE_S, "it is sent")

    slow = connect(neighbour_keys, small=True)
    slow.send(b"\1EVENT:")
    wait_until(lambda: served.feed.subscriptions == 1, PATIENCE_S, "the slow one is subscribed")
    for _ in range(20):
        publish()
    unread = [connect(small=True) for _ in range(4)]
    for socket in unread:
        socket.send(b"\1EVENT:")
    wait_until(lambda: served.feed.subscriptions == 5, PATIENCE_S, "the others are subscribed")
    while not served.closed_count:
        publish()
    assert [json.loads(slow.recv_multipart()[1])["number"] for _ in range(published)] == list(range(published))


def test_a_subscriber_that_is_not_read_drops_the_oldest(served: ServedFeed, peer_keys: KeyPair) -> None:
    with subscribed(served, peer_keys, b"EVENT:") as subscriber:
        for index in range(MAX_WAITING + 100):
            served.feed.publish(b"EVENT:", b'{"number": %d}' % index)
            if index % 100 == 0:
                wait_until(lambda: served.feed.counters.published > index, PATIENCE_S, "it is sent")  # noqa: B023
        wait_until(lambda: subscriber.dropped == 100, PATIENCE_S, "the oldest are dropped")
        assert number(subscriber) == 100


def test_a_callback_and_an_iterator(served: ServedFeed, peer_keys: KeyPair) -> None:
    received: list[bytes] = []
    calling = Subscriber(served.secured(peer_keys), [b"EVENT:"], lambda event: received.append(event.topic))
    calling.start()
    with subscribed(served, peer_keys, b"EVENT:") as iterated:
        wait_until(lambda: served.feed.counters.granted == 2, PATIENCE_S, "both are subscribed")
        served.feed.publish(b"EVENT:more", b"{}")
        wait_until(lambda: received, PATIENCE_S, "the callback is called")
        for event in iterated:
            assert event.topic == b"EVENT:more"
            iterated.stop()
    calling.stop()
    assert received == [b"EVENT:more"]


def test_the_key_is_changed_and_subscribers_move(served: ServedFeed, peer_keys: KeyPair) -> None:
    """The subscriber learns of the next pin beforehand, and of the old one's end afterwards."""
    assert served.own_keys is not None
    old, new = served.own_keys.public, new_pair("SystemDigitalTwin", "mainpc")
    pins = [old, new.public]
    subscriber = Subscriber(FollowedAddress(served.address, lambda: peer_keys, lambda: pins), [b"EVENT:"])
    pinned = Subscriber(served.secured(peer_keys), [b"EVENT:"])
    for each in (subscriber, pinned):
        each.start()
    wait_until(lambda: served.feed.counters.granted == 2, PATIENCE_S, "both are subscribed")
    assert served.feed.request_rekey(new).result(PATIENCE_S) < 1
    wait_until(lambda: isinstance(pinned.fault, WrongServerKey), PATIENCE_S, "the old pin is dead")
    wait_until(lambda: served.feed.counters.granted >= 3, PATIENCE_S, "it is subscribed again")
    pins.remove(old)
    assert published_to(subscriber, served, 6)
    assert pinned.get(0) is None
    for each in (subscriber, pinned):
        each.stop()


def test_an_open_feed_knows_nobody(home: Path) -> None:
    """SECURE_ZMQ=0: every subscriber is unauthenticated, and has those grants."""
    with serving(home, None) as served:
        subscriber = Subscriber(UnencryptedAddress(served.address), [b"EVENT:"])
        subscriber.start()
        wait_until(lambda: served.feed.counters.granted, PATIENCE_S, "it is subscribed")
        served.feed.publish(b"EVENT:", b'{"number": 8}')
        assert number(subscriber) == 8
        assert set(served.asked) == {UNAUTHENTICATED}
        served.granted.clear()
        wait_until(lambda: served.closed_count, PATIENCE_S, "it is closed")
        subscriber.stop()


def test_a_feed_that_was_never_started_can_be_stopped(context: Context) -> None:
    feed = Feed(open_unencrypted_feed_socket(context, ANY_PORT, MAX_EVENT_BYTES, Handshakes()), lambda _, __: True)
    assert not feed.responsive
    feed.stop()
    feed.stop()


class Manual:
    """A bare XPUB whose subscriptions are granted one by one, and three peers of it."""

    def __init__(self, context: Context) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.xpub_manual = True
        self.socket.rcvtimeo = int(PATIENCE_S * 1_000)
        self.socket.bind("tcp://127.0.0.1:*")
        self.peers = [context.socket(zmq.XSUB) for _ in range(3)]
        self.fds = []
        for peer in self.peers:
            peer.connect(endpoint(self.socket))
            peer.send(b"\1first")
            self.fds.append(self.read()[1])

    def read(self) -> tuple[bytes, int]:
        frame = self.socket.recv(copy=False)
        return frame.bytes, int(frame.get(zmq.SRCFD))

    def receivers(self, topic: bytes, *, some: bool = True) -> list[int]:
        """Publish, and return which of the peers hear it; where `some` do, wait for the first."""
        self.socket.send(topic)
        if some:
            wait_until(lambda: any(peer.poll(0) for peer in self.peers), PATIENCE_S, "one hears it")
        return [index for index, peer in enumerate(self.peers) if peer.poll(int(QUIET_S * 1_000)) and peer.recv()]


def test_a_manual_grant_goes_to_whose_message_was_read_last(context: Context) -> None:
    """Nobody has anything by itself; a duplicate comes again; and no other subscriber of the topic is granted it."""
    manual = Manual(context)
    assert manual.receivers(b"first", some=False) == []
    for peer in manual.peers[:2]:
        peer.send(b"\1T")
    first = manual.read()
    manual.socket.setsockopt(zmq.SUBSCRIBE, b"T")
    assert manual.read()[1] != first[1]
    assert manual.receivers(b"T") == [manual.fds.index(first[1])]


def test_a_manual_grant_goes_astray_behind_other_messages(context: Context) -> None:
    """libzmq 4.3.5 has two queues and gives such a message a place in one alone; both are empty together."""
    manual = Manual(context)
    other, mine, astray = manual.peers
    for peer, message in ((other, b"no subscription"), (mine, b"\1T"), (astray, b"\1T")):
        peer.send(message)
        time.sleep(QUIET_S)  # it has arrived
    assert [manual.read() for _ in range(2)] == [(b"no subscription", manual.fds[0]), (b"\1T", manual.fds[1])]
    manual.socket.setsockopt(zmq.SUBSCRIBE, b"T")
    assert manual.receivers(b"T") == [2]
    manual.read()
    mine.send(b"\1again")
    manual.read()
    manual.socket.setsockopt(zmq.SUBSCRIBE, b"again")
    assert manual.receivers(b"again") == [1]


def test_a_connections_end_arrives_as_unsubscriptions(context: Context) -> None:
    """They are libzmq's own, and a grant behind one goes to nobody."""
    manual = Manual(context)
    manual.peers[0].close(0)
    frame = manual.socket.recv(copy=False)
    assert frame.bytes == b"\0first"
    assert frame.get(zmq.SRCFD) == -1 if _has_origin(frame) else True
    manual.socket.setsockopt(zmq.SUBSCRIBE, b"T")
    manual.peers.pop(0)
    assert manual.receivers(b"T", some=False) == []


def _has_origin(frame: zmq.Frame) -> bool:
    try:
        frame.get("Peer-Address")
    except zmq.ZMQError:
        return False
    return True
