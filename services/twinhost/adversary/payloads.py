"""Payloads that are too large, too many, too deep, or not a request."""

import time
from collections.abc import Callable, Mapping

import msgspec

from twinhost.adversary.attack import Attack, AttackedAgent, AttackOutcome, breached, defended
from twinhost.adversary.clients import PlainClient, Refused
from twinhost.adversary.zmtp import (
    COMMAND,
    TIMEOUT_S,
    Disconnected,
    NoAnswer,
    RawConnection,
    encode_frame,
    frame_header,
)
from twinhost.secure_zmq.errors import MalformedRequest, MessageTooLarge, UnknownAction
from twinhost.secure_zmq.framing.forms import MAX_PARTS, SEPARATOR, together

SMALL_FRAMES = 100_000
CUT_WITHIN_S = 3.0  # libzmq by itself would wait for 4 s
_HUGE_BYTES = 1 << 30  # claimed, and never sent
_PIECE = 1 << 16
_HELLO = b"\x05HELLO"
_REFUSALS = frozenset({MalformedRequest.code, MessageTooLarge.code, UnknownAction.code})
_DEPTH = 25_000  # levels; enough to fill a stack, and within every payload limit
_DEEP = {
    "a list, 25,000 deep": b"[" * _DEPTH,
    "an object, 25,000 deep, from the start": b'{"a":' * (_DEPTH // 4),
    "a good request with a deep field": b'{"action":"ping","more":' + b"[" * _DEPTH + b"]" * _DEPTH + b"}",
}
_NO_REQUEST = {
    "nothing": b"",
    "text that is not JSON": b"hello",
    "half an object": b'{"action": "ping"',
    "bytes that are not UTF-8": b'{"action": "ping", "x": "\xff\xfe"}',
    "a list": b"[1, 2]",
    "no action": b'{"request_id": "1"}',
    "an action that is a number": b'{"action": 5}',
    "an unknown action": b'{"action": "__class__"}',
    "NaN as a number": b'{"action": "ping", "x": NaN}',
    "an id of 10,000 characters": b'{"action": "ping", "request_id": "' + b"x" * 10_000 + b'"}',
}


def _huge_before(target: AttackedAgent) -> AttackOutcome:
    size = 2 * target.max_payload_bytes  # the limit that libzmq itself has for a frame

    def push(connection: RawConnection) -> None:
        connection.send(frame_header(size, COMMAND) + _HELLO)
        for _ in range((size - len(_HELLO) - 1) // _PIECE):
            connection.send(bytes(_PIECE))

    return _cut_before_the_handshake(target, push, f"a handshake of {size:,} bytes")


def _many_before(target: AttackedAgent) -> AttackOutcome:
    frames = encode_frame(b"\x01x", COMMAND) * SMALL_FRAMES
    return _cut_before_the_handshake(target, lambda connection: connection.send(frames), f"{SMALL_FRAMES:,} frames")


def _cut_before_the_handshake(target: AttackedAgent, push: Callable[[RawConnection], None], what: str) -> AttackOutcome:
    def greet_and_push(connection: RawConnection) -> None:
        connection.greet(b"CURVE" if target.secure else b"NULL")
        push(connection)

    with target.connect() as connection:
        started = time.monotonic()
        cut = _is_cut(connection, greet_and_push)
        took = time.monotonic() - started
    if not cut or took > CUT_WITHIN_S:
        return breached(f"it accepted {what} from a stranger for {took:.1f} s")
    return defended(f"it closed the connection after {took:.2f} s, for {what}")


def _huge_after(target: AttackedAgent) -> AttackOutcome:
    limit = 2 * target.max_payload_bytes

    def push(connection: RawConnection) -> None:
        started, sent = time.monotonic(), 0
        connection.send(frame_header(_HUGE_BYTES))
        while sent < limit + 16 * _PIECE and time.monotonic() < started + TIMEOUT_S:
            connection.send(bytes(_PIECE))
            sent += _PIECE

    with target.insider() as client:
        if not _is_cut(client.connection, push):
            return breached(f"a frame that claims {_HUGE_BYTES:,} bytes was read for more than {CUT_WITHIN_S:g} s")
    return defended(f"it closed the connection when a frame claimed {_HUGE_BYTES:,} bytes")


def _is_cut(connection: RawConnection, push: Callable[[RawConnection], None]) -> bool:
    """Return whether the agent disconnects while it is sent something, or soon afterwards."""
    try:
        push(connection)
        return connection.read_to_end(CUT_WITHIN_S)[1]
    except Disconnected:
        return True
    except NoAnswer:
        return False


def _many_after(target: AttackedAgent) -> AttackOutcome:
    with target.insider() as client:
        try:
            client.send_parts([b"x"] * SMALL_FRAMES)
            reply = client.receive(4 * TIMEOUT_S)
        except Disconnected:
            return defended(f"it closed the connection for a message of {SMALL_FRAMES:,} frames")
        except (NoAnswer, Refused) as end:
            return breached(f"a message of {SMALL_FRAMES:,} frames got no answer: {end}")
    if reply.get("code") != MalformedRequest.code:
        return breached(f"a message of {SMALL_FRAMES:,} frames was accepted: {str(reply)[:80]}")
    return defended(f"a message of {SMALL_FRAMES:,} frames was refused as malformed")


FRAME_ATTACKS = (
    Attack("one huge frame, before the handshake", "a stranger can't make it use much memory", _huge_before),
    Attack("100,000 frames, before the handshake", "a stranger can't keep it busy", _many_before),
    Attack("one huge frame, after the handshake", "a peer can't make it use much memory", _huge_after),
)
ATTACKS = (
    *FRAME_ATTACKS,
    Attack("100,000 frames in one message", "the number of parts in a peer's message is bounded", _many_after),
)


def _send_all(target: AttackedAgent, documents: Mapping[str, bytes]) -> AttackOutcome:
    with target.insider() as client:
        for what, document in documents.items():
            if (complaint := _refused(client, document)) is not None:
                return breached(f"{what}: {complaint}")
        try:
            client.call("ping")
        except (Disconnected, NoAnswer, Refused) as end:
            return breached(f"afterwards the connection was no longer served: {end}")
    return defended(f"{len(documents)} documents got an error reply each, and the next request was served")


def _refused(client: PlainClient, document: bytes) -> str | None:
    """Return how a document was not properly refused; None if it was."""
    try:
        client.send(document)
        reply = client.receive()
    except (Disconnected, NoAnswer, Refused) as end:
        return f"it got no error reply ({end})"
    except msgspec.MsgspecError:
        return "the reply was not a JSON object"
    if reply.get("status") != "error" or reply.get("code") not in _REFUSALS:
        return f"it was answered as if it were valid: {str(reply)[:80]}"
    return None


def _forms(target: AttackedAgent) -> AttackOutcome:
    """Send frames of several requests, and of MessagePack, that are to be refused in whole or in part."""
    ping, bad, large = b'{"action":"ping"}', MalformedRequest.code, MessageTooLarge.code
    messagepack = msgspec.msgpack.encode
    surplus = MAX_PARTS + 1
    frames: dict[str, tuple[bytes, list[str | None]]] = {
        f"{surplus} requests in one frame": (together([ping] * surplus), [bad]),
        "a separator before nothing": (SEPARATOR, [bad]),
        "separators alone": (SEPARATOR * target.max_payload_bytes, [bad]),
        "MessagePack among JSON": (together([ping, messagepack({"action": "ping"})]), [bad]),
        "a malformed request among good ones": (together([ping, b"{", ping]), [None, bad, None]),
        "a frame that is too large": (
            together([b'{"action":"ping","x":"' + b"x" * target.max_payload_bytes + b'"}', ping]),
            [large],
        ),
        "NaN in MessagePack": (messagepack({"action": "ping", "x": float("nan")}), [bad]),
        "binary data in MessagePack": (messagepack({"action": "ping", "x": b"x"}), [bad]),
        "deep MessagePack": (b"\x91" * _DEPTH, [bad]),
        "MessagePack that claims 4,294,967,295 fields": (b"\xdf\xff\xff\xff\xff", [large]),
        "MessagePack of empty arrays": (
            messagepack({"action": "ping", "x": [[]] * (target.max_payload_bytes // 2)}),
            [large],
        ),
        "MessagePack that is larger as JSON than allowed": (
            messagepack({"action": "ping", "x": [None] * (target.max_payload_bytes // 4)}),
            [large],
        ),
    }
    with target.insider() as client:
        for what, (frame, codes) in frames.items():
            try:
                client.send(frame)
                received = [reply.get("code") for reply in client.receive_all(len(codes), 2 * TIMEOUT_S)]
            except (Disconnected, NoAnswer, Refused, MalformedRequest) as end:
                return breached(f"{what}: it got no reply ({end})")
            if received != codes:
                return breached(f"{what}: the replies are {received}, and {codes} is right")
    return defended(f"{len(frames)} frames were refused, as far as they were wrong")


MALFORMED = (
    Attack(
        "deeply nested JSON", "deep JSON is refused, and the process stays", lambda target: _send_all(target, _DEEP)
    ),
    Attack("malformed JSON", "an invalid request gets an error reply", lambda target: _send_all(target, _NO_REQUEST)),
    Attack("malformed frames", "each request of a frame is judged alone, in whatever form it is", _forms),
)
