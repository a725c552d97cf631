"""One run at a time changes a tree; what a killed one left half-written is swept away first."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinhost.certificates.layout import OPERATOR, Layout
from twinhost.certificates.survey import REQUESTS_FOLDER
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER, TRUST_FOLDER
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_folders import INVITES_FOLDER, REVOKED_FOLDER
from twinhost.store.files import require_no_restore

LOCK_FILE = ".lock"
INSTALLING_SUFFIX = ".installing"  # of a whole pair that waits for its name


@contextmanager
def locked(layout: Layout, *, folders: bool = True, restoring: bool = False) -> Iterator[None]:
    """Hold the tree against a second run at the same time, and have its folders in place.

    Args:
        layout: the tree.
        folders: whether the folders of this machine's own identities are made, where they are missing.
        restoring: whether a restore that was cut short is no hindrance, as it is none to the one that finishes it.

    Raises:
        ConfigurationError: the tree can't be written, or is half restored.
    """
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(layout.root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not restoring:
                require_no_restore(layout.root)
            if folders:
                for folder in layout.folders:
                    make_host_folder(folder, layout)
            _sweep(layout)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or layout.root} can't be written ({error.strerror}) as uid {os.getuid()}; "
            "give the tree to that user, and see that its volume has space"
        ) from None


def make_host_folder(folder: Path, layout: Layout) -> None:
    """Make the folder of a host's keys, and those within it that its agent watches and writes."""
    _make_key_folder(folder)
    if folder == layout.server_folder:
        _make_key_folder(folder / ENROLLED_FOLDER)
        (folder / INVITES_FOLDER).mkdir(mode=0o700, exist_ok=True)
    elif folder.name != OPERATOR:
        _make_key_folder(folder / TRUST_FOLDER)


def fsync_folder(folder: Path) -> None:
    """Make durable that names came into a folder, or went."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_key_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / REVOKED_FOLDER).mkdir(mode=0o700, exist_ok=True)


def _sweep(layout: Layout) -> None:
    """Remove drafts of a run that was killed; the lock says that nobody writes them.

    Those in `enrolled/` and `trust/` are the agents', which know no lock.
    """
    folders = [folder for folder in layout.root.iterdir() if folder.is_dir() and not folder.is_symlink()]
    for folder in (layout.root, *folders):  # also of a join that had not come to its first file
        for inner in ("", REVOKED_FOLDER, INVITES_FOLDER, REQUESTS_FOLDER):
            for pattern in (".*.draft", f"*{INSTALLING_SUFFIX}"):
                for draft in (folder / inner).glob(pattern):
                    draft.unlink()
