"""One process at a time on a store: two that write it would undo each other's work, and break the audit log's chain."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from twinhost.secure_zmq.errors import ConfigurationError


def hold(path: Path) -> Callable[[], None]:
    """Take the lock in a file, which is made, until the returned function is called, or the process ends.

    Raises:
        ConfigurationError: another process has it, or the file can't be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be made ({error.strerror}); see the mode and the space of its volume"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(
            f"another process uses {path.parent} for the same agent; stop it, or give this one a place of its own"
        ) from None
    return lambda: os.close(descriptor)
