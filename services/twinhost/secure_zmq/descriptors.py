"""TCP connections by their descriptor, as the kernel knows them, though libzmq owns them.

A descriptor of libzmq's may be closed and reused for another connection at any moment, so it is duplicated before it is
changed. The duplicate gets a number that is reserved here, so `dup2` works even if no descriptor is left.
"""

import contextlib
import ctypes
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PENDING = 4_096  # connections of one socket in their handshake, where there are descriptors for them
_PENDING_SHARE = 8  # at most one in this many descriptors is for such a connection

_nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
_reserved = os.dup(_nothing)
_reserved_lock = threading.Lock()
_RESET = struct.pack("=ii", 1, 0)  # unsent data is dropped when libzmq closes

# libc directly, where one system call is enough: a socket object would own libzmq's descriptor. A PyDLL keeps the GIL:
# releasing it a thousand times for a microsecond each would mean waiting for a busy server a thousand times.
_libc = ctypes.pythonapi
_SocketAddress = ctypes.c_char * 128  # struct sockaddr_storage
_TCP_INFO = 11  # linux/tcp.h; the module `socket` has it only on Linux
_BYTES_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")  # of struct tcp_info, since Linux 4.1
_ANSWERS = struct.Struct("=2xBB48xII")  # of it: retransmissions, probes; since the last data and acknowledgement
_UNSENT = 0x894B  # SIOCOUTQNSD of linux/sockios.h
_TcpInfo = ctypes.c_char * _BYTES_ACKED_AND_RECEIVED.size
_INET, _INET6 = int(socket.AF_INET), int(socket.AF_INET6)
_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}


@contextlib.contextmanager
def held(fd: int) -> Iterator[socket.socket | None]:
    """Hold the connection with this descriptor; None where there is none. Not to be nested: one number is reserved."""
    with _reserved_lock:
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
    """Shut a connection down in both directions; return whether that succeeded, or it had ended already."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return remote(connection) is None
    return True


def remote(connection: socket.socket) -> tuple[str, int] | None:
    """Return the remote address and port, IPv4 as such and IPv6 without a scope; None if the connection has ended.

    A connection over IPC has neither: `("", 0)`.
    """
    try:
        name = connection.getpeername()
    except OSError:
        return None
    if not isinstance(name, tuple):
        return "", 0
    address, port = name[:2]
    return bare_address(str(address)), int(port)


def remote_of(fd: int) -> tuple[str, int] | None:
    """Return the remote address and port of a descriptor's connection, as `remote` does."""
    if sys.platform != "linux":  # elsewhere an address begins with its length
        with held(fd) as connection:
            return None if connection is None else remote(connection)
    content, length = _SocketAddress(), ctypes.c_uint32(ctypes.sizeof(_SocketAddress))
    if _libc.getpeername(fd, content, ctypes.byref(length)):
        return None
    raw = content.raw
    family, port = int.from_bytes(raw[:2], sys.byteorder), int.from_bytes(raw[2:4], "big")
    if family == _INET6:
        return bare_address(socket.inet_ntop(_INET6, raw[8:24])), port
    if family == _INET:
        return socket.inet_ntop(_INET, raw[4:8]), port
    return ("", 0) if family == socket.AF_UNIX else None


@dataclass(frozen=True, slots=True)
class TcpCounters:
    """The bytes of a connection, as TCP counts them."""

    acknowledged: int  # retransmissions don't count, so a peer can't make it grow by itself
    received: int


@dataclass(frozen=True, slots=True)
class TcpAnswers:
    """Whether the other machine still answers on a connection, as TCP sees it."""

    unanswered: int  # retransmissions and probes since it last acknowledged something
    since_data_ms: int  # since its program sent something
    since_acknowledged_ms: int


def traffic_of(fd: int) -> TcpCounters | None:
    """Return the TCP counters; None if the descriptor is not, or no longer, a TCP connection; on Linux only."""
    content = _tcp_info(fd)
    return None if content is None else TcpCounters(*_BYTES_ACKED_AND_RECEIVED.unpack(content))


def answers_of(fd: int) -> TcpAnswers | None:
    """Return whether the other machine answers; None where `traffic_of` returns that."""
    content = _tcp_info(fd)
    if content is None:
        return None
    retransmissions, probes, since_data_ms, since_acknowledged_ms = _ANSWERS.unpack_from(content)
    return TcpAnswers(retransmissions + probes, since_data_ms, since_acknowledged_ms)


def _tcp_info(fd: int) -> "ctypes.Array[ctypes.c_char] | None":
    content, length = _TcpInfo(), ctypes.c_uint32(ctypes.sizeof(_TcpInfo))
    failed = _libc.getsockopt(fd, socket.IPPROTO_TCP, _TCP_INFO, content, ctypes.byref(length))
    return None if failed or length.value < ctypes.sizeof(_TcpInfo) else content


def unsent(fd: int) -> int | None:
    """Return how many bytes the kernel could not send yet over a connection; None if there is none, or off Linux."""
    if sys.platform != "linux":
        return None
    count = ctypes.c_int()
    return None if _libc.ioctl(fd, _UNSENT, ctypes.byref(count)) else count.value


def bare_address(address: str) -> str:
    """Return an address without its scope, which Python omits and libzmq does not; an IPv4-mapped one as IPv4."""
    return address.partition("%")[0].removeprefix("::ffff:")


def most_open_files() -> int:
    """Return how many descriptors this process may have; a large number if there is no limit or it is not known."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft, 1 << 20) if soft != resource.RLIM_INFINITY else 1 << 20


def most_pending() -> int:
    """Return how many connections of one socket may be in their handshake at a time."""
    return min(MAX_PENDING, max(1, most_open_files() // _PENDING_SHARE))
