"""`twinhost.network_config` under its name of version 0.1.0, for programs that run with `PYTHONPATH=services`."""

from twinhost.network_config import (
    Agent,
    Host,
    Limits,
    NetworkConfig,
    Recall,
    get_mainpc_address,
    get_pc2_address,
    is_local_only,
    load_network_config,
)

__all__ = [
    "Agent",
    "Host",
    "Limits",
    "NetworkConfig",
    "Recall",
    "get_mainpc_address",
    "get_pc2_address",
    "is_local_only",
    "load_network_config",
]
