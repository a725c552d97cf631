"""Those who don't speak ZeroMQ at all, and those who say nothing."""

import contextlib
import os
import time
from contextlib import ExitStack

from twinhost.adversary.attack import Attack, Outcome, broken, held
from twinhost.adversary.target import Target
from twinhost.adversary.zmtp import GREETING_BYTES, HungUp, Line, Silent
from twinhost.secure_zmq.errors import TwinhostError

HALF_OPEN = 200
HELD_S = 5.5  # a handshake has 4 s, and a busy machine a little more
_TLS_CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(189))
_NOISE = {
    "random": os.urandom(4_096),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": _TLS_CLIENT_HELLO,
    "zero": bytes(4_096),
}


def _noise(target: Target) -> Outcome:
    with ExitStack() as stack:
        started = time.monotonic()
        lines = {what: stack.enter_context(target.line()) for what in _NOISE}
        for what, line in lines.items():
            with contextlib.suppress(HungUp, Silent):
                line.send(_NOISE[what])
        heard = {what: line.read_to_end(max(0.1, started + HELD_S - time.monotonic())) for what, line in lines.items()}
    patient = [what for what, (_, over) in heard.items() if not over]
    if patient:
        return broken(f"{', '.join(patient)} bytes kept a connection for more than {HELD_S:g} s")
    talkative = [what for what, (said, _) in heard.items() if len(said) > GREETING_BYTES]
    if talkative:
        return broken(f"{', '.join(talkative)} bytes were answered with more than a greeting")
    return held(f"it hung up on {', '.join(_NOISE)} bytes and said nothing but its greeting")


def _half_open(target: Target) -> Outcome:
    with ExitStack() as stack:
        lines: list[Line] = []
        for number in range(HALF_OPEN):
            try:
                line = stack.enter_context(target.line())
                if number % 2:
                    line.send(b"\xff" + bytes(8) + b"\x7f")
            except (HungUp, Silent, OSError) as error:
                return broken(f"the {number + 1}th connection was not taken: {error}")
            lines.append(line)
        slowest, opened_at = 0.0, time.monotonic()
        while lines and time.monotonic() < opened_at + HELD_S:
            try:
                slowest = max(slowest, target.good_call_s())
            except TwinhostError as error:
                return broken(f"with {HALF_OPEN} half-open connections a good client was not served: {error}")
            time.sleep(0.25)
            lines = [line for line in lines if not line.ended()]
    if lines:
        return broken(f"{len(lines)} of {HALF_OPEN} connections that said nothing were kept for more than {HELD_S:g} s")
    return held(f"{HALF_OPEN} silent connections were ended, and a good client waited {slowest:.2f} s at most")


ATTACKS = (
    Attack("random, HTTP, TLS, and zero bytes", "what is no ZeroMQ is hung up on", _noise),
    Attack("half-open flood", "connections that say nothing keep nobody out", _half_open),
)
