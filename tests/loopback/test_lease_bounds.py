"""The memory that an ordinary agent's key holds, against a running mainpc: revoking the key frees it, for good."""

import pytest

from tests.identities import new_pair
from tests.loopback.agent_processes import SDT, Hosts
from tests.unit.certificates.trees import certs_init
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, OverBudget
from twinhost.secure_zmq.key_writer import replace_certificate
from twinhost.secure_zmq.server_address import SecuredAddress

pytestmark = pytest.mark.sdt_security


def test_a_revoked_key_holds_no_memory(hosts: Hosts) -> None:
    """Nor after a restart. Until then it holds its share at most, and a small request of another is served."""
    mainpc = hosts.start(SDT).wait_until_ready()
    pair = new_pair("attacker", "laptop")
    replace_certificate(pair.certificate, hosts.keys / "mainpc/enrolled/attacker.key")
    server = hosts.address(SDT)
    assert isinstance(server, SecuredAddress)
    attack = Client(SecuredAddress(server.address, pair, server.server_key))
    with hosts.client(SDT) as other, attack:
        wait_until(lambda: other.call("get_metrics")["metrics"]["ram_usage_mb"], PATIENCE_S, "mainpc is measured")
        wait_until(lambda: answers(attack), PATIENCE_S, "its key is known")
        total_mb = other.call("get_metrics")["metrics"]["ram_total_mb"]
        with pytest.raises(OverBudget) as refused:
            attack.call("reserve_ram", amount_mb=0.89 * total_mb, host="mainpc")
        assert refused.value.budget == "lease_share"
        held = attack.call("reserve_ram", amount_mb=0.01 * total_mb, host="mainpc", priority=100)["lease_id"]
        assert attack.call("commit_lease", lease_id=held)["expires_in_s"] == pytest.approx(86_400)
        other.call("release_lease", lease_id=other.call("reserve_ram", amount_mb=10, host="mainpc")["lease_id"])
        assert certs_init(hosts.keys, "revoke", "attacker", config=hosts.config.source).status == 0
        wait_until(lambda: not other.call("list_leases")["leases"], PATIENCE_S, "its lease has ended")
        with pytest.raises(NotAuthorized):
            attack.call("ping")
        mainpc.kill()
        hosts.start(SDT).wait_until_serving()
        assert other.call("list_leases")["leases"] == []


def answers(client: Client) -> bool:
    try:
        client.call("ping")
    except NotAuthorized:
        return False
    return True
