"""`twinhost.secure_zmq` under the path that existing agents import."""

from twinhost.agent.legacy import (
    ZMQAuthenticator,
    configure_secure_client,
    configure_secure_server,
    create_secure_context,
    secure_client_socket,
    secure_server_socket,
    start_auth,
    stop_auth,
)
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled

__all__ = [
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
