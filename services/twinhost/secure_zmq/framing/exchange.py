"""The requests of one client that are in flight: how they are put into frames, and matched to their replies.

`Client` and `AsyncClient` own the connection and the waiting; this holds what both have in common. A request keeps its
id and its fields through every session, and is sent again in each one until it is answered.
"""

import itertools
import math
import os
from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec
import zmq

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, SocketMisuse, error_from_reply
from twinhost.secure_zmq.framing.forms import (
    ACCEPTED,
    MAX_SENT_BYTES,
    MAX_SENT_PARTS,
    MESSAGEPACK,
    MESSAGEPACK_FROM_BYTES,
    SEPARATOR,
    SEQUENCE,
    groups,
    is_messagepack,
    replies_in,
    together,
)
from twinhost.secure_zmq.link import Link
from twinhost.secure_zmq.sockets import DONTWAIT, PlainSend
from twinhost.secure_zmq.wire import OF_THE_ATTEMPT, Reply, as_json, decode_reply, encode_request

if TYPE_CHECKING:
    from asyncio import Future

DEFAULT_DEADLINE_S = 5.0
MAX_UNANSWERED_BYTES = 4 * 1024 * 1024  # of requests of a session: a server allows an identity a few times as much
_LARGE_BYTES = MAX_UNANSWERED_BYTES // 256
MAX_UNANSWERED = 256  # requests of a session; half of the replies that a server keeps for a peer before it drops one
LOOK_S = 0.000_3  # how long to poll for a reply before sleeping, where one usually comes within that time
LOOK_UNANSWERED = 8  # with more in flight, the sleep costs each of them little, and libzmq's threads get the core
_SEVERAL_CORES = len(os.sched_getaffinity(0)) > 1  # on one, polling only delays the reply

_numbers = itertools.count()
_prefix = ""


def _begin_process() -> None:
    global _prefix  # noqa: PLW0603 - of this process, and another one in a fork
    _prefix = os.urandom(12).hex()


_begin_process()
os.register_at_fork(after_in_child=_begin_process)


def new_request_id() -> str:
    """Return an id that no other request has: 96 random bits of this process, and a number."""
    return f"{_prefix}{next(_numbers):08x}"


def request_ids(common: str | None) -> Iterator[str]:
    """Yield the ids of many requests: new ones; or the common part, a hyphen and a number, to repeat them later."""
    number = itertools.count()
    while True:
        yield new_request_id() if common is None else f"{common}-{next(number)}"


def require_in_flight(in_flight: int) -> None:
    """Raise ValueError if no client can have so many requests in flight."""
    if not 1 <= in_flight <= MAX_UNANSWERED:
        raise ValueError(f"in_flight is {in_flight}; choose 1 to {MAX_UNANSWERED}")


def deadline_of(
    deadline_s: float | None, fields: Mapping[str, Any] = MappingProxyType({}), takeover_s: float = 0.0
) -> float:
    """Return the deadline of a call, in seconds; None: 5, and what a takeover may take, and the request's `wait_s`.

    Raises:
        ValueError: it is not a number above 0.
    """
    if deadline_s is None:
        default_s, wait_s = DEFAULT_DEADLINE_S + takeover_s, fields.get("wait_s")
        return default_s + wait_s if _is_time(wait_s) and wait_s < math.inf else default_s
    if not _is_time(deadline_s):
        raise ValueError(f"deadline_s is {deadline_s!r}; give it in seconds, as a number above 0")
    return deadline_s


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0  # False for nan


def successful(reply: Reply) -> Reply:
    """Return a reply that is not an error; raise the typed error of one that is."""
    if reply.get("status") == "error" and "code" in reply:
        raise error_from_reply(str(reply["code"]), str(reply.get("error", "no reason given")), reply)
    return reply


def closed() -> ConnectionRefused:
    """Return the error of a call on a client that is closed."""
    return ConnectionRefused("the client is closed; make a new one, and repeat the call with it")


class Asked(msgspec.Struct, eq=False):
    """A request, and its reply once that has come; times by the monotonic clock, in seconds."""

    action: str
    request_id: str
    payload: bytes
    deadline_s: float
    asked_at: float
    future: "Future[Reply] | None" = None  # of a call that is awaited
    reply: Reply | None = None
    sent_in: int = 0  # the session's number; 0 is not sent yet

    @property
    def deadline(self) -> float:
        return self.asked_at + self.deadline_s


class Exchange:
    """Of one client; on its thread."""

    def __init__(self, link: Link, max_payload_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self.asked: dict[str, Asked] = {}  # by id, in the order of asking; what nobody waits for any more is forgotten
        self.unanswered = 0  # requests that were sent in this session
        self.look_until = 0.0  # when to stop polling for the next reply
        self.due_since: float | None = None  # since when nothing has come, though a reply, or one given up, is due
        self._link = link
        self._takeover_s = link.takeover_s
        self._max_payload_bytes = max_payload_bytes
        self._monotonic = clock.monotonic
        self._unsent: dict[str, Asked] = {}  # in this session
        self._session = 0
        self._forms: Container[str] | None = None  # that the server reads; None is not known yet
        self._large: set[str] = set()  # actions whose last requests were large, as their next ones may be
        self._took_s = 0.0  # from a frame to the next reply, a moving average
        self._sent_at = 0.0
        self._process = _prefix

    @property
    def unsent(self) -> int:
        """How many requests wait to be sent."""
        return len(self._unsent)

    def ask(self, action: str, fields: Mapping[str, Any], request_id: str, deadline_s: float | None) -> Asked:
        """Add a request; `send()` sends it.

        Raises:
            ValueError: the deadline is not a number above 0.
            MessageTooLarge, MalformedRequest: it can't be encoded, or its id is in flight already.
            SocketMisuse: the client was made before a fork, by the parent.
        """
        if self._process != _prefix:
            raise SocketMisuse("this client was made by another process, before a fork; make one in this process")
        deadline_s = deadline_of(deadline_s, fields, self._takeover_s)
        forms = self._forms
        payload = encode_request(
            action,
            fields,
            request_id,
            self._max_payload_bytes,
            ACCEPTED if forms is None else (),
            forms is not None and MESSAGEPACK in forms,
            action in self._large,
        )
        if len(payload) > MESSAGEPACK_FROM_BYTES:
            self._large.add(action)
        elif self._large:
            self._large.discard(action)
        if request_id in self.asked:
            raise MalformedRequest(
                f"request_id {request_id!r} is in flight already; wait for its reply, or use another id"
            )
        asked = self.asked[request_id] = Asked(action, request_id, payload, deadline_s, self._monotonic())
        self._unsent[request_id] = asked
        return asked

    def forget(self, asked: Asked) -> None:
        """Wait no longer for a reply; one that comes is dropped."""
        if self.asked.get(asked.request_id) is asked:
            del self.asked[asked.request_id]
            if asked.reply is None:
                self._unsent.pop(asked.request_id, None)
                if asked.sent_in == self._session:
                    self.unanswered -= 1

    def send(self, session: int, send: PlainSend) -> bool:
        """Send what was not sent in a session, as far as the server keeps the replies and the pipe has room.

        Returns:
            Whether anything was sent.
        """
        if session != self._session:
            self._session, self._forms, self.unanswered, self.due_since = session, None, 0, None
            self._unsent = {name: asked for name, asked in self.asked.items() if asked.reply is None}
        room = MAX_UNANSWERED - self.unanswered
        if not self._unsent or (len(self._unsent) > room and room < MAX_UNANSWERED // 2):
            return False
        due = self._within_bytes(list(self._unsent.values())[:room])
        sent = 0
        try:
            only = len(due) == 1 and due[0].payload[:1] == b"{"
            for end, frame in [(1, due[0].payload)] if only else self._frames(due):
                send(frame, DONTWAIT)
                self._note_sent(due[sent:end], len(frame))
                sent = end
        except zmq.Again:  # the pipe is full: the next reply or the next check tries again
            pass
        return sent > 0

    def _within_bytes(self, due: list[Asked]) -> list[Asked]:
        """Return those that can be sent without having too many bytes unanswered, one at least if there are none."""
        if all(len(asked.payload) <= _LARGE_BYTES for asked in due):
            return due
        session = self._session
        held = sum(len(asked.payload) for asked in self.asked.values() if asked.sent_in == session and not asked.reply)
        for place, asked in enumerate(due):
            held += len(asked.payload)
            if held > MAX_UNANSWERED_BYTES and held > len(asked.payload):
                return due[:place]
        return due

    def take(self, frame: bytes) -> list[Asked]:
        """Return the requests that a frame answers; none where the server refuses our previous key.

        Raises:
            MalformedRequest: it is not from an agent, or the server could not read a request; the others have replies.
        """
        answered: list[Asked] = []
        in_flight, session = self.asked, self._session
        fault: MalformedRequest | None = None
        now = self._monotonic()
        noted = False  # that the server replies: once for a frame
        for payload in replies_in(frame) if frame[:1] == SEPARATOR else (frame,):
            reply = decode_reply(payload)
            request_id = reply.get("request_id")
            if request_id is None and reply.get("status") == "error":
                fault = MalformedRequest(f"the server could not read a request: {reply.get('error')}")
                continue
            if not noted or "code" in reply:
                if not self._link.accepts(reply):
                    break
                noted = True
            asked = in_flight.get(request_id) if type(request_id) is str else None
            if asked is None or asked.reply is not None:  # it came too late, or twice
                continue
            if asked.sent_in == session:
                self.unanswered -= 1
            else:  # it was sent in an earlier session, and need not be sent again
                self._unsent.pop(asked.request_id, None)
            if "accepts" in reply or "ignored_fields" in reply:
                self._note_forms(reply)
            asked.reply = reply
            answered.append(asked)
        self.due_since = now if self.unanswered else None
        self._took_s += (now - self._sent_at - self._took_s) / 4
        if fault is not None:
            raise fault
        return answered

    def _note_forms(self, reply: Reply) -> None:
        """Note what the server reads, where its reply says so; an older one says that it does not know `accepts`.

        What an older server ignores of what the client itself adds is no news to the caller.
        """
        if "accepts" in reply:
            accepts = reply.pop("accepts")
            self._forms = frozenset(map(str, accepts)) if isinstance(accepts, list) else frozenset()
        ignored = reply.pop("ignored_fields", None)
        if not isinstance(ignored, list):  # absent, or of no agent of this project
            return
        if "accepts" in ignored:
            self._forms = frozenset()
        if others := [name for name in ignored if name not in OF_THE_ATTEMPT]:
            reply["ignored_fields"] = others

    def _note_sent(self, sent: list[Asked], size: int) -> None:
        self._sent_at = self._monotonic()
        if self.due_since is None:
            self.due_since = self._sent_at
        self.unanswered += len(sent)
        quick = size <= MESSAGEPACK_FROM_BYTES and self._took_s < LOOK_S
        looks = _SEVERAL_CORES and quick and self.unanswered <= LOOK_UNANSWERED
        self.look_until = self._sent_at + LOOK_S if looks else 0.0
        for asked in sent:
            asked.sent_in = self._session
            del self._unsent[asked.request_id]

    def _frames(self, unsent: list[Asked]) -> Iterator[tuple[int, bytes]]:
        """Yield frames, each with the number of requests up to its end; what is large is alone, as is the first."""
        forms = self._forms or ()
        if MESSAGEPACK not in forms:
            for asked in unsent:
                if is_messagepack(asked.payload):
                    asked.payload = as_json(asked.payload)
        payloads = [asked.payload for asked in unsent]
        most = MAX_SENT_PARTS if SEQUENCE in forms else 1
        for begin, end in groups(payloads, MAX_SENT_BYTES, most):
            yield end, payloads[begin] if end - begin == 1 else together(payloads[begin:end])
