"""A program that changes an agent's state, one call after another, and notes each in a ledger once it is acknowledged.

    python -m tests.loopback.ledger_writer AGENT LEDGER [PREFIX ADDRESS...]

It repeats a call with the same request_id until it gets the reply, at each of the addresses in turn, and goes on until
it is ended. The names of its calls begin with PREFIX.
"""

import itertools
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from tests.ledger import Ledger
from tests.loopback.agent_processes import SDT
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import certificates_folder, load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused
from twinhost.secure_zmq.server_address import SecuredAddress

_PAUSE_S = 0.02  # a registry has room for 10,000 names


def main(name: str, path: str, prefix: str = "call", *addresses: str) -> None:
    """Write until the end of this process."""
    server, keys = load_network_config().agent(name), load_certificates(certificates_folder(os.environ))
    ledger = Ledger(Path(path))
    with ExitStack() as stack:
        found = [
            stack.enter_context(Client(SecuredAddress(address, keys.own_keys, keys.public_key(server.key))))
            for address in addresses or (server.endpoint,)
        ]
        clients = itertools.cycle(found)
        client = next(clients)
        for number in itertools.count():
            call = f"{prefix}-{number}"
            ledger.sent(call)
            while True:
                try:
                    if name == SDT:
                        client.call("register_agent", agent_name=call, status="HEALTHY", request_id=call, deadline_s=1)
                    else:
                        client.call("update_twin", user_id=call, twin_data={"a": 1}, request_id=call, deadline_s=1)
                except ConnectionRefused:
                    client = next(clients)
                    continue
                break
            ledger.acknowledged(call)
            time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
