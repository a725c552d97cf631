"""`certs-init revoke` against running agents: it returns when every host refuses the key, or says which may not."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.identities import new_pair
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.unit.certificates.trees import Ran, certs_init
from tests.waiting import PATIENCE_S, at_most, suspend, wait_until
from twinhost.certificates import acknowledgement
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.key_writer import replace_certificate
from twinhost.secure_zmq.keys import KeyPair, load_key_pair
from twinhost.secure_zmq.server_address import SecuredAddress

WITHIN_S = 5.0  # the promise
COMMAND_S = WITHIN_S + 3.0  # with Python's start and the last call
NEXT_START = "does not run; the revocation is in its folder here and applies from its next start"
pytestmark = pytest.mark.sdt_security


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, heartbeat_s=5) as hosts:  # as shipped
        yield hosts


def revoke(hosts: Hosts, *owners: str, host: str = "") -> Ran:
    return certs_init(hosts.keys, "revoke", *owners, host=host, config=hosts.config.source)


def gets_in(hosts: Hosts, of: str, pair: KeyPair) -> bool:
    server = hosts.address(of)
    assert isinstance(server, SecuredAddress)
    with Client(SecuredAddress(server.address, pair, server.server_key)) as client:
        try:
            client.call("ping")
        except TwinhostError:
            return False
    return True


def enrolled(hosts: Hosts, *known_by: str) -> KeyPair:
    """Return a third machine's pair, once every agent named knows it."""
    pair = new_pair("third", "laptop")
    replace_certificate(pair.certificate, hosts.keys / "mainpc/enrolled/third.key")
    for name in known_by:
        wait_until(lambda name=name: gets_in(hosts, name, pair), PATIENCE_S, f"{name} knows the key")  # type: ignore[misc]
    return pair


def host_lines(ran: Ran) -> list[str]:
    return [line for line in ran.lines if line.startswith(("mainpc: ", "pc2: "))]


def test_revoke_returns_when_every_host_refuses_the_key(hosts: Hosts) -> None:
    """No moment is granted after it: mainpc and pc2 refuse the key's first attempt."""
    hosts.start_both()
    third = enrolled(hosts, SDT, UMRA)
    with at_most(WITHIN_S):
        ran = revoke(hosts, "third")
    assert [gets_in(hosts, name, third) for name in (SDT, UMRA)] == [False, False]
    assert (ran.status, ran.err) == (0, "")
    assert host_lines(ran) == [f"mainpc: acknowledged by {SDT}", f"pc2: acknowledged by {UMRA}"]


def test_a_host_that_is_away_fails_the_command(hosts: Hosts) -> None:
    """pc2 is another machine, and off: the command waits, names it, exits 1; run again when it is back, it exits 0."""
    _, pc2 = hosts.start_both()
    third = enrolled(hosts, SDT, UMRA)
    pc2.kill()
    began = time.monotonic()
    with at_most(COMMAND_S):
        ran = revoke(hosts, "third", host="mainpc")
    assert time.monotonic() - began >= WITHIN_S
    assert (ran.status, gets_in(hosts, SDT, third)) == (1, False)
    assert host_lines(ran)[0] == f"mainpc: acknowledged by {SDT}"
    assert host_lines(ran)[1].startswith(f"pc2: NOT ACKNOWLEDGED: {UMRA} ")
    assert ran.err.splitlines() == [
        "certs-init: pc2 did not acknowledge the revocation within 5 s and may still accept the key; "
        "to ask again, run the same command again"
    ]
    hosts.start(UMRA).wait_until_ready()
    again = revoke(hosts, "third", host="mainpc")
    assert (again.status, host_lines(again)[1]) == (0, f"pc2: acknowledged by {UMRA}")


def test_an_agent_of_this_machine_that_stopped_has_acknowledged(hosts: Hosts) -> None:
    """It told mainpc that it stops, so nobody waits until mainpc misses its heartbeats."""
    _, pc2 = hosts.start_both()
    enrolled(hosts, SDT, UMRA)
    assert pc2.terminate() == 0
    with at_most(WITHIN_S):
        ran = revoke(hosts, "third")
    assert (ran.status, ran.err) == (0, "")
    assert host_lines(ran) == [f"mainpc: acknowledged by {SDT}", f"pc2: {UMRA} {NEXT_START}"]


@pytest.mark.parametrize("silence", [AgentProcess.kill, lambda agent: suspend(agent.pid)], ids=["killed", "suspended"])
def test_an_agent_that_is_only_silent_has_not_acknowledged(
    hosts: Hosts, silence: Callable[[AgentProcess], None]
) -> None:
    """It said nothing to mainpc, so it may only be cut off, and serve."""
    _, pc2 = hosts.start_both()
    enrolled(hosts, SDT, UMRA)
    silence(pc2)
    ran = revoke(hosts, "third")
    assert ran.status == 1
    assert host_lines(ran)[1].startswith(f"pc2: NOT ACKNOWLEDGED: {UMRA} ")


def test_an_agent_that_started_again_is_waited_for(hosts: Hosts) -> None:
    """Its heartbeat ends what it said when it stopped."""
    _, pc2 = hosts.start_both()
    third = enrolled(hosts, SDT, UMRA)
    assert pc2.terminate() == 0
    hosts.start(UMRA).wait_until_ready()
    ran = revoke(hosts, "third")
    assert (ran.status, gets_in(hosts, UMRA, third)) == (0, False)
    assert host_lines(ran)[1] == f"pc2: acknowledged by {UMRA}"


def test_a_host_that_cannot_write_its_list_has_not_acknowledged(hosts: Hosts) -> None:
    """It refuses the key from memory, and would forget that at its next start."""
    _, pc2 = hosts.start_both()
    third = new_pair("third", "laptop")
    replace_certificate(third.certificate, hosts.keys / "mainpc/third.key")
    wait_until(lambda: gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 knows the key")
    pc2.forbid_files_to_grow()  # first: pc2 may still be writing that file
    (hosts.keys / "pc2/trust/third.key").unlink()
    ran = revoke(hosts, "third")
    pc2.allow_files_to_grow()
    assert ran.status == 1
    assert host_lines(ran)[1] == f"pc2: NOT ACKNOWLEDGED: {UMRA} has not applied the revocation; run: ./twinhost status"


def test_the_last_look_has_time_to_connect(hosts: Hosts) -> None:
    """It begins when the 5 s are over."""
    server, unused = hosts.config.agent(SDT), cast(Any, None)
    over = acknowledgement._Wait(unused, hosts.config, hosts.keys, server, frozenset(), [], until=0.0)
    assert over._deadline_s() == 0.5


def test_where_nothing_runs_it_says_so(hosts: Hosts) -> None:
    """Before the first `up`, on one machine: the files are what the agents start with."""
    with at_most(COMMAND_S - WITHIN_S):
        ran = revoke(hosts, "operator")
    assert ran.status == 0
    assert host_lines(ran) == [f"mainpc: {SDT} {NEXT_START}", f"pc2: {UMRA} {NEXT_START}"]


def test_without_mainpc_another_machine_has_not_acknowledged(hosts: Hosts) -> None:
    """Nobody else notifies it."""
    replace_certificate(
        load_key_pair(hosts.keys / "pc2/client.key_secret").certificate, hosts.keys / "mainpc/client.key"
    )
    ran = revoke(hosts, "operator", host="mainpc")
    assert ran.status == 1
    assert host_lines(ran) == [
        f"mainpc: {SDT} {NEXT_START}",
        f"pc2: NOT ACKNOWLEDGED: {UMRA} is notified by {SDT}, and may accept the key until then",
    ]


def test_an_agent_of_this_tree_is_asked_itself(hosts: Hosts) -> None:
    """Where mainpc does not run, and where the agent's own key is the one that is revoked."""
    hosts.start(UMRA).wait_until_serving()
    third = enrolled(hosts)
    replace_certificate(third.certificate, hosts.keys / "pc2/third.key")
    wait_until(lambda: gets_in(hosts, UMRA, third), PATIENCE_S, "pc2 knows the key")
    asked = f"pc2: acknowledged by {UMRA}, which was asked directly"
    ran = revoke(hosts, "third")
    assert (ran.status, gets_in(hosts, UMRA, third)) == (0, False)
    assert host_lines(ran) == [f"mainpc: {SDT} {NEXT_START}", asked]
    hosts.start(SDT).wait_until_ready()
    ran = revoke(hosts, UMRA)
    assert (ran.status, host_lines(ran)) == (0, [f"mainpc: acknowledged by {SDT}", asked])


def test_the_operators_key_is_revoked_with_proof(hosts: Hosts) -> None:
    """There is no operator to ask then; SystemDigitalTwin's own key, which lies in the tree too, asks."""
    hosts.start_both()
    operator = load_key_pair(hosts.keys / "operator/operator.key_secret")
    ran = revoke(hosts, "operator")
    assert [gets_in(hosts, name, operator) for name in (SDT, UMRA)] == [False, False]
    assert (ran.status, host_lines(ran)) == (0, [f"mainpc: acknowledged by {SDT}", f"pc2: acknowledged by {UMRA}"])


def test_on_an_open_link_nobody_refuses_a_key(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are written, and the command does not claim more."""
    monkeypatch.setenv("SECURE_ZMQ", "0")
    ran = revoke(hosts, "operator")
    assert ran.status == 1
    assert host_lines(ran)[0].startswith("mainpc: NOT ACKNOWLEDGED: SECURE_ZMQ=0, so no agent checks keys")


def test_a_thief_who_rotated_a_stolen_key_loses_both(hosts: Hosts) -> None:
    """It proposed and proved a key of its own; to retire the owner's takes it a day, and the attention list says so."""
    mainpc, _ = hosts.start_both()
    stolen, thiefs = enrolled(hosts, SDT, UMRA), new_pair("third", "laptop")
    server = hosts.address(SDT)
    assert isinstance(server, SecuredAddress)
    with Client(SecuredAddress(server.address, stolen, server.server_key)) as client:
        client.call("propose_key", public_key=thiefs.public.z85.decode())
    with Client(SecuredAddress(server.address, thiefs, server.server_key)) as client:
        client.call("confirm_key")
    with Client(SecuredAddress(server.address, thiefs, server.server_key)) as client:
        assert [key["fingerprint"] for key in client.call("retire_keys")["waiting"]] == [stolen.public.fingerprint]
    wait_until(lambda: gets_in(hosts, UMRA, thiefs), PATIENCE_S, "pc2 knows the thief's key")
    assert gets_in(hosts, SDT, stolen), "its owner is not locked out"

    def listed() -> list[str]:
        items = mainpc.http("/api/state")[1]["attention"]["items"]
        return [row["value"] for item in items if item["kind"] == "key_retires" for row in item["evidence"]]

    wait_until(lambda: listed() == [stolen.public.fingerprint, thiefs.public.fingerprint], PATIENCE_S, "it is listed")
    ran = revoke(hosts, stolen.public.fingerprint)
    assert [gets_in(hosts, name, thiefs) for name in (SDT, UMRA)] == [False, False]
    assert (ran.status, ran.lines[1]) == (
        0,
        f"revoked: {thiefs.public.fingerprint} third on laptop (agent), which {stolen.public.fingerprint} vouched for",
    )
