"""Run as a user that file modes restrict: they don't restrict root, as which the suite often runs."""

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
