"""The loop that owns the ROUTER: block for one message, receive what else has arrived, answer all, send the replies.

Blocking receives and a drain to EAGAIN take half as long as a poller. Changes share a commit with all requests that
have arrived by then; requests that only read are answered in small batches, so that clients continue while the next
batch is received.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog
import zmq

from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.actions import Completed, Withdrawable
from twinhost.secure_zmq.bound_socket import CallerSource, RekeyRequests, ServerSocket, Session
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.dispatch import Deferred, Dispatcher, Inbound
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive, RequestError
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.sockets import plain_send
from twinhost.worker import Heartbeat

_log = structlog.get_logger(__name__)

MAX_BATCH = 256  # requests that share one commit
MAX_READS = 16  # requests that are received before any is answered; 8 to 40 were tried
MAX_BATCH_BYTES = 256 * 1024  # then no more is added: a decoded request takes many times its size
_TICK_MS = 200
_DEFERRED_TICK_MS = 5  # while an answer from another thread is due
_QUIET_MS = 50  # without a message: then all that was in flight when the loop was stopped has arrived
_DRAIN_S = 1.0  # after a stop: peers that never pause can't keep the loop alive
_STALLED_AFTER_S = 5.0
_DONTWAIT = int(zmq.NOBLOCK)  # plain numbers: an enumeration's `|` costs as much as decoding a request
_SNDMORE = int(zmq.SNDMORE | zmq.NOBLOCK)


class _Batch:
    """Messages with their return routes and sessions, in one order."""

    __slots__ = ("inbounds", "routes", "sessions", "size")

    def __init__(self) -> None:
        self.routes: list[list[bytes]] = []
        self.sessions: list[Session | None] = []
        self.inbounds: list[Inbound] = []
        self.size = 0  # bytes


class Server:
    """Serves one socket with one dispatcher, on the thread that calls `serve_forever()`."""

    def __init__(self, server_socket: ServerSocket, dispatcher: Dispatcher, on_tick: Callable[[], None]) -> None:
        self._server_socket = server_socket
        self._socket = server_socket.socket
        self._socket.rcvtimeo = _TICK_MS
        self._send_frame = plain_send(server_socket.socket)
        self._sessions: CallerSource = server_socket.sessions
        self._dispatcher = dispatcher
        self._on_tick = on_tick
        self._budget = LogBudget()
        self._rekeying = RekeyRequests()
        self._deferred: list[tuple[list[bytes], Session | None, Deferred]] = []
        self._room = 1  # messages of the next batch: after single requests, no second receive is tried
        self._stop = threading.Event()
        self._heartbeat = Heartbeat(_STALLED_AFTER_S)
        self._longest_turn_s = 0.0

    @property
    def responsive(self) -> bool:
        """Whether the loop has run within the last 5 s."""
        return self._heartbeat.fresh

    def take_longest_turn_s(self) -> float:
        """Return the longest time that a message could wait for the loop since the last call; on its thread."""
        longest, self._longest_turn_s = self._longest_turn_s, 0.0
        return longest

    def stop(self) -> None:
        """Have the loop end after the requests that have arrived; may be called from any thread."""
        self._stop.set()

    def request_rekey(self, own_keys: KeyPair) -> "Future[float]":
        """Have the loop change the socket's key, from any thread, within 200 ms of its current batch.

        Requests that have arrived are answered first; clients repeat those in flight, with the same id.

        Returns:
            The seconds for which the socket was not bound. Don't wait for it in a handler, which blocks the loop.

        Raises:
            SocketMisuse: another change waits, or the server is stopping.
        """
        return self._rekeying.ask(own_keys)

    def serve_forever(self) -> None:
        """Answer requests until `stop()`, then those that have arrived by then, and close the socket.

        Connections whose key is refused now are closed every 200 ms, even without traffic.

        Raises:
            SocketMisuse: the key was changed and the address can't be bound again; the process must end.
        """
        ticked_at = time.monotonic()
        try:
            while not self._stop.is_set():
                batch = self._receive_batch(0)
                busy_since = time.monotonic()
                self._answer(batch)
                turned_at = self._heartbeat.beat()
                if turned_at - ticked_at >= _TICK_MS / 1_000:
                    ticked_at = turned_at
                    self._server_socket.close_refused()
                    self._on_tick()
                if self._deferred:  # after the tick, which may have finished some
                    self._answer_deferred()
                self._longest_turn_s = max(self._longest_turn_s, time.monotonic() - busy_since)
                if self._rekeying.waiting:
                    self._drain(_DONTWAIT)
                    self._rekeying.carry_out(self._server_socket.rekey)
            self._socket.rcvtimeo = _QUIET_MS
            self._drain(0)
            self._answer_incomplete()
        finally:
            self._rekeying.end()
            self._server_socket.close()

    def _drain(self, flags: int) -> None:
        drained_by = time.monotonic() + _DRAIN_S
        while time.monotonic() < drained_by:
            batch = self._receive_batch(flags)
            if not batch.routes:
                break
            self._answer(batch)

    def _receive_batch(self, flags: int) -> _Batch:
        batch = _Batch()
        came = len(self._receive(batch, self._room, flags))
        self._room = max(1, min(MAX_READS, 2 * came if came == self._room else came))
        return batch

    def _receive(self, batch: _Batch, room: int, flags: int) -> list[Inbound]:
        """Receive what has arrived, until the batch holds `room` messages or enough bytes; return what came."""
        receive, known = self._socket.recv, len(batch.routes)
        try:
            while len(batch.routes) < room and batch.size < MAX_BATCH_BYTES:
                routing_id = receive(flags)
                self._add(routing_id, receive(copy=False), batch)
                flags = _DONTWAIT
        except zmq.Again:
            pass
        return batch.inbounds[known:]

    def _add(self, routing_id: bytes, frame: zmq.Frame, batch: _Batch) -> None:
        """Add one message to a batch; all its frames arrive together."""
        route = [routing_id]
        fault: RequestError | None = None
        if frame.more:
            if not len(frame):  # the empty delimiter of a REQ peer
                route.append(b"")
                frame = self._socket.recv(copy=False)
            if frame.more:
                fault = self._discard_rest()
        caller: Caller | None = None
        try:
            caller = self._sessions.caller_of(routing_id, frame)
        except PeerNotLive as error:
            fault = error
        payload = frame.bytes
        batch.routes.append(route)
        batch.sessions.append(self._sessions.session_of(routing_id))
        batch.inbounds.append(Inbound(payload, caller, fault))
        batch.size += len(payload)

    def _discard_rest(self) -> MalformedRequest:
        """Drop surplus frames one at a time; libzmq holds them already, and Python must not hold a copy of all."""
        frames, more = 1, True
        while more:  # the frame's flag takes half as long as the socket's option, which delays all other requests
            more = self._socket.recv(copy=False).more
            frames += 1
        return MalformedRequest(f"the message has {frames} frames; send one JSON object in one frame")

    def _answer(self, batch: _Batch) -> None:
        if not batch.routes:
            return
        replies = self._dispatcher.answer(batch.inbounds, lambda: self._receive(batch, MAX_BATCH, _DONTWAIT))
        deferred = self._dispatcher.take_deferred()
        for place, (route, session, reply) in enumerate(zip(batch.routes, batch.sessions, replies, strict=True)):
            if place in deferred:
                self._deferred.append((route, session, deferred[place]))
            else:
                self._send(route, session, reply)

    def _answer_deferred(self) -> None:
        """Send the answers that other threads have finished; check again soon for the others."""
        waiting = []
        if any(deferred.answer.done() for _, _, deferred in self._deferred):
            self._server_socket.close_refused()  # a caller may have been revoked since
        for route, session, deferred in self._deferred:
            answer = deferred.answer
            if (
                isinstance(answer, Withdrawable)
                and not answer.done()
                and not self._sessions.leads_to(route[0], session)
            ):
                answer.cancel()
            if answer.cancelled():  # nobody waits for it
                continue
            if answer.done():
                self._send(route, session, self._dispatcher.settle(deferred))
            else:
                waiting.append((route, session, deferred))
        self._deferred = waiting
        brief = any(not isinstance(deferred.answer, Withdrawable) for _, _, deferred in waiting)
        self._socket.rcvtimeo = _DEFERRED_TICK_MS if brief else _TICK_MS

    def _answer_incomplete(self) -> None:
        """Send the replies that need nothing more to be complete, as at their deadline."""
        for route, session, deferred in self._deferred:
            if isinstance(deferred.answer, Completed):
                self._send(route, session, self._dispatcher.settle(deferred))

    def _send(self, route: list[bytes], session: Session | None, reply: bytes) -> None:
        """Send a reply to its caller, and not to another peer that has chosen the same routing-id since."""
        try:
            if not self._sessions.leads_to(route[0], session):
                raise zmq.ZMQError(zmq.EHOSTUNREACH)
            for part in route:
                self._send_frame(part, _SNDMORE)
            self._send_frame(reply, _DONTWAIT)
        except zmq.ZMQError as error:  # disconnected, or not reading: its retry gets the stored reply
            self._budget.log(_log.info, "reply_not_delivered", "reply_not_delivered", reason=str(error))
