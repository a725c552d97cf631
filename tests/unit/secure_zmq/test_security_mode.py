"""SECURE_ZMQ: 1, 0, or a refusal to start."""

import pytest

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled


@pytest.mark.parametrize(("environment", "enabled"), [({"SECURE_ZMQ": "1"}, True), ({"SECURE_ZMQ": "0"}, False)])
def test_one_and_zero_are_understood(environment: dict[str, str], enabled: bool) -> None:
    """1 is encrypted and 0 is open."""
    assert is_secure_zmq_enabled(environment) is enabled


def test_unset_is_secure() -> None:
    """Who says nothing gets the encrypted link."""
    assert is_secure_zmq_enabled({}) is True


@pytest.mark.parametrize("value", ["", "yes", "no", "true", "True", "false", " 1", "1 ", "1\n", "01", "2", "on", "１"])
def test_anything_else_refuses_to_start(value: str) -> None:
    """A value that someone could mean either way is neither."""
    with pytest.raises(
        ConfigurationError, match=r"SECURE_ZMQ is .*; set it to 1 \(encrypted\) or 0 \(unencrypted\)"
    ) as error:
        is_secure_zmq_enabled({"SECURE_ZMQ": value})
    assert repr(value) in str(error.value)


def test_the_process_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, it is the environment of the process at the time of the call."""
    monkeypatch.setenv("SECURE_ZMQ", "0")
    assert is_secure_zmq_enabled() is False
    monkeypatch.setenv("SECURE_ZMQ", "true")
    with pytest.raises(ConfigurationError):
        is_secure_zmq_enabled()
