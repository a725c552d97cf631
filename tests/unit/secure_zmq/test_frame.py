"""The forms of a frame: several requests in one, MessagePack, and what of both is refused."""

import datetime
import json
import math
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.secure_zmq.bench import AGENT
from twinhost.secure_zmq.actions import Action, no_dialect
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge, RequestError, UnknownAction
from twinhost.secure_zmq.framing.forms import (
    MAX_FIELDS,
    MAX_NESTED_BYTES,
    MAX_PARTS,
    MAX_VALUES,
    MESSAGEPACK_FROM_BYTES,
    groups,
    is_messagepack,
    replies_in,
    requests_in,
    together,
    values_of,
)
from twinhost.secure_zmq.framing.inbound import Inbound, Job, RequestReader, Unread, compared_bytes, other_spellings
from twinhost.secure_zmq.wire import (
    Request,
    RequestDecoder,
    as_json,
    as_messagepack,
    decode_reply,
    encode_request,
    envelope_of,
)

LIMIT = 100_000
OBJECT = b'{"action":"ping"}'
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=6)


class Keep(Request, tag="keep"):
    """Keep anything."""

    value: Any
    number: float = 0.0


DECODER = RequestDecoder([Keep], LIMIT)


@pytest.mark.thorough
@given(st.lists(OBJECTS, min_size=1, max_size=5))
def test_requests_in_one_frame_are_those_that_were_put_in(objects: list[dict[str, Any]]) -> None:
    """In their order and byte for byte, whether each ends with a line feed, as RFC 7464 has it, or not."""
    parts = [json.dumps(each).encode() for each in objects]
    assert requests_in(together(parts), LIMIT) == parts
    assert requests_in(b"".join(b"\x1e" + part + b"\n" for part in parts), LIMIT) == parts
    assert replies_in(together(parts)) == parts
    assert replies_in(parts[0]) == parts[:1]


def test_separators_in_a_row_hold_no_request() -> None:
    """RFC 7464: they are no empty elements."""
    assert requests_in(b"\x1e\x1e" + OBJECT + b"\n\x1e\x1e" + OBJECT, LIMIT) == [OBJECT, OBJECT]


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (together([OBJECT] * (MAX_PARTS + 1)), "the frame has more than 256 requests; send them in several frames"),
        ((b"\x1e\x1e" + OBJECT) * (MAX_PARTS + 1), "the frame has more than 256 requests"),
        (together([OBJECT] * 2_000), "the frame has more than 256 requests"),
        (b"\x1e" * 4_000_000, "the frame has 0x1E more than 1024 times; send it once before each request"),
        (b"\x1e", "the frame has 0x1E and no request"),
        (b"\x1e\n\x1e\n", "the frame has 0x1E and no request"),
        (together([OBJECT, msgspec.msgpack.encode({"action": "keep"})]), "send MessagePack in its own frame"),
    ],
    ids=["too many", "doubled", "far too many", "separators alone", "nothing", "line feeds", "mixed forms"],
)
def test_a_frame_that_is_no_sequence_is_refused(frame: bytes, sentence: str) -> None:
    """As a whole, with one sentence."""
    with pytest.raises(MalformedRequest, match=sentence):
        requests_in(frame, 4_000_000)


@pytest.mark.parametrize("before", [b"\x1e", b"\x1e\x1e", b"\x1e\n\x1e\x1e"], ids=["once", "doubled", "three times"])
def test_a_frame_of_as_many_as_allowed_is_read(before: bytes) -> None:
    """Only requests count, however often 0x1E is before each."""
    assert requests_in((before + OBJECT) * MAX_PARTS, LIMIT) == [OBJECT] * MAX_PARTS


def test_separators_alone_take_little_memory() -> None:
    """A frame of nothing else, as large as allowed, is not split into all of its empty elements."""
    frame = b"\x1e" * 4_000_000
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequest):
            requests_in(frame, len(frame))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(frame)


@given(
    st.lists(st.integers(1, 30).map(lambda size: b"x" * size) | st.just(b"\x81" * 5), max_size=40),
    st.integers(1, 60),
    st.integers(1, 8),
)
def test_groups_hold_everything_once_within_the_limits(parts: list[bytes], max_bytes: int, max_parts: int) -> None:
    """A part that is larger than a frame, and MessagePack, have a frame of their own."""
    found = list(groups(parts, max_bytes, max_parts))
    assert [place for begin, end in found for place in range(begin, end)] == list(range(len(parts)))
    for begin, end in found:
        assert 1 <= end - begin <= max_parts
        assert end - begin == 1 or len(together(parts[begin:end])) <= max_bytes
        assert end - begin == 1 or not any(map(is_messagepack, parts[begin:end]))


@given(OBJECTS)
def test_messagepack_is_the_same_request_as_json(fields: dict[str, Any]) -> None:
    """Decoded to the same, compared as the same, with or without `accepts`, and transcoded back to the same bytes."""
    plain = encode_request("keep", {"value": fields}, "1", LIMIT)
    compact = as_messagepack(plain)
    assert is_messagepack(compact)
    assert not is_messagepack(plain)
    assert as_json(compact) == plain
    request = DECODER.decode(plain)
    assert DECODER.decode(compact) == request
    asking = encode_request("keep", {"value": fields}, "1", LIMIT, accepts=("json-seq",))
    same = {compared_bytes(payload, DECODER.decode(payload)) for payload in (plain, compact, asking)}
    assert same == {plain}
    assert decode_reply(compact) == decode_reply(plain)


def spellings_of(fields: dict[str, Any]) -> list[bytes]:
    """Return one request in every form and spelling in which it may be repeated."""
    attempts = [fields, {"accepts": ["json-seq"], **fields}, {**fields, "traceparent": "x"}]
    return [
        spelling
        for attempt in attempts
        for spelling in (msgspec.json.encode(attempt), json.dumps(attempt).encode(), msgspec.msgpack.encode(attempt))
    ]


def is_repetition(first: bytes, second: bytes) -> bool:
    """Return whether a request counts as the same one as another before it."""
    stored = compared_bytes(first, DECODER.decode(first))
    return stored == compared_bytes(second, DECODER.decode(second)) or stored in other_spellings(second)


@settings(max_examples=20)
@given(OBJECTS)
@example({"é": [{"x": 1e-7, "y": "\u20ac\\"}], "z": [1, {}]})
def test_a_repetition_may_have_any_spelling(value: dict[str, Any]) -> None:
    """White space and escapes as Python's `json.dumps` writes them, or none, with and without `accepts`, in any order.

    With another value it is another request in all of them.
    """
    spellings = spellings_of({"action": "keep", "request_id": "1", "value": value})
    others = spellings_of({"action": "keep", "request_id": "1", "value": [value]})
    assert all(is_repetition(first, second) for first in spellings for second in spellings)
    assert not any(is_repetition(first, second) for first in spellings for second in others)


def test_any_spelling_may_be_repeated_as_it_is() -> None:
    """With another `accepts`, and with the usual spaces also without it; MessagePack is another request then."""
    fields = {"action": "keep", "value": [1, {"é": 1e5}]}
    lines, line = json.dumps(fields, indent=2).encode(), json.dumps(fields, ensure_ascii=False).encode()
    asking = lines.replace(b"{", b'{ "accepts": [ "json-seq" ],', 1)
    assert is_repetition(lines, lines)
    assert is_repetition(asking, lines)
    assert is_repetition(asking, asking.replace(b"json-seq", b"messagepack"))
    assert is_repetition(line, json.dumps({"accepts": ["json-seq"], **fields}, ensure_ascii=False).encode())
    assert not is_repetition(lines, msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    "payload",
    [b"ping", b"[1]", b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}"],
    ids=["a bare word", "an array", "a large number", "half a character", "deep arrays"],
)
def test_what_has_no_other_spelling_is_no_error(payload: bytes) -> None:
    """An older dialect's words, and what an unknown field may hold."""
    for text in other_spellings(payload):
        assert msgspec.json.format(text, indent=-1) == payload


def test_other_spellings_of_many_values_are_not_built() -> None:
    """An empty array takes twenty times its size in memory; with so many of them, the request can't be MessagePack."""
    payload = b'{"action":"keep","value":[' + b"[]," * 1_000_000 + b"[]]}"
    tracemalloc.start()
    try:
        assert len(list(other_spellings(payload))) == 2
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6 * len(payload)


def test_a_request_that_is_not_copied_is_read_like_another() -> None:
    """Its size, its errors, its digest, and its id; no older dialect is tried, which could not read it."""

    def dialect(_: bytes) -> None:
        raise AssertionError("an older dialect was tried")

    reader = RequestReader({Keep: Action(Keep, lambda *_: {})}, LIMIT, dialect)
    plain = encode_request("keep", {"value": "x" * 20_000}, "1", LIMIT)
    view = memoryview(as_messagepack(plain)).toreadonly()
    job = reader.read(Inbound(view, AGENT))
    assert isinstance(job, Job)
    assert (job.request, job.messagepack) == (DECODER.decode(plain), True)
    assert compared_bytes(job.payload, job.request) == plain
    other = memoryview(msgspec.msgpack.encode({"action": "drop", "request_id": "5"})).toreadonly()
    refused = reader.read(Inbound(other, AGENT))
    assert isinstance(refused, Unread)
    assert isinstance(refused.error, UnknownAction)
    assert envelope_of(other) == ("5", True)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (math.nan, "the number nan, which JSON has not"),
        (-math.inf, "the number -inf, which JSON has not"),
        (b"bytes", "MessagePack's type bin"),
        (msgspec.msgpack.Ext(5, b""), "MessagePack's type ext"),
        (datetime.datetime.now(datetime.UTC), "MessagePack's type timestamp"),
        ({1: 2}, "the key 1; every key of a map must be a string"),
        ({"inner": [{b"key": 1}]}, "every key of a map must be a string"),
    ],
    ids=["NaN", "infinity", "bin", "ext", "timestamp", "a number as key", "bin as key"],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"deep": value}]], ids=["outside", "inside"])
def test_what_json_has_not_is_refused(value: Any, sentence: str, wrap: Any) -> None:
    """Also in a field that takes anything, and in a field that the action does not have."""
    for name in ("value", "unknown"):
        payload = msgspec.msgpack.encode({"action": "keep", "value": 1, name: wrap(value)})
        with pytest.raises(MalformedRequest, match=sentence):
            DECODER.decode(payload)


def test_nan_in_a_field_of_numbers_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="the number nan"):
        DECODER.decode(msgspec.msgpack.encode({"action": "keep", "value": 1, "number": math.nan}))


def test_the_limit_counts_the_size_as_json() -> None:
    """A value of one byte may take five as JSON, and many times that in memory."""
    larger: list[Any] = [[None] * (LIMIT // 4), {"x": [[]] * (LIMIT // 2)}, [True] * (LIMIT // 4)]
    for value in larger:
        payload = msgspec.msgpack.encode({"action": "keep", "value": value})
        assert len(payload) < LIMIT
        assert len(msgspec.json.encode(value)) > LIMIT
        with pytest.raises(MessageTooLarge, match="as JSON"):
            DECODER.decode(payload)
    with pytest.raises(MessageTooLarge, match="are allowed"):
        DECODER.decode(msgspec.msgpack.encode({"action": "keep", "value": "x" * LIMIT}))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80",
        b"\xc1",
        b"\xff",
        b"\x92\x01\x02",
        b"\xdf\x00\x00\x00\xff",
        b"\x91" * 50_000,
        b"\x81\xa1a" * 25_000,
        msgspec.msgpack.encode({"action": "keep", "value": 1}) + b"x",
        b"\x81\xa6action\xa4kee\xff",
    ],
    ids=[
        "no action",
        "unused",
        "a number",
        "an array",
        "a false size",
        "deep arrays",
        "deep maps",
        "surplus",
        "no UTF-8",
    ],
)
def test_malformed_messagepack_is_refused(payload: bytes) -> None:
    """With a typed error, whatever the bytes are."""
    with pytest.raises(MalformedRequest):
        DECODER.decode(payload)


@given(st.binary(max_size=200), st.integers(0x80, 0xFF))
def test_any_bytes_are_refused_with_a_typed_error(rest: bytes, first: int) -> None:
    """Or read as what JSON has."""
    payload = bytes([first]) + rest
    try:
        values = values_of(payload, LIMIT)
    except RequestError:
        pass
    else:
        assert msgspec.json.decode(msgspec.json.encode(values)) == values


def test_a_field_twice_is_refused_in_messagepack() -> None:
    """What the later one replaces is not decoded, so it may be no text in UTF-8."""
    with pytest.raises(MalformedRequest, match="a field twice"):
        DECODER.decode(b"\x83\xa6action\xa4\x81eep\xa6action\xa4keep\xa5value\x01")


@pytest.mark.parametrize(
    ("large", "spellings"),
    [(dict.fromkeys(map(str, range(MAX_FIELDS))), 0), ({"value": ["x" * MAX_NESTED_BYTES]}, 2), ({"value": ["x"]}, 5)],
    ids=["many fields", "a large array", "small"],
)
def test_other_spellings_are_few_where_they_take_long(large: dict[str, Any], spellings: int) -> None:
    """Another caller's requests wait meanwhile."""
    assert len(list(other_spellings(msgspec.json.encode({"action": "keep", **large})))) == spellings


def test_errors_and_unknown_fields_are_those_of_json() -> None:
    """Paths, names, and the fields that were ignored."""
    with pytest.raises(UnknownAction, match="there is no action 'drop' here"):
        DECODER.decode(msgspec.msgpack.encode({"action": "drop"}))
    with pytest.raises(MalformedRequest, match=r"Expected `float`, got `str` - at `\$\.number`"):
        DECODER.decode(msgspec.msgpack.encode({"action": "keep", "value": 1, "number": "x"}))
    ignored: list[str] = []
    assert DECODER.decode(msgspec.msgpack.encode({"action": "keep", "value": 1, "more": 2}), ignored) == Keep(value=1)
    assert ignored == ["more"]


def test_a_client_uses_messagepack_for_large_requests_alone() -> None:
    """A small one stays JSON, and so does one that MessagePack can't carry as JSON does."""
    large = {"value": "x" * MESSAGEPACK_FROM_BYTES}
    assert is_messagepack(encode_request("keep", large, "1", LIMIT, messagepack=True))
    assert not is_messagepack(encode_request("keep", {"value": "x"}, "1", LIMIT, messagepack=True))
    fields = {**large, **dict.fromkeys(map(str, range(MAX_FIELDS)))}
    assert not is_messagepack(encode_request("keep", fields, "1", LIMIT, messagepack=True))
    for value in (math.nan, 2**70):
        payload = encode_request("keep", {**large, "number": value}, "1", LIMIT, messagepack=True)
        assert payload == encode_request("keep", {**large, "number": value}, "1", LIMIT)
    binary = encode_request("keep", {**large, "number": b"bytes"}, "1", LIMIT, messagepack=True)
    assert as_json(binary) == encode_request("keep", {**large, "number": b"bytes"}, "1", LIMIT)


@pytest.mark.parametrize(
    "fields",
    [{"value": [[]] * 300_000}, {"request_id": [[]] * 300_000}, {str(number): 1 for number in range(300)}],
    ids=["a field", "the id", "many fields"],
)
def test_what_would_take_much_memory_is_not_built(fields: dict[str, Any]) -> None:
    """An array of one-byte values takes fifty times its size: it is refused by its size in MessagePack."""
    payload = msgspec.msgpack.encode({"action": "keep", **fields})
    decoder = RequestDecoder([Keep], 4 * 1024 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge, match="as JSON"):
            decoder.decode(payload)
        assert envelope_of(payload).request_id is None
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(payload) + 100_000


@pytest.mark.parametrize(
    "value",
    [b"[" + b"[]," * 70_000 + b"1]", b"[" + b"{}," * 70_000 + b"1]", b"[" + b"1," * MAX_VALUES + b"1]"],
    ids=["arrays", "objects", "numbers"],
)
def test_json_of_too_many_values_is_not_built(value: bytes) -> None:
    """4 MiB of small arrays kept all others waiting for 1.6 s, and took 110 MB."""
    decoder = RequestDecoder([Keep], 4 * 1024 * 1024)
    payload = b'{"action": "keep", "text": "\\"[\\\\", "value": ' + value + b"}"
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge, match="arrays and objects"):
            decoder.decode(payload)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20 * len(payload)


def test_a_text_may_have_any_number_of_brackets_and_commas() -> None:
    """Only what is outside of texts counts."""
    text = '[{,"\\' * 100_000
    request = RequestDecoder([Keep], 4 * 1024 * 1024).decode(msgspec.json.encode({"action": "keep", "value": text}))
    assert isinstance(request, Keep)
    assert request.value == text


def test_an_unknown_field_is_not_built_to_refuse_another() -> None:
    """The sentence names what is wrong with the fields that the action has."""
    payload = msgspec.json.encode({"action": "keep", "unknown": [[]] * 60_000, "number": "x", "request_id": 5})
    decoder = RequestDecoder([Keep], 4 * 1024 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRequest, match=r"`value`.*at `\$\.number`; .*at `\$\.request_id`"):
            decoder.decode(payload)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(payload) + 100_000


def test_a_refusal_keeps_nothing_of_what_was_decoded() -> None:
    """Neither by its traceback nor by its context."""
    reader = RequestReader({Keep: Action(Keep, lambda *_: {})}, LIMIT, no_dialect)
    refused = reader.read(Inbound(b'{"action": "keep", "value": [1, 2, 3], "number": "x"}', AGENT))
    assert isinstance(refused, Unread)
    assert (refused.error.__traceback__, refused.error.__context__, refused.error.__cause__) == (None, None, None)


def test_an_action_that_is_an_array_is_not_built() -> None:
    """The sentence and the id are those of any other request."""
    for encode in (msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(MalformedRequest, match="action"):
            DECODER.decode(encode({"action": [1, 2], "request_id": "5"}))
        assert envelope_of(encode({"action": [1, 2], "request_id": "5"})).request_id == "5"


@pytest.mark.parametrize("depth", range(900, 1_020, 5))
def test_values_at_the_limit_of_nesting_are_read_or_malformed(depth: int) -> None:
    """Decoding, checking, and converting each have a limit of their own."""
    payload = b"\x82\xa6action\xa4keep\xa5value" + b"\x91" * depth + b"\x01"
    with suppress(MalformedRequest):
        DECODER.decode(payload)
