"""ZeroMQ with CURVE that fails closed.

The names below are the public ones. They are imported on first use: a health check runs
every few seconds and needs a fraction of them.
"""

import ctypes
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhost.secure_zmq.actions import Action
    from twinhost.secure_zmq.aio import AsyncClient
    from twinhost.secure_zmq.authenticator import Authenticator
    from twinhost.secure_zmq.callers import Grants
    from twinhost.secure_zmq.certificates import load_certificates
    from twinhost.secure_zmq.client import Client
    from twinhost.secure_zmq.dispatch import Dispatcher
    from twinhost.secure_zmq.peers import AuthorizedPeers
    from twinhost.secure_zmq.server import Server
    from twinhost.secure_zmq.server_address import SecuredAddress, UnencryptedAddress, is_secure_zmq_enabled
    from twinhost.secure_zmq.wire import Request

__all__ = [
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

_MODULES = {
    "Action": "actions",
    "AsyncClient": "aio",
    "Authenticator": "authenticator",
    "AuthorizedPeers": "peers",
    "Client": "client",
    "Dispatcher": "dispatch",
    "Grants": "callers",
    "Request": "wire",
    "SecuredAddress": "server_address",
    "Server": "server",
    "UnencryptedAddress": "server_address",
    "is_secure_zmq_enabled": "server_address",
    "load_certificates": "certificates",
}

# libzmq 4.3.5 numbers the peers of a ROUTER or REP from a value of libc's `rand()`, which it never seeds: every process
# starts with the same number. If a peer has chosen such a number as its own routing-id, the next connection that gets
# this number fails an assertion (socket_base.cpp, `zmq_assert (ok)`), and the process aborts. So `rand()` is seeded
# here, before the process makes its first socket.
if os.name == "posix":  # CDLL(None) finds libc only there
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4)))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_MODULES[name]}" if name in _MODULES else "twinhost.agent.legacy"
    return getattr(import_module(module), name)
