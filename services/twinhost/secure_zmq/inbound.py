"""A message as it came, to the job that it asks for: decoded, translated from an older dialect, or refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import structlog

from twinhost.secure_zmq.actions import Action, Translation, Translator
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import InternalError, RequestError
from twinhost.secure_zmq.wire import Answer, Request, RequestDecoder, encode_reply

_log = structlog.get_logger(__name__)

FAILED = "the agent failed on this request; its log has the traceback"


class Inbound(msgspec.Struct, gc=False):
    """One message as it came: its bytes, and its caller or the reason why it has none."""

    payload: bytes
    caller: Caller | None
    fault: RequestError | None = None


class Job(msgspec.Struct):
    """A request that can be carried out, if its caller may."""

    request: Request
    action: Action[Any]
    caller: Caller
    payload: bytes
    translation: Translation | None
    mutates: bool  # as its action
    apart: bool
    ignored: tuple[str, ...] = ()  # fields that today's dialect doesn't know

    def encode(self, reply: Answer) -> bytes:
        if self.translation is not None:
            return encode_reply(self.translation.render(reply), None)
        return encode_reply(reply, self.request.request_id, self.ignored)


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that asks for nothing that could be carried out, and why."""

    mutates: ClassVar[bool] = False
    apart: ClassVar[bool] = False

    inbound: Inbound
    error: RequestError
    translation: Translation | None = None


class InboundReader:
    """Reads the messages of one agent."""

    def __init__(
        self, actions: Mapping[type[Request], Action[Any]], max_payload_bytes: int, translate: Translator
    ) -> None:
        self._actions = actions
        self._decoder = RequestDecoder(actions, max_payload_bytes)
        self._translate = translate
        self._ignored: list[str] = []

    def read(self, inbound: Inbound) -> Job | Refused:
        """Return what a message asks for; nothing in it raises."""
        if inbound.caller is None or inbound.fault is not None:
            return Refused(inbound, inbound.fault or InternalError("the message has no caller"))
        try:
            return self._typed(inbound, inbound.caller)
        except RequestError as error:
            return Refused(inbound, error)
        except Exception:  # boundary: no input ends the loop, not even through a translator's fault
            _log.exception("request_not_read", peer=inbound.caller.name)
            return Refused(inbound, InternalError(FAILED))

    def _typed(self, inbound: Inbound, caller: Caller) -> Job | Refused:
        payload, translation = inbound.payload, None
        ignored: tuple[str, ...] = ()
        request: Request | RequestError
        try:
            request = self._decoder.decode(payload, self._ignored)
            if self._ignored:
                ignored = tuple(self._ignored)
                self._ignored.clear()
        except RequestError:
            translation = self._translate(payload)
            if translation is None:
                raise
            request = translation.request
        if isinstance(request, RequestError):
            return Refused(inbound, request, translation)
        action = self._actions[type(request)]
        return Job(request, action, caller, payload, translation, action.mutates, action.apart, ignored)
