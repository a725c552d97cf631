"""Looking at libzmq's connections, and closing them, also where the process can open nothing more.

A descriptor of libzmq's may be closed and given to another connection at any moment, so it is duplicated before it is
looked at. The duplicate goes on a number that was reserved when this module was imported: `dup2` needs no new one.
"""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator

_RESET = struct.pack("=ii", 1, 0)  # what the kernel still holds for the peer is dropped when libzmq closes
_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}
_lock = threading.Lock()
_nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
_reserved = os.dup(_nothing)


@contextlib.contextmanager
def held(fd: int) -> Iterator[socket.socket | None]:
    """Hold the connection that has this number; None where the number is none. Not to be nested: there is one."""
    with _lock:
        try:
            os.dup2(fd, _reserved, inheritable=False)
            duplicate = socket.socket(fileno=_reserved)
        except OSError:
            os.dup2(_nothing, _reserved, inheritable=False)
            yield None
            return
        try:
            yield duplicate if duplicate.family in _FAMILIES else None
        finally:
            duplicate.detach()
            os.dup2(_nothing, _reserved, inheritable=False)


def shut(connection: socket.socket) -> bool:
    """End a connection for both sides; return whether that succeeded, or its peer had gone."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return remote(connection) is None
    return True


def remote(connection: socket.socket) -> tuple[str, int] | None:
    """Return address and port of the other end, an IPv4 address as such and without a scope; None where it is gone.

    The other end of a connection over IPC has neither: `("", 0)`.
    """
    try:
        name = connection.getpeername()
    except OSError:
        return None
    if not isinstance(name, tuple):
        return "", 0
    address, port = name[:2]
    return bare_address(str(address)), int(port)


def bare_address(address: str) -> str:
    """Return an address without its scope, which Python leaves out and libzmq does not, and an IPv4 one as such."""
    return address.partition("%")[0].removeprefix("::ffff:")


def most_open_files() -> int:
    """Return how many descriptors this process may have; a large number where that is not limited or not known."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft, 1 << 20) if soft != resource.RLIM_INFINITY else 1 << 20
