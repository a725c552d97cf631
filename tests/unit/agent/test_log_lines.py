"""The log's lines in a container: one JSON object each, whatever an event's fields are."""

import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pytest
import structlog

from twinhost.agent.log_lines import LEVEL_VARIABLE, configure_logging, log_level
from twinhost.secure_zmq.errors import ConfigurationError


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Standard error of an agent, which is no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configured = structlog.get_config()
    configure_logging("SystemDigitalTwin")
    yield stream
    structlog.configure(**configured)


def only(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


def test_a_line_has_the_event_with_level_time_and_agent(stream: io.StringIO) -> None:
    structlog.get_logger().warning("handshake_refused", cause="not_zmtp", count=2)
    record = only(stream)
    moment = record.pop("timestamp")
    shown = {"event": "handshake_refused", "level": "warning", "agent": "SystemDigitalTwin"}
    assert record == {**shown, "cause": "not_zmtp", "count": 2}
    assert moment.endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) < 60


@pytest.mark.parametrize("value", [PurePosixPath("/state"), {1, 2}, b"bytes", ValueError("x")], ids=repr)
def test_a_value_that_json_lacks_is_written_as_python_shows_it(stream: io.StringIO, value: object) -> None:
    structlog.get_logger().info("found", value=value)
    assert only(stream)["value"] == repr(value)


def test_a_name_that_is_no_text_is_written(stream: io.StringIO) -> None:
    """A file's name may be any bytes, which Python has as lone surrogates."""
    structlog.get_logger().info("found", file=b"\xff.key".decode("utf-8", "surrogateescape"))
    assert only(stream)["file"] == "\udcff.key"


def test_an_exception_has_its_traceback(stream: io.StringIO) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        structlog.get_logger().exception("fault")
    record = only(stream)
    assert record["level"] == "error"
    assert "Traceback" in record["exception"]
    assert record["exception"].endswith("KeyError: 'gone'")
    assert "exc_info" not in record


@pytest.mark.parametrize(("name", "written"), [("debug", 4), ("info", 3), ("", 3), ("warning", 2), ("error", 1)])
def test_less_than_the_level_is_not_written(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, name: str, written: int
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)  # pytest has set it again since the fixture
    configure_logging("SystemDigitalTwin", log_level({LEVEL_VARIABLE: name}))
    log = structlog.get_logger()
    for write in (log.debug, log.info, log.warning, log.error):
        write("found")
    assert len(stream.getvalue().splitlines()) == written


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"TWINHOST_LOG_LEVEL is 'loud'; .* debug, info, "):
        log_level({LEVEL_VARIABLE: "loud"})
