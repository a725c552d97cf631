"""Memory that the process has freed, and that glibc keeps: given back to the system after a burst."""

import ctypes
import sys
from dataclasses import dataclass

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_HAS_TRIM, _HAS_INFO = hasattr(_libc, "malloc_trim"), hasattr(_libc, "mallinfo2")  # glibc alone has them
_LOOK_EVERY_S = 5.0
_MUCH = 8 * 1024 * 1024  # bytes


class _MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "free", "top")
    )


def give_back() -> None:
    """Return what is free to the system."""
    if _libc is not None and _HAS_TRIM:
        _libc.malloc_trim(0)


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
