"""The import paths of existing agents."""

import main_pc_code.src.network.secure_zmq as documented_secure_zmq
from main_pc_code.utils import network_utils
from twinhost import network_config, secure_zmq

SECURE_ZMQ_NAMES = [
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
NETWORK_NAMES = ["get_mainpc_address", "get_pc2_address", "load_network_config"]


def test_the_documented_names_of_secure_zmq_are_kept() -> None:
    """`from main_pc_code.src.network.secure_zmq import …` goes on working, name by name."""
    assert documented_secure_zmq.__all__ == SECURE_ZMQ_NAMES
    for name in SECURE_ZMQ_NAMES:
        assert getattr(documented_secure_zmq, name) is getattr(secure_zmq, name)


def test_the_documented_names_of_network_utils_are_kept() -> None:
    """`from main_pc_code.utils.network_utils import …` goes on working, name by name."""
    assert network_utils.__all__ == NETWORK_NAMES
    for name in NETWORK_NAMES:
        assert getattr(network_utils, name) is getattr(network_config, name)
