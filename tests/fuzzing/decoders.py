"""What takes bytes apart: the decoders of requests and replies, and the loader of keys; and good inputs of both."""

import contextlib
from collections.abc import Callable

import msgspec
import zmq
from zmq.utils import z85

from tests.unit.schema.json_schema import Schema
from twinhost.schema import AGENTS, declarations_of, schema_of
from twinhost.secure_zmq.errors import KeyFileMalformed, MalformedRequest, RequestError
from twinhost.secure_zmq.framing.forms import SEPARATOR, replies_in, requests_in, together
from twinhost.secure_zmq.framing.inbound import compared_bytes, other_spellings
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import Certificate, KeyOwner, KeyPair, PublicKey, Validity, parse_certificate
from twinhost.secure_zmq.wire import (
    RequestDecoder,
    as_messagepack,
    decode_reply,
    encode_error,
    envelope_of,
)

PAYLOAD_LIMIT = 4 * 1024 * 1024
_OWNERS = (
    KeyOwner("SystemDigitalTwin", "mainpc", frozenset({"agent"})),
    KeyOwner("operator", "mainpc", frozenset({"operator", "agent"})),
    KeyOwner("a" * 64, "pc2", frozenset()),
)
_VALIDITIES = (Validity(), Validity(1_700_000_000, 1_800_000_000), Validity(not_after=1))


def request_decoders() -> list[RequestDecoder]:
    types = [[each.request for each in declarations_of(agent).values()] for agent in AGENTS]
    return [RequestDecoder(each, PAYLOAD_LIMIT) for each in types]


def requests_corpus() -> list[bytes]:
    """Return the least and the whole of every request of both agents, as their schemas say, in each form of a frame."""
    found: list[bytes] = [b"ping", b"GET_ALL_STATUS", b'{"command":"REGISTER","payload":{"name":"x"}}']
    for agent in AGENTS:
        schema = Schema(msgspec.json.decode(msgspec.json.encode(schema_of(agent))))
        for reference in schema.root["discriminator"]["mapping"].values():
            for whole in (False, True):
                found.append(msgspec.json.encode(schema.instance(schema.definition(reference), whole=whole)))
    objects = [each for each in found if each.startswith(b"{")]
    return [*found, *map(as_messagepack, objects), *(together(objects[place : place + 3]) for place in range(9))]


def keys_corpus() -> list[bytes]:
    """Return public key files of several owners, with and without dates, and a secret one, which is to be refused."""
    found: list[bytes] = []
    for number, owner in enumerate(_OWNERS, start=1):
        secret = z85.encode(bytes([number]) * 32)
        public = PublicKey(z85.decode(zmq.curve_public(secret)))
        for validity in _VALIDITIES:
            pair = KeyPair(Certificate(owner, public, validity), secret)
            found.append(render_certificate(pair.certificate).encode())
    return [*found, found[0] + b'    secret-key = "' + secret + b'"\n']


def take_request() -> Callable[[bytes], None]:
    """Return what decodes an input as a request to each agent, and as a reply; typed errors pass, others don't."""
    decoders = request_decoders()

    def take(content: bytes) -> None:
        parts = [content]
        if content.startswith(SEPARATOR):
            with contextlib.suppress(MalformedRequest):
                parts = requests_in(content, PAYLOAD_LIMIT)
        for part in parts:
            take_one(part)
        with contextlib.suppress(MalformedRequest):
            for reply in replies_in(content):
                decode_reply(reply)

    def take_one(content: bytes) -> None:
        for decoder in decoders:
            try:
                request = decoder.decode(content)
            except RequestError as error:
                encode_error(error, envelope_of(content).request_id, ("error", "reason"))
            else:
                compared_bytes(content, request)
                assert len(list(other_spellings(content))) <= 5

    return take


def take_key() -> Callable[[bytes], None]:
    """Return what reads an input as a public key file; what is taken must be written and read again to the same."""

    def take(content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")
        try:
            certificate = parse_certificate(text, "an input")
        except KeyFileMalformed:
            return
        assert parse_certificate(render_certificate(certificate), "again") == certificate

    return take


TARGETS: dict[str, tuple[Callable[[], Callable[[bytes], None]], Callable[[], list[bytes]]]] = {
    "request decoder": (take_request, requests_corpus),
    "key loader": (take_key, keys_corpus),
}
