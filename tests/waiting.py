"""Waiting without guessing: poll until something holds, and fail with a sentence where it never does."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 20.0  # for what promises no time: a busy machine may take long, a hung one must end
REFUSAL_S = 2.0  # the promise: a refusal says why within two seconds
_LOOK_EVERY_S = 0.005  # at first; a condition may cost a processor as much as what is waited for
_LOOK_AT_LEAST_EVERY_S = 0.05
_SHARE = 20  # of the time waited so far: a look comes later by no more than this part


def wait_until(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Return the first true value of `condition`; fail with `what` where there is none within `deadline_s` seconds."""
    started = time.monotonic()
    while not (value := condition()):
        waited_s = time.monotonic() - started
        assert waited_s < deadline_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(min(max(waited_s / _SHARE, _LOOK_EVERY_S), _LOOK_AT_LEAST_EVERY_S))
    return value


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took <= seconds, f"took {took:.2f} s; {seconds:g} s are promised"
