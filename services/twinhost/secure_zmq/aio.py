"""The asyncio client: many requests in flight on one connection, with the guarantees of the blocking client.

A plain DEALER whose file descriptor the event loop watches. That descriptor is edge-triggered, so it is drained to
EAGAIN, and again after every send.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import zmq

from twinhost.secure_zmq.client import (
    DEFAULT_DEADLINE_S,
    DEFAULT_MAX_PAYLOAD_BYTES,
    DONTWAIT,
    SPIN_S,
    new_request_id,
    successful,
)
from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, TwinhostError
from twinhost.secure_zmq.link import SILENT_AFTER_S, Link, Step
from twinhost.secure_zmq.monitor import SocketEvent
from twinhost.secure_zmq.server_address import ServerAddress, open_connection
from twinhost.secure_zmq.sockets import ClientSocket
from twinhost.secure_zmq.wire import Reply, decode_reply, encode_request

MAX_UNANSWERED = 256  # requests of a session; half of the replies that a server keeps for a peer before it drops one


@dataclass(slots=True)
class _Pending:
    payload: bytes
    future: asyncio.Future[Reply]
    asked_at: float  # by the loop's clock
    sent_in: int = 0  # the session's number; 0 is not sent yet


class AsyncClient:
    """Calls the actions of one server from one event loop."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._link = Link(server)
        self._max_payload_bytes = max_payload_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: ClientSocket | None = None
        self._pending: dict[str, _Pending] = {}
        self._session = 0  # the last one in which something was sent
        self._unanswered = 0  # requests sent in it
        self._some_waiting = False  # requests that are not sent yet
        self._replied_at = 0.0  # the loop's time of the last reply on this connection
        self._check: asyncio.TimerHandle | None = None  # of the link, while anything is in flight
        self._spinning = False  # a drain is due in the loop's next iteration
        self._spin_until = 0.0

    async def call(
        self, action: str, /, *, deadline_s: float = DEFAULT_DEADLINE_S, request_id: str | None = None, **fields: Any
    ) -> Reply:
        """Return the reply to one action; arguments and errors are those of `Client.call`."""
        request_id = request_id or new_request_id()
        payload = encode_request(action, fields, request_id, self._max_payload_bytes)
        if request_id in self._pending:
            raise MalformedRequest(
                f"request_id {request_id!r} is in flight already; wait for its reply, or use another id"
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + deadline_s
        pending = self._pending[request_id] = _Pending(payload, loop.create_future(), now)
        if self._check is None:
            self._check = loop.call_at(now + SILENT_AFTER_S, self._check_link)
        timer = loop.call_at(deadline, self._time_out, pending, action, deadline_s)
        try:
            if self._connection is None:
                await self._connect(deadline)
            if not self._send(pending) and self._link.withdrawn():
                self._reconnect()
            reply = await pending.future
        finally:
            timer.cancel()
            if self._pending.get(request_id) is pending:  # not a later call with the same id
                self._settle(request_id)
        return successful(reply)

    def close(self) -> None:
        """Close the connection; calls in flight end with ConnectionRefused."""
        self._fail_all(
            ConnectionRefused("the client was closed while the call was in flight; repeat it on a new client")
        )
        self._drop()
        self._context.term()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _connect(self, deadline: float) -> None:
        """Open a connection where there is none, after the link's backoff."""
        loop = asyncio.get_running_loop()
        if (backoff_s := self._link.backoff_s()) > 0:
            await asyncio.sleep(max(0.0, min(backoff_s, deadline - loop.time())))
        if self._connection is None:  # still, after the sleep
            self._open()

    def _open(self) -> None:
        loop = asyncio.get_running_loop()

        def on_event(event: SocketEvent) -> None:  # on the monitor's thread
            self._link.feed(event)
            with contextlib.suppress(RuntimeError):  # the loop is closed: no call waits
                loop.call_soon_threadsafe(self._follow_link)

        target = self._link.next_target()
        self._connection = open_connection(target, self._context, on_event, self._max_payload_bytes)
        self._replied_at = loop.time()
        loop.add_reader(self._connection.fd, self._drain)

    def _follow_link(self, waiting_since: float | None = None) -> None:
        """Do what the link decides; on the loop, after an event of the monitor, and while replies are due."""
        if self._connection is None:
            return
        try:
            step = self._link.step(asyncio.get_running_loop().time(), waiting_since)
        except ConnectionRefused as error:
            self._fail_all(error)
            self._drop()
            return
        if step is Step.RECONNECT:
            self._reconnect()
        else:
            self._send_waiting()

    def _check_link(self) -> None:
        """Detect that replies are overdue, or that keys were changed."""
        self._check = None
        oldest = next(iter(self._pending.values()), None)
        if oldest is None:
            return
        loop = asyncio.get_running_loop()
        waiting_since = max(self._replied_at, oldest.asked_at)
        self._follow_link(waiting_since)
        now = loop.time()
        silent = now - waiting_since >= SILENT_AFTER_S
        self._check = loop.call_at((now if silent else waiting_since) + SILENT_AFTER_S, self._check_link)

    def _reconnect(self) -> None:
        """Open another connection, to the target and with the keys that are valid now, and send again on it."""
        self._drop()
        if self._pending:
            try:
                self._open()
            except TwinhostError as error:
                self._fail_all(error)

    def _drop(self) -> None:
        if self._check is not None and not self._pending:
            self._check.cancel()
            self._check = None
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fd)
            self._connection.close()
            self._connection = None

    def _time_out(self, pending: _Pending, action: str, deadline_s: float) -> None:
        if not pending.future.done():
            pending.future.set_exception(self._link.diagnosis.timed_out(action, deadline_s))

    def _send(self, pending: _Pending) -> bool:
        """Send a request, unless it is sent already or has to wait; return False where there is no session for it."""
        session = self._link.session
        if self._connection is None or not session:
            return False
        if session != self._session:
            self._session, self._unanswered, self._some_waiting = session, 0, False
        if pending.sent_in == session or pending.future.done():
            return True
        if self._some_waiting or self._unanswered >= MAX_UNANSWERED:
            self._some_waiting = True
            return True
        with contextlib.suppress(zmq.Again):  # the pipe is full: the next reply or the next check tries again
            self._connection.send(pending.payload, DONTWAIT)
            pending.sent_in = session
            self._unanswered += 1
        self._spin_until = time.perf_counter() + SPIN_S
        if not self._spinning:  # once for all that are sent in this iteration
            self._spinning = True
            asyncio.get_running_loop().call_soon(self._spin)
        return True

    def _send_waiting(self) -> None:
        self._some_waiting = False
        for pending in tuple(self._pending.values()):
            self._send(pending)

    def _spin(self) -> None:
        """Drain in every iteration of the loop until a reply should have arrived: a wake-up costs more."""
        self._drain()
        self._spinning = bool(self._pending) and time.perf_counter() < self._spin_until
        if self._spinning:
            asyncio.get_running_loop().call_soon(self._spin)

    def _drain(self) -> None:
        if self._connection is None or not self._connection.readable:
            return
        with contextlib.suppress(zmq.Again):
            while self._connection is not None:
                try:
                    reply = decode_reply(self._connection.socket.recv(DONTWAIT))
                except MalformedRequest as error:  # not from an agent: it can't be matched to a request
                    self._fail_all(error)
                    continue
                if not self._link.accepts(reply):
                    self._reconnect()
                    continue
                self._take(reply)
                if not self._pending:  # no reply is due; the next send drains again
                    return

    def _take(self, reply: Reply) -> None:
        self._replied_at = asyncio.get_running_loop().time()
        if "request_id" not in reply and reply.get("status") == "error":  # it can't be matched to a request
            self._fail_all(MalformedRequest(f"the server could not read a request: {reply.get('error')}"))
        pending = self._settle(str(reply.get("request_id")))
        if pending is not None and not pending.future.done():
            pending.future.set_result(reply)

    def _settle(self, request_id: str) -> _Pending | None:
        """Stop waiting for a reply; send waiting requests if half of the limit is free again."""
        pending = self._pending.pop(request_id, None)
        if pending is not None and pending.sent_in and pending.sent_in == self._session:
            self._unanswered -= 1
            if self._some_waiting and self._unanswered <= MAX_UNANSWERED // 2:
                self._send_waiting()
        return pending

    def _fail_all(self, error: TwinhostError) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(type(error)(str(error)))
