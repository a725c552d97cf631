"""A subscriber of an event feed: a thread that reconnects, and a bounded queue for the reader."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zmq

from twinhost.secure_zmq.errors import ConnectionRefused
from twinhost.secure_zmq.link import Link, Step
from twinhost.secure_zmq.server_address import ServerAddress, open_connection

MAX_EVENT_BYTES = 64 * 1024
MAX_WAITING = 1_000  # events that nobody has read yet; beyond it the oldest is dropped
_SLICE_MS = 100  # how soon a stop, a change of keys, or a refusal is noticed
_STALLED_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event as it was received: its topic, and a JSON object."""

    topic: bytes
    payload: bytes


class Subscriber:
    """Receives one feed: as an iterator, by `get()`, or by a callback on its own thread."""

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
            server: where the feed is, and the keys of both sides; when they change, the subscriber reconnects.
            topics: the prefixes to subscribe to.
            on_event: called on the subscriber's thread, in place of the queue; it must not raise.
            max_payload_bytes: an event that is larger ends the connection.
        """
        self.dropped = 0  # nobody read them in time
        self.malformed = 0  # they were not two frames
        self.fault: ConnectionRefused | None = None  # why there is no connection, if that is known
        self._link = Link(server)
        self._topics = tuple(topics)
        self._on_event = on_event
        self._max_payload_bytes = max_payload_bytes
        self._events: deque[FeedEvent] = deque()
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._looped_at = time.monotonic()
        self._thread = threading.Thread(target=self._follow, name="feed-subscriber", daemon=True)

    @property
    def responsive(self) -> bool:
        """Whether the thread is alive and its loop has run within the last 5 s."""
        return self._thread.is_alive() and time.monotonic() - self._looped_at < _STALLED_AFTER_S

    @property
    def connected(self) -> bool:
        """Whether there is a session with the feed at this moment."""
        return self._thread.is_alive() and self._link.diagnosis.connected

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a reader that waits for an event gets None."""
        self._stop.set()
        with self._arrived:
            self._arrived.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def get(self, timeout_s: float | None = None) -> FeedEvent | None:
        """Return the next event; None where none came in time, or the subscriber is stopped."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._events or self._stop.is_set(), timeout_s)
            return self._events.popleft() if self._events else None

    def __iter__(self) -> Iterator[FeedEvent]:
        """Yield events until `stop()`."""
        while (event := self.get()) is not None:
            yield event

    def _follow(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        wait_s = 0.0
        try:
            while not self._stop.wait(wait_s):
                wait_s = 0.0
                try:
                    self._listen(context)
                except ConnectionRefused as error:
                    self.fault = error
                    wait_s = max(_SLICE_MS / 1_000, self._link.backoff_s())
        finally:
            context.term()

    def _listen(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """Receive events from one connection until it is of no more use.

        Raises:
            ConnectionRefused: no other attempt would change it.
        """
        link = self._link
        self._looped_at = time.monotonic()
        connection = open_connection(link.next_target(), context, link.feed, self._max_payload_bytes, zmq.SUB)
        try:
            connection.socket.rcvtimeo = _SLICE_MS
            for topic in self._topics:
                connection.socket.subscribe(topic)
            while not self._stop.is_set() and link.step(time.monotonic()) is Step.KEEP:
                self._looped_at = time.monotonic()
                if link.diagnosis.connected:
                    self.fault = None
                    link.worked()
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
