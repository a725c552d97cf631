"""From a request's bytes to what is executed: decoded, translated where it has an older dialect, or refused.

A refusal never raises: it is answered like any other request. A repetition is recognised by its text in JSON.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import structlog

from twinhost.secure_zmq.actions import Action, InParts, Translation, Translator
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import InternalError, RequestError
from twinhost.secure_zmq.framing.forms import (
    FIRST_OF_MESSAGEPACK,
    MAX_FIELDS,
    MESSAGEPACK_FROM_BYTES,
    Payload,
    check_nested,
)
from twinhost.secure_zmq.wire import OF_THE_ATTEMPT, Answer, Reply, Request, RequestDecoder, as_json

if TYPE_CHECKING:
    from twinhost.secure_zmq.session import Session

_log = structlog.get_logger(__name__)

FAILED = "the agent failed on this request; read the traceback in its log"

_encoder = msgspec.json.Encoder()
_shallow_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Inbound(msgspec.Struct, gc=False):
    """One request as it came: its bytes, and its caller or the reason why it has none."""

    payload: Payload
    caller: Caller | None
    fault: RequestError | None = None  # `detached` if it was raised: no garbage collection looks into this
    begun: "Job | None" = None  # as it was read, if it is done in parts and some of them are done


def detached(error: RequestError) -> RequestError:
    """Return an error that is kept without the functions it was raised in, which hold the frame and the batch."""
    error.__context__ = None
    return error.with_traceback(None)


class Return(msgspec.Struct, gc=False):
    """Where the replies to a frame go: its routing-ids, its session, and whether they travel in one frame too."""

    route: list[bytes]
    session: "Session | None"
    together: bool = False


class Batch:
    """Requests and where their replies go, in one order; those of a frame are neighbours and share their return."""

    __slots__ = ("inbounds", "returns", "size", "together")

    def __init__(self) -> None:
        self.returns: list[Return] = []
        self.inbounds: list[Inbound] = []
        self.size = 0  # bytes
        self.together = False  # whether there is a frame whose replies travel in one

    def add(self, back: Return, inbound: Inbound) -> None:
        if back.together:
            self.together = True
        self.returns.append(back)
        self.inbounds.append(inbound)
        self.size += len(inbound.payload)

    def add_parts(self, back: Return, inbounds: list[Inbound], size: int) -> None:
        """Add the requests of one frame, which has so many bytes."""
        self.together |= back.together
        self.returns += [back] * len(inbounds)
        self.inbounds += inbounds
        self.size += size

    def only_of(self, caller: Caller | None) -> bool:
        """Return whether all are of this caller."""
        return all(inbound.caller is caller for inbound in self.inbounds)

    def after(self, place: int) -> "Batch":
        """Return the requests from a place on."""
        rest = Batch()
        for back, inbound in zip(self.returns[place:], self.inbounds[place:], strict=True):
            rest.add(back, inbound)
        return rest

    def extend(self, other: "Batch") -> None:
        """Add the requests of another batch."""
        self.together |= other.together
        self.returns += other.returns
        self.inbounds += other.inbounds
        self.size += other.size


class Job(msgspec.Struct, gc=False):
    """A request that can be executed, if its caller is granted its action."""

    request: Request
    action: Action[Any]
    caller: Caller
    payload: Payload
    messagepack: bool  # and so is its reply
    translation: Translation | None = None
    ignored: Sequence[str] = ()  # unknown fields
    parts: InParts[Answer] | None = None  # what is left of its work
    parts_for: Caller | None = None  # whose work that is, as it was known then; None: nothing of it is done
    digest: bytes = b""  # of its text, once it is known


class _NoAction:
    """What is known of an action that nobody could read."""

    name = None
    mutates = apart = False


@dataclass(frozen=True, slots=True)
class Unread:
    """A message from which no request could be read, and why."""

    action: ClassVar[type[_NoAction]] = _NoAction
    ignored: ClassVar[Sequence[str]] = ()

    inbound: Inbound
    error: RequestError
    translation: Translation | None = None

    @property
    def caller(self) -> Caller | None:
        return self.inbound.caller


@dataclass(frozen=True, slots=True)
class DeferredReply:
    """A request whose answer comes from another thread."""

    job: Job
    answer: "Future[Reply]"
    since: float


class RequestReader:
    """Decodes the messages of one agent, and translates those of an older dialect."""

    def __init__(
        self, actions: Mapping[type[Request], Action[Any]], max_payload_bytes: int, translate: Translator
    ) -> None:
        self._actions = actions
        self._decoder = RequestDecoder(actions, max_payload_bytes)
        self._max_plain_bytes = min(max_payload_bytes, MESSAGEPACK_FROM_BYTES)
        self._translate = translate
        self._ignored: list[str] = []  # of the last request: one list for all

    def read(self, inbound: Inbound) -> Job | Unread:
        """Return the request in a message; no message makes this raise."""
        payload, caller = inbound.payload, inbound.caller
        if caller is None or inbound.fault is not None:
            return Unread(inbound, inbound.fault or InternalError("the message has no caller"))
        if (begun := inbound.begun) is not None:
            begun.caller = caller
            return begun
        translation, ignored = None, self._ignored
        if ignored:
            ignored.clear()
        try:
            request = self._decoder.decode(payload, ignored)
        except Exception as error:  # boundary: no input may end the loop
            older = self._translated(inbound, caller, error)
            if isinstance(older, Unread):
                return older
            request, translation = older
        action = self._actions[type(request)]
        compact = payload[0] >= FIRST_OF_MESSAGEPACK
        if translation is None and not ignored:
            return Job(request, action, caller, payload, compact)
        return Job(request, action, caller, payload, compact, translation, tuple(ignored))

    def plain(self, payload: Payload) -> Request | None:
        """Return a request of the usual form; None where `read` has to look at it, as at every large one."""
        if len(payload) > self._max_plain_bytes or isinstance(payload, memoryview) or not payload.isascii():
            return None
        try:
            request = self._decoder.decode_plain(payload)
        except (msgspec.MsgspecError, RecursionError):
            return None
        plain = request.on_behalf_of is None and request.accepts is None and request.traceparent is None
        return request if plain else None

    def _translated(self, inbound: Inbound, caller: Caller, error: Exception) -> tuple[Request, Translation] | Unread:
        """Return a request of an older dialect; the error where it is none."""
        try:
            if not isinstance(error, RequestError):
                raise error
            translation = self._translate(inbound.payload) if isinstance(inbound.payload, bytes) else None
        except Exception:  # boundary: not even if a translator fails
            _log.exception("request_not_read", peer=caller.name)
            return Unread(inbound, InternalError(FAILED))
        if translation is None:
            return Unread(inbound, detached(error))
        if isinstance(translation.request, RequestError):
            return Unread(inbound, translation.request, translation)
        return translation.request, translation


def compared_bytes(payload: Payload, request: Request) -> bytes:
    """Return what two requests with one id are compared by first: their bytes, whatever their form.

    `accepts` and `traceparent` are left out: they belong to the connection and to the attempt.
    """
    payload = as_json(payload)
    if request.accepts is None and request.traceparent is None:
        return payload
    return _encoder.encode(_lasting_fields(payload))


def other_spellings(payload: Payload) -> Iterator[bytes]:
    """Yield what `compared_bytes` may have returned for the same request, if that one had another spelling.

    That is JSON without white space, or as Python's `json.dumps` writes it. It takes much longer than `compared_bytes`,
    so a request that has more than 256 fields, or 256 KiB of arrays and maps, has no other spelling.
    """
    try:
        fields = _lasting_fields(as_json(payload))
        if len(fields) > MAX_FIELDS:
            return
        as_sent = _encoder.encode(fields)
        yield as_sent
        yield msgspec.json.format(as_sent, indent=0)
        check_nested(sum(len(value) for value in map(bytes, fields.values()) if value[:1] in (b"[", b"{")))
        values = msgspec.json.decode(as_sent)
        yield _encoder.encode(values)
        spaced = json.dumps(values).encode()
        yield spaced
        yield _encoder.encode(_shallow_decoder.decode(spaced))  # if that one had `accepts` or `traceparent`
    except (RequestError, msgspec.MsgspecError, RecursionError, ValueError):  # an unknown field may hold anything
        return


def _lasting_fields(text: bytes) -> dict[str, msgspec.Raw]:
    """Return the fields that every attempt at a request has."""
    return {name: value for name, value in _shallow_decoder.decode(text).items() if name not in OF_THE_ATTEMPT}
