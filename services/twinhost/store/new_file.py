"""A file of one's own, such as a backup: its owner's alone, named once it is whole, and never in another's place."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from twinhost.secure_zmq.errors import ConfigurationError

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # as a memory stick's file system answers


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its name once it is complete and on disk; nothing is left of it after a failure.

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
        _name(draft, path)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written ({error.strerror}); name another place, or -") from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def _name(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)  # unlike a rename, it fails where the name is taken by now
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        draft.rename(path)
