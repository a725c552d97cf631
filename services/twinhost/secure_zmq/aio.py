"""The asyncio client: many requests in flight on one connection, with the guarantees of the blocking client.

A plain DEALER whose file descriptor the event loop watches. That descriptor is edge-triggered, so it is drained to
EAGAIN, and checked again after every send.
"""

import asyncio
import contextlib
import math
import time
from types import TracebackType
from typing import Any, ClassVar, Self

import zmq

from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES
from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, TwinhostError
from twinhost.secure_zmq.framing.exchange import Asked, Exchange, closed, new_request_id, successful
from twinhost.secure_zmq.framing.forms import MAX_SENT_PARTS
from twinhost.secure_zmq.link import SILENT_AFTER_S, Link, Step, described
from twinhost.secure_zmq.monitor import SocketEvent
from twinhost.secure_zmq.server_address import ServerAddress, open_connection
from twinhost.secure_zmq.sockets import DONTWAIT, ClientSocket, client_context
from twinhost.secure_zmq.wire import Reply

_SENT_EARLY = MAX_SENT_PARTS // 2  # so many calls of one iteration are sent, and answered while the others are asked
_DEADLINES_EVERY_S = 0.02  # how soon after each other deadlines are looked at


class AsyncClient:
    """Calls the actions of one server from one event loop.

    >>> async with twinhost.connect_async("SystemDigitalTwin") as client:
    ...     (await client.call("ping"))["message"]
    'pong'
    """

    _agent_name: ClassVar[str] = ""  # as in `Client`

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._link = Link(server)
        self._max_payload_bytes = max_payload_bytes
        self._exchange = Exchange(self._link, max_payload_bytes)
        self._connection: ClientSocket | None = None
        self._deadline: asyncio.TimerHandle | None = None  # when the first of those in flight ends, or before
        self._deadline_at = math.inf  # by the monotonic clock
        self._check: asyncio.TimerHandle | None = None  # of the link, while anything is in flight
        self._retry: asyncio.TimerHandle | None = None  # after a refusal, when the link will connect again
        self._flushing: asyncio.Handle | None = None  # of what was asked in this iteration of the loop, or in a backoff
        self._looking = False  # a drain is due in the loop's next iteration
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # of the calls

    async def call(
        self, action: str, /, *, deadline_s: float | None = None, request_id: str | None = None, **fields: Any
    ) -> Reply:
        """Return the reply to one action; arguments and errors are those of `Client.call`.

        Calls that begin in one iteration of the event loop may travel in one frame; one that is alone is sent at once.

        >>> async with twinhost.connect_async("UnifiedMemoryReasoningAgent") as client:
        ...     both = await asyncio.gather(client.call("ping"), client.call("memory_status"))
        >>> [reply["status"] for reply in both]
        ['ok', 'ok']
        """
        if self._closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        asked = self._exchange.ask(action, fields, request_id or new_request_id(), deadline_s)
        asked.future = loop.create_future()
        if asked.deadline < self._deadline_at:
            self._wait_for_deadline(asked.deadline, asked.deadline_s)
        try:
            if self._flushing is None:
                if self._connection is not None and len(self._exchange.asked) == 1:  # no other call may join it
                    self._flush()
                else:
                    self._flushing = loop.call_soon(self._flush)
            elif self._exchange.unsent == _SENT_EARLY:
                self._send()
            return successful(await asked.future)
        finally:
            self._exchange.forget(asked)

    @property
    def address(self) -> str:
        """Where the server is, such as `tcp://192.0.2.17:7230`."""
        return self._link.address

    @property
    def identity(self) -> str:
        """The name in this program's key, which the agent records as the writer."""
        return self._link.identity

    def close(self) -> None:
        """Close the connection; calls in flight end with ConnectionRefused."""
        self._closed = True
        self._fail_all(
            ConnectionRefused("the client was closed while the call was in flight; repeat it on a new client")
        )
        self._drop()
        for handle in (self._flushing, self._deadline):
            if handle is not None:
                handle.cancel()

    def __repr__(self) -> str:
        return described(self, self._agent_name, self._link)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leave another event loop, which has ended: what was scheduled there will not run."""
        self._loop = loop
        self._flushing = self._check = self._deadline = None
        self._deadline_at = math.inf
        self._looking = False
        for asked in list(self._exchange.asked.values()):
            self._exchange.forget(asked)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _flush(self) -> None:
        """Send what was asked; connect first where there is no connection, after the link's backoff."""
        self._flushing = None
        loop = asyncio.get_running_loop()
        if not self._exchange.asked:
            return
        if self._check is None:
            self._check = loop.call_later(SILENT_AFTER_S, self._check_link)
        if self._connection is None:
            if (backoff_s := self._link.backoff_s()) > 0:
                self._flushing = loop.call_later(backoff_s, self._reconnect)
                return
            self._reconnect()
        if self._link.retry_at is not None:
            self._follow_link()
        else:
            self._send()

    def _send(self) -> None:
        """Send what waits, where there is a session for it."""
        if self._connection is None:
            return
        session = self._link.session
        if not session:
            if self._link.withdrawn():
                self._reconnect()
            return
        if not self._exchange.send(session, self._connection.send) or self._looking:
            return
        if self._exchange.look_until or self._connection.readable:  # no other edge comes for it
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _open(self) -> None:
        loop = asyncio.get_running_loop()

        def on_event(event: SocketEvent) -> None:  # on the monitor's thread
            self._link.feed(event)
            with contextlib.suppress(RuntimeError):  # the loop is closed: no call waits
                loop.call_soon_threadsafe(self._follow_link)

        target = self._link.next_target()
        self._connection = open_connection(target, client_context(), on_event, self._max_payload_bytes)
        loop.add_reader(self._connection.fd, self._drain)
        self._follow_link()  # no event may come of an address at which nothing answers

    def _follow_link(self, waiting_since: float | None = None) -> None:
        """Do what the link decides; on the loop, after an event of the monitor, and while replies are due."""
        if self._connection is None:
            return
        now = time.monotonic()
        try:
            step = self._link.step(now, waiting_since)
        except ConnectionRefused as error:
            self._fail_all(error)
            self._drop()
            return
        if step is Step.RECONNECT:
            if self._exchange.asked or self._link.retry_at is None:  # else the next call does it, without another wait
                self._reconnect()
            return
        look_at = self._link.leave_at if self._link.retry_at is None else self._link.retry_at
        if look_at is not None and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(look_at - now, self._try_again)
        self._send()

    def _try_again(self) -> None:
        self._retry = None
        self._follow_link()

    def _check_link(self) -> None:
        """Detect that replies are overdue, or that keys were changed."""
        self._check = None
        if not self._exchange.asked:
            return
        now = time.monotonic()
        due_since = self._exchange.due_since
        self._follow_link(due_since)
        wait_s = SILENT_AFTER_S if due_since is None else due_since + SILENT_AFTER_S - now
        wait_s = wait_s if wait_s > 0 else SILENT_AFTER_S
        self._check = asyncio.get_running_loop().call_later(wait_s, self._check_link)

    def _reconnect(self) -> None:
        """Open another connection, to the target and with the keys that are valid now, for what is in flight."""
        self._flushing = None
        self._drop()
        if self._exchange.asked and not self._closed:
            try:
                self._open()
            except TwinhostError as error:
                self._fail_all(error)

    def _drop(self) -> None:
        if self._check is not None and not self._exchange.asked:
            self._check.cancel()
            self._check = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fd)
            self._connection.close()
            self._connection = None

    def _wait_for_deadline(self, deadline: float, wait_s: float) -> None:
        """Have the deadlines looked at: one timer for all calls, since most of them are answered long before."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline_at = deadline
        self._deadline = asyncio.get_running_loop().call_later(wait_s, self._time_out)

    def _time_out(self) -> None:
        """End the calls whose deadline has passed, and wait for the next one."""
        self._deadline, self._deadline_at = None, math.inf
        now = time.monotonic()
        waiting = [asked for asked in self._exchange.asked.values() if asked.reply is None]
        for asked in waiting:
            if asked.deadline <= now:
                self._end(asked, self._link.timed_out(asked.action, asked.deadline_s, asked.request_id))
        first = min((asked.deadline for asked in waiting if asked.deadline > now), default=math.inf)
        if first < math.inf:
            self._wait_for_deadline(first, max(first - now, _DEADLINES_EVERY_S))

    def _look(self) -> None:
        """Drain in every iteration of the loop until a reply should have arrived: a wake-up costs more."""
        self._looking = False
        self._drain()  # and send, after which it looks again
        if not self._looking and self._exchange.unanswered and time.monotonic() < self._exchange.look_until:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _drain(self) -> None:
        if self._connection is None or not self._connection.readable:
            return
        while self._connection is not None:
            try:
                answered = self._exchange.take(self._connection.socket.recv(DONTWAIT))
            except zmq.Again:
                break
            except MalformedRequest as error:  # it can't be matched to a request
                self._deliver(list(self._exchange.asked.values()))
                self._fail_all(error)
                continue
            self._deliver(answered)
            if not answered and self._link.withdrawn():
                self._reconnect()
            if not self._exchange.unanswered:  # no reply is due; the next send drains again
                break
        if self._exchange.unanswered or self._exchange.unsent:
            self._send()

    @staticmethod
    def _deliver(answered: list[Asked]) -> None:
        for asked in answered:
            if asked.future is not None and asked.reply is not None and not asked.future.done():
                asked.future.set_result(asked.reply)

    @staticmethod
    def _end(asked: Asked, error: TwinhostError) -> None:
        if asked.future is not None and not asked.future.done():
            asked.future.set_exception(error)

    def _fail_all(self, error: TwinhostError) -> None:
        for asked in self._exchange.asked.values():
            self._end(asked, type(error)(str(error)))
