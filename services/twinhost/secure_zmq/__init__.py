"""ZeroMQ with CURVE that fails closed.

The names below are the public ones. They are imported on first use: a health check runs
every few seconds and needs a fraction of them.
"""

import ctypes
import os
from importlib import import_module
from typing import Any

_LEGACY = "twinhost.agent.legacy"
_MODULES = {
    "Action": "twinhost.secure_zmq.actions",
    "AsyncClient": "twinhost.secure_zmq.aio",
    "Authenticator": "twinhost.secure_zmq.authenticator",
    "AuthorizedPeers": "twinhost.secure_zmq.peers",
    "Client": "twinhost.secure_zmq.client",
    "Dispatcher": "twinhost.secure_zmq.dispatch",
    "Grants": "twinhost.secure_zmq.callers",
    "Request": "twinhost.secure_zmq.wire",
    "SecuredAddress": "twinhost.secure_zmq.server_address",
    "Server": "twinhost.secure_zmq.server",
    "UnencryptedAddress": "twinhost.secure_zmq.server_address",
    "ZMQAuthenticator": _LEGACY,
    "configure_secure_client": _LEGACY,
    "configure_secure_server": _LEGACY,
    "create_secure_context": _LEGACY,
    "is_secure_zmq_enabled": "twinhost.secure_zmq.server_address",
    "load_certificates": "twinhost.secure_zmq.certificates",
    "secure_client_socket": _LEGACY,
    "secure_server_socket": _LEGACY,
    "start_auth": _LEGACY,
    "stop_auth": _LEGACY,
}
__all__ = [*_MODULES]  # noqa: PLE0604

# libzmq 4.3.5 numbers the peers of a ROUTER or REP from a value of libc's `rand()`, which it never seeds: every process
# starts with the same number. If a peer has chosen such a number as its own routing-id, the next connection that gets
# this number fails an assertion (socket_base.cpp, `zmq_assert (ok)`), and the process aborts. So `rand()` is seeded
# here, before the process makes its first socket.
if os.name == "posix":  # CDLL(None) finds libc only there
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4)))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
