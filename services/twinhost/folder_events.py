"""Events of the files in folders, from inotify: a thread that follows a folder sleeps until something changes there.

Only Linux has inotify, and each user may have a limited number of its instances. Where it can't be used, or does not
report every change, the caller looks at the folders' times at intervals. Not `watchfiles`: it wakes 20 times a second
while nothing changes, and would add a compiled package and anyio to what every client installs.
"""

import contextlib
import ctypes
import errno
import os
import select
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from twinhost.worker import Waker

_QUIET_S = 0.010  # without an event: then what is being written is complete, as far as can be known
_LONGEST_S = 0.050  # from the first event: then it is reported, even if more follow
_COARSEST_S = 2.5  # longer than the unit of any file system's times: 4 to 10 ms on Linux's own, 2 s on FAT
_CHANGED = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, _TO, CREATE, DELETE
_REPLACED = 0x400 | 0x800  # DELETE_SELF, MOVE_SELF
_ONLY_A_FOLDER = 0x1000000  # sys/inotify.h
_EVENT = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name that follows


class FolderEvents:
    """The events of some folders, without those inside their subfolders; used on one thread."""

    def __init__(self, folders: Iterable[Path], waker: Waker) -> None:
        """Watch folders that exist, until `close()`; `waker` ends a wait early.

        Raises:
            OSError: the system has no inotify, or no watch is left; FileNotFoundError: a folder is missing.
        """
        self._fd = _open()
        try:
            for folder in folders:
                _watch(self._fd, folder)
        except OSError:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(waker.fd, select.POLLIN)

    def wait(self, timeout_s: float) -> set[str]:
        """Return the names of the files that changed; if there are any, once no more events follow, or after 50 ms.

        The name is empty where a folder itself changed, or where events were lost.
        """
        changed = self._arrived(timeout_s)
        until = time.monotonic() + _LONGEST_S
        while changed and time.monotonic() < until and (more := self._arrived(_QUIET_S)):
            changed |= more
        return changed

    def close(self) -> None:
        os.close(self._fd)

    def _arrived(self, timeout_s: float) -> set[str]:
        self._poll.poll(1_000 * timeout_s)
        with contextlib.suppress(BlockingIOError):
            return set(_names(os.read(self._fd, 65_536)))
        return set()


class Looks:
    """Compares what is seen of folders, such as their times of change, with what was seen before.

    Two changes within one unit of these times leave the same time, and a look may come between them. So after the
    first read, and after a difference, all is read again at each look of the next 2.5 s, and once more after them.
    """

    def __init__(self, seen: object) -> None:
        """Begin with what was seen just before the first read."""
        self._seen = seen
        self._read_at = time.monotonic()
        self._distinct_at = self._read_at + _COARSEST_S  # from then on another change has another time

    def may_have_changed(self, seen: object) -> bool:
        """Return whether to read again, by what was seen just now."""
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._distinct_at = seen, now + _COARSEST_S
        elif self._read_at >= self._distinct_at:
            return False
        self._read_at = now
        return True


def _names(events: bytes) -> Iterator[str]:
    end = 0
    while end < len(events):
        begin = end + _EVENT.size
        end = begin + _EVENT.unpack_from(events, end)[3]
        yield os.fsdecode(events[begin:end].rstrip(b"\0"))


def _open() -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "this system has no inotify")
    return _checked(ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")


def _watch(fd: int, folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.inotify_add_watch(fd, os.fsencode(folder), _CHANGED | _REPLACED | _ONLY_A_FOLDER), str(folder))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
