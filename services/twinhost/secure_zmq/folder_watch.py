"""When the folders of keys change: by the kernel's word, and by a look where that does not come."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog
import watchfiles

from twinhost.secure_zmq.key_folders import INVITES_FOLDER, REVOKED_FOLDER

_log = structlog.get_logger(__name__)

WATCH_STEP_MS = 50  # a change is seen within two steps
WATCH_IDLE_MS = 250  # how long it may sleep where nothing changes; so late is seen what changed as the watch began
RETRY_S, RETRY_MAX_S = 0.25, 30.0  # the first and the longest wait after a look that could not read everything
WATCH_POLL_S = 0.5  # how often the folders are looked at where they can't be watched


class FolderWatch:
    """Calls back, from a thread of its own, whenever something in the folders may have changed."""

    def __init__(
        self, folders: Sequence[Path], changed: Callable[[], object], unread: Callable[[], Sequence[str]] = tuple
    ) -> None:
        """Watch nothing yet.

        Args:
            folders: of keys.
            changed: reads them.
            unread: what could not be read; while there is any, `changed` is called again, with a backoff that starts
                again where something else can't be read.
        """
        self._unread = unread
        self._last_unread: Sequence[str] = ()
        self._retry_s = RETRY_S
        self._retry_at: float | None = None
        self._folders = [
            folder / inner for folder in folders for inner in ("", REVOKED_FOLDER, INVITES_FOLDER)
        ]  # not recursive: an agent's own folder may hold others' mounts
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="keys-watch", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether changes are being followed."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def let_go(self) -> None:
        """Have the thread end, without waiting for it."""
        self._stop.set()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=WATCH_IDLE_MS / 1_000 + 1)

    def _follow(self) -> None:
        unwatched = ""
        while not self._stop.is_set():
            watched = self._identities()
            self._changed()  # what changed while nobody watched
            try:
                self._watch_while_same(watched)
            except FileNotFoundError:  # gone since the look at it
                continue
            except (OSError, RuntimeError) as error:  # no right to it, or the kernel's watches are used up, by anybody
                if str(error) != unwatched:
                    _log.warning("folders_not_watched", reason=str(error), effect="they are looked at twice a second")
                    unwatched = str(error)
                self._stop.wait(WATCH_POLL_S)

    def _watch_while_same(self, watched: Mapping[Path, tuple[int, int]]) -> None:
        """Follow the folders until one is made, or put in another's place, as a restore or a sync does."""
        if not watched:
            self._stop.wait(WATCH_IDLE_MS / 1_000)
            return
        rounds = watchfiles.watch(
            *watched,
            stop_event=self._stop,
            step=WATCH_STEP_MS,
            debounce=WATCH_STEP_MS,
            rust_timeout=WATCH_IDLE_MS,
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=False,
        )
        before: Mapping[Path, int] = {}
        for changes in rounds:  # at the first one: what changed before the watch was in place
            times = self._times()
            # The times count too, since some file systems report no change that was made beyond them.
            if changes or times != before or self._retry_is_due():
                self._changed()
            before = times
            if self._identities() != watched:
                return

    def _retry_is_due(self) -> bool:
        """Return whether what could not be read is to be read again now."""
        unread = tuple(self._unread())
        if unread != self._last_unread:
            self._last_unread, self._retry_s, self._retry_at = unread, RETRY_S, None
        if not unread:
            return False
        now = time.monotonic()
        if self._retry_at is not None and now < self._retry_at:
            return False
        due, self._retry_at = self._retry_at is not None, now + self._retry_s
        if due:
            self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
        return due

    def _identities(self) -> dict[Path, tuple[int, int]]:
        """Return device and inode of the folders that are there."""
        return {folder: (status.st_dev, status.st_ino) for folder, status in self._statuses()}

    def _times(self) -> dict[Path, int]:
        """Return when a file last came into, or went out of, each folder that is there."""
        return {folder: status.st_mtime_ns for folder, status in self._statuses()}

    def _statuses(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in self._folders:
            with contextlib.suppress(OSError):
                yield folder, folder.stat()
