"""The network configuration: hosts, agents, addresses, ports, grants and limits, from one YAML file."""

from twinhost.network_config.load import get_mainpc_address, get_pc2_address, load_network_config
from twinhost.network_config.model import (
    Agent,
    Embeddings,
    Forgetting,
    Host,
    Limits,
    NetworkConfig,
    Recall,
    is_local_only,
)

__all__ = [
    "Agent",
    "Embeddings",
    "Forgetting",
    "Host",
    "Limits",
    "NetworkConfig",
    "Recall",
    "get_mainpc_address",
    "get_pc2_address",
    "is_local_only",
    "load_network_config",
]
