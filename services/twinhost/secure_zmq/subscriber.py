"""A subscriber of an event feed: a thread of its own that reconnects, and a bounded queue in front of the reader."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zmq

from twinhost.secure_zmq.client import back_off_s
from twinhost.secure_zmq.errors import ConnectionRefused
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, Target, TargetChoice
from twinhost.secure_zmq.sockets import (
    ClientSocket,
    EventCallback,
    open_subscriber_socket,
    open_unencrypted_subscriber_socket,
)

MAX_EVENT_BYTES = 64 * 1024
MAX_WAITING = 1_000  # events that nobody has read yet; beyond it the oldest goes
_SLICE_MS = 100  # how soon a stop, a change of keys, or a verdict is noticed
_STALLED_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event as it came: its topic, and a JSON object."""

    topic: bytes
    payload: bytes


class Subscriber:
    """Hears one feed: as an iterator, by `get()`, or by a callback on its own thread."""

    def __init__(
        self,
        server: ServerAddress,
        topics: Sequence[bytes],
        on_event: Callable[[FeedEvent], None] | None = None,
        *,
        max_payload_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """Connect with `start()`.

        Args:
            server: where the feed is, and the keys of both sides; where they change, the subscriber moves by itself.
            topics: the prefixes that are subscribed to.
            on_event: called on the subscriber's thread instead of queueing; it must not raise.
            max_payload_bytes: an event that is larger ends the connection.
        """
        self.dropped = 0  # nobody read them in time
        self.malformed = 0  # they were not two frames
        self.fault: ConnectionRefused | None = None  # why there is no connection, where that is known
        self._server = server
        self._topics = tuple(topics)
        self._on_event = on_event
        self._max_payload_bytes = max_payload_bytes
        self._events: deque[FeedEvent] = deque()
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._turned_at = time.monotonic()
        self._connected: Callable[[], bool] = lambda: False
        self._thread = threading.Thread(target=self._follow, name="feed-subscriber", daemon=True)

    @property
    def responsive(self) -> bool:
        """Whether the thread is alive and has turned within the last 5 s."""
        return self._thread.is_alive() and time.monotonic() - self._turned_at < _STALLED_AFTER_S

    @property
    def connected(self) -> bool:
        """Whether there is a session with the feed at this moment."""
        return self._connected()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; whoever waits for an event gets None."""
        self._stop.set()
        with self._arrived:
            self._arrived.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def get(self, timeout_s: float | None = None) -> FeedEvent | None:
        """Return the next event; None where none came in time, or the subscriber was stopped."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._events or self._stop.is_set(), timeout_s)
            return self._events.popleft() if self._events else None

    def __iter__(self) -> Iterator[FeedEvent]:
        """Yield events until `stop()`."""
        while (event := self.get()) is not None:
            yield event

    def _follow(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        choice, failures = TargetChoice(self._server), 0
        try:
            while not self._stop.wait(back_off_s(failures)):
                self._turned_at = time.monotonic()
                try:
                    self._listen(context, choice)
                    failures = 0
                except ConnectionRefused as error:
                    self.fault = error
                    failures += 1
        finally:
            self._connected = lambda: False
            context.term()

    def _listen(self, context: "zmq.Context[zmq.Socket[bytes]]", choice: TargetChoice) -> None:
        """Follow one socket until it is of no use any more.

        Raises:
            ConnectionRefused: further waiting would not change it.
        """
        target, diagnosis = choice.choose()
        connection = _open(target, context, self._max_payload_bytes, diagnosis.feed)
        self._connected = lambda: diagnosis.connected
        try:
            connection.socket.rcvtimeo = _SLICE_MS
            for topic in self._topics:
                connection.socket.subscribe(topic)
            while not (self._stop.is_set() or choice.withdrawn()):
                self._turned_at = time.monotonic()
                if diagnosis.connected:
                    self.fault = None
                    choice.worked()
                elif diagnosis.verdict() is not None:
                    if (error := choice.final(diagnosis)) is not None:
                        raise error
                    return
                try:
                    frames = connection.socket.recv_multipart()
                except zmq.Again:
                    continue
                self._take(frames)
        finally:
            connection.close()

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
            self.malformed += 1
            return
        event = FeedEvent(*frames)
        if self._on_event is not None:
            self._on_event(event)
            return
        with self._arrived:
            if len(self._events) >= MAX_WAITING:
                self._events.popleft()
                self.dropped += 1
            self._events.append(event)
            self._arrived.notify()


def _open(
    target: Target, context: "zmq.Context[zmq.Socket[bytes]]", max_payload_bytes: int, on_event: EventCallback
) -> ClientSocket:
    if isinstance(target, SecuredAddress):
        return open_subscriber_socket(
            context, target.own_keys, target.server_key, target.address, max_payload_bytes, on_event
        )
    return open_unencrypted_subscriber_socket(context, target.address, max_payload_bytes, on_event)
