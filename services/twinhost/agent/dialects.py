"""Older dialects of the wire, translated at the edge; only messages that are not in today's dialect are tried."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.secure_zmq.actions import Translation, Translator
from twinhost.secure_zmq.errors import MalformedRequest, NotFound, RequestError, UnknownAction
from twinhost.secure_zmq.wire import MAX_REQUEST_ID_CHARACTERS, Answer, Reply, Request

NOT_FOUND = "NOT_FOUND"
MAX_COMMAND_BYTES = 65_536  # of the command dialect, whose requests are small


def first_of(*translators: Translator) -> Translator:
    """Return a translator that tries others in order."""

    def translate(payload: bytes) -> Translation | None:
        return next(
            (translation for translator in translators if (translation := translator(payload)) is not None), None
        )

    return translate


def raw_strings(requests: Mapping[bytes, tuple[Request, Callable[[Answer], Answer] | None]]) -> Translator:
    """Return a translator for messages that are a bare word rather than JSON.

    Args:
        requests: by word, today's request, and how to render its reply for the older client.
    """

    def translate(payload: bytes) -> Translation | None:
        known = requests.get(payload)
        if known is None:
            return None
        request, render = known
        return Translation(request, render or _as_is, _error)

    return translate


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the command dialect."""

    translate: Callable[[dict[str, Any]], Request]  # from its payload; raises msgspec's error for an invalid field
    render: Callable[[Answer], Answer]  # the fields besides `status`; raises a RequestError if the reply is no success
    echoes: bool = False  # its payload is any JSON value, which the reply repeats as `data.echo`


class _Envelope(msgspec.Struct):
    command: str
    action: Any = msgspec.UNSET
    payload: Any = None
    data: Any = None
    request_id: Any = None


_envelopes = msgspec.json.Decoder(_Envelope)
_objects = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def commands(
    known: Mapping[str, Command],
    *,
    max_bytes: int = MAX_COMMAND_BYTES,
    anywhere: bool = False,
    not_found: str = NOT_FOUND,
) -> Translator:
    """Return a translator for `{"command": WORD, "payload": {...}}`, answered with SUCCESS, `not_found`, or ERROR.

    A `request_id` beside the command has the same effect as in today's dialect, and is repeated. An unknown command is
    an error of this dialect, unless there is an `action` beside it.

    Args:
        known: the commands by their names.
        max_bytes: of a message; a larger one is not in this dialect.
        anywhere: whether the fields may be under `data` too, or beside `command` if there is neither.
        not_found: the status of a reply about something that doesn't exist.
    """

    def translate(payload: bytes) -> Translation | None:
        if len(payload) > max_bytes:
            return None
        try:
            text = str(payload, "utf-8")  # msgspec alone would accept invalid bytes in unknown fields
            envelope = _envelopes.decode(text)
            command = known.get(envelope.command)
            if command is None and envelope.action is not msgspec.UNSET:
                return None
            place, fields = _fields_of(envelope, text, anywhere)
            render = command.render if command is not None else _as_is
            if command is not None and command.echoes:
                render, fields = _echoing(render, envelope), {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        request_id = envelope.request_id
        if not isinstance(request_id, str) or len(request_id) > MAX_REQUEST_ID_CHARACTERS:
            request_id = None

        def render_error(error: RequestError) -> Answer:
            return _repeated(request_id, _command_error(error, not_found))

        if command is None:
            return Translation(_unknown(envelope.command, known), _as_is, render_error)
        request: Request | RequestError
        try:
            translated = command.translate(msgspec.convert(fields, dict[str, Any]))
            request = msgspec.structs.replace(translated, request_id=request_id)
        except (msgspec.ValidationError, ValueError) as error:
            request = MalformedRequest(f"{error} (in {place} of {envelope.command})")
        return Translation(
            request,
            lambda reply: _repeated(request_id, {"status": "SUCCESS", **render(reply)}),
            render_error,
        )

    return translate


def _fields_of(envelope: _Envelope, text: str, anywhere: bool) -> tuple[str, Any]:
    """Return the place of a command's fields, and the fields."""
    if anywhere and envelope.payload is None:
        if envelope.data is not None:
            return "`data`", envelope.data
        return "the message", _objects.decode(text)
    return "`payload`", envelope.payload if envelope.payload is not None else {}


def _echoing(render: Callable[[Answer], Answer], envelope: _Envelope) -> Callable[[Answer], Answer]:
    """Return `render` with the payload repeated, if there is one; a value too deep to encode raises here."""
    sent = envelope.payload if envelope.payload is not None else envelope.data
    if sent is None:
        return render
    echo = msgspec.Raw(_encoder.encode(sent))

    def render_with_echo(reply: Answer) -> Answer:
        rendered = render(reply)
        return {**rendered, "data": {**rendered["data"], "echo": echo}}

    return render_with_echo


def _unknown(word: str, known: Iterable[str]) -> RequestError:
    return UnknownAction(f"there is no command {word[:64]!r} here; there are: {', '.join(sorted(known))}")


def _repeated(request_id: str | None, reply: Answer) -> Answer:
    return reply if request_id is None else {**reply, "request_id": request_id}


def _as_is(reply: Answer) -> Answer:
    return reply


def _error(error: RequestError) -> Reply:
    return {"status": "error", "code": error.code, "error": str(error)}


def _command_error(error: RequestError, not_found: str) -> Reply:
    if isinstance(error, NotFound) and not_found == NOT_FOUND:  # clients look for these words, not for the status
        return {"status": NOT_FOUND, "message": f"not found: {error}", "code": error.code}
    word = not_found if isinstance(error, NotFound) else "ERROR"
    return {"status": word, "message": str(error), "code": error.code}
