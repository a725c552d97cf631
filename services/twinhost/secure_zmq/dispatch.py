"""From a batch of messages to its replies: decode, check the grant, look for a stored reply, call the handler.

All of a batch's mutating requests share one transaction of the store, each in a savepoint of its own, with the requests
that arrive while they are executed. Replies are returned only after the commit, so every acknowledged change is
durable. An action that has transactions of its own (keys are files) runs after that transaction.

A mutating request is executed once: a retry gets the reply that was stored together with the change. A request may be
about another store than the agent's own: its change and its reply are in one transaction there, which a batch begins
with the first such request, and commits after its own. Each store loses or keeps what is its own.

A request that is done in parts is handed in again, as one that was not reached, until its last part is done.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.actions import Action, Handled, InParts, Translator, no_dialect, wholly
from twinhost.secure_zmq.callers import Caller, CallerNamed, Grants, no_caller_named
from twinhost.secure_zmq.errors import (
    InternalError,
    MessageTooLarge,
    RequestError,
    RequestIdReused,
    StoreUnavailable,
    TransactionLost,
)
from twinhost.secure_zmq.framing.inbound import (
    FAILED,
    DeferredReply,
    Inbound,
    Job,
    RequestReader,
    Unread,
    compared_bytes,
    other_spellings,
)
from twinhost.secure_zmq.trace_context import in_trace
from twinhost.secure_zmq.wire import (
    Answer,
    Reply,
    Request,
    as_messagepack,
    encode_error,
    encode_reply,
    envelope_of,
)

_log = structlog.get_logger(__name__)


SLICE_S = 0.005  # how long a batch is answered before other callers' requests are received
_COMMITTERS = 8
_GROUP_COMMIT_S = 0.05  # how long a change may wait for the commit while more of the same caller arrives

T = TypeVar("T")
More = Callable[[], Sequence[Inbound] | None]
RefusalListener = Callable[[Caller | None, str | None, RequestError], None]  # the caller, the action, the error
# Of a caller and the bytes of a request: what raises if more is stored inside than the caller may; None if it can't be.
Share = Callable[[Caller, int], "AbstractContextManager[None] | None"]
AnswerListener = Callable[[str | None, str, float, int], None]  # action, `ok` or an error code, seconds, how many


class StoredReply(Protocol):
    """A reply that was given before."""

    @property
    def digest(self) -> bytes: ...
    @property
    def reply(self) -> bytes: ...


class Store(Protocol):
    """What the dispatcher needs of a durable store."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def savepoint(self) -> AbstractContextManager[None]: ...


class ReplyLog(Protocol):
    """The replies to mutating requests, kept in the same store."""

    def find(self, caller: str, request_id: str) -> StoredReply | None: ...
    def add(self, caller: str, request_id: str, digest: bytes, reply: bytes) -> None: ...


class Elsewhere(Protocol):
    """Another store, with the replies to the requests about it."""

    @property
    def store(self) -> Store: ...
    @property
    def replies(self) -> ReplyLog: ...


ElsewhereOf = Callable[[Request, Caller], Elsewhere | None]  # None: the agent's own store; it may refuse the request


def nowhere_else(_: Request, __: Caller) -> Elsewhere | None:
    """Have every request be about the agent's own store."""
    return None


class _OtherTransaction:
    """A batch's transaction of another store, and which requests it has."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self.places: set[int] = set()
        self.lost: StoreUnavailable | None = None
        self._transaction = elsewhere.store.transaction()
        self._transaction.__enter__()

    def end(self, why: StoreUnavailable | None = None) -> None:
        """Commit, or roll back for a reason; `lost` is why nothing was stored."""
        self.lost = self.lost or why
        try:
            if self.lost is None:
                self._transaction.__exit__(None, None, None)
            else:
                self._transaction.__exit__(type(self.lost), self.lost, None)
        except StoreUnavailable as error:
            self.lost = self.lost or error


@dataclass(slots=True)
class Counters:
    """Requests since the start; `last_request_time` in seconds since the epoch."""

    requests: int = 0
    errors: int = 0
    last_request_time: float | None = None


_Handler = tuple[Callable[[Any, Caller], Handled], tuple[str, str]]  # and the outcome of a success
_NO_HANDLERS: Mapping[type[Request], _Handler] = {}


class Dispatcher:
    """Answers batches of requests for one agent."""

    def __init__(
        self,
        actions: Iterable[Action[Any]],
        grants: Grants,
        store: Store,
        reply_log: ReplyLog,
        max_payload_bytes: int,
        translate: Translator = no_dialect,
        sentence_fields: tuple[str, ...] = ("error",),
        counters: Counters | None = None,
        on_refusal: RefusalListener = lambda *_: None,
        on_answer: AnswerListener = lambda *_: None,
        caller_named: CallerNamed = no_caller_named,
        elsewhere: ElsewhereOf = nowhere_else,
        clock: Clock = SYSTEM_CLOCK,
        share_of: Share = lambda *_: None,
    ) -> None:
        self._actions = {action.request: action for action in actions}
        self._reader = RequestReader(self._actions, max_payload_bytes, translate)
        self._handlers: dict[frozenset[str] | None, Mapping[type[Request], _Handler]] = {}  # of plain reads, by roles
        self._handlers_held: object = None  # the grants that these are of
        self._grants = grants
        self._store = store
        self._reply_log = reply_log
        self._sentence_fields = sentence_fields
        self.max_payload_bytes = max_payload_bytes
        self._on_refusal = on_refusal
        self._on_answer = on_answer
        self._caller_named = caller_named
        self._elsewhere = elsewhere
        self._others: dict[Elsewhere, _OtherTransaction] = {}  # of the batch under way
        self._committers = ThreadPoolExecutor(_COMMITTERS, "commit")  # which starts a thread when it is needed
        self._wall_time = clock.time
        self._share_of = share_of
        self._outcomes: list[tuple[str | None, str]] = []  # of the batch, in its order
        self._deferred: dict[int, DeferredReply] = {}  # of the batch, by place
        self.spent: list[tuple[Caller | None, float]] = []  # seconds of the batch, by caller
        self._changing: list[tuple[Caller | None, float]] = []  # seconds that it changed something, likewise
        self.begun: Job | None = None  # the first one of the batch without a reply, if some of its parts are done
        self._batch_open = False  # whether a lost transaction is that of the whole batch, and not an action's own
        self._budget = LogBudget()  # by caller
        self.counters = counters or Counters()

    def answer(self, batch: Sequence[Inbound], more: More = tuple) -> list[bytes]:
        """Return the replies, in the batch's order; what they acknowledge is on disk.

        An empty reply is deferred: `take_deferred()` has it. Requests that were not begun within 5 ms, or of which
        some parts are left then, have no reply, and are to be handed in again, with `begun` of the first one.

        Args:
            batch: the messages that have arrived.
            more: called before a commit for the messages that have arrived since, until there are none, or it returns
                None; their replies follow those of the batch.
        """
        started = time.perf_counter()
        replies = self._answer_all(batch, more, started)
        self._report(time.perf_counter() - started)
        return replies

    def take_deferred(self) -> dict[int, DeferredReply]:
        """Return the deferred answers of the last batch, by their places in it."""
        deferred, self._deferred = self._deferred, {}
        return deferred

    def settle(self, deferred: DeferredReply, *, at_once: bool = False) -> bytes:
        """Return the reply to a deferred request whose answer is available; empty if its job has parts to be done."""
        self._outcomes.clear()
        try:
            answer = deferred.answer.result(timeout=0)
            if not isinstance(answer, dict) and isinstance(answer, Generator):
                if not at_once:
                    deferred.job.parts = answer
                    return b""
                answer = wholly(answer)
            reply = self._encode(deferred.job, answer)
            self._outcomes.append((deferred.job.action.name, "ok"))
        except Exception as error:  # boundary: one request's fault is that request's alone
            with in_trace(deferred.job.request.traceparent):
                return self._failed(deferred.job, error)
        finally:
            self._report(time.perf_counter() - deferred.since)
        return as_messagepack(reply) if deferred.job.messagepack else reply

    def _report(self, seconds: float) -> None:
        """Report the batch's outcomes to the listener; all have the same duration, so equal ones are one call."""
        outcomes = self._outcomes
        if outcomes and outcomes.count(outcomes[0]) == len(outcomes):
            self._on_answer(*outcomes[0], seconds, len(outcomes))
            return
        for (action, outcome), number in Counter(outcomes).items():
            self._on_answer(action, outcome, seconds, number)

    def _answer_all(self, batch: Sequence[Inbound], more: More, started: float) -> list[bytes]:
        self._outcomes.clear()
        self.spent.clear()
        self.begun = None
        self.counters.requests += len(batch)
        self.counters.last_request_time = self._wall_time()
        replies = self._read_plainly(batch, started)
        if replies is None:
            jobs = self._read(batch)
            for job in jobs:
                if job.action.mutates:
                    return self._change_and_charge(jobs, more)
            replies = self._answer_some(jobs)
        if len(replies) < len(batch):
            self.counters.requests -= len(batch) - len(replies)
        return replies

    def _change_and_charge(self, jobs: "list[Job | Unread]", more: More) -> list[bytes]:
        """Answer a batch as `_change` does; those who change something spend the commit too, each its share."""
        self._changing.clear()
        began = time.perf_counter()
        replies = self._change(jobs, more)
        left = time.perf_counter() - began - sum(seconds for _, seconds in self.spent)
        times = left / max(sum(seconds for _, seconds in self._changing), 1e-6)
        self.spent += [(caller, times * seconds) for caller, seconds in self._changing]
        return replies

    def _change(self, jobs: "list[Job | Unread]", more: More) -> list[bytes]:
        """Answer a batch in one transaction, with what arrives meanwhile."""
        errors = self.counters.errors
        try:
            with self._store.transaction():
                self._batch_open = True
                try:
                    until = time.perf_counter() + _GROUP_COMMIT_S
                    replies = self._answer_some(jobs)
                    while time.perf_counter() < until and (further := more()) is not None:
                        if not further and len(replies) == len(jobs):
                            break
                        self.counters.requests += len(further)
                        jobs += self._read(further)
                        replies += self._answer_some(jobs[len(replies) :], len(replies))
                finally:
                    self._batch_open = False
            self.counters.requests -= len(jobs) - len(replies)
            del jobs[len(replies) :]
        except StoreUnavailable as error:
            self._end_others(error)
            self._begin_again()
            self.begun = None
            _log.error("batch_not_stored", reason=str(error), requests=len(jobs))
            self._outcomes.clear()
            self.counters.errors = errors
            replies = self._answer_without_store(jobs, error)
            self.counters.requests -= len(jobs) - len(replies)
            return replies
        for lost, places in self._end_others():
            self._undo(lost, places, jobs, replies)
            if (begun := self.begun) is not None and len(replies) in places:
                self.counters.requests += 1
                replies.append(self._refuse(begun, lost))
                self.begun = None
            self._begin_again()
        for place, job in enumerate(jobs):
            if job.action.apart:
                since = time.perf_counter()
                replies[place] = self._answer_wholly(job, place)
                self.spent.append((job.caller, time.perf_counter() - since))
        return replies

    def _begin_again(self) -> None:
        """Forget the parts of a request that may have read what was lost."""
        if self.begun is not None:
            self.begun.parts = None

    def _undo(self, lost: StoreUnavailable, places: Set[int], jobs: "list[Job | Unread]", replies: list[bytes]) -> None:
        """Refuse what was executed in a transaction of another store that was lost."""
        _log.error("requests_not_stored", reason=str(lost), requests=len(places))
        for place, job in enumerate(jobs):
            if not replies[place] or not isinstance(job, Job) or job.action.apart:
                continue
            if place in places:
                self._outcomes.remove((job.action.name, "ok"))
                replies[place] = self._refuse(job, lost)
            elif not job.action.mutates:  # it may have read what is undone
                replies[place] = self._answer_wholly(job, place)

    def _end_others(self, why: StoreUnavailable | None = None) -> list[tuple[StoreUnavailable, Set[int]]]:
        """End the transactions of other stores; return why some were lost, and the places of what they had."""
        others, self._others = list(self._others.values()), {}
        if len(others) > 1:  # a disk writes several at once in the time of one; nothing else runs meanwhile
            list(self._committers.map(lambda other: other.end(why), others))
        else:
            for other in others:
                other.end(why)
        return [(other.lost, other.places) for other in others if other.lost is not None]

    def _read_plainly(self, batch: Sequence[Inbound], started: float) -> list[bytes] | None:
        """Answer a batch of plain reads, without what other requests need; None where one of them is something else.

        Without it, a server that has nothing but such reads to do answers a tenth fewer of them.
        """
        reads: list[tuple[Inbound, Caller, Request, _Handler]] = []
        plain, held = self._reader.plain, self._grants.held
        caller, handlers = None, _NO_HANDLERS
        for inbound in batch:
            if inbound.begun is not None:
                return None
            if inbound.caller is not caller:
                caller = inbound.caller
                handlers = self._plain_handlers(caller, held) if caller is not None else _NO_HANDLERS
            if caller is None or inbound.fault is not None or (request := plain(inbound.payload)) is None:
                return None
            handler = handlers.get(type(request))
            if handler is None:
                return None
            reads.append((inbound, caller, request, handler))
        return self._answer_plainly(reads, started)

    def _answer_plainly(self, reads: "list[tuple[Inbound, Caller, Request, _Handler]]", now: float) -> list[bytes]:
        """Return the replies to those plain reads for which there is time, one at least."""
        replies: list[bytes] = []
        clock, since = time.perf_counter, now
        until, served = now + SLICE_S, reads[0][1]
        for inbound, caller, request, (handle, outcome) in reads:
            if caller is not served:
                self.spent.append((served, now - since))
                served, since = caller, now
            try:
                answer = handle(request, caller)
                if not isinstance(answer, dict) and isinstance(answer, Generator):
                    if (whole := _advanced(answer, until)) is None:
                        self.begun, now = self._job(inbound), clock()
                        self.begun.parts, self.begun.parts_for = answer, caller
                        break
                    answer = whole
                if isinstance(answer, Future):
                    job = msgspec.structs.replace(self._job(inbound), payload=b"")
                    self._deferred[len(replies)] = DeferredReply(job, answer, clock())
                    reply = b""
                else:
                    reply = self._within_limit(encode_reply(answer, request.request_id))
                    self._outcomes.append(outcome)
            except Exception as error:  # boundary: one request's fault is that request's alone
                reply = self._failed(self._job(inbound), error)
            replies.append(reply)
            if (now := clock()) >= until:
                break
        self.spent.append((served, now - since))
        return replies

    def _job(self, inbound: Inbound) -> Job:
        """Return what is known of a request that has been read before."""
        job = self._reader.read(inbound)
        assert isinstance(job, Job), job
        return job

    def _plain_handlers(self, caller: Caller, held: object) -> Mapping[type[Request], _Handler]:
        """Return the handlers of what a caller may read by the grants in effect, `held`: it changes nothing."""
        if held is not self._handlers_held:
            self._handlers_held, self._handlers = held, {}
        roles = caller.roles if caller.authenticated else None
        handlers = self._handlers.get(roles)
        if handlers is None:
            handlers = self._handlers[roles] = {
                request: (action.handle, (action.name, "ok"))
                for request, action in self._actions.items()
                if not (action.mutates or action.apart) and self._grants.allows(caller, action.name)
            }
        return handlers

    def _answer_without_store(self, jobs: "Sequence[Job | Unread]", error: StoreUnavailable) -> list[bytes]:
        """Refuse changes, and answer reads, while there is time; at least what another thread is at work on."""
        until, least = time.perf_counter() + SLICE_S, 1 + max(self._deferred, default=0)
        replies: list[bytes] = []
        for place, job in enumerate(jobs):
            if place in self._deferred:  # called already, in the failed transaction, which did not undo it
                replies.append(b"")
            else:
                replies.append(self._refuse(job, error) if job.action.mutates else self._answer_wholly(job, place))
            if len(replies) >= least and time.perf_counter() >= until:
                break
        return replies

    def _answer_some(self, jobs: "Sequence[Job | Unread]", begin: int = 0) -> list[bytes]:
        """Return the replies to those jobs for which there is time, one at least."""
        replies, clock = [], time.perf_counter
        now = since = clock()
        until, served, changes = now + SLICE_S, jobs[0].caller, jobs[0].action.mutates
        self.begun = None
        for place, job in enumerate(jobs, begin):
            if job.caller is not served or job.action.mutates is not changes:
                (self._changing if changes else self.spent).append((served, now - since))
                served, changes, since = job.caller, job.action.mutates, now
            reply = self._answer(job, place, until)
            now = clock()
            if reply is None:
                assert isinstance(job, Job)
                self.begun = job
                break
            replies.append(reply)
            if now >= until:
                break
        (self._changing if changes else self.spent).append((served, now - since))
        return replies

    def _read(self, batch: Sequence[Inbound]) -> list[Job | Unread]:
        return [self._reader.read(inbound) for inbound in batch]

    def _answer_wholly(self, job: Job | Unread, place: int) -> bytes:
        reply = self._answer(job, place, math.inf)
        assert reply is not None
        return reply

    def _answer(self, job: Job | Unread, place: int, until: float, *, traced: bool = False) -> bytes | None:
        """Return a reply; None if at `until`, by the clock of `time.perf_counter`, parts of the work are left."""
        if isinstance(job, Unread):
            return self._refuse(job, job.error)
        action, request = job.action, job.request
        if self._batch_open and action.apart:  # it has transactions of its own, after that of the batch
            return b""
        if request.traceparent is not None and not traced:
            with in_trace(request.traceparent):
                return self._answer(job, place, until, traced=True)
        try:
            job.caller = self._grants.require(job.caller, action.name)
            reply = (
                self._once(job, place, until)
                if action.mutates
                else self._handle(job, self._original_caller(job), until)
            )
        except Exception as error:  # boundary: one request's fault is that request's alone
            return self._failed(job, error)
        if isinstance(reply, bytes):
            self._outcomes.append((action.name, "ok"))
            return as_messagepack(reply) if job.messagepack else reply
        if reply is not None:
            self._deferred[place] = DeferredReply(msgspec.structs.replace(job, payload=b""), reply, time.perf_counter())
        return None if reply is None else b""

    def _failed(self, job: Job, error: Exception) -> bytes:
        if not isinstance(error, RequestError):
            _log.exception("request_failed", peer=job.caller.name, action=job.action.name)
            return self._refuse(job, InternalError(FAILED))
        if self._batch_open and isinstance(error, TransactionLost):
            raise error
        return self._refuse(job, error)

    def _once(self, job: Job, place: int, until: float) -> "bytes | Future[Reply] | None":
        """Execute a mutating request in a transaction of its store, or return its stored reply."""
        caller = self._original_caller(job)
        elsewhere = self._elsewhere(job.request, caller)
        if elsewhere is None:
            return self._once_in(job, caller, self._store, self._reply_log, until)
        other = None
        try:
            if (other := self._others.get(elsewhere)) is None:
                other = self._others[elsewhere] = _OtherTransaction(elsewhere)
            other.places.discard(place)  # of its earlier parts; if this one fails, that is its reply
            if other.lost is not None:
                raise StoreUnavailable(str(other.lost))
            reply = self._once_in(job, caller, elsewhere.store, elsewhere.replies, until)
        except TransactionLost as error:  # not that of the batch
            if other is not None:
                other.lost = error
            raise StoreUnavailable(str(error)) from error
        other.places.add(place)
        return reply

    def _once_in(
        self, job: Job, caller: Caller, store: Store, replies: ReplyLog, until: float
    ) -> "bytes | Future[Reply] | None":
        """Execute a mutating request in the transaction under way, or return its stored reply; None as of `_answer`.

        Two requests are the same if `compared_bytes` are, or one of `other_spellings` is what was stored. If the
        handler raises, neither change nor reply is stored, of one in parts the last part. A deferred reply is not
        stored: its action recognises a repeated request.
        """
        name, request_id = job.caller.name, job.request.request_id
        if request_id is not None:
            job.digest = digest = job.digest or _digest(compared_bytes(job.payload, job.request))
            stored = replies.find(name, request_id)
            if stored is not None:
                if stored.digest != digest and stored.digest not in map(_digest, other_spellings(job.payload)):
                    raise RequestIdReused(f"request_id {request_id!r} was used with another body; use a new id")
                return stored.reply
        share = None if job.action.from_reserve else self._share_of(caller, len(job.payload))
        with store.savepoint():
            if share is None:
                reply = self._handle(job, caller, until)
            else:
                with share:
                    reply = self._handle(job, caller, until)
            if request_id is not None and isinstance(reply, bytes):
                replies.add(name, request_id, job.digest, reply)
        return reply

    def _original_caller(self, job: Job) -> Caller:
        if (name := job.request.on_behalf_of) is None:
            return job.caller
        action = job.action
        return self._grants.original_caller(name, job.caller, action.name, action.forwardable, self._caller_named)

    def _handle(self, job: Job, caller: Caller, until: float) -> "bytes | Future[Reply] | None":
        if job.parts_for is not None and job.parts_for != caller:
            job.parts = None  # it may less than it might when they were begun
        answer = job.parts or job.action.handle(job.request, caller)
        if not isinstance(answer, dict) and isinstance(answer, Generator):
            job.parts = None  # once they have ended, a store that loses what they read has all of them done again
            if (whole := _advanced(answer, until)) is None:
                job.parts, job.parts_for = answer, caller
                return None
            answer = whole
        return answer if isinstance(answer, Future) else self._encode(job, answer)

    def _encode(self, job: Job, answer: Answer) -> bytes:
        request = job.request
        if job.translation is not None:
            reply = encode_reply(job.translation.render(answer), None)
        else:
            reply = encode_reply(answer, request.request_id, job.ignored, request.accepts is not None)
        return self._within_limit(reply)

    def _within_limit(self, reply: bytes) -> bytes:
        if len(reply) > self.max_payload_bytes:  # the client would close the connection, and retry for ever
            raise MessageTooLarge(
                f"the reply has {len(reply)} bytes and {self.max_payload_bytes} are allowed; ask for less per request"
            )
        return reply

    def _refuse(self, job: Job | Unread, error: RequestError) -> bytes:
        self.counters.errors += 1
        accepts, ignored = False, job.ignored
        if isinstance(job, Unread):
            caller, (request_id, messagepack) = job.inbound.caller, envelope_of(job.inbound.payload)
        else:
            caller, request_id, messagepack = job.caller, job.request.request_id, job.messagepack
            accepts = job.request.accepts is not None
        peer, action = caller.name if caller else None, job.action.name
        self._outcomes.append((action, type(error).code))  # not another agent's own, which would be a metric
        try:
            self._on_refusal(caller, action, error)
        except Exception:  # boundary: a listener's fault must not end the loop
            _log.exception("refusal_listener_fault", peer=peer)
        self._budget.log(_log.info, "request_refused", peer, peer=peer, request_id=request_id, code=error.code)
        if job.translation is not None:
            return encode_reply(job.translation.render_error(error), None)
        reply = encode_error(error, request_id, self._sentence_fields, ignored, accepts=accepts)
        return as_messagepack(reply) if messagepack else reply


def _advanced(parts: InParts[Answer], until: float) -> Answer | None:
    """Do some parts of what a handler does, at least one, and return its answer; None if there are some left."""
    try:
        next(parts)
        while time.perf_counter() < until:
            next(parts)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    return None


def _digest(compared: bytes) -> bytes:
    return hashlib.blake2b(compared, digest_size=16).digest()
