"""Too much at once: one huge frame and very many small ones, before the handshake and after it."""

import time
from collections.abc import Callable

from twinhost.adversary.attack import Attack, Outcome, broken, held
from twinhost.adversary.clients import Refused
from twinhost.adversary.target import Target
from twinhost.adversary.zmtp import COMMAND, PATIENCE_S, HungUp, Line, Silent, encode_frame, frame_header
from twinhost.secure_zmq.errors import MalformedRequest

SMALL_FRAMES = 100_000
CUT_WITHIN_S = 3.0  # libzmq by itself would wait for 4 s
_HUGE_BYTES = 1 << 30  # claimed, and never sent
_PIECE = 1 << 16
_HELLO = b"\x05HELLO"


def _huge_before(target: Target) -> Outcome:
    size = 2 * target.max_payload_bytes  # as much as libzmq itself lets one frame have

    def push(line: Line) -> None:
        line.send(frame_header(size, COMMAND) + _HELLO)
        for _ in range((size - len(_HELLO) - 1) // _PIECE):
            line.send(bytes(_PIECE))

    return _cut_before_the_handshake(target, push, f"a handshake of {size:,} bytes")


def _many_before(target: Target) -> Outcome:
    frames = encode_frame(b"\x01x", COMMAND) * SMALL_FRAMES
    return _cut_before_the_handshake(target, lambda line: line.send(frames), f"{SMALL_FRAMES:,} frames")


def _cut_before_the_handshake(target: Target, push: Callable[[Line], None], what: str) -> Outcome:
    with target.line() as line:
        started = time.monotonic()
        try:
            line.greet(b"CURVE" if target.secure else b"NULL")
            push(line)
            _, over = line.read_to_end(CUT_WITHIN_S)
        except HungUp:
            over = True
        except Silent:
            over = False
        took = time.monotonic() - started
    if not over or took > CUT_WITHIN_S:
        return broken(f"it put up with {what} from a stranger for {took:.1f} s")
    return held(f"it cut {what} after {took:.2f} s")


def _huge_after(target: Target) -> Outcome:
    limit = 2 * target.max_payload_bytes
    with target.insider() as client:
        started, sent = time.monotonic(), 0
        try:
            client.line.send(frame_header(_HUGE_BYTES))
            while sent < limit + 16 * _PIECE and time.monotonic() < started + PATIENCE_S:
                client.line.send(bytes(_PIECE))
                sent += _PIECE
            _, over = client.line.read_to_end(CUT_WITHIN_S)
        except HungUp:
            over = True
        except Silent:
            over = False
    if not over:
        return broken(f"a frame that claims {_HUGE_BYTES:,} bytes was taken in for more than {CUT_WITHIN_S:g} s")
    return held(f"the connection was cut when a frame claimed {_HUGE_BYTES:,} bytes")


def _many_after(target: Target) -> Outcome:
    with target.insider() as client:
        try:
            client.send_parts([b"x"] * SMALL_FRAMES)
            reply = client.receive(4 * PATIENCE_S)
        except HungUp:
            return held(f"the connection was cut for a message of {SMALL_FRAMES:,} frames")
        except (Silent, Refused) as end:
            return broken(f"a message of {SMALL_FRAMES:,} frames got no answer: {end}")
    if reply.get("code") != MalformedRequest.code:
        return broken(f"a message of {SMALL_FRAMES:,} frames was taken: {str(reply)[:80]}")
    return held(f"a message of {SMALL_FRAMES:,} frames was refused as malformed")


FRAME_ATTACKS = (
    Attack("one huge frame, before the handshake", "a stranger can't make it hold much", _huge_before),
    Attack("100,000 frames, before the handshake", "a stranger can't keep it busy", _many_before),
    Attack("one huge frame, after the handshake", "a peer can't make it hold much", _huge_after),
)
ATTACKS = (
    *FRAME_ATTACKS,
    Attack("100,000 frames in one message", "a peer's message has bounded parts", _many_after),
)
