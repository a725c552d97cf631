"""Waiting without guessing: poll until something holds, and fail with a sentence where it never does."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 40.0  # for what promises no time: a busy machine may take long, a hung one must end
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


def suspend(process: int) -> None:
    """Stop a process with SIGSTOP, and wait until all its threads have: on a busy machine they go on for 0.4 s."""
    os.kill(process, signal.SIGSTOP)
    wait_until(lambda: _threads(process) == {"T"}, PATIENCE_S, f"process {process} is stopped")


def _threads(process: int) -> set[str]:
    """Return the states of a process's threads; see proc(5), stat."""
    states = set()
    for thread in Path(f"/proc/{process}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            states.add(thread.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0])
    return states


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail where the block takes longer."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took <= seconds, f"took {took:.2f} s; {seconds:g} s are promised"


@contextmanager
def soon(seconds: float, *processes: int) -> Iterator[None]:
    """Fail where the block takes longer, not counting what threads waited for a processor while others had them all.

    Of this process and of those with the given ids. For what no document promises, on a machine that runs other tests.
    """
    watched = (os.getpid(), *processes)
    started, queued = time.monotonic(), _queued_s(watched)
    yield
    took, queued = time.monotonic() - started, _queued_s(watched) - queued
    assert took - queued <= seconds, f"took {took:.2f} s, {queued:.2f} s of it without a processor; not {seconds:g} s"


def _queued_s(processes: tuple[int, ...]) -> float:
    """Return for how long all threads together could run and had no processor; see proc(5), schedstat."""
    queued_ns = 0
    for process in processes:
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                queued_ns += int(thread.read_text(encoding="ascii").split()[1])
    return queued_ns / 1e9
