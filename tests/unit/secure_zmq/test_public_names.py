"""The names that others may import."""

import os
import subprocess
import sys

import pytest

from twinhost import secure_zmq

PUBLIC = [
    "Action",
    "AsyncClient",
    "Authenticator",
    "AuthorizedPeers",
    "Client",
    "Dispatcher",
    "Grants",
    "Request",
    "SecuredAddress",
    "Server",
    "UnencryptedAddress",
    "ZMQAuthenticator",
    "configure_secure_client",
    "configure_secure_server",
    "create_secure_context",
    "is_secure_zmq_enabled",
    "load_certificates",
    "secure_client_socket",
    "secure_server_socket",
    "start_auth",
    "stop_auth",
]


def test_the_public_names_are_these() -> None:
    """Adding or dropping one is a decision, and this list its record."""
    assert secure_zmq.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_leads_to_what_it_names(name: str) -> None:
    """Imported on first use, each is the object of that very name, or its documented alias."""
    aliases = {"configure_secure_client": "secure_client_socket", "configure_secure_server": "secure_server_socket"}
    assert getattr(secure_zmq, name).__name__ == aliases.get(name, name)


def test_any_other_name_is_an_attribute_error() -> None:
    """A slip is no import of something else."""
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        getattr(secure_zmq, "Clint")  # noqa: B009 - the point is the attribute that is not there


def test_importing_the_package_loads_nothing_else() -> None:
    """A health check, which runs every few seconds, pays only for what it uses."""
    others = "{'zmq', 'msgspec', 'structlog', 'watchfiles'}"
    program = f"import sys, twinhost.secure_zmq; print(sorted({others} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
