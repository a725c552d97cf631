"""Two hosts and two agents on one ZeroMQ link, encrypted and authenticated, without a fallback.

    from twinhost import connect

    with connect() as deployment:
        print(deployment.system.call("get_ok_agents")["agents"])

The names below are all that a program needs to call agents. They are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import twinhost.secure_zmq  # noqa: F401 - randomises routing-ids before the process makes its first socket

if TYPE_CHECKING:
    from twinhost.clients import (
        AsyncSystemDigitalTwin,
        AsyncUnifiedMemoryReasoningAgent,
        SystemDigitalTwin,
        UnifiedMemoryReasoningAgent,
    )
    from twinhost.deployment import AsyncDeployment, Deployment
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
        OverBudget,
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

    __version__: str

__all__ = [
    "AgentUnreachable",
    "AsyncClient",
    "AsyncDeployment",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionRefused",
    "Deployment",
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
    "OverBudget",
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
    "connect_async",
    "load_certificates",
    "load_network_config",
]

_C = TypeVar("_C", bound="Client")
_A = TypeVar("_A", bound="AsyncClient")

_MODULES = {
    "AsyncClient": "secure_zmq.aio",
    "AsyncDeployment": "deployment",
    "Client": "secure_zmq.client",
    "Deployment": "deployment",
    "SecuredAddress": "secure_zmq.server_address",
    "UnencryptedAddress": "secure_zmq.server_address",
    "load_certificates": "secure_zmq.certificates",
    "load_network_config": "network_config",
}


@overload
def connect(agent: None = None, *, profile: str | None = None, name: str | None = None) -> "Deployment": ...


@overload
def connect(
    agent: Literal["SystemDigitalTwin"], *, profile: str | None = None, name: str | None = None
) -> "SystemDigitalTwin": ...


@overload
def connect(
    agent: Literal["UnifiedMemoryReasoningAgent"], *, profile: str | None = None, name: str | None = None
) -> "UnifiedMemoryReasoningAgent": ...


@overload
def connect(agent: str, *, client: type[_C], profile: str | None = None, name: str | None = None) -> _C: ...


@overload
def connect(agent: str, *, profile: str | None = None, name: str | None = None) -> "Client": ...


def connect(
    agent: str | None = None,
    *,
    client: type["Client"] | None = None,
    profile: str | None = None,
    name: str | None = None,
) -> Any:
    """Return a client of one agent, or the deployment with a client of each; to be closed, or used in a `with` block.

    A client connects with its first call. It uses the keys that are in the profile's folder then, and follows them: it
    survives a rotation of its own key, or of the agent's.

    Args:
        agent: its name in the network configuration, for example `SystemDigitalTwin`; None for the deployment.
        client: the class of the client, for another agent: one that `twinhost client AGENT` wrote; the default is the
            agent's class in twinhost.clients, or Client.
        profile: the profile that `twinhost join --profile` made; the default is TWINHOST_PROFILE, else the default
            profile. TWINHOST_CERTIFICATES and NETWORK_CONFIG_PATH replace its folder and its configuration.
        name: the name in this program's own key, which is checked; the default is to use the key without that check.

    Raises:
        ConfigurationError: the profile, the network configuration, the agent's name in it, this program's keys or
            SECURE_ZMQ are wrong. With SECURE_ZMQ=0 no key is read, and the connection is neither encrypted nor
            authenticated.

    >>> with twinhost.connect() as deployment:
    ...     deployment.system.ping().message, deployment.memory.ping().status
    ('pong', 'ok')
    """
    from twinhost.deployment import Deployment, load_settings  # noqa: PLC0415 - importing twinhost alone stays cheap

    settings = load_settings(profile=profile, name=name)
    if agent is None:
        return Deployment(settings)
    return settings.typed_client(agent, asynchronous=False, kind=client)


@overload
def connect_async(agent: None = None, *, profile: str | None = None, name: str | None = None) -> "AsyncDeployment": ...


@overload
def connect_async(
    agent: Literal["SystemDigitalTwin"], *, profile: str | None = None, name: str | None = None
) -> "AsyncSystemDigitalTwin": ...


@overload
def connect_async(
    agent: Literal["UnifiedMemoryReasoningAgent"], *, profile: str | None = None, name: str | None = None
) -> "AsyncUnifiedMemoryReasoningAgent": ...


@overload
def connect_async(agent: str, *, client: type[_A], profile: str | None = None, name: str | None = None) -> _A: ...


@overload
def connect_async(agent: str, *, profile: str | None = None, name: str | None = None) -> "AsyncClient": ...


def connect_async(
    agent: str | None = None,
    *,
    client: type["AsyncClient"] | None = None,
    profile: str | None = None,
    name: str | None = None,
) -> Any:
    """Return what `connect` returns, for asyncio: `async with connect_async() as deployment: ...`.

    The arguments and errors are those of `connect`.

    >>> async with twinhost.connect_async("SystemDigitalTwin") as system:
    ...     (await system.ping()).message
    'pong'
    """
    from twinhost.deployment import AsyncDeployment, load_settings  # noqa: PLC0415

    settings = load_settings(profile=profile, name=name)
    if agent is None:
        return AsyncDeployment(settings)
    return settings.typed_client(agent, asynchronous=True, kind=client)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.version").VERSION
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'secure_zmq.errors')}"), name)
