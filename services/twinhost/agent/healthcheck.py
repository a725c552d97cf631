"""`python -m twinhost.agent.healthcheck AGENT`: one authenticated call to this host's own agent.

A TCP probe proves nothing and fills the log with failed handshakes; this uses the host's own key pair, as it is on disk
now, and a connection of its own, which needs a handshake. The agent makes the same call itself (`self_check`). This
module imports little, since a deployment may run it often, and most of its cost is its start.
"""

import sys
from pathlib import Path

from twinhost.agent.state_folder import state_folder
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress, is_secure_zmq_enabled
from twinhost.secure_zmq.wire import Reply

DEADLINE_S = 2.0  # of the 5 s that the engine allows the whole process


def ask(port: int) -> Reply:
    """Return the health document of this host's agent.

    Raises:
        TwinhostError: the keys can't be read, or it does not answer.
    """
    address = f"tcp://127.0.0.1:{port}"
    server: ServerAddress = UnencryptedAddress(address)
    if is_secure_zmq_enabled():
        keys = load_certificates()
        server = SecuredAddress(address, keys.own_keys, keys.own_keys.public)
    with Client(server) as client:
        return client.call("health", deadline_s=DEADLINE_S)


def can_serve(health: Reply) -> bool:
    """Return whether a health document is that of an agent which needs no restart."""
    return health["status"] in ("ok", "degraded")


def write_port(state: Path, agent_name: str, port: int) -> None:
    """Write an agent's port to a file, for its health check: the configuration may change while it runs."""
    _port_file(state, agent_name).write_text(str(port))


def main(agent_name: str) -> int:
    """Return 0 if the agent answers and can serve, else print the reason and return 1."""
    try:
        health = ask(_port(agent_name))
    except TwinhostError as error:
        print(error)  # noqa: T201 - the engine keeps it with the container's health
        return 1
    print(f"{health['status']}, ready: {health['ready']}")  # noqa: T201
    return 0 if can_serve(health) else 1


def _port(agent_name: str) -> int:
    """Return the running agent's port, even if the configuration has changed since."""
    try:
        return int(_port_file(state_folder(), agent_name).read_text())
    except (OSError, ValueError):  # it has never run here
        from twinhost.network_config import load_network_config  # noqa: PLC0415 - seldom needed, and half of the start

        return load_network_config().agent(agent_name).zmq_port


def _port_file(state: Path, agent_name: str) -> Path:
    return state / f"{agent_name}.port"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m twinhost.agent.healthcheck AGENT")
    sys.exit(main(sys.argv[1]))
