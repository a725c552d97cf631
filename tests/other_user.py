"""Being a user to whom file modes apply: root is not, and the suite often runs as root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NOBODY = 65_534


@contextmanager
def not_root() -> Iterator[None]:
    """Be an ordinary user for the length of the block."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
