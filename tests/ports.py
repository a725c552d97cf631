"""Ports of the loopback that nobody has."""

import os
import random
import socket
from contextlib import ExitStack, suppress

_FIRST, _LAST = 20_000, 32_000
_PROCESSES = 12
_EACH = (_LAST - _FIRST) // (_PROCESSES + 1)
_MOST_GIVEN = _EACH // 2
_given: list[int] = []  # the newest last


def free_ports(count: int) -> list[int]:
    """Return so many, none of which Linux gives to an outgoing connection: those begin at 32768.

    Test processes of one run choose from ranges of their own, and none chooses one of its last 460 again: a port is
    free until its taker binds it. What they start, such as a benchmark, chooses from one more range.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    process = int(worker.removeprefix("gw")) % _PROCESSES if worker else _PROCESSES
    first = _FIRST + process * _EACH
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = random.randrange(first, first + _EACH)
            if port in _given:
                continue
            with suppress(OSError):
                stack.enter_context(socket.create_server(("", port)))
                ports.append(port)
                _given.append(port)
    del _given[:-_MOST_GIVEN]
    return ports


def vacant_address() -> str:
    """Return an address of the loopback at which nobody listens, neither now nor by chance in another test."""
    return f"tcp://127.0.0.1:{free_ports(1)[0]}"
