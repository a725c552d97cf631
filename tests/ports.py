"""Ports of the loopback that nobody has."""

import random
import socket
from contextlib import ExitStack, suppress


def free_ports(count: int) -> list[int]:
    """Return so many, none of which Linux gives to an outgoing connection: those begin at 32768."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = random.randrange(20_000, 32_000)
            with suppress(OSError):
                stack.enter_context(socket.create_server(("", port)))
                ports.append(port)
    return ports
