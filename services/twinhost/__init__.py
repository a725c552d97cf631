"""Two hosts and two agents on one ZeroMQ link, encrypted and authenticated, without a fallback.

    from twinhost import connect

    with connect("SystemDigitalTwin") as twin:
        print(twin.call("get_ok_agents")["agents"])

The names below are all that a program needs to call agents. They are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import twinhost.secure_zmq  # noqa: F401 - randomises routing-ids before the process makes its first socket

if TYPE_CHECKING:
    from twinhost.network_config import load_network_config
    from twinhost.secure_zmq.aio import AsyncClient
    from twinhost.secure_zmq.certificates import load_certificates
    from twinhost.secure_zmq.client import Client
    from twinhost.secure_zmq.errors import (
        AgentUnreachable,
        ConfigurationError,
        Conflict,
        ConnectionRefused,
        EventsLost,
        InternalError,
        KeyFileExposed,
        KeyFileMalformed,
        KeyFileMissing,
        KeyMismatch,
        LimitReached,
        MalformedRequest,
        MessageTooLarge,
        NotAuthorized,
        NotFound,
        NotGranted,
        PeerNotLive,
        RequestError,
        RequestIdReused,
        SecurityMismatch,
        ServerUnreachable,
        SocketMisuse,
        StoreUnavailable,
        TwinhostError,
        UnexpectedReply,
        UnknownAction,
        WrongServerKey,
    )
    from twinhost.secure_zmq.server_address import SecuredAddress, UnencryptedAddress

__all__ = [
    "AgentUnreachable",
    "AsyncClient",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionRefused",
    "EventsLost",
    "InternalError",
    "KeyFileExposed",
    "KeyFileMalformed",
    "KeyFileMissing",
    "KeyMismatch",
    "LimitReached",
    "MalformedRequest",
    "MessageTooLarge",
    "NotAuthorized",
    "NotFound",
    "NotGranted",
    "PeerNotLive",
    "RequestError",
    "RequestIdReused",
    "SecuredAddress",
    "SecurityMismatch",
    "ServerUnreachable",
    "SocketMisuse",
    "StoreUnavailable",
    "TwinhostError",
    "UnencryptedAddress",
    "UnexpectedReply",
    "UnknownAction",
    "WrongServerKey",
    "connect",
    "load_certificates",
    "load_network_config",
]

_MODULES = {
    "AsyncClient": "secure_zmq.aio",
    "Client": "secure_zmq.client",
    "SecuredAddress": "secure_zmq.server_address",
    "UnencryptedAddress": "secure_zmq.server_address",
    "load_certificates": "secure_zmq.certificates",
    "load_network_config": "network_config",
}


def connect(agent: str, *, name: str | None = None) -> "Client":
    """Return a client of one agent; it connects with the first call, and is closed by `close()` or a `with` block.

    Args:
        agent: its name in the network configuration, for example `SystemDigitalTwin`.
        name: the name in this program's own key, which is checked; the default is to use the key without that check.

    Raises:
        ConfigurationError: the network configuration, the agent's name in it, this program's keys or SECURE_ZMQ are
            wrong. With SECURE_ZMQ=0 no key is read, and the connection is neither encrypted nor authenticated.
    """
    from twinhost.network_config import load_network_config  # noqa: PLC0415 - importing twinhost alone stays cheap
    from twinhost.secure_zmq.certificates import load_certificates  # noqa: PLC0415
    from twinhost.secure_zmq.client import Client  # noqa: PLC0415
    from twinhost.secure_zmq.errors import ConfigurationError  # noqa: PLC0415
    from twinhost.secure_zmq.server_address import (  # noqa: PLC0415
        SecuredAddress,
        UnencryptedAddress,
        is_secure_zmq_enabled,
    )

    server = load_network_config().agent(agent)
    if not is_secure_zmq_enabled():
        return Client(UnencryptedAddress(server.endpoint))
    keys = load_certificates()
    found = keys.own_keys.certificate.owner.name
    if name not in (None, found):
        raise ConfigurationError(
            f"{keys.folder} has the key of {found}, not of {name}; set TWINHOST_CERTIFICATES to the folder with that "
            f"key, or make one: .venv/bin/python scripts/enrol_program.py {name} --folder FOLDER"
        )
    return Client(SecuredAddress(server.endpoint, keys.own_keys, keys.public_key(server.key)))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'secure_zmq.errors')}"), name)
