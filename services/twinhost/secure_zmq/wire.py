"""From bytes to typed requests, and from replies to bytes; pure: no socket, no clock, no state.

One request is one JSON object, named by its `action`, or the same fields in MessagePack; one reply likewise (`frame`
has the forms of a frame). The request types of an agent form one tagged union, so that size, shape, action, and field
types are checked in a single pass by msgspec. Only a request that fails this pass is checked again, field by field, so
that one sentence names all its problems.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge, RequestError, UnknownAction
from twinhost.secure_zmq.framing.forms import (
    ACCEPTED,
    MAX_FIELDS,
    MESSAGEPACK_FROM_BYTES,
    Payload,
    check_amount,
    check_nested,
    check_values,
    is_container,
    is_messagepack,
    values_of,
)

MAX_REQUEST_ID_CHARACTERS = 128
NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
OWN_NAME_KEYWORD = "x-own-name"  # in the JSON Schema
OWN_NAME = Annotated[NAME, msgspec.Meta(extra_json_schema={OWN_NAME_KEYWORD: True})]  # only operators name another

Reply = dict[str, Any]  # as a client reads it
Answer = Mapping[str, Any]  # as a handler returns it: a dict that matches its TypedDict


class Request(msgspec.Struct, kw_only=True, tag_field="action", forbid_unknown_fields=True):
    """The base of every request type; a subclass gives its action as `tag`.

    `source_agent` and `timestamp`, which a request may carry, are ignored like any unknown field: the caller is the one
    that the connection has authenticated, never the one that the body names. `on_behalf_of` names the caller of a
    forwarded request, which gives no extra rights (see `callers`). `accepts` lists the forms of frames that the client
    can read besides JSON: the reply then lists those that the server can. `traceparent` says which trace the request
    belongs to (see `trace_context`). A request with an unknown field is decoded twice, to find the field's name.
    """

    request_id: Annotated[str, msgspec.Meta(max_length=MAX_REQUEST_ID_CHARACTERS)] | None = None
    on_behalf_of: NAME | None = None
    accepts: Annotated[list[NAME], msgspec.Meta(max_length=16)] | None = None
    traceparent: str | None = None


class _Envelope(msgspec.Struct):
    """What a refusal needs; whatever else these fields are, it is not built."""

    action: msgspec.Raw = msgspec.Raw()
    request_id: msgspec.Raw = msgspec.Raw()


OF_THE_ATTEMPT = ("accepts", "traceparent")  # fields in which a repetition may differ
MAX_IGNORED_NAMES = 32  # that a reply lists
MAX_IGNORED_CHARACTERS = 64  # of each
_INFORMATIVE = frozenset({"source_agent", "timestamp"})
_AT = re.compile(r" - at `\$([^`]*)`$")  # how msgspec ends a message about an inner value
_MAX_SENTENCE_CHARACTERS = 256  # of one problem

_envelope_decoder = msgspec.json.Decoder(_Envelope)
_messagepack_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_encoder = msgspec.json.Encoder()
_messagepack_encoder = msgspec.msgpack.Encoder()
_shallow_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_reply_decoder = msgspec.json.Decoder(dict[str, Any])
_messagepack_reply_decoder = msgspec.msgpack.Decoder(dict[str, Any])


def tag_of(request_type: type[Request]) -> str:
    """Return the action of a request type."""
    return str(request_type.__struct_config__.tag)


class RequestDecoder:
    """Decodes the requests of one agent."""

    def __init__(self, request_types: Iterable[type[Request]], max_payload_bytes: int) -> None:
        types = tuple(request_types)
        self._types = {tag_of(request_type): request_type for request_type in types}
        self._actions = sorted(self._types)
        self._max_payload_bytes = max_payload_bytes
        union: Any = types[0]
        for request_type in types[1:]:
            union = union | request_type
        self._decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(union)
        self.decode_plain = self._decoder.decode  # an ASCII request within the limit; raises msgspec.MsgspecError
        self._fields = {
            tag_of(request_type): frozenset({"action", *request_type.__struct_encode_fields__})
            for request_type in types
        }

    def decode(self, payload: Payload, ignored: list[str] | None = None) -> Request:
        """Return the typed request.

        Args:
            payload: one request; at most `max_payload_bytes`.
            ignored: the names of unknown fields are appended to it, except the informative ones.

        Raises:
            MessageTooLarge, MalformedRequest, UnknownAction: with the path of each field that is wrong.
        """
        if len(payload) > self._max_payload_bytes:
            raise MessageTooLarge(
                f"the request has {len(payload)} bytes and {self._max_payload_bytes} are allowed; "
                "split it into smaller requests"
            )
        text: bytes | str
        unknown: list[str] = [] if ignored is None else ignored
        try:
            if isinstance(payload, bytes):
                check_amount(payload)
            if isinstance(payload, bytes) and payload.isascii():  # needs no check as UTF-8, and no copy
                text = payload
            elif is_messagepack(payload):
                values = values_of(payload, self._max_payload_bytes)
                try:
                    return self._from_values(values, unknown)
                except (msgspec.ValidationError, RecursionError):
                    payload = text = _encoder.encode(values)  # to find the reason as of a request in JSON
            else:
                text = str(payload, "utf-8")  # msgspec doesn't check unknown fields
            try:
                return self._decoder.decode(text)
            except msgspec.ValidationError as error:
                return self._without_unknown(text, error, unknown)
        except msgspec.ValidationError as error:
            raise self._explain(bytes(payload), error) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MalformedRequest(f"the request is not JSON in UTF-8: {error}; send one JSON object") from None
        except RecursionError:
            raise MalformedRequest("the request is nested too deeply; send a flatter JSON object") from None

    def _from_values(self, values: dict[str, Any], ignored: list[str]) -> Request:
        """Return the request with these fields; raise msgspec.ValidationError where there is none."""
        action = values.get("action")
        kind = self._types.get(action) if isinstance(action, str) else None
        if kind is None:
            raise msgspec.ValidationError("it names no action of this agent")  # the JSON decoder says which there are
        known = self._fields[tag_of(kind)]
        unknown = [name for name in values if name not in known]
        request = msgspec.convert({name: value for name, value in values.items() if name in known}, kind)
        ignored += _ignored(unknown)
        return request

    def _without_unknown(self, text: bytes | str, error: msgspec.ValidationError, ignored: list[str]) -> Request:
        """Decode a request without the fields that its action does not have; raise `error` where it has none."""
        fields = _shallow_decoder.decode(text)
        action = msgspec.json.decode(fields.get("action", b"null"))
        known = self._fields.get(action) if isinstance(action, str) else None
        if known is None or not (unknown := [name for name in fields if name not in known]):
            raise error
        request = self._decoder.decode(_encoder.encode({name: fields[name] for name in fields if name in known}))
        ignored += _ignored(unknown)
        return request

    def _explain(self, payload: bytes, error: msgspec.ValidationError) -> RequestError:
        action, _ = _envelope(payload)
        if action is msgspec.UNSET:
            return MalformedRequest(f"the request names no action: {error}; send a JSON object with `action`")
        if not isinstance(action, str):
            return MalformedRequest(f"{error}; `action` must be a string, one of: {', '.join(self._actions)}")
        if action not in self._types:
            return UnknownAction(f"there is no action {action[:64]!r} here; there are: {', '.join(self._actions)}")
        problems = _problems(self._types[action], payload) or [str(error)]
        return MalformedRequest(f"{'; '.join(problems)}; ./twinhost explain {action} lists the fields")


def _ignored(unknown: Iterable[str]) -> list[str]:
    """Return the names of unknown fields that a reply lists."""
    named = [name[:MAX_IGNORED_CHARACTERS] for name in unknown if name not in _INFORMATIVE]
    return named[:MAX_IGNORED_NAMES]


class Envelope(NamedTuple):
    """What the reply to a refused request repeats: its id where it can be read, and whether it is in MessagePack."""

    request_id: str | None
    messagepack: bool


def envelope_of(payload: Payload) -> Envelope:
    """Return the envelope of any payload; a large one takes milliseconds to look through."""
    action, request_id = _envelope(payload)
    known = isinstance(request_id, str) and len(request_id) <= MAX_REQUEST_ID_CHARACTERS
    return Envelope(request_id if known else None, is_messagepack(payload) and action is not msgspec.UNSET)


def as_json(payload: Payload) -> bytes:
    """Return a request or a reply as JSON; one in MessagePack with the same fields in the same order."""
    return _encoder.encode(_messagepack_reply_decoder.decode(payload)) if is_messagepack(payload) else bytes(payload)


def as_messagepack(payload: bytes) -> bytes:
    """Return a reply in JSON as MessagePack, or as it is where it has a number that only JSON can write."""
    try:
        return _messagepack_encoder.encode(_reply_decoder.decode(payload))
    except (OverflowError, RecursionError):
        return payload


def encode_request(
    action: str,
    fields: Mapping[str, Any],
    request_id: str,
    max_payload_bytes: int,
    accepts: Sequence[str] = (),
    messagepack: bool = False,
    large: bool = True,
) -> bytes:
    """Return a request's bytes.

    Args:
        action: its name.
        fields: the action's fields.
        request_id: at most 128 characters.
        max_payload_bytes: the server's limit.
        accepts: the forms of frames that the client can read; the reply then names those that the server can.
        messagepack: use MessagePack if the request is large, and is the same in both forms.
        large: whether it is expected to be; a wrong guess costs another encoding.

    Raises:
        MessageTooLarge: it would exceed `max_payload_bytes`.
        MalformedRequest: a field can't be written as JSON, or the id is too long.
    """
    if len(request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise MalformedRequest(f"a request_id has at most {MAX_REQUEST_ID_CHARACTERS} characters; use a shorter one")
    message = {
        "action": action,
        "request_id": request_id,
        **fields,
    }  # first, since a decoder starts again if it finds the action late
    message["action"], message["request_id"] = action, request_id
    if accepts:
        message["accepts"] = accepts
    try:
        compact = _as_messagepack(message, max_payload_bytes) if messagepack and large else None
        payload = compact if compact and len(compact) > MESSAGEPACK_FROM_BYTES else _encoder.encode(message)
        if messagepack and payload is not compact and len(payload) > MESSAGEPACK_FROM_BYTES:
            payload = (_as_messagepack(message, max_payload_bytes) if compact is None else compact) or payload
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise MalformedRequest(
            f"the fields of {action} can't be written as JSON: {error}; pass only what JSON has"
        ) from None
    if len(payload) > max_payload_bytes:
        raise MessageTooLarge(
            f"{action} has {len(payload)} bytes and {max_payload_bytes} are allowed; split it into smaller requests"
        )
    return payload


def _as_messagepack(message: Mapping[str, Any], max_payload_bytes: int) -> bytes:
    """Return a message in MessagePack, or nothing where that would differ from the same message in JSON."""
    plain = msgspec.to_builtins(message, str_keys=True)
    if len(plain) > MAX_FIELDS:
        return b""
    try:
        check_values(plain, max_payload_bytes)
        nested = (value for value in plain.values() if isinstance(value, (dict, list)))
        check_nested(sum(len(_messagepack_encoder.encode(value)) for value in nested))
        return _messagepack_encoder.encode(plain)
    except (RequestError, OverflowError):  # a number that only JSON can write
        return b""


def encode_reply(reply: Answer, request_id: str | None, ignored: Sequence[str] = (), accepts: bool = False) -> bytes:
    """Return a reply's bytes, with the request's id, the names of its fields that were ignored, and the forms."""
    if accepts:
        reply = {**reply, "accepts": ACCEPTED}
    if ignored:
        reply = {**reply, "ignored_fields": [*ignored, *reply.get("ignored_fields", ())]}
    if request_id is not None:
        reply = {**reply, "request_id": request_id}
    return _encoder.encode(reply)


def encode_error(
    error: RequestError,
    request_id: str | None,
    sentence_fields: tuple[str, ...],
    ignored: Sequence[str] = (),
    *,
    accepts: bool = False,
) -> bytes:
    """Return an error reply's bytes; every one of `sentence_fields` has the message."""
    reply: Reply = {"status": "error", "code": error.code, **error.reply_fields}
    for name in sentence_fields:
        reply[name] = str(error)
    return encode_reply(reply, request_id, ignored, accepts=accepts)


def decode_reply(payload: bytes) -> Reply:
    """Return a reply.

    Raises:
        MalformedRequest: it is neither a JSON object nor a MessagePack map.
    """
    try:
        return (_messagepack_reply_decoder if payload[:1] >= b"\x80" else _reply_decoder).decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(
            f"the answer is not a JSON object ({error}); check that the address is that of a twinhost agent"
        ) from None


def _problems(request_type: type[Request], payload: bytes) -> list[str]:
    """Return a sentence for each problem of a request that its type's decoder refused."""
    try:
        return list(_problems_of(request_type, payload, ""))
    except (msgspec.DecodeError, RecursionError):  # an unknown field may be nested too deeply to be looked through
        return []


def _problems_of(kind: Any, value: bytes | msgspec.Raw, path: str) -> Iterator[str]:
    """Yield the problems of a value: those of every field of a struct, the first one of anything else."""
    struct, explained = _struct_of(kind), False
    if struct is not None and (fields := _fields_in(value)) is not None:
        for name, (field, required) in _fields_of(struct).items():
            if name in fields:
                problems = list(_problems_of(field, fields[name], f"{path}.{name}"))
            else:
                problems = [f"Object missing required field `{name}`{_inside(field)}{_at(path)}"] if required else []
            explained = explained or bool(problems)
            yield from problems
    if not explained:  # a struct may be invalid although each of its fields is valid
        try:
            msgspec.json.decode(value, type=kind)
        except msgspec.ValidationError as error:
            yield _located(str(error), kind, path)


def _fields_in(value: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Return the fields of an object, none of them built; None of anything else."""
    try:
        return _shallow_decoder.decode(value)
    except msgspec.ValidationError:
        return None


def _located(sentence: str, kind: Any, path: str) -> str:
    """Return msgspec's message with the whole path, and with the members of an enumeration."""
    allowed, inside = "", ""
    while inner := _AT.search(sentence):  # an inner struct may have named its field already
        sentence, inside = sentence[: inner.start()], inside + inner[1]
    path += inside
    if sentence.startswith("Invalid enum value") and (members := _members_of(kind)):
        allowed = f" (allowed: {', '.join(map(repr, members))})"
    if len(sentence) > _MAX_SENTENCE_CHARACTERS:  # it quotes what was sent
        sentence = f"{sentence[:_MAX_SENTENCE_CHARACTERS]}…"
    return f"{sentence}{_at(path)}{allowed}"


def _at(path: str) -> str:
    return f" - at `${path}`" if path else ""


def _inside(kind: Any) -> str:
    """Return the required fields of an object, for a message that the object is missing."""
    struct = _struct_of(kind)
    names = [f"`{name}`" for name, (_, required) in _fields_of(struct).items() if required] if struct else []
    return f" (an object with {', '.join(names)})" if names else ""


@cache
def _fields_of(struct: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
    """Return the type of each field by its name on the wire, and whether it is required."""
    return {field.encode_name: (field.type, field.required) for field in msgspec.structs.fields(struct)}


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct of a type, or of an optional type."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    others = [member for member in get_args(kind) if member is not type(None)]
    return _struct_of(others[0]) if len(others) == 1 and get_origin(kind) not in (list, dict, tuple) else None


def _members_of(kind: Any) -> list[Any]:
    """Return the values of the enumerations in a type."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for member in get_args(kind) for value in _members_of(member)]


def _envelope(payload: Payload) -> tuple[Any, Any]:
    """Return the action and the id of a request that may be malformed; an array or an object is not built."""
    compact = is_messagepack(payload)
    try:
        envelope = (_messagepack_envelope_decoder if compact else _envelope_decoder).decode(payload)
        return _scalar_of(bytes(envelope.action), compact), _scalar_of(bytes(envelope.request_id), compact)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.UNSET, msgspec.UNSET


def _scalar_of(raw: bytes, compact: bool) -> Any:
    if not raw:
        return msgspec.UNSET
    if is_container(raw[0]) if compact else raw[:1] in (b"[", b"{"):
        return None
    return msgspec.msgpack.decode(raw) if compact else msgspec.json.decode(raw)
