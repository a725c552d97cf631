"""A thief has the secret of an agent's key, and agrees in its name: the agent, which uses it still, stays."""

import time
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.loopback.agent_processes import HEARTBEAT_S, SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

pytestmark = pytest.mark.sdt_security


def as_holder_of(hosts: Hosts, pair: KeyPair) -> Client:
    server = hosts.address(SDT)
    assert isinstance(server, SecuredAddress)
    return Client(SecuredAddress(server.address, pair, server.server_key))


def test_a_thief_locks_no_running_agent_out(tmp_path: Path) -> None:
    """It asks over and over, and mainpc goes on serving the agent, whose key takes the thief's back."""
    with Hosts(tmp_path) as hosts:
        _, pc2 = hosts.start_both()
        pc2.wait_until_ready()
        stolen, thiefs = load_certificates(hosts.folder(UMRA)).own_keys, new_pair(UMRA, "pc2")
        with as_holder_of(hosts, stolen) as client:
            client.call("propose_key", public_key=thiefs.public.z85.decode(), may_retire=True)
        with as_holder_of(hosts, thiefs) as client:
            client.call("confirm_key")
        with as_holder_of(hosts, thiefs) as client:  # it was a candidate's session before
            until = time.monotonic() + 10 * HEARTBEAT_S
            while time.monotonic() < until:
                assert client.call("retire_keys")["retired"] == []
        pc2.wait_until_ready()
        with as_holder_of(hosts, stolen) as client:  # the owner undoes it, once the thief is gone
            wait_until(lambda: client.call("retire_keys")["retired"], PATIENCE_S, "the thief's key is revoked")
        pc2.wait_until_ready()
