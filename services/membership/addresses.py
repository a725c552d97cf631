"""Where another agent is, and by which key it proves itself: from the configuration, or else from mainpc."""

from agent_runtime.host_keys import HostKeys
from membership.coordination import AddressOf
from network_config import Host, NetworkConfig
from secure_zmq.client import Client
from secure_zmq.errors import NotFound
from secure_zmq.server_address import ServerAddress


def addresses(config: NetworkConfig, keys: HostKeys) -> AddressOf:
    """Return what finds an agent.

    One that is not in the configuration is where it told mainpc that it is, and is believed by a key that is authorised
    on this host; what mainpc or the agent says of its address can only lead to silence.
    """

    def address_of(name: str, mainpc: Client, left_s: float) -> ServerAddress:
        if name in config.agents:
            return keys.address_of(config.agents[name])
        told = mainpc.call("get_agent_endpoint", deadline_s=left_s, agent_name=name)
        host, port = told.get("host"), told.get("port")
        if not isinstance(host, str) or not isinstance(port, int):
            raise NotFound(f"{name[:64]!r} is registered without an address; it has to tell `host` and `port`")
        return keys.address_at(name, Host(name, host).endpoint(port))

    return address_of
