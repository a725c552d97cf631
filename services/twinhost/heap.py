"""Memory that the process has freed, and that glibc keeps: given back to the system after a burst.

What is large has pages of its own, and is given back at once; without that, glibc raises the limit with each large
message that is freed, up to 32 MiB.
"""

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_HAS_TRIM, _HAS_INFO = hasattr(_libc, "malloc_trim"), hasattr(_libc, "mallinfo2")  # glibc alone has them
_M_MMAP_THRESHOLD = -3  # malloc.h
_LARGE = 128 * 1024  # bytes, as glibc has it at first
_LOOK_EVERY_S = 5.0
_MUCH = 8 * 1024 * 1024  # bytes


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "free", "top")
    )


def begin() -> None:
    """Have what is large given back as soon as it is freed; at the start of a process, before it has threads."""
    if _libc is not None and _HAS_TRIM:
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


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
    """Gives memory back once much has been freed; what was given back counts as free, too, until it is used again."""

    _least: int = 0  # bytes that were free, since they were given back
    _look_at: float = 0.0

    def on_tick(self, now: float) -> None:
        """Look every 5 s by the monotonic clock; on any thread, always the same one."""
        if now < self._look_at or not _HAS_INFO:
            return
        self._look_at = now + _LOOK_EVERY_S
        free = _free_bytes()
        self._least = min(self._least, free)
        if free > self._least + _MUCH:
            give_back()
            self._least = _free_bytes()


def _free_bytes() -> int:
    assert _libc is not None
    function = _libc.mallinfo2
    function.restype = _MallInfo
    return int(function().free)
