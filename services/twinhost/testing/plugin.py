"""The pytest plugin, which pytest loads by itself wherever `twinhost` is installed: fixtures with both agents."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from twinhost.testing.stack import Stack


@pytest.fixture
def twinhost_stack() -> "Iterator[Stack]":
    """Both agents, encrypted and authenticated, in this process; see `twinhost.testing.Stack`."""
    from twinhost.testing.stack import Stack  # noqa: PLC0415 - only for tests that use it

    with Stack() as stack:
        yield stack


@pytest.fixture
def twinhost_open_stack() -> "Iterator[Stack]":
    """Both agents with security turned off, as `SECURE_ZMQ=0` starts them."""
    from twinhost.testing.stack import Stack  # noqa: PLC0415

    with Stack(secure=False) as stack:
        yield stack
