"""The log of an agent: one event a line on standard error."""

import contextlib
import json
import logging
import sys
from collections.abc import Mapping
from typing import TextIO, cast

import structlog

from twinhost.secure_zmq.errors import ConfigurationError

LEVEL_VARIABLE = "TWINHOST_LOG_LEVEL"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log_level(environment: Mapping[str, str]) -> int:
    """Return the least level that is written; ConfigurationError where there is none of the name."""
    name = environment.get(LEVEL_VARIABLE) or "info"
    if name not in _LEVELS:
        raise ConfigurationError(f"{LEVEL_VARIABLE} is {name[:32]!r}; set it in .env to one of: {', '.join(_LEVELS)}")
    return _LEVELS[name]


def configure_logging(agent: str, level: int = logging.INFO) -> None:
    """Send log events to standard error: JSON lines in a container, readable text on a terminal; never a key."""
    finish = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else _as_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # the trace_id of a request
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _named(agent),
            finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _IgnoringErrors(sys.stderr))),
        cache_logger_on_first_use=True,
    )


class _IgnoringErrors:
    """A stream that ignores errors: a full disk under the log must not stop the service."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _named(agent: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["agent"] = agent
        return event

    return add


_encode = json.JSONEncoder(default=repr).encode  # made once: a peer waits while its handshake is logged


def _as_json(logger: object, level: str, event: structlog.typing.EventDict) -> str:
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, level, event)
    return _encode(event)
