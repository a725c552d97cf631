"""What holds for every test: where temporary files lie, and how processes share a run."""

import gc
import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import structlog

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 4 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory where there is enough: a disk makes tests wait that write to it at one time.

    No test cuts a machine's power, so none can see the difference.
    """
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
    # Of the engine's client and Compose, started a thousand times: a fifth of their CPU time is garbage collection.
    os.environ.setdefault("GOGC", "400")
    # Else each traceback is rendered in colour, with every local: on a busy machine a server was late for that.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
    if _shares(config):
        config.option.testrunuid = config.option.testrunuid or uuid.uuid4().hex


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is collected out of Python's garbage collections, of which each would look at all of it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out as `side_by_side` says, unless `--dist` says how."""
    from tests.side_by_side import Sharing

    return Sharing(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Remove the stacks of processes that had no time to: of an interrupted run, or one that crashed."""
    result = yield
    if _shares(session.config):
        from tests.side_by_side import remove_stacks

        remove_stacks(session.config.option.testrunuid)
    return result


def _shares(config: pytest.Config) -> bool:
    """Return whether this process has others run the tests."""
    return bool(getattr(config.option, "numprocesses", None)) and not hasattr(config, "workerinput")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test wait for its turn where others run beside it; the wait is no part of its time."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    from tests.side_by_side import turn

    basetemp = item.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    with turn(item.nodeid, basetemp.parent / "turn"):
        return (yield)
