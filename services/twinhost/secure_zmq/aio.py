"""The asyncio client: many requests in flight on one connection, with the blocking client's promises.

A plain DEALER whose file descriptor sits on the event loop, drained to EAGAIN and looked at
again after every send, since that descriptor is edge-triggered.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import zmq

from twinhost.secure_zmq.client import (
    AT_ONCE,
    DEFAULT_DEADLINE_S,
    DEFAULT_MAX_PAYLOAD_BYTES,
    LOOK_S,
    REBUILD_AFTER_S,
    back_off_s,
    new_request_id,
    refused_as_retired,
)
from twinhost.secure_zmq.diagnosis import Diagnosis
from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, TwinhostError, error_from_reply
from twinhost.secure_zmq.monitor import SocketEvent
from twinhost.secure_zmq.server_address import ServerAddress, TargetChoice
from twinhost.secure_zmq.sockets import ClientSocket
from twinhost.secure_zmq.wire import Reply, decode_reply, encode_request

MAX_UNANSWERED = 256  # requests of a connection; half of the replies that a server keeps for a peer before it drops one


@dataclass(slots=True)
class _Pending:
    payload: bytes
    future: asyncio.Future[Reply]
    asked_at: float  # by the loop's clock
    sent_in: int = 0  # the session's number; 0 is not sent yet


class _Feed:
    """Takes events on the monitor's thread and wakes the loop."""

    def __init__(self, client: "AsyncClient", diagnosis: Diagnosis, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._diagnosis, self._loop = client, diagnosis, loop

    def __call__(self, event: SocketEvent) -> None:
        self._diagnosis.feed(event)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._client.look_again, self._diagnosis)


class AsyncClient:
    """Calls the actions of one server from one event loop."""

    def __init__(self, server: ServerAddress, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._choice = TargetChoice(server)
        self._max_payload_bytes = max_payload_bytes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._connection: ClientSocket | None = None
        self._diagnosis = Diagnosis.blank()
        self._pending: dict[str, _Pending] = {}
        self._session = 0  # its number; requests are counted by it:
        self._unanswered = 0  # sent in it
        self._some_wait = False  # for their turn to be sent
        self._failures = 0
        self._heard_at = 0.0  # the loop's time of the last reply on this socket
        self._watch: asyncio.TimerHandle | None = None  # for silence, while anything is in flight
        self._looking = False  # a look at the socket is due in the loop's next turn
        self._look_until = 0.0

    async def call(
        self, action: str, /, *, deadline_s: float = DEFAULT_DEADLINE_S, request_id: str | None = None, **fields: Any
    ) -> Reply:
        """Return the reply to one action; arguments and errors are those of `Client.call`."""
        request_id = request_id or new_request_id()
        payload = encode_request(action, fields, request_id, self._max_payload_bytes)
        if request_id in self._pending:
            raise MalformedRequest(f"request_id {request_id!r} is in flight already; repeat it after its reply")
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadline = now + deadline_s
        pending = self._pending[request_id] = _Pending(payload, loop.create_future(), now)
        if self._watch is None:
            self._watch = loop.call_at(now + REBUILD_AFTER_S, self._watch_for_silence)
        timer = loop.call_at(deadline, self._time_out, pending, action, deadline_s)
        try:
            if self._connection is None:
                await self._connect(deadline)
            if self._choice.withdrawn():
                self._reconnect()
            self._send(pending)
            reply = await pending.future
        finally:
            timer.cancel()
            if self._pending.get(request_id) is pending:  # not another call that repeats it since
                self._settle(request_id)
        if reply.get("status") == "error" and "code" in reply:
            raise error_from_reply(str(reply["code"]), str(reply.get("error", "no reason given")))
        return reply

    def look_again(self, diagnosis: Diagnosis) -> None:
        """React to what the monitor saw; runs on the loop."""
        if diagnosis is not self._diagnosis or self._connection is None:
            return
        verdict = diagnosis.verdict()
        if verdict is not None and (error := self._choice.final(diagnosis)) is not None:
            self._failures += 1
            self._fail_all(error)
            self._drop()
        elif verdict is not None or self._choice.withdrawn():
            self._reconnect()
        else:
            self._send_what_waits()

    def close(self) -> None:
        """Let the connection go; calls in flight end with ConnectionRefused."""
        self._fail_all(ConnectionRefused("the client was closed while the call was in flight"))
        self._drop()
        self._context.term()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _connect(self, deadline: float) -> None:
        """Make the socket where there is none, after a failure with the blocking client's back-off."""
        loop = asyncio.get_running_loop()
        if self._connection is None and self._failures:
            await asyncio.sleep(max(0.0, min(back_off_s(self._failures), deadline - loop.time())))
        if self._connection is None:  # still, after the sleep
            self._open()

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        target, self._diagnosis = self._choice.choose()
        feed = _Feed(self, self._diagnosis, loop)
        self._connection = target.open(self._context, feed, self._max_payload_bytes)
        self._session = self._unanswered = 0  # the new diagnosis counts anew
        self._heard_at = loop.time()
        loop.add_reader(self._connection.fd, self._drain)

    def _reconnect(self) -> None:
        """Make the connection anew with the keys of this moment; what is in flight is sent again."""
        self._drop()
        for pending in self._pending.values():
            pending.sent_in = 0
        if self._pending:
            try:
                self._open()
            except TwinhostError as error:
                self._fail_all(error)

    def _watch_for_silence(self) -> None:
        """Give up a connection that had a session and brings nothing any more, or whose keys are good no more."""
        self._watch = None
        oldest = next(iter(self._pending.values()), None)
        if oldest is None:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        silent_since = max(self._heard_at, oldest.asked_at)
        silent = now - silent_since >= REBUILD_AFTER_S
        if self._choice.withdrawn() or (silent and self._diagnosis.generation):
            self._reconnect()
        self._watch = loop.call_at((now if silent else silent_since) + REBUILD_AFTER_S, self._watch_for_silence)

    def _time_out(self, pending: _Pending, action: str, deadline_s: float) -> None:
        if not pending.future.done():
            pending.future.set_exception(self._diagnosis.timed_out(action, deadline_s))

    def _drop(self) -> None:
        if self._watch is not None and not self._pending:
            self._watch.cancel()
            self._watch = None
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fd)
            self._connection.close()
            self._connection = None

    def _send(self, pending: _Pending) -> None:
        if self._connection is None or not self._diagnosis.connected or pending.future.done():
            return
        generation = self._diagnosis.generation
        if generation != self._session:
            self._session, self._unanswered, self._some_wait = generation, 0, False
        if pending.sent_in == generation:
            return
        if self._some_wait or self._unanswered >= MAX_UNANSWERED:
            self._some_wait = True
            return
        with contextlib.suppress(zmq.Again):  # the pipe is full: the next reply or the resend timer tries again
            self._connection.send(pending.payload, AT_ONCE)
            pending.sent_in = generation
            self._unanswered += 1
        self._look_until = time.perf_counter() + LOOK_S
        if not self._looking:  # once for all that are sent in this turn
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Drain, and look again in the loop's next turns, until a reply must have come: being woken costs more."""
        self._drain()
        self._looking = bool(self._pending) and time.perf_counter() < self._look_until
        if self._looking:
            asyncio.get_running_loop().call_soon(self._look)

    def _drain(self) -> None:
        if self._connection is None or not self._connection.readable:
            return
        with contextlib.suppress(zmq.Again):
            while self._connection is not None:
                try:
                    reply = decode_reply(self._connection.socket.recv(AT_ONCE))
                except MalformedRequest as error:  # no agent of ours: whose reply it was can't be told
                    self._fail_all(error)
                    continue
                if refused_as_retired(reply, self._choice):
                    self._reconnect()
                    continue
                self._heard_at, self._failures = asyncio.get_running_loop().time(), 0
                self._choice.worked()
                if "request_id" not in reply and reply.get("status") == "error":  # whose it was can't be told
                    self._fail_all(MalformedRequest(f"the server could not read a request: {reply.get('error')}"))
                pending = self._settle(str(reply.get("request_id")))
                if pending is not None and not pending.future.done():
                    pending.future.set_result(reply)
                if not self._pending:  # nothing more to come; the next send looks again
                    return

    def _settle(self, request_id: str) -> _Pending | None:
        """Wait for a reply no longer; what waits for its turn to be sent gets it."""
        pending = self._pending.pop(request_id, None)
        if pending is not None and pending.sent_in and pending.sent_in == self._session:
            self._unanswered -= 1
            if self._some_wait and self._unanswered <= MAX_UNANSWERED // 2:
                self._send_what_waits()
        return pending

    def _send_what_waits(self) -> None:
        self._some_wait = False
        for pending in tuple(self._pending.values()):
            self._send(pending)

    def _fail_all(self, error: TwinhostError) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(type(error)(str(error)))
