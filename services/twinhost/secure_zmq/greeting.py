"""Ask a server for its ZMTP greeting (RFC 23), which names its security mechanism in the clear.

A client that breaks off and one that is broken off race: whether a CURVE client of an open
server reads the greeting before the connection is reset is chance. The greeting decides it.
"""

import contextlib
import socket
import time
from urllib.parse import urlsplit

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_VERSION_MAJOR = b"\x03"  # the server holds the rest of its greeting back until it has seen this
_GREETING_BYTES = 64
_MECHANISM = slice(12, 32)
_TIMEOUT_S = 0.5  # for all of it: a server that drips is no server


def mechanism_of(address: str) -> str | None:
    """Return the mechanism (`NULL`, `CURVE`) that a `tcp://` server greets with; None where it does not say."""
    target = urlsplit(address)
    if target.scheme != "tcp" or target.hostname is None or target.port is None:
        return None
    deadline = time.monotonic() + _TIMEOUT_S
    greeting = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((target.hostname, target.port), timeout=_TIMEOUT_S) as connection,
    ):
        connection.sendall(_SIGNATURE + _VERSION_MAJOR)
        while len(greeting) < _GREETING_BYTES and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s)
            part = connection.recv(_GREETING_BYTES - len(greeting))
            if not part:
                break
            greeting += part
    if len(greeting) < _GREETING_BYTES or greeting[0:1] != b"\xff" or greeting[9] & 1 == 0:
        return None
    return greeting[_MECHANISM].rstrip(b"\0").decode("ascii", errors="replace")
