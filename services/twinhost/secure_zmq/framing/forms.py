"""The three forms of a frame: one JSON object, several JSON objects, or one MessagePack map; pure.

Several objects are a JSON text sequence (RFC 7464): 0x1E before each. JSON has that byte nowhere else. The server
answers a frame in the form of that frame. A client may send the last two forms only in a session whose server has
listed them under `accepts`, in its reply to a request that had `accepts`. A request is the same in every form: a
repetition may have another one.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge

Payload = bytes | memoryview  # of one request; a large MessagePack request is a view of the frame, and not copied

SEPARATOR = b"\x1e"
FIRST_OF_MESSAGEPACK = 0x80
SEQUENCE, MESSAGEPACK = "json-seq", "messagepack"  # as `accepts` names the forms
ACCEPTED = (SEQUENCE, MESSAGEPACK)
MAX_PARTS = 256  # requests in one frame that a server answers
MAX_SEPARATORS = 1_024  # in such a frame; those in a row hold no request
MAX_SENT_PARTS = 64  # requests that a client of this package sends in one frame
MAX_SENT_BYTES = 64 * 1024  # of such a frame
MAX_REPLIES_BYTES = 64 * 1024  # of a frame of replies (decision 56)
MESSAGEPACK_FROM_BYTES = 8 * 1024  # a smaller request is sent as JSON
MAX_FIELDS = 256  # of a MessagePack request
MAX_NESTED_BYTES = 256 * 1024  # of its arrays and maps: a byte of them may take 50 in memory
MAX_CONTAINERS = 65_536  # of a request in JSON, for the same reason: a million take seconds
MAX_VALUES = 524_288

_QUOTED_BYTES = 3  # two quotation marks, or brackets, and a comma or colon
_SCALAR_BYTES = {type(None): 5, bool: 5, int: 2, float: 4}  # at least, with a comma

_messagepack_decoder = msgspec.msgpack.Decoder()
_shallow_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_NAMES = {"bytes": "bin", "Ext": "ext", "datetime": "timestamp"}  # MessagePack's, of the types that msgspec returns


def requests_in(frame: bytes, max_bytes: int) -> list[bytes]:
    """Return the requests of a JSON text sequence, each as it would be alone.

    Raises:
        MessageTooLarge: the frame is larger than `max_bytes`.
        MalformedRequest: there are more than 256, or none, or 0x1E more than 1,024 times, or MessagePack, whose
            strings may hold 0x1E and then a text that reads like a request.
    """
    if len(frame) > max_bytes:
        raise MessageTooLarge(f"the frame has {len(frame)} bytes and {max_bytes} are allowed; send several frames")
    end = _end_of_parts(frame)  # what comes after it is not copied
    parts = frame[:end].split(SEPARATOR)[1:]  # not `frame[1:]`, which copies it
    if b"\n" in frame:  # RFC 7464 ends each with a line feed
        parts = [part.rstrip(b"\n") for part in parts]
    requests = [part for part in parts if part]
    if len(requests) > MAX_PARTS:
        raise MalformedRequest(f"the frame has more than {MAX_PARTS} requests; send them in several frames")
    if end < len(frame):
        raise MalformedRequest(f"the frame has 0x1E more than {MAX_SEPARATORS} times; send it once before each request")
    if not requests:
        raise MalformedRequest("the frame has 0x1E and no request; send a JSON object after each 0x1E (RFC 7464)")
    if not frame.isascii() and any(is_container(part[0]) for part in requests):
        raise MalformedRequest("the frame has 0x1E and then MessagePack; send MessagePack in its own frame")
    return requests


def _end_of_parts(frame: bytes) -> int:
    """Return where the first MAX_SEPARATORS parts of a frame end."""
    place = -1
    for _ in range(MAX_SEPARATORS + 1):
        place = frame.find(SEPARATOR, place + 1)
        if place < 0:
            return len(frame)
    return place


def replies_in(frame: bytes) -> list[bytes]:
    """Return the replies of a frame: those of a JSON text sequence, or the only one."""
    return frame[1:].split(SEPARATOR) if frame.startswith(SEPARATOR) else [frame]


def groups(parts: Sequence[bytes], max_bytes: int, max_parts: int) -> Iterator[tuple[int, int]]:
    """Yield where each frame of `together` begins and ends; MessagePack, and a part that is too large, is alone."""
    if len(parts) <= max_parts and sum(map(len, parts)) + len(parts) <= max_bytes and all(map(bytes.isascii, parts)):
        if parts:  # the usual ones: all in one
            yield 0, len(parts)
        return
    begin = size = 0
    for end, part in enumerate(parts):
        size += len(part) + 1
        if end > begin and (size > max_bytes or end - begin == max_parts or part[:1] >= b"\x80"):
            yield begin, end
            begin, size = end, len(part) + 1
        if part[:1] >= b"\x80":
            size = max_bytes
    if begin < len(parts):
        yield begin, len(parts)


def together(parts: Sequence[bytes]) -> bytes:
    """Return the frame that holds several objects."""
    return SEPARATOR + SEPARATOR.join(parts)


def is_messagepack(frame: Payload) -> bool:
    """Return whether a frame is not JSON, of which every text begins with an ASCII character."""
    return len(frame) > 0 and frame[0] >= FIRST_OF_MESSAGEPACK


def values_of(frame: Payload, max_bytes: int) -> dict[str, Any]:
    """Return the fields of a MessagePack request, all of them values that JSON has.

    Raises:
        MalformedRequest: it is no map, or has NaN, an infinity, binary data, an extension, a timestamp, a key that is
            no string, or a field twice.
        MessageTooLarge: it would have more than `max_bytes` as JSON.
    """
    try:
        if (claimed := _claimed_fields(frame)) > MAX_FIELDS:
            raise MessageTooLarge(f"the request has more than {MAX_FIELDS} fields; send it as JSON, or send fewer")
        nested, values = 0, {}
        for name, raw in _shallow_decoder.decode(frame).items():
            value = memoryview(raw)
            if is_container(value[0]):
                nested += len(value)
                check_nested(nested)
            values[name] = _messagepack_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise MalformedRequest(
            f"the request is neither a JSON object nor a MessagePack map: {error}; send one JSON object"
        ) from None
    if len(values) < claimed:  # what a later field replaced was not decoded
        raise MalformedRequest("the request has a field twice; send each field once")
    check_values(values, max_bytes)
    return values


def check_nested(size: int) -> None:
    """Refuse arrays and maps that have so many bytes together; they would have to be built before they are counted.

    Raises:
        MessageTooLarge: there are more than 256 KiB.
    """
    if size > MAX_NESTED_BYTES:
        raise MessageTooLarge(
            f"the request has {size} bytes of arrays and maps in MessagePack, where {MAX_NESTED_BYTES} are allowed; "
            "send it as JSON"
        )


def check_amount(text: bytes) -> None:
    """Refuse JSON with so many arrays, objects, and values that building them would keep all others waiting.

    Raises:
        MessageTooLarge: there are more than 65,536 arrays and objects, or 524,288 values.
    """
    if len(text) <= MAX_CONTAINERS or not _has_many(text):
        return
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # a text may have brackets and commas in any number
    if plain.count(b'"') > 2 * MAX_VALUES or _has_many(b"".join(plain.split(b'"')[::2])):
        raise MessageTooLarge(
            f"the request has more than {MAX_CONTAINERS} arrays and objects, or {MAX_VALUES} values; "
            "split it into smaller requests"
        )


def _has_many(text: bytes) -> bool:
    commas = text.count(b",")  # without them, what has many brackets is too deep to be built
    return commas >= MAX_CONTAINERS and (commas >= MAX_VALUES or text.count(b"[") + text.count(b"{") > MAX_CONTAINERS)


def _claimed_fields(frame: Payload) -> int:
    """Return how many fields the header of a map claims; 0 where it is no map."""
    if frame[0] & 0xF0 == 0x80:
        return frame[0] & 0x0F
    size = {0xDE: 2, 0xDF: 4}.get(frame[0], 0)
    return int.from_bytes(frame[1 : 1 + size], "big")


def is_container(first: int) -> bool:
    """Return whether the first byte of a MessagePack value is that of an array or a map."""
    return 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF


def check_values(values: dict[str, Any], max_bytes: int) -> None:
    """Refuse what `values_of` refuses, of values that are decoded already; the errors are the same."""
    try:
        left = _json_bytes_left(values, max_bytes)
    except RecursionError:
        raise MalformedRequest("the request is nested too deeply; send a flatter map") from None
    if left < 0:
        raise MessageTooLarge(
            f"the request has more than the {max_bytes} bytes that are allowed, as JSON; split it into smaller requests"
        )


def _json_bytes_left(value: Any, left: int) -> int:
    """Return what is left of a number of bytes after a value; it ends where nothing is left."""
    kind = type(value)
    if kind is str:
        return left - len(value) - _QUOTED_BYTES
    if (size := _SCALAR_BYTES.get(kind)) is not None:
        if kind is float and not math.isfinite(value):
            raise MalformedRequest(f"the request has the number {value}, which JSON has not; send null, or omit it")
        return left - size
    if kind not in (list, dict):
        raise MalformedRequest(
            f"the request has a value of MessagePack's type {_NAMES.get(kind.__name__, kind.__name__)}; "
            "send only what JSON has: maps, arrays, strings, numbers, booleans, and nil"
        )
    left -= _QUOTED_BYTES
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise MalformedRequest(f"the request has the key {key!r:.40}; every key of a map must be a string")
            left -= len(key) + _QUOTED_BYTES
        value = value.values()
    for part in value:
        if left < 0:
            break
        left = _json_bytes_left(part, left)
    return left
