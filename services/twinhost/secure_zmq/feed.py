"""The event feed: an XPUB that grants each subscription individually, on a thread of its own.

On the wire an event is two frames, `[topic, JSON object]`: topics are `EVENT:`, `ERROR:`, `TRUST:`,
`AGENT:`. A subscription is a topic's prefix, as in ZeroMQ. One that is not granted is not
applied; the others of its connection are. A subscriber that is disconnected misses events. So does one that does not
read: libzmq's high-water mark counts events of any size, so as soon as libzmq holds 4 MiB of them, a connection is
closed: of the identity whose connections together leave most unread, the one that is furthest behind. Events that wait
for the feed's thread are bounded too: of the publisher who has most of them, the oldest is dropped.

A SUB socket gets no reason; `check_subscription`, on the request socket, answers which topics are granted. When the
grants change, every connection whose topics are concerned is closed, so that its client subscribes again: XPUB_MANUAL
can only change the subscriptions of the connection whose message was read last.

A pitfall of XPUB_MANUAL (libzmq 4.3.5): libzmq has one queue of messages and one of the pipes that sent them, and
applies a grant to the pipe at the head. A message that is not a subscription has no entry in the second queue. After
it, a grant would apply to another peer's connection, so nothing is granted until the queue has been empty.
"""

import itertools
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
import zmq

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.bound_socket import RekeyRequests, ServerSocket
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.connections import Connection
from twinhost.secure_zmq.descriptors import traffic_of, unsent
from twinhost.secure_zmq.errors import MessageTooLarge, PeerNotLive
from twinhost.secure_zmq.framing.messages import new_account, send
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.sessions import origin
from twinhost.worker import Waker, Worker

_log = structlog.get_logger(__name__)

MAX_EVENT_BYTES = 64 * 1024  # of payload
MAX_TOPIC_BYTES = 64
MAX_TOPICS = 32  # per connection
MAX_COMMANDS = 1_000  # subscribe and unsubscribe, per connection
MAX_QUEUED = 1_000  # events that wait for the feed's thread, and their bytes
MAX_QUEUED_BYTES = 4 * 1024 * 1024
MAX_UNSENT_BYTES = 4 * 1024 * 1024  # of events that libzmq holds, each once for all subscribers
_TICK_S = 0.2
_IDLE_TICK_S = 1.0  # while nothing happens: then only a key's expiry is due
_PUBLISHED_PER_TURN = 64
_READ_PER_TURN = 256
_STALLED_AFTER_S = 5.0

_BEHIND = "its key leaves more events unread than any other one, and the feed is full; read them"

MaySubscribe = Callable[[Caller, bytes], bool]  # the topic is a prefix: the empty one matches every topic


class _Event(NamedTuple):
    topic: bytes
    payload: bytes
    publisher: str

    @property
    def size(self) -> int:
        """Its part of the queue, in bytes: that of a small one is such that `MAX_QUEUED` of them fill it."""
        return max(len(self.payload), MAX_QUEUED_BYTES // MAX_QUEUED)


@dataclass(slots=True)
class _Subscriber:
    fd: int
    address: str
    name: str
    fingerprint: str | None
    remote: tuple[str, int] | None = None  # when its last subscription was judged
    topics: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)  # topics that it asked for and is not granted
    commands: int = 0
    published: int = 0  # bytes of events that its topics match; what is acknowledged, whenever all is


@dataclass(slots=True)
class FeedCounters:
    """Since the start."""

    published: int = 0
    dropped: int = 0  # the queue was full
    granted: int = 0
    refused: int = 0


class Feed(Worker):
    """Publishes to granted subscriptions, and never to a connection whose key is refused now."""

    def __init__(
        self,
        feed_socket: ServerSocket,
        may_subscribe: MaySubscribe,
        max_payload_bytes: int = MAX_EVENT_BYTES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Take ownership of a bound feed socket; `start()` serves it.

        Args:
            feed_socket: from `open_feed_socket` or `open_unencrypted_feed_socket`.
            may_subscribe: called for every subscription, and again after `request_review()`, on the feed's thread.
            max_payload_bytes: the largest event.
            clock: by which keys begin and end.
        """
        super().__init__("event-feed", self._serve, stalled_after_s=_STALLED_AFTER_S)
        self.counters = FeedCounters()
        self._feed_socket = feed_socket
        self._socket = feed_socket.socket
        self._sessions = feed_socket.sessions
        self._may_subscribe = may_subscribe
        self._clock = clock
        self._max_payload_bytes = max_payload_bytes
        self._subscribers: dict[Connection, _Subscriber] = {}
        self._wanted: tuple[bytes, ...] = ()  # every topic with a subscriber, as of the last tick or since
        self._in_step = True  # whether libzmq's two queues match
        self._events: deque[_Event] = deque()
        self._queued: Counter[str] = Counter()  # bytes, by publisher
        self._account = new_account()  # of what libzmq holds
        self._closed = False
        self._lock = threading.Lock()
        self._waker = Waker()
        self._review_requested = False
        feed_socket.on_changed_keys(self.request_review)
        self._rekeying = RekeyRequests()
        self._budget = LogBudget()

    @property
    def address(self) -> str:
        """The endpoint that it is bound to, with the actual port."""
        return self._feed_socket.address

    @property
    def subscriptions(self) -> int:
        """The number of granted subscriptions."""
        return sum(len(subscriber.topics) for subscriber in tuple(self._subscribers.values()))

    def stop(self) -> None:
        """Publish the queued events, and close the socket."""
        super().stop()
        if not self.started and not self._closed:
            self._close()

    def wants(self, topic: bytes) -> bool:
        """Return whether a topic has a subscriber, from any thread; without one no event need be made.

        A subscription counts once the feed's thread has granted it, milliseconds after it arrived.
        """
        return topic.startswith(self._wanted)

    def publish(self, topic: bytes, payload: bytes, publisher: str = "") -> None:
        """Queue an event, from any thread; if the queue is full, the oldest of who has most in it is dropped.

        Args:
            topic: `EVENT:`, at most 64 bytes.
            payload: a JSON object.
            publisher: the identity that caused it; empty: the agent itself.

        Raises:
            MessageTooLarge: it would end the connections of its subscribers.
        """
        if len(payload) > self._max_payload_bytes or len(topic) > MAX_TOPIC_BYTES:
            raise MessageTooLarge(
                f"the event has {len(payload)} bytes and {self._max_payload_bytes} are allowed; publish a reference"
            )
        with self._lock:
            event = _Event(topic, payload, publisher)
            self._events.append(event)
            self._queued[publisher] += event.size
            while self._queued.total() > MAX_QUEUED_BYTES:
                fullest = max(self._queued, key=lambda name: (self._queued[name], name == publisher))
                self._drop(next(place for place, event in enumerate(self._events) if event.publisher == fullest))
                self.counters.dropped += 1
            first = len(self._events) == 1
        if first:  # for later ones the thread is awake: it runs until the queue is empty
            self._waker.wake()

    def request_review(self) -> None:
        """Have the thread close, now, what is no longer authorised or granted; from any thread."""
        self._review_requested = True
        self._waker.wake()

    def request_rekey(self, own_keys: KeyPair) -> "Future[float]":
        """Have the thread change the socket's key; as `Server.request_rekey`. Subscribers reconnect."""
        future = self._rekeying.ask(own_keys)
        self._waker.wake()
        return future

    def _interrupt(self) -> None:
        self._waker.wake()

    def _close(self) -> None:
        self._rekeying.end()
        self._feed_socket.close()
        self._closed = True

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._waker.fd, zmq.POLLIN)
        reviewed_at, active = time.monotonic(), False
        try:
            while not self.stopping:
                tick_s = _TICK_S if active or self._feed_socket.unsettled else _IDLE_TICK_S
                if not self._events or self._sessions.connections.unclosed:
                    left_s = reviewed_at + tick_s - time.monotonic()
                    active = bool(poller.poll(max(0, 1 + int(1_000 * left_s)))) or active
                self._waker.clear()
                self._read_subscriptions()
                turned_at = self.beat()
                if self._review_requested or turned_at - reviewed_at >= tick_s:
                    self._review_requested, reviewed_at, active = False, turned_at, False
                    self._review()
                if self._rekeying.waiting:
                    self._rekeying.carry_out(self._feed_socket.rekey)
                self._publish(_PUBLISHED_PER_TURN)
            self._publish(MAX_QUEUED)
        except zmq.ContextTerminated:
            return
        finally:
            self._close()

    def _publish(self, at_most: int) -> None:
        """Hand events to libzmq, which drops them for a slow subscriber.

        First the connections of revoked keys are closed; while one can't be closed, nothing is published. An event that
        is queued after that is sent in the next iteration: a key may have been revoked before it was queued.
        """
        with self._lock:
            batch = tuple(itertools.islice(self._events, at_most))
        self._feed_socket.close_refused()
        if self._sessions.connections.unclosed:
            return
        for event in batch:
            with self._lock:
                if not self._events or self._events[0] is not event:  # dropped meanwhile: the queue was full
                    continue
                self._drop(0)
            self._send(event)

    def _drop(self, place: int) -> None:
        event = self._events[place]
        del self._events[place]
        self._queued[event.publisher] -= event.size
        if not self._queued[event.publisher]:
            del self._queued[event.publisher]

    def _send(self, event: _Event) -> None:
        topic, payload, _ = event
        send(self._socket, [([topic], payload, self._account)], at_once=True)
        self.counters.published += 1
        for subscriber in self._subscribers.values():
            if topic.startswith(tuple(subscriber.topics)):
                subscriber.published += len(payload)
        if self._account.unsent > MAX_UNSENT_BYTES:
            self._close_furthest_behind()

    def _close_furthest_behind(self) -> None:
        """Close the connection that is furthest behind, if one is, of the identity that leaves most unread."""
        behind: defaultdict[str, list[tuple[int, _Subscriber]]] = defaultdict(list)
        for connection, subscriber in self._subscribers.items():
            traffic = traffic_of(subscriber.fd)
            if traffic is not None and unsent(subscriber.fd) and not connection.shut:
                behind[subscriber.name].append((subscriber.published - traffic.acknowledged, subscriber))
        if behind:
            most = max(behind.values(), key=lambda pairs: sum(unread for unread, _ in pairs))
            worst = max(most, key=lambda pair: pair[0])[1]
            self._sessions.connections.close_now(worst.fd, worst.remote, _BEHIND)

    def _read_subscriptions(self) -> None:
        for _ in range(_READ_PER_TURN):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._in_step = True
                return
            self._read(frame)

    def _read(self, frame: zmq.Frame) -> None:
        command = frame.bytes
        try:
            fd, address = origin(frame)
        except zmq.ZMQError:  # libzmq's own, for a connection that has ended
            return
        if command[:1] not in {b"\0", b"\1"}:
            self._in_step = False
            self._refuse(fd, address, None, "it sent a message that is not a subscription")
            return
        try:
            caller = self._sessions.caller_of(b"%d" % fd, frame, self._clock.time())
        except PeerNotLive:
            self.counters.refused += 1
            return
        connection = self._sessions.connections.note_key(fd, address, caller.fingerprint)
        subscriber = self._subscribers.setdefault(connection, _Subscriber(fd, address, caller.name, caller.fingerprint))
        subscriber.commands += 1
        topic = command[1:]
        if (fault := self._fault(subscriber, topic, subscribes=command[:1] == b"\1")) is not None:
            self._refuse(fd, address, caller, fault)
        elif command[:1] == b"\1":
            self._judge(subscriber, caller, topic)
        else:
            self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
            subscriber.topics.discard(topic)
            subscriber.refused.discard(topic)

    def _judge(self, subscriber: _Subscriber, caller: Caller, topic: bytes) -> None:
        """Apply a subscription if it is granted; the others of the connection are not affected."""
        granted = self._may_subscribe(caller, topic)
        subscriber.remote = self._sessions.connections.remote_from(subscriber.fd, subscriber.address)
        if subscriber.remote is None:  # and libzmq may have reused its memory for a newer connection
            self._refuse(subscriber.fd, subscriber.address, caller, "its connection has ended")
            return
        if not granted:
            subscriber.refused.add(topic)
            self._log_refusal(subscriber.address, caller, "it has no grant for this topic", topic)
            return
        subscriber.refused.discard(topic)
        subscriber.topics.add(topic)
        if topic not in self._wanted:  # before the grant, so that no event after it is missed
            self._wanted = (*self._wanted, topic)
        self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self.counters.granted += 1

    def _fault(self, subscriber: _Subscriber, topic: bytes, *, subscribes: bool) -> str | None:
        """Return why a connection must be closed for a command, if it must."""
        if not self._in_step:
            return "its subscription was queued behind an invalid message of another peer; subscribe again"
        if subscriber.commands > MAX_COMMANDS:
            return f"it changed its subscriptions more than {MAX_COMMANDS} times"
        return self._over_limit(subscriber, topic) if subscribes else None

    def _over_limit(self, subscriber: _Subscriber, topic: bytes) -> str | None:
        if len(topic) > MAX_TOPIC_BYTES:
            return f"a topic has more than {MAX_TOPIC_BYTES} bytes"
        if len(subscriber.topics | subscriber.refused | {topic}) > MAX_TOPICS:  # libzmq holds the refused ones too
            return f"it has {MAX_TOPICS} subscriptions, which is the limit"
        return None

    def _refuse(self, fd: int, address: str, caller: Caller | None, reason: str) -> None:
        """Close the connection."""
        self._sessions.connections.mark_for_closing(fd, address, reason)
        self._log_refusal(address, caller, reason)

    def _log_refusal(self, address: str, caller: Caller | None, reason: str, topic: bytes | None = None) -> None:
        self.counters.refused += 1
        fields = {} if topic is None else {"topic": topic.decode("ascii", "backslashreplace")}
        peer = caller.name if caller else None
        self._budget.log(
            _log.warning, "subscription_refused", peer, peer=peer, address=address, reason=reason, **fields
        )

    def _review(self) -> None:
        """Drop subscribers whose connections have ended, and close those whose grants have changed.

        If the end of an older connection with the same descriptor was reported late, the newer connection seems to have
        ended; its subscriptions are no longer known, so it must reconnect.
        """
        connections = self._sessions.connections
        live = connections.open()
        for connection, subscriber in tuple(self._subscribers.items()):
            if connection not in live:
                del self._subscribers[connection]
                if subscriber.remote is not None and connections.remote(subscriber.fd) == subscriber.remote:
                    connections.mark_for_closing(
                        subscriber.fd, subscriber.address, "its subscriptions are no longer known"
                    )
                continue
            if not unsent(subscriber.fd) and (traffic := traffic_of(subscriber.fd)) is not None:
                subscriber.published = traffic.acknowledged  # which has the frames' overhead too
            caller = self._sessions.caller_now(subscriber.fingerprint)
            if caller is None:
                continue
            if not all(self._may_subscribe(caller, topic) for topic in subscriber.topics):
                self._refuse(subscriber.fd, subscriber.address, caller, "its grant was withdrawn")
            elif any(self._may_subscribe(caller, topic) for topic in subscriber.refused):
                connections.mark_for_closing(subscriber.fd, subscriber.address, "it was granted another topic")
        self._wanted = tuple({topic for subscriber in self._subscribers.values() for topic in subscriber.topics})
