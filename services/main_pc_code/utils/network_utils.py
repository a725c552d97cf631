"""`twinhost.network_config` under the path that existing agents import."""

from twinhost.network_config import get_mainpc_address, get_pc2_address, load_network_config

__all__ = ["get_mainpc_address", "get_pc2_address", "load_network_config"]
