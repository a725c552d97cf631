"""The loop that owns the ROUTER: block for one message, receive what else has arrived, answer all, send the replies.

Blocking receives and a drain to EAGAIN take half as long as a poller. Changes share a commit with all requests that
have arrived by then; requests that only read are answered in small batches, so that clients continue while the next
batch is received.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future

import structlog
import zmq

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.actions import Completed, Withdrawable
from twinhost.secure_zmq.backlog import LOOK_FROM_BYTES, UNCOUNTED_BYTES, Backlog
from twinhost.secure_zmq.bound_socket import RekeyRequests, ServerSocket
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.dispatch import SLICE_S, Dispatcher
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive, RequestError
from twinhost.secure_zmq.framing.forms import (
    MAX_PARTS,
    MAX_REPLIES_BYTES,
    MESSAGEPACK_FROM_BYTES,
    SEPARATOR,
    groups,
    is_messagepack,
    requests_in,
    together,
)
from twinhost.secure_zmq.framing.inbound import Batch, DeferredReply, Inbound, Return, detached
from twinhost.secure_zmq.framing.messages import AT_ONCE_BYTES, Outgoing, Pace, discard_rest, receive, send
from twinhost.secure_zmq.inbound_guard import HARMLESS_BYTES, InboundGuard
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.sessions import CallerSource
from twinhost.secure_zmq.sockets import DONTWAIT
from twinhost.secure_zmq.turns import Turns
from twinhost.worker import Heartbeat, Waker

_log = structlog.get_logger(__name__)

Answered = tuple[Return, bytes]

MAX_BATCH = 256  # requests that share one commit
MAX_READS = 16  # requests that are received before any is answered; 8 to 40 were tried
MAX_READS_OF_MANY = 64  # where they are of several peers: replies that are sent together travel together
_FEW = 2  # the room after single requests: with more, sleeping costs each of them little, and others get the core
MAX_BATCH_BYTES = 256 * 1024  # then no more is added: a decoded request takes many times its size
_LOOK_FURTHER = 128  # messages that are received before one of those that wait is answered: libzmq takes one of each
_LOOK_FURTHER_BYTES = 4 * 1024 * 1024  # connection in turn, and a key may have 64
_TICK_S = 0.2
_IDLE_TICK_S = 1.0  # while nothing happens: then only what depends on the time is due, such as a key's expiry
_BUSY_MS = 10  # without a message: then the loop polls, so that it can be woken, which a blocking receive can't be
_QUIET_MS = 50  # without a message: then all that was in flight when the loop was stopped has arrived
_DRAIN_S = 1.0  # after a stop: peers that never pause can't keep the loop alive
_STALLED_AFTER_S = 5.0
FRAME_BYTES = 42  # of a frame besides its content, encrypted (RFC 26)
_REQUEST_NUMBER_BYTES = 4  # the frame that a REQ with ZMQ_REQ_CORRELATE has before the delimiter


class Server:
    """Serves one socket with one dispatcher, on the thread that calls `serve_forever()`."""

    def __init__(
        self,
        server_socket: ServerSocket,
        dispatcher: Dispatcher,
        on_tick: Callable[[], None],
        clock: Clock = SYSTEM_CLOCK,
        budgets: Budgets | None = None,
        require_held: Callable[[], None] | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            require_held: called before any reply leaves; it does not return if none may.
        """
        budgets = budgets or Budgets()
        self._require_held = require_held
        self._wall_time, self._monotonic = clock.time, clock.monotonic
        self._server_socket = server_socket
        self._socket = server_socket.socket
        self._socket.rcvtimeo = _BUSY_MS
        self._waker = Waker()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waker.fd, zmq.POLLIN)
        self._tick_requested = False
        self._tick_s = _TICK_S  # from the last tick to the next
        server_socket.on_changed_keys(self.request_tick)
        server_socket.handshakes.listen(lambda *_: self._tick_soon())  # which leave something to be recorded
        self._sessions: CallerSource = server_socket.sessions
        self._dispatcher = dispatcher
        self._inbound_guard = InboundGuard(self._sessions, budgets, 2 * dispatcher.max_payload_bytes)
        self.backlog = Backlog(self._sessions, budgets, dispatcher.max_payload_bytes)
        self._crowded = self.backlog.crowded
        self._on_tick = on_tick
        self._budget = LogBudget()
        self._rekeying = RekeyRequests()
        self._deferred: list[tuple[Return, DeferredReply]] = []
        self.turns = Turns(budgets)
        self._answering_since = 0.0
        self._refused = Batch()  # of what came while others were answered
        self._most_in_turn = MAX_READS  # of those that wait: as many as there is time for
        self._pace = Pace()
        self._room = 1  # messages of the next batch: after single requests, no second receive is tried
        self._stopping = False
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

    def unhandled(self) -> Mapping[str, float]:
        """Return how many bytes of requests wait here of each caller, in libzmq or in the loop; on its thread."""
        waiting = Counter(self._inbound_guard.used())
        waiting.update(self.turns.waiting_bytes())
        return waiting

    def stop(self) -> None:
        """Have the loop end after the requests that have arrived; may be called from any thread."""
        self._stopping = True
        self._waker.wake()

    def request_tick(self) -> None:
        """Have the loop close the connections of refused keys, and call `on_tick`, now; from any thread."""
        self._tick_requested = True
        self._waker.wake()

    def request_rekey(self, own_keys: KeyPair) -> "Future[float]":
        """Have the loop change the socket's key after its current batch; from any thread.

        Requests that have arrived are answered first; clients repeat those in flight, with the same id.

        Returns:
            The seconds for which the socket was not bound. Don't wait for it in a handler, which blocks the loop.

        Raises:
            SocketMisuse: another change waits, or the server is stopping.
        """
        future = self._rekeying.ask(own_keys)
        self._waker.wake()
        return future

    def serve_forever(self) -> None:
        """Answer requests until `stop()`, then those that have arrived by then, and close the socket.

        Connections of refused keys are closed even without traffic: at once after a change of the list of keys, and
        within a second after a key has expired.

        Raises:
            SocketMisuse: the address was unbound, as for a new key, and can't be bound again; the process must end.
        """
        ticked_at = turned_at = self._monotonic()
        flags = 0
        try:
            while not self._stopping:
                batch = self._next_batch(flags)
                busy_since = self._answering_since = self._monotonic()
                self._pace.note(busy_since - turned_at)
                self._answer(batch)
                turned_at = self._heartbeat.beat()
                if self._tick_requested or turned_at - ticked_at >= self._tick_s:
                    self._tick_requested, self._tick_s, ticked_at = False, _IDLE_TICK_S, turned_at
                    self._server_socket.close_refused()
                    if not self._inbound_guard.alive:
                        raise RuntimeError("the guard of requests died; the process ends, so that it is restarted")
                    self._on_tick()
                    if self._deferred or self._server_socket.unsettled:
                        self._tick_s = _TICK_S
                if self._deferred:  # after the tick, which may have finished some
                    self._answer_deferred()
                if (turn_s := self._monotonic() - busy_since) > self._longest_turn_s:
                    self._longest_turn_s = turn_s
                if self._rekeying.waiting:
                    self._drain(DONTWAIT)
                    self._rekeying.carry_out(self._server_socket.rekey)
                if batch.returns or self.turns.waiting:
                    self._tick_s, flags = _TICK_S, 0
                else:
                    flags = self._rest(ticked_at)
            self._socket.rcvtimeo = _QUIET_MS
            self._drain(0)
            self._answer_incomplete()
        finally:
            self._rekeying.end()
            self._inbound_guard.stop()
            self._server_socket.close()

    def _tick_soon(self) -> None:
        """Have the next tick come 200 ms after the last one, though no message arrives; from any thread."""
        if self._tick_s > _TICK_S:
            self._tick_s = _TICK_S
            self._waker.wake()

    def _rest(self, ticked_at: float) -> int:
        """Wait for a message, a wake-up, or until something is due; return the flags for the next receive."""
        answers = (deferred.answer for _, deferred in self._deferred)
        due = min([ticked_at + self._tick_s, *(answer.until for answer in answers if isinstance(answer, Completed))])
        self._poller.poll(max(0, 1 + int(1_000 * (due - self._monotonic()))))
        self._waker.clear()
        return DONTWAIT

    def _drain(self, flags: int) -> None:
        drained_by = self._monotonic() + _DRAIN_S
        while self._monotonic() < drained_by:
            batch = self._next_batch(flags)
            if not batch.returns and not self.turns.waiting:
                break
            self._answering_since = self._monotonic()
            self._answer(batch)

    def _next_batch(self, flags: int) -> Batch:
        """Receive a batch; where requests wait, keep what has arrived, and return those whose turn it is."""
        if not self.turns.waiting:
            return self._receive_batch(flags)
        self._keep_arrived()
        return self._still_valid(self.turns.next(self._most_in_turn, MAX_BATCH_BYTES))

    def _keep_arrived(self) -> None:
        """Keep what has arrived behind what waits, so that others are seen behind one that sends much."""
        arrived = Batch()
        self._receive(arrived, _LOOK_FURTHER, DONTWAIT, _LOOK_FURTHER_BYTES)
        self._refused.extend(self.turns.keep(arrived))

    def _still_valid(self, unfinished: Batch) -> Batch:
        """Return what is to be continued: not for a peer that has gone, and as its key is listed now."""
        batch = Batch()
        for back, inbound in zip(unfinished.returns, unfinished.inbounds, strict=True):
            if not self._sessions.leads_to(back.route[0], back.session):
                continue
            if (caller := inbound.caller) is not None:
                now = self._sessions.caller_now(caller.fingerprint)
                if now is None or now.name != caller.name:
                    inbound.fault = PeerNotLive(f"the key of {caller.name} is not valid here any more; enrol a new key")
                else:
                    inbound.caller = now
            batch.add(back, inbound)
        return batch

    def _receive_batch(self, flags: int) -> Batch:
        batch = Batch()
        self._receive(batch, self._room, flags)
        came = len(batch.inbounds)
        if came >= MAX_READS and len({back.route[0] for back in batch.returns}) > 1:
            self._receive(batch, MAX_READS_OF_MANY, DONTWAIT)
        if came == self._room:
            came *= 2
        self._room = 1 if came < 1 else min(came, MAX_READS)
        return batch

    def _receive_further(self, batch: Batch) -> list[Inbound] | None:
        """Return what shares the batch's commit; None where that is to come now, since somebody else waits for it."""
        first = batch.inbounds[0].caller
        if self._monotonic() - self._answering_since > SLICE_S / 2 and not batch.only_of(first):
            return None
        room, most = min(MAX_READS_OF_MANY, MAX_BATCH - len(batch.returns)), MAX_BATCH_BYTES - batch.size
        if not self.turns.waiting:
            further = Batch()
            self._receive(further, room, DONTWAIT, most)
            if not batch.only_of(first) or (further.only_of(first) and further.size < most):
                batch.extend(further)
                return further.inbounds
            self._refused.extend(self.turns.keep(further))  # somebody else waits, or may wait behind so many bytes
        self._keep_arrived()
        if self._refused.returns or not self.turns.only_of(first) or not batch.only_of(first):
            return None
        if not self.turns.waiting:
            return []
        further = self._still_valid(self.turns.next(min(room, self._most_in_turn), most))
        batch.extend(further)
        return further.inbounds

    def _receive(self, batch: Batch, room: int, flags: int, max_bytes: int = MAX_BATCH_BYTES) -> None:
        """Receive what has arrived, until the batch holds `room` messages or enough bytes."""
        look_us = self._pace.look_us if room <= _FEW else 0
        freed = 0
        while (most := room - len(batch.returns)) > 0 and batch.size < max_bytes:
            received = receive(self._socket, most, max_bytes - batch.size, flags, look_us)
            now = self._wall_time()  # once for all that have arrived
            before = len(batch.returns)
            for routing_id, frame in received:
                self._add(routing_id, frame, batch, now)
            if not received:
                break
            if len(batch.returns) == before:  # it was only freed
                freed += len(received)
                if freed > _LOOK_FURTHER:
                    break
            elif not (received[-1][1].more or batch.returns[-1].together):
                break
            flags = DONTWAIT

    def _add(self, routing_id: bytes, frame: zmq.Frame, batch: Batch, now: float) -> None:
        """Add the requests of one message, received now, to a batch; all its frames arrive together."""
        route = [routing_id]
        fault: RequestError | None = None
        beside = FRAME_BYTES
        if frame.more:
            frame, fault, beside = self._after_envelope(frame, route)
        caller: Caller | None = None
        try:
            caller = self._sessions.caller_of(routing_id, frame, now)
        except PeerNotLive as error:
            fault = detached(error)
        session = self._sessions.session_of(routing_id)
        back = Return(route, session)
        size = len(frame)
        if session is not None:
            connection = session.connection
            connection.handled += size + beside
            if caller is not None and (
                connection.shut or (size > HARMLESS_BYTES and self._inbound_guard.closes(session))
            ):  # what libzmq holds of it is only to be freed
                return
            if self._crowded and fault is None and caller is not None:
                fault = self.backlog.refusal(caller, session)
        if size > MESSAGEPACK_FROM_BYTES and is_messagepack(view := frame.buffer.toreadonly()):
            batch.add(back, Inbound(view, caller, fault))
            return
        payload = frame.bytes  # a copy
        if payload[:1] != SEPARATOR:
            batch.add(back, Inbound(payload, caller, fault))
            return
        try:
            parts = requests_in(payload, self._dispatcher.max_payload_bytes)
            back.together = True
        except RequestError as error:
            parts, fault = [payload], fault or detached(error)
        batch.add_parts(back, [Inbound(part, caller, fault) for part in parts], len(payload))

    def _after_envelope(self, frame: zmq.Frame, route: list[bytes]) -> tuple[zmq.Frame, MalformedRequest | None, int]:
        """Add the envelope of a REQ peer to the route; return the frame after it, and the bytes beside that.

        Any further frame is refused.
        """
        number: list[bytes] = []
        if len(frame) == _REQUEST_NUMBER_BYTES:
            number.append(frame.bytes)
            frame = self._socket.recv(copy=False)
        if frame.more and not len(frame):  # the delimiter
            route += [*number, b""]
            number.clear()
            frame = self._socket.recv(copy=False)
        if frame.more or number:
            more, size = discard_rest(self._socket) if frame.more else (0, 0)
            frames = len(number) + 1 + more
            fault = MalformedRequest(f"the message has {frames} frames; send one JSON object in one frame")
            return frame, fault, size + (1 + more) * FRAME_BYTES
        return frame, None, FRAME_BYTES

    def _answer(self, batch: Batch) -> None:
        if batch.returns:
            answered = self._answer_what_fits(batch)
            if self.turns.waiting or answered < len(batch.returns):
                self._most_in_turn = max(1, min(2 * answered, MAX_READS_OF_MANY))
                self.turns.put_back(batch, answered, self._dispatcher.begun)
                self.turns.charge(self._dispatcher.spent)
        if self._refused.returns:
            refused, self._refused = self._refused, Batch()
            while refused.returns:
                refused = refused.after(self._answer_what_fits(refused))

    def _answer_what_fits(self, batch: Batch) -> int:
        """Answer what there is time for; return how many that are."""
        replies = self._dispatcher.answer(batch.inbounds, lambda: self._receive_further(batch))
        deferred = self._dispatcher.take_deferred()
        answered = zip(batch.returns, replies, strict=False)
        # One peer continues earlier if its replies don't come all at once.
        several = batch.returns[0].route[0] != batch.returns[-1].route[0]
        at_once = several and sum(map(len, replies)) <= AT_ONCE_BYTES
        self._send(self._complete(answered, deferred) if deferred or batch.together else answered, at_once=at_once)
        return len(replies)

    def _complete(self, answered: Iterable[Answered], deferred: Mapping[int, DeferredReply]) -> list[Answered]:
        """Return what can be sent now, the replies to one frame together; keep what is deferred."""
        complete: list[Answered] = []
        gathered: list[bytes] = []  # of one frame's replies
        last: Return | None = None
        for place, (back, reply) in enumerate(answered):
            if last is not None and back is not last:
                complete += _in_frames(last, gathered)
                gathered, last = [], None
            if place in deferred:
                self._deferred.append((back, deferred[place]))
                deferred[place].answer.add_done_callback(lambda _: self._waker.wake())
            elif back.together:
                gathered.append(reply)
                last = back
            else:
                complete.append((back, reply))
        return complete if last is None else [*complete, *_in_frames(last, gathered)]

    def _answer_deferred(self) -> None:
        """Send the answers that other threads have finished."""
        waiting = []
        finished: list[Answered] = []
        in_parts = Batch()
        if any(deferred.answer.done() for _, deferred in self._deferred):
            self._server_socket.close_refused()  # a caller may have been revoked since
        for back, deferred in self._deferred:
            answer = deferred.answer
            if (
                isinstance(answer, Withdrawable)
                and not answer.done()
                and not self._sessions.leads_to(back.route[0], back.session)
            ):
                answer.cancel()
            if answer.cancelled():  # nobody waits for it
                continue
            if answer.done():
                if reply := self._dispatcher.settle(deferred):
                    finished.append((back, reply))
                else:
                    in_parts.add(back, Inbound(b"", deferred.job.caller, begun=deferred.job))
            else:
                waiting.append((back, deferred))
        self._deferred = waiting
        self.turns.resume(in_parts)
        self._send(finished)

    def _answer_incomplete(self) -> None:
        """Send the replies that need nothing more to be complete, as at their deadline."""
        complete = [(back, reply) for back, reply in self._deferred if isinstance(reply.answer, Completed)]
        self._send([(back, self._dispatcher.settle(reply, at_once=True)) for back, reply in complete])

    def _send(self, answered: Iterable[Answered], *, at_once: bool = False) -> None:
        failed: list[int] = []
        if self._require_held is not None:
            self._require_held()  # after what was read to answer, so that a reply which is late was true then
        for number in send(self._socket, self._led_to(answered, failed), at_once=at_once) + failed:
            # Disconnected, or not reading: its retry gets the stored reply.
            self._budget.log(_log.info, "reply_not_delivered", "reply_not_delivered", reason=zmq.strerror(number))

    def _led_to(self, answered: Iterable[Answered], failed: list[int]) -> Iterator[Outgoing]:
        """Yield each reply to its caller, and not to another peer that has chosen the same routing-id by then."""
        leads_to = self._sessions.leads_to
        for back, reply in answered:
            if not leads_to(back.route[0], back.session):
                failed.append(zmq.EHOSTUNREACH)
            elif len(reply) <= UNCOUNTED_BYTES or (session := back.session) is None:
                yield back.route, reply, None
            elif session.account.of_owner + len(reply) <= LOOK_FROM_BYTES or self.backlog.fits(session, len(reply)):
                yield back.route, reply, session.account
            else:
                failed.append(zmq.EAGAIN)


def _in_frames(back: Return, replies: list[bytes]) -> list[Answered]:
    """Return the replies to one frame as frames of their own."""
    return [(back, together(replies[begin:end])) for begin, end in groups(replies, MAX_REPLIES_BYTES, MAX_PARTS)]
