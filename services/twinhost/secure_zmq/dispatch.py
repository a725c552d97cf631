"""A decoded batch to its replies: is the caller allowed, was it seen before, what does the handler say.

All of a batch's mutating requests share one transaction of the store, each in a savepoint of
its own, with what comes while they are carried out; replies are handed back only after the commit,
so whatever was answered is durable. What has transactions of its own (keys are files) has its turn behind that one.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import structlog

from twinhost.secure_zmq.actions import Action, Translator, no_dialect
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import (
    InternalError,
    MessageTooLarge,
    RequestError,
    StoreUnavailable,
    TransactionLost,
)
from twinhost.secure_zmq.forwarding import CallerNamed, first_caller, nobody
from twinhost.secure_zmq.grants import Grants
from twinhost.secure_zmq.inbound import FAILED, Inbound, InboundReader, Job, Refused
from twinhost.secure_zmq.once_only import OnceOnly, ReplyLog, Store
from twinhost.secure_zmq.rate_limit import LogBudget
from twinhost.secure_zmq.wire import Answer, Reply, encode_error, encode_reply, request_id_of

_log = structlog.get_logger(__name__)

_mutates = attrgetter("mutates")
_COMPANY_S = 0.05  # how long a change may wait for the commit while others come


RefusalListener = Callable[[Caller | None, str | None, RequestError], None]  # who, which action, why
AnswerListener = Callable[[str | None, str, float, int], None]  # action, `ok` or an error code, seconds, how many


@dataclass(slots=True)
class Counters:
    """Requests since the start; `last_request_time` in seconds since the epoch."""

    requests: int = 0
    errors: int = 0
    last_request_time: float | None = None


@dataclass(frozen=True, slots=True)
class Owed:
    """A request whose answer comes from another thread."""

    job: Job
    answer: "Future[Reply]"
    since: float


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
        caller_named: CallerNamed = nobody,
    ) -> None:
        self._reader = InboundReader({action.request: action for action in actions}, max_payload_bytes, translate)
        self._grants = grants
        self._store = store
        self._once = OnceOnly(store, reply_log)
        self._sentence_fields = sentence_fields
        self._max_payload_bytes = max_payload_bytes
        self._on_refusal = on_refusal
        self._on_answer = on_answer
        self._caller_named = caller_named
        self._outcomes: list[tuple[str | None, str]] = []  # of the batch, in its order
        self._owed: dict[int, Owed] = {}  # of the batch, by place
        self._together = False  # in one transaction
        self._budget = LogBudget()  # by caller
        self.counters = counters or Counters()

    def answer(self, batch: Sequence[Inbound], more: Callable[[], Sequence[Inbound]] = tuple) -> list[bytes]:
        """Return the replies, in the batch's order; what they acknowledge is on disk.

        One that is empty comes later: `take_owed()` has it.

        Args:
            batch: what has come.
            more: before a commit, asked for what has come since, until that is nothing or 50 ms are over; its replies
                come behind.
        """
        started = time.perf_counter()
        replies = self._answer_all(batch, more)
        seconds = time.perf_counter() - started
        self._tell(seconds)
        return replies

    def take_owed(self) -> dict[int, Owed]:
        """Return the answers of the last batch that come later, by their places in it."""
        owed, self._owed = self._owed, {}
        return owed

    def settle(self, owed: Owed) -> bytes:
        """Return the reply that was owed and is there now."""
        self._outcomes.clear()
        try:
            reply = self._encode(owed.job, owed.answer.result(timeout=0))
            self._outcomes.append((owed.job.action.name, "ok"))
        except RequestError as error:
            reply = self._refuse(owed.job, error)
        except Exception:  # boundary: one request's fault is that request's alone
            _log.exception("request_failed", peer=owed.job.caller.name, action=owed.job.action.name)
            reply = self._refuse(owed.job, InternalError(FAILED))
        self._tell(time.perf_counter() - owed.since)
        return reply

    def _tell(self, seconds: float) -> None:
        """Tell the listener what became of the batch; all of it has the same duration, so alike ones are one call."""
        if len(self._outcomes) == 1:
            self._on_answer(*self._outcomes[0], seconds, 1)
            return
        for (action, outcome), number in Counter(self._outcomes).items():
            self._on_answer(action, outcome, seconds, number)

    def _answer_all(self, batch: Sequence[Inbound], more: Callable[[], Sequence[Inbound]]) -> list[bytes]:
        self._outcomes.clear()
        self._owed.clear()
        jobs = self._read(batch)
        self.counters.last_request_time = time.time()
        if not any(map(_mutates, jobs)):
            return list(map(self._answer, jobs, itertools.count()))
        errors = self.counters.errors
        try:
            with self._store.transaction(), self._all_together():
                replies = list(map(self._answer_together, jobs, itertools.count()))
                until = time.perf_counter() + _COMPANY_S
                while time.perf_counter() < until and (further := self._read(more())):
                    jobs += further
                    replies += map(self._answer_together, further, itertools.count(len(replies)))
        except StoreUnavailable as error:
            _log.error("batch_not_stored", reason=str(error), requests=len(jobs))
            self._outcomes.clear()
            self.counters.errors = errors
            return [
                self._refuse(job, error) if job.mutates else self._answer(job, place) for place, job in enumerate(jobs)
            ]
        for place, job in enumerate(jobs):
            if job.apart:
                replies[place] = self._answer(job, place)
        return replies

    def _answer_together(self, job: Job | Refused, place: int) -> bytes:
        """Answer within the transaction of all changes of the batch; what goes apart has its turn behind it."""
        return b"" if job.apart else self._answer(job, place)

    @contextmanager
    def _all_together(self) -> Iterator[None]:
        """Within, a transaction that is lost is that of the whole batch, and not one that an action had of its own."""
        self._together = True
        try:
            yield
        finally:
            self._together = False

    def _read(self, batch: Sequence[Inbound]) -> list[Job | Refused]:
        self.counters.requests += len(batch)
        return [self._reader.read(inbound) for inbound in batch]

    def _answer(self, job: Job | Refused, place: int) -> bytes:
        if isinstance(job, Refused):
            return self._refuse(job, job.error)
        if place in self._owed:  # asked for already, in the transaction that failed: that was not undone
            return b""
        try:
            self._grants.require(job.caller, job.action.name)
            if job.action.mutates:
                reply = self._once.execute(
                    job.caller.name, job.request.request_id, job.payload, lambda: self._handle(job)
                )
            else:
                answer = job.action.handle(job.request, self._acting(job))
                if isinstance(answer, Future):
                    self._owed[place] = Owed(msgspec.structs.replace(job, payload=b""), answer, time.perf_counter())
                    return b""
                reply = self._encode(job, answer)
        except RequestError as error:
            if self._together and isinstance(error, TransactionLost):
                raise
            return self._refuse(job, error)
        except Exception:  # boundary: one request's fault is that request's alone
            _log.exception("request_failed", peer=job.caller.name, action=job.action.name)
            return self._refuse(job, InternalError(FAILED))
        self._outcomes.append((job.action.name, "ok"))
        return reply

    def _acting(self, job: Job) -> Caller:
        """Return for whom a request is done: its caller, or whom that one passes it on for."""
        name, action = job.request.on_behalf_of, job.action
        if name is None:
            return job.caller
        return first_caller(name, job.caller, action.name, action.forwardable, self._grants, self._caller_named)

    def _handle(self, job: Job) -> bytes:
        answer = job.action.handle(job.request, self._acting(job))
        if isinstance(answer, Future):
            raise TypeError(f"{job.action.name} mutates, and its answer is not there when the transaction ends")
        return self._encode(job, answer)

    def _encode(self, job: Job, answer: Answer) -> bytes:
        reply = job.encode(answer)
        if len(reply) > self._max_payload_bytes:  # the client would cut the connection, and ask again for ever
            raise MessageTooLarge(
                f"the reply has {len(reply)} bytes and {self._max_payload_bytes} are allowed; ask for less at once"
            )
        return reply

    def _refuse(self, job: Job | Refused, error: RequestError) -> bytes:
        self.counters.errors += 1
        if isinstance(job, Refused):
            caller, request_id = job.inbound.caller, request_id_of(job.inbound.payload)
        else:
            caller, request_id = job.caller, job.request.request_id
        peer, action = caller.name if caller else None, job.action.name if isinstance(job, Job) else None
        self._outcomes.append((action, error.code))
        try:
            self._on_refusal(caller, action, error)
        except Exception:  # boundary: who only listens ends no loop
            _log.exception("refusal_listener_fault", peer=peer)
        left_out = self._budget.admit(peer)
        if left_out is not None:
            fields = {"not_logged_before": left_out} if left_out else {}
            _log.info("request_refused", peer=peer, request_id=request_id, code=error.code, **fields)
        if job.translation is not None:
            return encode_reply(job.translation.render_error(error), None)
        ignored = job.ignored if isinstance(job, Job) else ()
        return encode_error(error, request_id, self._sentence_fields, ignored)
