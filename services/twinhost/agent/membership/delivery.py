"""What waits for mainpc, in memory and between threads: the store fills it, and the link takes from it in order."""

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import structlog

from twinhost.agent.health import iso_time
from twinhost.agent.host_metrics import HostSample
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MalformedRequest, PeerNotLive, RequestError, StoreUnavailable
from twinhost.secure_zmq.rate_limit import LogBudget

_MOST_LEFT = 1_000  # that wait for a database which can't be written
_ROW_BYTES = 256  # what a row takes beside its fields


class Kind(StrEnum):
    """What is owed, from what is worth least to what is worth most."""

    SAMPLE = "sample"
    EVENT = "event"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Owed:
    """One request that mainpc has not answered yet; `added` in seconds since the epoch."""

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
            MalformedRequest: what is on disk is not what was written.
        """
        try:
            return msgspec.json.decode(str(self.content, "utf-8"), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"number {self.seq} of the outbox is no JSON object ({error})") from None

    @property
    def size(self) -> int:
        return size_of(len(self.content))


def size_of(content_bytes: int) -> int:
    """Return how many bytes count for a row whose fields take so many."""
    return content_bytes + _ROW_BYTES


@dataclass(frozen=True, slots=True)
class Left:
    """One thing that somebody without the database owes."""

    kind: Kind
    action: str
    fields: Mapping[str, Any]


class OwedQueue:
    """In the order of their numbers; every method may be called from any thread, and none waits for a disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[int, Owed] = OrderedDict()
        self._aside: dict[int, tuple[Owed, str]] = {}  # and the code of the refusal
        self._arrived: list[int] = []
        self._left: list[Left] = []
        self._let_go = dict.fromkeys(Kind, 0)
        self._strange = 0

    def put(self, owed: Owed) -> None:
        """Let one be sent after all that are here; it is durable."""
        with self._lock:
            self._waiting[owed.seq] = owed

    def forget(self, seq: int) -> None:
        """Send it no more: it is not on disk any longer."""
        with self._lock:
            self._waiting.pop(seq, None)
            self._aside.pop(seq, None)

    def oldest(self) -> Owed | None:
        """Return what is to be sent next, or None."""
        with self._lock:
            return next(iter(self._waiting.values()), None)

    def arrived(self, owed: Owed) -> None:
        """Note that mainpc has it."""
        with self._lock:
            self._waiting.pop(owed.seq, None)
            self._arrived.append(owed.seq)

    def set_aside(self, owed: Owed, code: str) -> None:
        """Let what comes after it go first: mainpc refused it, and would again. It stays on disk."""
        with self._lock:
            if self._waiting.pop(owed.seq, None) is not None:  # else it has given way meanwhile
                self._aside[owed.seq] = owed, code

    def try_again(self) -> None:
        """Have what was set aside sent once more, in its place in the order."""
        with self._lock:
            if self._aside:
                again = {seq: owed for seq, (owed, _) in self._aside.items()}
                self._aside = {}
                self._waiting = OrderedDict(sorted({**again, **self._waiting}.items()))

    def leave(self, kind: Kind, action: str, fields: Mapping[str, Any]) -> None:
        """Owe mainpc what no request caused; durable with the store's next tick. The oldest of 1,000 gives way."""
        with self._lock:
            self._left.append(Left(kind, action, fields))
            self._bound_left()

    def take_notes(self) -> tuple[list[int], list[Left]]:
        """Return the numbers of what has arrived, and what was left here, and have neither any longer."""
        with self._lock:
            arrived, self._arrived = self._arrived, []
            left, self._left = self._left, []
        return arrived, left

    def put_notes_back(self, arrived: list[int], left: list[Left]) -> None:
        """Have again what could not be written."""
        with self._lock:
            self._arrived = arrived + self._arrived
            self._left = left + self._left
            self._bound_left()

    def note_let_go(self, kind: Kind) -> None:
        """Count one that gave way, or found no room."""
        with self._lock:
            self._let_go[kind] += 1

    def note_strange(self, count: int) -> None:
        """Count rows on disk that are nothing which this agent owes, and are not here."""
        with self._lock:
            self._strange += count

    def document(self) -> dict[str, Any]:
        """Return what health says: how much waits, since when, what was refused, and what has given way."""
        with self._lock:
            oldest = next(iter(self._waiting.values()), None)
            return {
                "waiting": len(self._waiting),
                "oldest": iso_time(oldest.added) if oldest else None,
                "set_aside": len(self._aside) + self._strange,
                "let_go": {kind.value: count for kind, count in self._let_go.items() if count},
            }

    def warnings(self) -> list[str]:
        """Return what somebody should look at; nothing while things merely wait."""
        with self._lock:
            aside, let_go, strange = len(self._aside), sum(self._let_go.values()), self._strange
            codes = sorted({code for _, code in self._aside.values()})
        told = []
        if aside:
            told.append(
                f"mainpc refused {aside} of what this agent owes it ({', '.join(codes)}); it is kept and sent again "
                "every 10 minutes; see mainpc's grants and this agent's log"
            )
        if strange:
            told.append(
                f"rows of the outbox that this agent never made: {strange}; they are kept and never sent; see "
                "where the backup came from that was restored last"
            )
        if let_go:
            told.append(f"{let_go} of what this agent owes mainpc has given way, for want of room; mend the link")
        return told

    def _bound_left(self) -> None:
        for lost in self._left[:-_MOST_LEFT]:
            self._let_go[lost.kind] += 1
        del self._left[:-_MOST_LEFT]


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    event: Any


class _Error(msgspec.Struct, forbid_unknown_fields=True):
    error: Any


class _Sample(HostSample, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str


_TYPES: dict[str, type[msgspec.Struct]] = {"publish_event": _Event, "report_error": _Error, "report_metrics": _Sample}


def fields_of(owed: Owed, now: float) -> dict[str, Any]:
    """Return the fields of a request of this agent, mainpc's judgement of their content left to mainpc.

    Args:
        now: seconds since the epoch; a sample says how long before that it was measured.

    Raises:
        MalformedRequest: the agent owes no such request.
    """
    fields, expected = owed.fields, _TYPES.get(owed.action)
    if expected is None or (owed.kind is Kind.SAMPLE) != (expected is _Sample):
        raise MalformedRequest(
            f"number {owed.seq} of the outbox is a {owed.kind} with the action {owed.action[:64]!r}, which this agent "
            "never owes; see where its database came from"
        )
    try:
        told = msgspec.convert(fields, expected)
    except msgspec.ValidationError as error:
        raise MalformedRequest(
            f"number {owed.seq} of the outbox is no {owed.action} of this agent ({error}); see where its database came "
            "from"
        ) from None
    return {**fields, "late_by_s": max(0.0, now - told.wall)} if isinstance(told, _Sample) else fields


_log = structlog.get_logger(__name__)

CALL_DEADLINE_S = 2.0
PASSING = (PeerNotLive, StoreUnavailable)  # refusals of everything, which pass; any other is of this request alone
_WAIT_S = 1.0  # after one of those, with jitter
_AGAIN_S = 600.0  # until what was refused is tried again: a grant may have been given, or mainpc mended


class OwedSender:
    """Used by the link's thread alone, while it is in touch."""

    def __init__(self, queue: OwedQueue) -> None:
        self._queue = queue
        self._not_before = 0.0
        self._again_at = time.monotonic() + _AGAIN_S
        self._budget = LogBudget()  # by code

    def send_one(self, client: Client) -> bool:
        """Send what is owed for longest; return whether there may be more to send at once.

        A refusal that passes leaves it where it is, and nothing overtakes it. Any other sets it aside, kept on
        disk and told in health, so that what comes after it arrives; its turn comes again later.

        Raises:
            ConnectionRefused: mainpc is out of reach, and whether it has got this is not known.
        """
        clock = time.monotonic()
        if clock < self._not_before:
            return False
        if clock >= self._again_at:
            self.back_in_touch()
        owed = self._queue.oldest()
        if owed is None:
            return False
        try:
            self._send(client, owed)
        except PASSING:
            self._not_before = clock + _WAIT_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            return False
        except RequestError as error:
            self._set_aside(owed, error)
        else:
            self._queue.arrived(owed)
        return True

    def back_in_touch(self) -> None:
        """Try once more what was refused: mainpc may be another one by now."""
        self._again_at = time.monotonic() + _AGAIN_S
        self._queue.try_again()

    @staticmethod
    def _send(client: Client, owed: Owed) -> None:
        fields = fields_of(owed, time.time())
        # A sample's age is another one each time, and so the request is; mainpc goes by `wall`.
        request_id = None if owed.kind is Kind.SAMPLE else owed.request_id
        client.call(owed.action, deadline_s=CALL_DEADLINE_S, request_id=request_id, **fields)

    def _set_aside(self, owed: Owed, error: RequestError) -> None:
        self._queue.set_aside(owed, error.code)
        left_out = self._budget.admit(error.code)
        if left_out is not None:
            _log.warning(
                "owed_set_aside",
                code=error.code,
                kind=owed.kind.value,
                action=owed.action,
                number=owed.seq,
                reason=str(error),
                not_logged_before=left_out,
            )
