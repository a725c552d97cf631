"""Bytes to typed requests, and replies to bytes."""

import contextlib
import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge, NotFound, RequestError, UnknownAction
from twinhost.secure_zmq.wire import (
    MAX_IGNORED_CHARACTERS,
    MAX_IGNORED_NAMES,
    MAX_REQUEST_ID_CHARACTERS,
    NAME,
    OF_THE_ATTEMPT,
    Request,
    RequestDecoder,
    decode_reply,
    encode_error,
    encode_reply,
    encode_request,
    envelope_of,
    tag_of,
)

LIMIT = 1_000_000
DEEP = 100_000  # levels


class Ping(Request, tag="ping"):
    """A request without fields."""


class Register(Request, tag="register"):
    """A request with fields of several types."""

    agent_name: NAME
    port: int = 0
    capabilities: list[str] = msgspec.field(default_factory=list)
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)


class EventKind(msgspec.Struct):
    """An object within a request."""

    event_id: NAME
    severity: Literal["info", "error"]
    data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.data == {}:
            raise ValueError("Expected `data` with a field")


class Publish(Request, tag="publish"):
    """A request with an object, which can be wrong in several places."""

    event: EventKind
    limit: Annotated[int, msgspec.Meta(ge=1)] = 1
    priority: Annotated[int, msgspec.Meta(ge=1)] | Literal["high", "low"] = "low"
    more: list[EventKind] = msgspec.field(default_factory=list)


DECODER = RequestDecoder([Ping, Register, Publish], LIMIT)

BAD_INPUTS: dict[str, tuple[bytes, type[RequestError], str]] = {
    "empty": (b"", MalformedRequest, "not JSON in UTF-8"),
    "a word": (b"hello", MalformedRequest, "not JSON in UTF-8"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", MalformedRequest, "not JSON in UTF-8"),
    "not UTF-8": (b'{"action": "register", "agent_name": "\xff"}', MalformedRequest, "not JSON in UTF-8"),
    "not UTF-8 where nobody looks": (b'{"action": "ping", "extra": "\xff"}', MalformedRequest, "not JSON in UTF-8"),
    "half a surrogate": (b'{"action": "register", "agent_name": "\\ud800"}', MalformedRequest, "not JSON in UTF-8"),
    "cut off": (b'{"action": "ping"', MalformedRequest, "not JSON in UTF-8"),
    "two objects": (b'{"action": "ping"}{"action": "ping"}', MalformedRequest, "not JSON in UTF-8"),
    "NaN": (b'{"action": "register", "agent_name": "a", "port": NaN}', MalformedRequest, "not JSON in UTF-8"),
    "a number": (b"1", MalformedRequest, "names no action: Expected `object`, got `int`"),
    "null": (b"null", MalformedRequest, "names no action: Expected `object`, got `null`"),
    "a list": (b'[{"action": "ping"}]', MalformedRequest, "names no action: Expected `object`, got `array`"),
    "a text": (b'"ping"', MalformedRequest, "names no action: Expected `object`, got `str`"),
    "no action": (b'{"request_id": "1"}', MalformedRequest, "names no action"),
    "action of a wrong type": (b'{"action": 5}', MalformedRequest, "Expected `str` - at `$.action`"),
    "action null": (b'{"action": null}', MalformedRequest, "at `$.action`"),
    "unknown action": (
        b'{"action": "reboot"}',
        UnknownAction,
        "no action 'reboot' here; there are: ping, publish, register",
    ),
    "action in capitals": (b'{"action": "PING"}', UnknownAction, "no action 'PING' here"),
    "field missing": (b'{"action": "register"}', MalformedRequest, "missing required field `agent_name`"),
    "field of a wrong type": (
        b'{"action": "register", "agent_name": 5}',
        MalformedRequest,
        "Expected `str`, got `int` - at `$.agent_name`",
    ),
    "field too short": (b'{"action": "register", "agent_name": ""}', MalformedRequest, "at `$.agent_name`"),
    "inner wrong type": (
        b'{"action": "register", "agent_name": "a", "capabilities": ["x", 5]}',
        MalformedRequest,
        "Expected `str`, got `int` - at `$.capabilities[1]`",
    ),
    "id of a wrong type": (b'{"action": "ping", "request_id": 5}', MalformedRequest, "at `$.request_id`"),
    "id too long": (
        b'{"action": "ping", "request_id": "%s"}' % (b"x" * (MAX_REQUEST_ID_CHARACTERS + 1)),
        MalformedRequest,
        "at `$.request_id`",
    ),
    "deep lists": (b"[" * DEEP, MalformedRequest, "names no action"),
    "deep in an unknown field": (
        b'{"action": "ping", "extra": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        MalformedRequest,
        "nested too deep",
    ),
    "deep in a known field": (
        b'{"action": "register", "agent_name": "a", "metadata": ' + b'{"a":' * DEEP + b"1" + b"}" * (DEEP + 1),
        MalformedRequest,
        "nested too deep",
    ),
    "too large": (b'{"action": "ping"}' + b" " * LIMIT, MessageTooLarge, "1000018 bytes and 1000000 are allowed"),
}


@pytest.mark.parametrize(("payload", "kind", "complaint"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_a_bad_input_gets_its_typed_error(payload: bytes, kind: type[RequestError], complaint: str) -> None:
    """Each way to be wrong has its type, and the sentence names the field's path where there is one."""
    with pytest.raises(RequestError) as refusal:
        DECODER.decode(payload)
    assert type(refusal.value) is kind
    assert complaint in str(refusal.value)


MISSING = "Object missing required field"
SEVERITY = "Invalid enum value 'bad' - at `$.event.severity` (allowed: 'info', 'error')"
SEVERAL_PROBLEMS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a missing object": ({}, [f"{MISSING} `event` (an object with `event_id`, `severity`)"]),
    "missing fields": (
        {"event": {}},
        [f"{MISSING} `event_id` - at `$.event`", f"{MISSING} `severity` - at `$.event`"],
    ),
    "fields of two objects": (
        {"event": {"event_id": 5, "severity": "bad"}, "limit": 0, "request_id": 7},
        [
            "Expected `str`, got `int` - at `$.event.event_id`",
            SEVERITY,
            "Expected `int` >= 1 - at `$.limit`",
            "Expected `str | null`, got `int` - at `$.request_id`",
        ],
    ),
    "a long value": (
        {"event": {"event_id": "a", "severity": "x" * 900}},
        [f"Invalid enum value '{'x' * 236}… - at `$.event.severity` (allowed: 'info', 'error')"],
    ),
    "an enumeration beside a number": (
        {"event": {"event_id": "a", "severity": "info"}, "priority": "urgent"},
        ["Invalid enum value 'urgent' - at `$.priority` (allowed: 'high', 'low')"],
    ),
    "an object that is wrong as a whole": (
        {"event": {"event_id": "a", "severity": "info", "data": {}}, "limit": 0},
        ["Expected `data` with a field - at `$.event`", "Expected `int` >= 1 - at `$.limit`"],
    ),
    "the second of a list": (
        {"event": 5, "more": [{"event_id": "a", "severity": "info"}, {}]},
        ["Expected `object`, got `int` - at `$.event`", f"{MISSING} `event_id` - at `$.more[1]`"],
    ),
}


@pytest.mark.parametrize(("fields", "problems"), SEVERAL_PROBLEMS.values(), ids=SEVERAL_PROBLEMS.keys())
def test_one_sentence_names_all_problems(fields: dict[str, Any], problems: list[str]) -> None:
    """Each with its path, enumerations with their values, and at the end the command that lists the fields."""
    with pytest.raises(MalformedRequest) as refusal:
        DECODER.decode(json.dumps({"action": "publish", **fields}).encode())
    *found, advice = str(refusal.value).split("; ")
    assert sorted(found) == sorted(problems)
    assert advice == "./twinhost explain publish lists the fields"


def test_a_good_request_is_typed() -> None:
    """The fields come as what they were declared."""
    request = DECODER.decode(b'{"action": "register", "agent_name": "a", "port": 7120, "request_id": "1"}')
    assert request == Register(agent_name="a", port=7120, request_id="1")
    assert tag_of(type(request)) == "register"


def test_unknown_fields_are_ignored() -> None:
    """What older and newer clients add, `source_agent` and `timestamp` among it, does no harm."""
    payload = b'{"action": "ping", "source_agent": 5, "timestamp": [1], "caller": "operator", "more": {}}'
    assert DECODER.decode(payload) == Ping()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"source_agent": "x", "timestamp": 1}, []),
        ({"source_agent": "x", "colour": "blue", "port": 1, "hst": None}, ["colour", "hst"]),
        ({"metadata": {"inner": 1}, "": 1, "é": 1}, ["", "é"]),
        ({"n" * 1_000: 1}, ["n" * MAX_IGNORED_CHARACTERS]),
        ({str(number): number for number in range(1_000)}, [str(number) for number in range(MAX_IGNORED_NAMES)]),
    ],
)
def test_ignored_fields_are_named(fields: dict[str, Any], expected: list[str]) -> None:
    """In their order, but for those that are informative; bounded, since the caller chose them."""
    ignored: list[str] = []
    payload = json.dumps({**fields, "action": "register", "agent_name": "a"}).encode()
    request = DECODER.decode(payload, ignored)
    assert isinstance(request, Register)
    assert (request.agent_name, request.port) == ("a", fields.get("port", 0))
    assert ignored == expected


def test_unknown_fields_hide_no_wrong_one() -> None:
    """Behind them the others are judged as ever, and the sentence is about these."""
    ignored: list[str] = []
    for payload, complaint in (
        (b'{"action": "register", "more": 1, "agent_name": 5}', r"got `int` - at `\$\.agent_name`"),
        (b'{"more": 1, "action": "register"}', "missing required field `agent_name`"),
        (b'{"action": "register", "more": 1, "agent_name": "a"', "not JSON in UTF-8"),
        (b'{"action": ["register"], "more": 1}', "action"),
        (b'{"more": 1}', "names no action"),
    ):
        with pytest.raises(MalformedRequest, match=complaint):
            DECODER.decode(payload, ignored)
    assert ignored == []


def test_the_largest_request_is_accepted() -> None:
    """The limit itself is allowed."""
    payload = b'{"action": "ping"}'
    assert DECODER.decode(payload + b" " * (LIMIT - len(payload))) == Ping()


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"action": "reboot", "request_id": "1"}', "1"),
        (b'{"request_id": "1"}', "1"),
        (b'{"action": "register", "agent_name": 5, "request_id": "1"}', "1"),
        (b'{"request_id": "%s"}' % (b"x" * MAX_REQUEST_ID_CHARACTERS), "x" * MAX_REQUEST_ID_CHARACTERS),
        (b'{"request_id": "%s"}' % (b"x" * (MAX_REQUEST_ID_CHARACTERS + 1)), None),
        (b'{"request_id": 5}', None),
        (b'{"request_id": null}', None),
        (b'["request_id"]', None),
        (b'{"request_id": "1"', None),
        (b'{"request_id": "1", "deep": ' + b"[" * DEEP, None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_refused_request_keeps_its_id_where_one_can_be_read(payload: bytes, found: str | None) -> None:
    """A client that pipelines learns which of its requests was wrong."""
    assert envelope_of(payload).request_id == found


@given(st.binary(max_size=400))
@example(b'{"action": "register", "port": ' + b"9" * 5_000 + b"}")
def test_no_bytes_at_all_break_the_decoder(payload: bytes) -> None:
    """Arbitrary bytes are a request or a RequestError, and their error reply can be written."""
    try:
        DECODER.decode(payload)
    except RequestError as error:
        encode_error(error, envelope_of(payload).request_id, ("error",))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)
KEYS = st.sampled_from(["action", "request_id", "agent_name", "port", "capabilities", "metadata"]) | st.text(max_size=9)
ACTIONS = st.sampled_from(["ping", "register"]) | JSON


@given(st.dictionaries(KEYS, JSON, max_size=6), ACTIONS)
@pytest.mark.thorough
def test_no_object_at_all_breaks_the_decoder(fields: dict[str, Any], action: object) -> None:
    """Arbitrary JSON objects are a request or a RequestError, and their error reply can be written."""
    payload = json.dumps({**fields, "action": action}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        DECODER.decode(payload)
    except RequestError as error:
        encode_error(error, envelope_of(payload).request_id, ("error", "reason"))


@given(st.dictionaries(st.text(max_size=9).filter(lambda name: name not in OF_THE_ATTEMPT), JSON, max_size=6))
@pytest.mark.thorough
def test_what_is_encoded_decodes_to_itself(fields: dict[str, Any]) -> None:
    """A request carries its action and its id beside the fields, and fields can't replace them."""
    payload = encode_request("ping", {**fields, "action": "reboot", "request_id": "other"}, "1", LIMIT)
    decoded = json.loads(payload)
    assert (decoded["action"], decoded["request_id"]) == ("ping", "1")
    assert DECODER.decode(payload) == Ping(request_id="1")


def test_a_request_over_the_limit_is_not_sent() -> None:
    """The client finds out by itself what the server would refuse."""
    with pytest.raises(MessageTooLarge, match=r"ping has \d+ bytes and 100 are allowed"):
        encode_request("ping", {"text": "x" * 100}, "1", 100)


def circular() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2, object()}, 2**70, circular(), "\ud800"],
    ids=["object", "set", "over 64 bits", "circular", "lone surrogate"],
)
def test_what_has_no_form_in_json_is_refused_before_it_is_sent(value: object) -> None:
    """No foreign exception leaves `encode_request`; whatever it can write, it may."""
    with contextlib.suppress(MalformedRequest):
        json.loads(encode_request("ping", {"value": value}, "1", LIMIT))


def test_an_error_reply_repeats_the_id_and_the_code() -> None:
    """The message is in every field that the agent's clients read."""
    reply = json.loads(encode_error(NotFound("no such agent"), "1", ("error", "reason")))
    assert reply == {
        "status": "error",
        "code": "not_found",
        "error": "no such agent",
        "reason": "no such agent",
        "request_id": "1",
    }


def test_a_reply_without_an_id_carries_none() -> None:
    """A client that sends no request_id gets none back."""
    assert json.loads(encode_reply({"status": "ok"}, None)) == {"status": "ok"}
    assert json.loads(encode_reply({"status": "ok"}, "1")) == {"status": "ok", "request_id": "1"}


@pytest.mark.parametrize("payload", [b"", b"1", b"[]", b"null", b"\xff", b"[" * DEEP, b'{"a":' * DEEP])
def test_an_answer_that_is_no_object_is_refused(payload: bytes) -> None:
    """A client that reached something else than an agent says so."""
    with pytest.raises(MalformedRequest, match="check that the address is that of a twinhost agent"):
        decode_reply(payload)
