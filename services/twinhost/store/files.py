"""Files that must survive a crash and stay private: locks, drafts, folders, and the parts of a SQLite database."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from twinhost.secure_zmq.errors import ConfigurationError

PARTS = ("-shm", "-wal", "")  # of a database, in the order to move them: SQLite deletes a log without a database
RESTORING = ".restoring"  # the folder of a host restore, next to what it replaces: the received, verified files
COMMIT = "commit"  # in it once everything is verified: the exchange has begun and must be finished
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # from file systems without hard links, e.g. FAT
_OTHERS = 0o077  # the permission bits of group and others


def part(path: Path, suffix: str) -> Path:
    """Return the file of a database that has this suffix."""
    return path.with_name(path.name + suffix)


def make_private(path: Path) -> None:
    """Remove the permissions of group and others from a database and its log, as far as these files exist.

    No file is opened: closing it would release the locks that SQLite holds on it in this process.

    Raises:
        OSError: a mode can't be changed.
    """
    for suffix in PARTS:
        with suppress(FileNotFoundError):
            file = part(path, suffix)
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & _OTHERS:
                file.chmod(mode & ~_OTHERS)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a private file that gets its name once it is complete and on disk; after a failure there is no file.

    Raises:
        ConfigurationError: it can't be written, or the name is taken.
    """
    draft: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        draft = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _publish(draft, path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be written ({error.strerror}); give another path, or - for standard output"
        ) from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)  # unlike a rename, it fails if the name is taken by now
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        draft.rename(path)


def exclusive_lock(path: Path) -> Callable[[], None]:
    """Lock a file, which is created if missing, until the returned function is called or the process ends.

    Two processes that write one store would undo each other's work and break the audit log's chain.

    Raises:
        ConfigurationError: another process holds the lock, or the file can't be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be created ({error.strerror}); check the permissions and the free space of its volume"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(
            f"another process uses {path.parent} for the same agent; stop that process, or set TWINHOST_STATE to "
            "another folder"
        ) from None
    return lambda: os.close(descriptor)


def require_no_restore(folder: Path) -> None:
    """Refuse a folder of state, or of keys, in which an interrupted host restore has begun to exchange files.

    Raises:
        ConfigurationError: the restore must be finished first.
    """
    if (folder / RESTORING / COMMIT).exists():
        raise ConfigurationError(
            f"{folder} is only partly restored: a restore was interrupted; run the same restore again with the same "
            "archive to finish it"
        )
