"""The blocking clients: `Client` calls actions, `Subscriber` receives an event feed on a thread of its own.

A client has one request at a time, typed errors, and one request_id through every retry. A change of keys on either
side is one more reason to retry: both reconnect with the keys that are valid then. `link` decides when to reconnect and
when to give up; this module does the input and output.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import zmq

from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, error_from_reply
from twinhost.secure_zmq.link import Link, Step
from twinhost.secure_zmq.server_address import ServerAddress, open_connection
from twinhost.secure_zmq.sockets import ClientSocket
from twinhost.secure_zmq.wire import Reply, decode_reply, encode_request

DEFAULT_DEADLINE_S = 5.0
DEFAULT_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
SPIN_S = 0.000_1  # how long to poll before sleeping: about the latency of a reply
DONTWAIT = int(zmq.NOBLOCK)  # a plain number, as in `sockets`
_SLICE_MS = 20  # how long to wait before the link is checked again
MAX_EVENT_BYTES = 64 * 1024
MAX_WAITING = 1_000  # events that are queued for the reader; beyond this the oldest is dropped
_FEED_SLICE_MS = 100  # how soon a stop, a change of keys, or a refusal is detected
_STALLED_AFTER_S = 5.0


def new_request_id() -> str:
    """Return an id that no other request has."""
    return os.urandom(16).hex()


def successful(reply: Reply) -> Reply:
    """Return a reply that is not an error; raise the typed error of one that is."""
    if reply.get("status") == "error" and "code" in reply:
        raise error_from_reply(str(reply["code"]), str(reply.get("error", "no reason given")), reply)
    return reply


class Client:
    """Calls the actions of one server; not to be shared between threads."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._link = Link(server)
        self._max_payload_bytes = max_payload_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: ClientSocket | None = None

    def call(
        self, action: str, /, *, deadline_s: float = DEFAULT_DEADLINE_S, request_id: str | None = None, **fields: Any
    ) -> Reply:
        """Return the reply to one action.

        Args:
            action: its name, as in the server's table.
            deadline_s: seconds until ServerUnreachable; lost connections are retried within it.
            request_id: only to repeat an earlier call; the default is a fresh one.
            fields: the action's fields.

        Raises:
            NotAuthorized, WrongServerKey, SecurityMismatch: at once, when the handshake shows it; where the server
                or this client has changed its key, only after the keys that are valid now were tried.
            ServerUnreachable: after `deadline_s`.
            RequestError: the server answered with an error.
        """
        request_id = request_id or new_request_id()
        payload = encode_request(action, fields, request_id, self._max_payload_bytes)
        return successful(self._exchange(action, request_id, payload, deadline_s))

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        self._context.term()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, action: str, request_id: str, payload: bytes, deadline_s: float) -> Reply:
        link, sent_in, waiting_since = self._link, 0, time.monotonic()
        deadline = waiting_since + deadline_s
        if self._connection is None:
            time.sleep(max(0.0, min(link.backoff_s(), deadline_s)))
        while True:
            connection = self._connection or self._connect()
            session = link.session or link.wait_for_session(_SLICE_MS / 1_000)
            if session and session != sent_in and self._send(connection, payload):
                sent_in, waiting_since = session, time.monotonic()
            if sent_in and (reply := self._receive(connection, request_id)) is not None and link.accepts(reply):
                return reply
            now = time.monotonic()
            if self._drop_if_unusable(now, waiting_since, expired=now >= deadline):
                sent_in, waiting_since = 0, now
            if now >= deadline:
                raise link.diagnosis.timed_out(action, deadline_s)

    def _drop_if_unusable(self, now: float, waiting_since: float, *, expired: bool) -> bool:
        """Close the connection if it is no longer usable; return whether it was closed."""
        try:
            step = self._link.step(now, waiting_since)
        except ConnectionRefused:
            self._drop()
            raise
        unanswered = expired and self._link.had_session  # the session may be dead without an event
        if step is Step.RECONNECT or unanswered:
            self._drop()
            return True
        return False

    def _connect(self) -> ClientSocket:
        target = self._link.next_target()
        self._connection = open_connection(target, self._context, self._link.feed, self._max_payload_bytes)
        self._connection.socket.rcvtimeo = _SLICE_MS
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @staticmethod
    def _send(connection: ClientSocket, payload: bytes) -> bool:
        try:
            connection.send(payload, DONTWAIT)
        except zmq.Again:  # no session yet
            return False
        return True

    @staticmethod
    def _receive(connection: ClientSocket, request_id: str) -> Reply | None:
        """Return the reply to this request; one to an earlier request came too late and is dropped."""
        try:
            payload = _spin(connection) or connection.socket.recv()
        except zmq.Again:
            return None
        reply = decode_reply(payload)
        answered = reply.get("request_id")
        if answered is None and reply.get("status") == "error":
            raise MalformedRequest(f"the server could not read the request: {reply.get('error')}")
        return reply if answered == request_id else None


def _spin(connection: ClientSocket) -> bytes | None:
    """Poll for a reply without sleeping: a wake-up adds half of a reply's latency."""
    until = time.perf_counter() + SPIN_S
    while time.perf_counter() < until:
        if connection.readable:
            return connection.socket.recv(DONTWAIT)
    return None


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
        self.dropped = 0  # events that were not read in time
        self.malformed = 0  # messages that were not two frames
        self.fault: ConnectionRefused | None = None  # why there is no connection, if known
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
                    wait_s = max(_FEED_SLICE_MS / 1_000, self._link.backoff_s())
        finally:
            context.term()

    def _listen(self, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """Receive events from one connection until it is no longer usable.

        Raises:
            ConnectionRefused: a retry would fail in the same way.
        """
        link = self._link
        self._looped_at = time.monotonic()
        connection = open_connection(link.next_target(), context, link.feed, self._max_payload_bytes, zmq.SUB)
        try:
            connection.socket.rcvtimeo = _FEED_SLICE_MS
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
