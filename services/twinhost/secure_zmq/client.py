"""The blocking clients: `Client` calls actions, `Subscriber` receives an event feed on a thread of its own.

A client has typed errors, and one request_id through every retry. A change of keys on either side is one more reason to
retry: both reconnect with the keys that are valid then. `link` decides when to reconnect and when to give up,
`exchange` keeps the requests in flight; this module does the input and output.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

import zmq

from twinhost.secure_zmq.errors import ConnectionRefused, RequestError
from twinhost.secure_zmq.framing.exchange import DEFAULT_DEADLINE_S as DEFAULT_DEADLINE_S  # noqa: PLC0414 - exported
from twinhost.secure_zmq.framing.exchange import (
    Asked,
    Exchange,
    closed,
    deadline_of,
    new_request_id,
    request_ids,
    require_in_flight,
    successful,
)
from twinhost.secure_zmq.link import Link, Step, described
from twinhost.secure_zmq.monitor import SocketEvent
from twinhost.secure_zmq.server_address import ServerAddress, open_connection
from twinhost.secure_zmq.sockets import DONTWAIT, ClientSocket, client_context
from twinhost.secure_zmq.wire import Reply
from twinhost.worker import Waker, Worker

DEFAULT_MAX_PAYLOAD_BYTES = 4 * 1024 * 1024
DEFAULT_IN_FLIGHT = 64
CHANGES_IN_FLIGHT = 16  # of requests that take the agent long: as quick as with more, and its other clients wait less
_SEND_EVERY_S = 0.001  # while requests are read from an iterator
_SLICE_MS = 20  # how long to wait before the link is checked again
MAX_EVENT_BYTES = 64 * 1024
MAX_WAITING = 1_000  # events that are queued for the reader; beyond this the oldest is dropped
_FEED_LOOK_MS = 2_000  # how soon a change of keys is detected; events, a refusal, and a stop wake the thread
_FEED_RETRY_S = 0.1  # after a refusal, at least
_STALLED_AFTER_S = 5.0


class Client:
    """Calls the actions of one server; not to be shared between threads, except that any thread may close it.

    >>> with twinhost.connect("SystemDigitalTwin") as client:
    ...     client.call("ping")["message"]
    'pong'
    """

    _agent_name: ClassVar[str] = ""  # of which the methods are, in a class for one agent

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._link = Link(server)
        self._max_payload_bytes = max_payload_bytes
        self._exchange = Exchange(self._link, max_payload_bytes)
        self._connection: ClientSocket | None = None
        self._closing = False  # no Event: a signal handler that closes may have interrupted one that holds its lock
        self._lock = threading.RLock()  # of the connection: a socket must not be closed while another thread is in it
        self._dropping = False  # whether a thread is to close it
        self._used = False

    def call(
        self, action: str, /, *, deadline_s: float | None = None, request_id: str | None = None, **fields: Any
    ) -> Reply:
        """Return the reply to one action.

        Args:
            action: its name, as in the server's table.
            deadline_s: seconds until ServerUnreachable, more than 0; lost connections are retried within it. By
                default 5, or 30 where the agent has a standby, which may have to take over; and those of `wait_s` too
                where the request has it: the agent may wait for so long.
            request_id: only to repeat an earlier call; the default is a fresh one.
            fields: the action's fields.

        Raises:
            NotAuthorized, WrongServerKey, SecurityMismatch: at once, when the handshake shows it; where the server
                or this client has changed its key, only after the keys that are valid now were tried.
            ServerUnreachable: after `deadline_s`.
            RequestError: the server answered with an error.
            ValueError: `deadline_s` is not a number above 0.

        >>> system.call("get_agent_endpoint", agent_name="SystemDigitalTwin", deadline_s=2)["host"]
        '127.0.0.1'
        """
        asked = self._ask_for(action, fields, request_id or new_request_id(), deadline_s)
        try:
            return successful(self._reply_to(asked))
        finally:
            self._exchange.forget(asked)

    def map(
        self,
        requests: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        deadline_s: float | None = None,
        return_exceptions: bool = False,
        request_id: str | None = None,
    ) -> Iterator[Reply | RequestError]:
        """Yield the replies to many requests in their order, with several in flight; `call` works in between.

        A mutating request is executed once, however often the connection is lost. Requests in flight may be executed
        in another order, and after an error some that follow it have been executed.

        Args:
            requests: pairs of an action and its fields; read as replies are taken, at most `in_flight` ahead.
            in_flight: 1 to 256; with more in a frame, each costs less.
            deadline_s: seconds for each request, from when it is read; by default as of `call`.
            return_exceptions: yield the error of a request in its place, instead of raising it.
            request_id: to repeat all of them later, with the same one: the n-th request's is this, a hyphen, and n.

        Raises:
            ValueError: `in_flight` or `deadline_s` is out of range.
            ConnectionRefused, ServerUnreachable: as of `call`; what follows is not yielded.
            RequestError: the server answered with an error, or a request can't be encoded.

        >>> notes = ("The oak is old.", "The birch is young.")
        >>> [reply["status"] for reply in memory.map(("store_memory", {"content": note}) for note in notes)]
        ['ok', 'ok']
        """
        require_in_flight(in_flight)
        deadline_of(deadline_s)
        pairs = zip(requests, request_ids(request_id), strict=False)
        return self._map(pairs, in_flight, deadline_s, return_exceptions)

    @property
    def address(self) -> str:
        """Where the server is, such as `tcp://192.0.2.17:7230`."""
        return self._link.address

    @property
    def identity(self) -> str:
        """The name in this program's key, which the agent records as the writer."""
        return self._link.identity

    def close(self) -> None:
        """Close the connection, as the end of a `with` block does; from any thread, or from a signal handler.

        A call that waits meanwhile ends with ConnectionRefused.
        """
        self._closing = True
        with self._lock:  # the thread that uses the connection has left it, at most _SLICE_MS later
            if not self._used:  # else this is a signal handler, and the interrupted use closes the connection
                self._drop()

    def __repr__(self) -> str:
        return described(self, self._agent_name, self._link)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _map(
        self,
        requests: Iterator[tuple[tuple[str, Mapping[str, Any]], str]],
        in_flight: int,
        deadline_s: float | None,
        return_exceptions: bool,
    ) -> Iterator[Reply | RequestError]:
        waiting: deque[Asked | Exception] = deque()
        ended = False
        try:
            while True:
                if not ended and len(waiting) <= in_flight // 2:  # the server answers one half while the other is read
                    ended = self._ask_more(requests, waiting, in_flight, deadline_s)
                if not waiting:
                    return
                try:
                    result: Reply | RequestError = self._result_of(waiting[0])
                except RequestError as error:
                    if not return_exceptions:
                        raise
                    result = error
                self._forget(waiting.popleft())
                yield result
        finally:
            for asked in waiting:
                self._forget(asked)

    def _ask_more(
        self,
        requests: Iterator[tuple[tuple[str, Mapping[str, Any]], str]],
        waiting: "deque[Asked | Exception]",
        in_flight: int,
        deadline_s: float | None,
    ) -> bool:
        """Read requests until the window is full, and send them; return whether there are no more."""
        ended, sent_at = False, time.monotonic()
        while len(waiting) < in_flight and not ended:
            try:
                (action, fields), request_id = next(requests)
                waiting.append(asked := self._ask_for(action, fields, request_id, deadline_s))
                if asked.asked_at - sent_at > _SEND_EVERY_S:
                    self._send()
                    sent_at = asked.asked_at
            except StopIteration:
                ended = True
            except RequestError as error:
                waiting.append(error)
            except Exception as error:  # noqa: BLE001 - of the caller's iterator: raised in its place
                waiting.append(error)
                ended = True
        self._send()
        return ended

    def _ask_for(self, action: str, fields: Mapping[str, Any], request_id: str, deadline_s: float | None) -> Asked:
        """Add a request to those in flight."""
        return self._exchange.ask(action, fields, request_id, deadline_s)

    def _send(self) -> None:
        self._begin_use()
        try:
            if self._connection is not None and (session := self._link.session):
                self._exchange.send(session, self._connection.send)
        finally:
            self._end_use()

    def _result_of(self, asked: Asked | Exception) -> Reply:
        if isinstance(asked, Exception):
            raise asked
        return successful(asked.reply or self._reply_to(asked))

    def _forget(self, asked: Asked | Exception) -> None:
        if isinstance(asked, Asked):
            self._exchange.forget(asked)

    def _reply_to(self, asked: Asked) -> Reply:
        """Return the reply to one request in flight; those to others are kept for whoever waits for them."""
        self._begin_use()
        try:
            return self._receive_reply_to(asked)
        finally:
            self._end_use()

    def _receive_reply_to(self, asked: Asked) -> Reply:
        link, exchange = self._link, self._exchange
        if self._connection is None:
            self._back_off(min(link.backoff_s(), asked.deadline_s))
        while asked.reply is None:
            if self._closing:
                raise closed()
            connection = self._connection or self._connect()
            session = link.session or link.wait_for_session(_SLICE_MS / 1_000)
            if session:
                exchange.send(session, connection.send)
            if exchange.unanswered:
                self._receive(connection)
                if asked.reply is not None:
                    break
            now = time.monotonic()
            self._drop_if_unusable(now, exchange.due_since, expired=now >= asked.deadline)
            if now >= asked.deadline:
                raise link.timed_out(asked.action, asked.deadline_s, asked.request_id)
        return asked.reply

    def _drop_if_unusable(self, now: float, waiting_since: float | None, *, expired: bool) -> None:
        """Close the connection if it is no longer usable."""
        try:
            step = self._link.step(now, waiting_since)
        except ConnectionRefused:
            self._drop()
            raise
        unanswered = expired and self._link.had_session  # the session may be dead without an event
        if step is Step.RECONNECT or unanswered:
            self._drop()

    def _back_off(self, seconds: float) -> None:
        """Wait so long, or until the client is closed."""
        ends = time.monotonic() + seconds
        while not self._closing and (left_s := ends - time.monotonic()) > 0:
            time.sleep(min(left_s, _SLICE_MS / 1_000))

    def _connect(self) -> ClientSocket:
        target = self._link.next_target()
        self._connection = open_connection(target, client_context(), self._observe, self._max_payload_bytes)
        self._connection.socket.rcvtimeo = _SLICE_MS
        return self._connection

    def _observe(self, event: SocketEvent) -> None:
        """Take an event, on the monitor's thread, which can't close its own socket."""
        self._link.feed(event)
        if self._link.hopeless and not self._dropping:
            self._dropping = True
            threading.Thread(target=self._drop_hopeless, name="refused-connection", daemon=True).start()

    def _drop_hopeless(self) -> None:
        """Close a connection that libzmq would try again several times a second, if no call has done so."""
        with self._lock:
            self._dropping = False
            if self._link.hopeless:
                self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _begin_use(self) -> None:
        self._lock.acquire()
        self._used = True

    def _end_use(self) -> None:
        self._used = False
        try:
            if self._closing:
                self._drop()
        finally:
            self._lock.release()

    def _receive(self, connection: ClientSocket) -> None:
        """Take what has arrived; wait for it a moment if that is nothing."""
        exchange, receive = self._exchange, connection.socket.recv
        try:
            while time.monotonic() < exchange.look_until:  # without sleeping: a wake-up adds half of a reply's latency
                if connection.readable:
                    exchange.take(receive(DONTWAIT))
                    break
            else:
                exchange.take(receive())
            while exchange.unanswered and connection.readable:
                exchange.take(receive(DONTWAIT))
        except zmq.Again:
            pass


def require_session(server: ServerAddress, deadline_s: float) -> None:
    """Connect and send nothing: the server proves its key and accepts ours, whatever it can answer.

    Raises:
        NotAuthorized, WrongServerKey, SecurityMismatch, ServerUnreachable: as of `Client.call`.
    """
    link, deadline = Link(server), time.monotonic() + deadline_s
    while True:
        connection = open_connection(link.next_target(), client_context(), link.feed, DEFAULT_MAX_PAYLOAD_BYTES)
        try:
            step = Step.KEEP
            while step is Step.KEEP:
                if link.wait_for_session(_SLICE_MS / 1_000):
                    return
                if (now := time.monotonic()) >= deadline:
                    raise link.timed_out("the handshake", deadline_s)
                step = link.step(now)
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event as it was received: its topic, and a JSON object."""

    topic: bytes
    payload: bytes


class Subscriber(Worker):
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
        super().__init__("feed-subscriber", self._follow, stalled_after_s=_STALLED_AFTER_S)
        self.dropped = 0  # events that were not read in time
        self.fault: ConnectionRefused | None = None  # why there is no connection, if known
        self._link = Link(server)
        self._topics = tuple(topics)
        self._on_event = on_event
        self._max_payload_bytes = max_payload_bytes
        self._events: deque[FeedEvent] = deque()
        self._arrived = threading.Condition()
        self._waker = Waker()

    @property
    def connected(self) -> bool:
        """Whether there is a session with the feed, as libzmq reports it: that may be after the first event."""
        return self.alive and self._link.diagnosis.connected

    @property
    def session(self) -> int:
        """The number of the session that there is, which no other has; 0 where not `connected`."""
        return self._link.sessions if self.connected else 0

    def get(self, timeout_s: float | None = None) -> FeedEvent | None:
        """Return the next event; None where none came in time, or the subscriber is stopped."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._events or self.stopping, timeout_s)
            return self._events.popleft() if self._events else None

    def __iter__(self) -> Iterator[FeedEvent]:
        """Yield events until `stop()`."""
        while (event := self.get()) is not None:
            yield event

    def _follow(self) -> None:
        wait_s = 0.0
        while not self.wait(wait_s):
            wait_s = 0.0
            try:
                self._listen()
            except ConnectionRefused as error:
                self.fault = error
                wait_s = max(_FEED_RETRY_S, self._link.backoff_s())

    def _listen(self) -> None:
        """Receive events from one connection until it is no longer usable.

        Raises:
            ConnectionRefused: a retry would fail in the same way.
        """
        link = self._link
        self.beat()
        connection = open_connection(
            link.next_target(), client_context(), self._observe, self._max_payload_bytes, zmq.SUB
        )
        poller = zmq.Poller()
        poller.register(connection.socket, zmq.POLLIN)
        poller.register(self._waker.fd, zmq.POLLIN)
        try:
            for topic in self._topics:
                connection.socket.subscribe(topic)
            while not self.stopping and link.step(now := self.beat()) is Step.KEEP:
                if link.diagnosis.connected:
                    self.fault = None
                    link.worked()
                try:
                    frames = connection.socket.recv_multipart(DONTWAIT)
                except zmq.Again:
                    leave_ms = _FEED_LOOK_MS if link.leave_at is None else 1 + int(1_000 * (link.leave_at - now))
                    poller.poll(min(_FEED_LOOK_MS, leave_ms))
                    self._waker.clear()
                    continue
                self._take(frames)
        finally:
            connection.close()

    def _interrupt(self) -> None:
        """Wake the thread, and a reader that waits for an event: it gets None."""
        self._waker.wake()
        with self._arrived:
            self._arrived.notify_all()

    def _observe(self, event: SocketEvent) -> None:
        self._link.feed(event)
        self._waker.wake()

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
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
