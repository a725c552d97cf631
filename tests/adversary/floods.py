"""Very many connections: 5,000 that stay half-open at once, and 10,000 that say something that is no ZeroMQ."""

import contextlib
import random
import selectors
import socket
import struct
import time

from tests.benchmarks.agent_fleet import raise_file_limit
from twinhost.adversary.attack import Attack, AttackedAgent, AttackOutcome, breached, defended
from twinhost.adversary.zmtp import GREETING_BYTES, encode_frame, greeting

HALF_OPEN = 5_000
GARBAGE = 10_000
PER_S = 2_500  # both floods; faster, on a machine that all three share, is a measurement of the machine
_AT_ONCE = 200  # garbage connections that wait for their end together
_ENDED_WITHIN_S = 8.0  # a handshake has 4 s, and a busy machine a little more
_CONNECT_S = 5.0
_RESET = struct.pack("=ii", 1, 0)


def _half_open(target: AttackedAgent) -> AttackOutcome:
    raise_file_limit()
    selector = selectors.DefaultSelector()
    lines: list[socket.socket] = []
    began = time.monotonic()
    try:
        for number in range(HALF_OPEN):
            _wait_for_turn(began, number)
            try:
                line = _connect(target)
            except (BrokenPipeError, ConnectionResetError):  # it was crowded out before this was noticed
                continue
            lines.append(line)
            if number % 2:
                with contextlib.suppress(OSError):  # it may have been crowded out already
                    line.send(greeting(b"CURVE")[: 1 + number % (GREETING_BYTES - 1)])
            line.settimeout(0)
            selector.register(line, selectors.EVENT_READ)
        left = _wait_for_ends(selector, time.monotonic() + _ENDED_WITHIN_S)
    finally:
        for line in lines:
            line.close()
        selector.close()
    if left:
        return breached(
            f"{left:,} of {HALF_OPEN:,} half-open connections were kept for more than {_ENDED_WITHIN_S:g} s"
        )
    return _made(len(lines), HALF_OPEN, "half-open connections")


def _garbage(target: AttackedAgent) -> AttackOutcome:
    noise = random.Random(GARBAGE)  # the same bytes each time
    began, made = time.monotonic(), 0
    for first in range(0, GARBAGE, _AT_ONCE):
        lines: list[socket.socket] = []
        for number in range(first, first + _AT_ONCE):
            _wait_for_turn(began, number)
            try:
                line = _connect(target)
            except (BrokenPipeError, ConnectionResetError):
                continue
            lines.append(line)
            with contextlib.suppress(OSError):  # it may hang up before all of it is sent
                line.sendall(_something(noise))
        made += len(lines)
        for line in lines:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            line.close()
    return _made(made, GARBAGE, "connections with garbage")


def _made(number: int, planned: int, what: str) -> AttackOutcome:
    """Return that so many were made and harmed nobody; some end before connect() returns, and most may not."""
    assert number > 0.9 * planned, f"{number:,} of {planned:,} {what} were made"
    return defended(f"{number:,} {what} were made and ended")


def _something(noise: random.Random) -> bytes:
    """Return bytes that are no session: from the first one on, or from the greeting on, or from a command on."""
    garbage = noise.randbytes(noise.randrange(1, 2_000))
    beginning = noise.choice((b"", greeting(b"CURVE"), greeting(b"NULL"), greeting(b"CURVE") + b"\x04\xc8\x05HELLO"))
    return beginning + noise.choice((garbage, encode_frame(garbage, noise.randrange(8))))


def _wait_for_turn(began: float, number: int) -> None:
    time.sleep(max(0.0, began + number / PER_S - time.monotonic()))


def _connect(target: AttackedAgent) -> socket.socket:
    return socket.create_connection((target.agent.host.address, target.agent.zmq_port), timeout=_CONNECT_S)


def _wait_for_ends(selector: selectors.BaseSelector, until: float) -> int:
    """Return how many connections are open still."""
    while selector.get_map() and time.monotonic() < until:
        for key, _ in selector.select(0.1):
            line = key.fileobj
            assert isinstance(line, socket.socket)
            try:
                over = not line.recv(4_096)
            except BlockingIOError:
                continue
            except OSError:
                over = True
            if over:
                selector.unregister(line)
    return len(selector.get_map())


ATTACKS = (
    Attack("half-open flood of 5,000", "connections that say nothing keep nobody out", _half_open),
    Attack("10,000 garbage connections", "what is no ZeroMQ costs nobody anything", _garbage),
)
