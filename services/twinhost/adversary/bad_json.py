"""A peer that sends what is no request: deep, broken, and foreign documents."""

from typing import Any

import msgspec

from twinhost.adversary.attack import Attack, Outcome, broken, held
from twinhost.adversary.clients import PlainClient, Refused
from twinhost.adversary.target import Target
from twinhost.adversary.zmtp import HungUp, Silent
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge, UnknownAction

_REFUSALS = frozenset({MalformedRequest.code, MessageTooLarge.code, UnknownAction.code})
_DEPTH = 25_000  # levels; what would fill a stack, within any payload limit that there is
_DEEP = {
    "a list, 25,000 deep": b"[" * _DEPTH,
    "an object, 25,000 deep, from the start": b'{"a":' * (_DEPTH // 4),
    "a good request with a deep field": b'{"action":"ping","more":' + b"[" * _DEPTH + b"]" * _DEPTH + b"}",
}
_MALFORMED = {
    "nothing": b"",
    "no JSON": b"hello",
    "half an object": b'{"action": "ping"',
    "bytes that are no UTF-8": b'{"action": "ping", "x": "\xff\xfe"}',
    "a list": b"[1, 2]",
    "no action": b'{"request_id": "1"}',
    "an action that is a number": b'{"action": 5}',
    "an action that nobody has": b'{"action": "__class__"}',
    "a number that is none": b'{"action": "ping", "x": NaN}',
    "an id of 10,000 characters": b'{"action": "ping", "request_id": "' + b"x" * 10_000 + b'"}',
}


def _deep(target: Target) -> Outcome:
    return _send_all(target, _DEEP)


def _malformed(target: Target) -> Outcome:
    return _send_all(target, _MALFORMED)


def _send_all(target: Target, documents: dict[str, bytes]) -> Outcome:
    with target.insider() as client:
        for what, document in documents.items():
            if (complaint := _refused(client, document)) is not None:
                return broken(f"{what}: {complaint}")
        try:
            client.call("ping")
        except (HungUp, Silent, Refused) as end:
            return broken(f"after them the connection was not served any more: {end}")
    return held(f"{len(documents)} of them got an error reply each, and the next request was served")


def _refused(client: PlainClient, document: bytes) -> str | None:
    """Return what is wrong with the way in which a document was refused; None where nothing is."""
    try:
        client.send(document)
        reply: dict[str, Any] = client.receive()
    except (HungUp, Silent, Refused) as end:
        return f"it got no error reply ({end})"
    except msgspec.MsgspecError:
        return "the reply was no JSON object"
    if reply.get("status") != "error" or reply.get("code") not in _REFUSALS:
        return f"it was answered as if it were good: {str(reply)[:80]}"
    return None


ATTACKS = (
    Attack("deeply nested JSON", "depth costs a refusal and not the process", _deep),
    Attack("malformed JSON", "what is no request gets its error reply", _malformed),
)
