"""The process's memory: what it has freed is given back to the system, and what stays is not searched for garbage."""

import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_HAS_TRIM, _HAS_INFO = hasattr(_libc, "malloc_trim"), hasattr(_libc, "mallinfo2")  # glibc alone has them
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE = 2 * 1024 * 1024  # bytes; getting new pages for each message of 1 MiB takes as long as answering it
_LOOK_EVERY_S = 5.0
_MUCH = 8 * 1024 * 1024  # bytes


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "free", "top")
    )


def begin() -> None:
    """Have all memory be such as `give_back` returns; at the start of a process, before it has threads.

    What is large has pages of its own, and is given back as soon as it is freed: by itself, glibc raises that limit
    with each large message that is freed, up to 32 MiB. There is one arena, since `malloc_trim` leaves the end of any
    other one as it is.
    """
    if _libc is not None and _HAS_TRIM:
        _libc.mallopt(_M_ARENA_MAX, 1)
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        _libc.mallopt(_M_TRIM_THRESHOLD, _MUCH)


def set_apart() -> None:
    """Have no garbage collection look again at what there is; at the end of a process's start.

    Nearly all of that stays. With it, a full collection takes 20 to 40 ms, in which nobody is served, and one client
    that sends large messages causes some a second; without it, 2 to 5 ms.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return what is free to the system."""
    if _libc is not None and _HAS_TRIM:
        _libc.malloc_trim(0)


class Resident:
    """How much of this process's memory is in RAM, on Linux; to be made in the process, and not before a fork."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGESIZE")
        self._statm = Path("/proc/self/statm").open("rb", buffering=0)  # noqa: SIM115 - read as long as it lives

    @property
    def bytes(self) -> int:
        """The bytes, in 2 µs."""
        return int(os.pread(self._statm.fileno(), 128, 0).split()[1]) * self._page


@dataclass(slots=True)
class Heap:
    """Gives memory back while much is free.

    What was given back counts as free, and is given back at each look again, in 0.2 ms: nothing shows whether it was
    used since.
    """

    _look_at: float = 0.0

    def on_tick(self, now: float) -> None:
        """Look every 5 s by the monotonic clock; on any thread, always the same one."""
        if now < self._look_at or not _HAS_INFO:
            return
        self._look_at = now + _LOOK_EVERY_S
        if _free_bytes() > _MUCH:
            give_back()


def _free_bytes() -> int:
    assert _libc is not None
    function = _libc.mallinfo2
    function.restype = _MallInfo
    return int(function().free)
