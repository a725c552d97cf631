"""What waits for mainpc, in memory and between threads: the store fills it, and the link takes from it in order."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.errors import MalformedRequest

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
