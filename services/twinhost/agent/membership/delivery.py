"""Deliver undelivered requests to mainpc, oldest first: the queue between the outbox and the link, and the sender.

The outbox fills the queue with what is on disk. The link's thread sends the oldest request, and the next one only once
mainpc has answered. Requests are sent with this agent's key, and rows of the outbox may come from a restored backup, so
only the requests that this agent makes are sent, and only their own fields.
"""

import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import structlog

from twinhost.agent.host_metrics import HostSample
from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive, RequestError, StoreUnavailable

_log = structlog.get_logger(__name__)

CALL_DEADLINE_S = 2.0
TRANSIENT = (PeerNotLive, StoreUnavailable)  # concern every request for a while; others concern one request
_BACKOFF_S = 1.0  # after a transient error, with jitter
_RETRY_REFUSED_S = 600.0  # a grant may have been given meanwhile, or mainpc repaired
_MAX_DEFERRED = 1_000  # requests that wait for a database which can't be written
_ROW_BYTES = 256  # that a row takes beside its fields


class Kind(StrEnum):
    """The kinds of undelivered requests, least important first: the first to be dropped when the outbox is full."""

    SAMPLE = "sample"
    EVENT = "event"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Undelivered:
    """One request in the outbox; `added` in seconds since the epoch."""

    seq: int
    kind: Kind
    action: str
    content: bytes  # its fields, as JSON
    request_id: str
    added: float

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields of the request.

        Raises:
            MalformedRequest: the row is not what this program wrote.
        """
        try:
            return msgspec.json.decode(str(self.content, "utf-8"), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"row {self.seq} of the outbox is not a JSON object ({error})") from None

    @property
    def size(self) -> int:
        return size_of(len(self.content))


def size_of(content_bytes: int) -> int:
    """Return how many bytes count for a row with fields of this size."""
    return content_bytes + _ROW_BYTES


@dataclass(frozen=True, slots=True)
class DeferredRequest:
    """A request that is added to the outbox with its next tick."""

    kind: Kind
    action: str
    fields: Mapping[str, Any]


class QueueCounts(NamedTuple):
    """How many requests wait, since when the first (in seconds since the epoch), and how many are not sent."""

    waiting: int
    oldest: float | None
    set_aside: int
    dropped: Mapping[Kind, int]


class DeliveryQueue:
    """The undelivered requests in order; every method may be called from any thread, and none waits for a disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, Undelivered] = OrderedDict()
        self._refused: dict[int, tuple[Undelivered, str]] = {}  # and the code of the error
        self._delivered: list[int] = []
        self._deferred: list[DeferredRequest] = []
        self._dropped = dict.fromkeys(Kind, 0)
        self._foreign = 0
        self.on_put: Callable[[], object] = lambda: None  # called after a `put`, on its thread

    def put(self, request: Undelivered) -> None:
        """Add a request, which is durable, at the end."""
        with self._lock:
            self._waiting[request.seq] = request
        self.on_put()

    def remove(self, seq: int) -> None:
        """Remove a request that is no longer on disk."""
        with self._lock:
            self._waiting.pop(seq, None)
            self._refused.pop(seq, None)

    def oldest(self) -> Undelivered | None:
        """Return the next request to send, or None."""
        with self._lock:
            return next(iter(self._waiting.values()), None)

    def delivered(self, request: Undelivered) -> None:
        """Record that mainpc has a request; the outbox deletes it with its next tick."""
        with self._lock:
            self._waiting.pop(request.seq, None)
            self._delivered.append(request.seq)

    def refused(self, request: Undelivered, code: str) -> None:
        """Postpone a request that mainpc refused, so that later ones are sent; it stays on disk."""
        with self._lock:
            if self._waiting.pop(request.seq, None) is not None:  # else it was dropped meanwhile
                self._refused[request.seq] = request, code

    def retry_refused(self) -> None:
        """Send the refused requests again, in their place in the order."""
        with self._lock:
            if self._refused:
                again = {seq: request for seq, (request, _) in self._refused.items()}
                self._refused = {}
                self._waiting = OrderedDict(sorted({**again, **self._waiting}.items()))

    def defer(self, kind: Kind, action: str, fields: Mapping[str, Any]) -> None:
        """Add a request to the outbox with its next tick; of more than 1,000 the oldest is dropped."""
        with self._lock:
            self._deferred.append(DeferredRequest(kind, action, fields))
            self._limit_deferred()

    def take_changes(self) -> tuple[list[int], list[DeferredRequest]]:
        """Return and remove the numbers of delivered requests, and the deferred requests."""
        with self._lock:
            delivered, self._delivered = self._delivered, []
            deferred, self._deferred = self._deferred, []
        return delivered, deferred

    def put_changes_back(self, delivered: list[int], deferred: list[DeferredRequest]) -> None:
        """Put back what `take_changes` returned and could not be written."""
        with self._lock:
            self._delivered = delivered + self._delivered
            self._deferred = deferred + self._deferred
            self._limit_deferred()

    def count_dropped(self, kind: Kind) -> None:
        """Count a request that was dropped because the outbox is full."""
        with self._lock:
            self._dropped[kind] += 1

    def count_foreign(self, count: int) -> None:
        """Count rows on disk that this agent did not write, and that are not in this queue."""
        with self._lock:
            self._foreign += count

    def counts(self) -> QueueCounts:
        """Return how many requests there are."""
        with self._lock:
            oldest = next(iter(self._waiting.values()), None)
            return QueueCounts(
                len(self._waiting),
                oldest.added if oldest else None,
                len(self._refused) + self._foreign,
                dict(self._dropped),
            )

    def document(self) -> dict[str, Any]:
        """Return the state for the health document."""
        counts = self.counts()
        return {
            "waiting": counts.waiting,
            "oldest": None if counts.oldest is None else iso_time(counts.oldest),
            "set_aside": counts.set_aside,
            "let_go": {kind.value: count for kind, count in counts.dropped.items() if count},
        }

    def warnings(self) -> list[str]:
        """Return what needs attention; undelivered requests alone don't."""
        with self._lock:
            refused, dropped, foreign = len(self._refused), sum(self._dropped.values()), self._foreign
            codes = sorted({code for _, code in self._refused.values()})
        warnings = []
        if refused:
            warnings.append(
                f"mainpc refused requests from this agent's outbox: {refused} ({', '.join(codes)}); they are kept and "
                "retried every 10 minutes; check mainpc's grants and this agent's log"
            )
        if foreign:
            warnings.append(
                f"rows of the outbox that this agent did not write: {foreign}; they are kept and never sent; check "
                "which backup was restored last"
            )
        if dropped:
            warnings.append(
                f"requests dropped because this agent's outbox was full: {dropped}; to check the link to "
                "mainpc, run: ./twinhost doctor"
            )
        return warnings

    def _limit_deferred(self) -> None:
        for dropped in self._deferred[:-_MAX_DEFERRED]:
            self._dropped[dropped.kind] += 1
        del self._deferred[:-_MAX_DEFERRED]


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    event: Any


class _Error(msgspec.Struct, forbid_unknown_fields=True):
    error: Any


class _Sample(HostSample, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str


_TYPES: dict[str, type[msgspec.Struct]] = {"publish_event": _Event, "report_error": _Error, "report_metrics": _Sample}


def fields_to_send(request: Undelivered, now: float) -> dict[str, Any]:
    """Return the fields of a request that this agent makes; mainpc checks their content.

    Args:
        request: from the outbox.
        now: seconds since the epoch, for how late a sample arrives.

    Raises:
        MalformedRequest: this agent makes no such request.
    """
    fields, expected = request.fields, _TYPES.get(request.action)
    if expected is None or (request.kind is Kind.SAMPLE) != (expected is _Sample):
        raise MalformedRequest(
            f"row {request.seq} of the outbox has the kind {request.kind} and the action {request.action[:64]!r}, "
            "which this agent never writes; check where its database came from"
        )
    try:
        parsed = msgspec.convert(fields, expected)
    except msgspec.ValidationError as error:
        raise MalformedRequest(
            f"row {request.seq} of the outbox is not a {request.action} of this agent ({error}); check where its "
            "database came from"
        ) from None
    return {**fields, "late_by_s": max(0.0, now - parsed.wall)} if isinstance(parsed, _Sample) else fields


class Sender:
    """Sends what the queue has; used by the link's thread alone, while it is connected."""

    def __init__(self, queue: DeliveryQueue, clock: Clock = SYSTEM_CLOCK) -> None:
        self._queue = queue
        self._clock = clock
        self._not_before = 0.0  # by the monotonic clock; 0 without a transient error
        self._retry_refused_at = self._clock.monotonic() + _RETRY_REFUSED_S
        self._budget = LogBudget(clock.monotonic)  # by code

    def send_one(self, client: Client) -> bool:
        """Send the oldest request; return whether there may be more to send at once.

        After a transient error it stays the oldest, so that the order is kept. After any other error it is postponed:
        it stays on disk, health reports it, and it is retried later.

        Raises:
            ConnectionRefused: mainpc is unreachable, and may or may not have received the request.
        """
        clock = self._clock.monotonic()
        if clock < self._not_before:
            return False
        self._not_before = 0.0
        if clock >= self._retry_refused_at:
            self.reconnected()
        request = self._queue.oldest()
        if request is None:
            return False
        try:
            fields = fields_to_send(request, self._clock.time())
            # A sample's age changes with each attempt, and so does the request; mainpc deduplicates by `wall`.
            request_id = None if request.kind is Kind.SAMPLE else request.request_id
            client.call(request.action, deadline_s=CALL_DEADLINE_S, request_id=request_id, **fields)
        except TRANSIENT:
            self._not_before = clock + _BACKOFF_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            return False
        except RequestError as error:
            self._refused(request, error)
        else:
            self._queue.delivered(request)
        return True

    def backoff_s(self) -> float:
        """Return in how many seconds `send_one` is to be called again, because of a transient error; else infinity."""
        return max(0.0, self._not_before - self._clock.monotonic()) if self._not_before else float("inf")

    def reconnected(self) -> None:
        """Retry what was refused: mainpc may have been updated."""
        self._retry_refused_at = self._clock.monotonic() + _RETRY_REFUSED_S
        self._queue.retry_refused()

    def _refused(self, request: Undelivered, error: RequestError) -> None:
        self._queue.refused(request, error.code)
        self._budget.log(
            _log.warning,
            "delivery_refused",
            error.code,
            code=error.code,
            kind=request.kind.value,
            action=request.action,
            number=request.seq,
            reason=str(error),
        )
