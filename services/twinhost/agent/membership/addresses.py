"""Where another agent is, and by which key it proves itself: from the configuration, or else from mainpc."""

import socket

from twinhost.agent.host_keys import HostKeys
from twinhost.agent.membership.coordination import AddressOf, not_reached
from twinhost.network_config import Host, NetworkConfig, is_local_only
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound
from twinhost.secure_zmq.server_address import ServerAddress


def addresses(config: NetworkConfig, keys: HostKeys) -> AddressOf:
    """Return what finds an agent.

    One that is not in the configuration is where it told mainpc that it is, and is believed by a key that is authorised
    on this host; what mainpc or the agent says of its address can only lead to silence. It leads nowhere on this host
    or its link, unless all hosts are configured to be one.
    """

    def address_of(name: str, mainpc: Client, left_s: float) -> ServerAddress:
        if name in config.agents:
            return keys.address_of(config.agents[name])
        told = mainpc.call("get_agent_endpoint", deadline_s=left_s, agent_name=name)
        host, port = told.get("host"), told.get("port")
        if not isinstance(host, str) or not isinstance(port, int):
            raise NotFound(f"{name[:64]!r} is registered without an address; it has to tell `host` and `port`")
        address = _resolved(host)
        if address is None or (is_local_only(address) and not config.on_loopback):
            raise not_reached(name, f"{host[:64]!r} is no address of another host")
        return keys.address_at(name, Host(name, address).endpoint(port))

    return address_of


def _resolved(host: str) -> str | None:
    """Return the address of a host, so that what is connected to is what was judged; None where it has none."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    return str(found[0][4][0])
