"""What goes wrong between the hosts is on mainpc's list with its cause and a command that mends it; pc2 watches mainpc.

Each trouble is staged with both agents as real processes.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.identities import authorize, new_pair
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.unit.certificates.trees import certs_init
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.key_writer import replace_certificate
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, DAY_S, PUBLIC_SUFFIX, Validity, load_certificate

pytestmark = pytest.mark.sdt_security

TTL_S = 2
TURNED = Path(__file__).parents[1] / "upgrade" / "turned"
Item = dict[str, Any]


class TurnedHosts(Hosts):
    """Two hosts with a short TTL; the clock of each may be turned, and the link of each may be open."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.turned_s: dict[str, float] = {}
        self.open: set[str] = set()

    def environment(self, name: str) -> dict[str, str]:
        environment = super().environment(name)
        if name in self.open:
            environment["SECURE_ZMQ"] = "0"
        if name in self.turned_s:
            path = os.pathsep.join((environment["PYTHONPATH"], str(TURNED)))
            environment |= {"TURNED_S": str(self.turned_s[name]), "PYTHONPATH": path}
        return environment


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TurnedHosts]:
    hosts = TurnedHosts(tmp_path)
    config = tmp_path / "network_config.yaml"
    config.write_text(config.read_text().replace("registration_ttl_s: 15", f"registration_ttl_s: {TTL_S}"))
    with hosts:
        yield hosts


def attention(agent: AgentProcess) -> dict[str, Any]:
    """Return an agent's list, over HTTP."""
    is_pc2 = agent._agent.name == UMRA
    document: dict[str, Any] = agent.http("/api/attention" if is_pc2 else "/api/state")[1]
    shown: dict[str, Any] = document if is_pc2 else document["attention"]
    return shown


def listed(agent: AgentProcess) -> dict[str, Item]:
    return {item["id"]: item for item in attention(agent)["items"]}


def found(agent: AgentProcess, name: str) -> Item:
    """Wait until a trouble is on a list, and return it."""
    wait_until(lambda: name in listed(agent), PATIENCE_S, f"{name} is on the list of {agent._agent.host.name}")
    return listed(agent)[name]


def shown(agent: AgentProcess, name: str, cause: str) -> None:
    """Wait until the cause of a trouble has a part."""
    wait_until(lambda: cause in str(listed(agent).get(name, {}).get("cause")), PATIENCE_S, f"{name}: {cause}")


def gone(agent: AgentProcess, *names: str) -> None:
    """Wait until nothing of these is on a list."""
    wait_until(lambda: not listed(agent).keys() & set(names), 2 * PATIENCE_S, f"{names} are off the list")


def commands(item: Item) -> list[str]:
    return [remedy["command"] for remedy in item["remedies"]]


def explained(item: Item) -> list[str]:
    return [other["id"] for other in item["explains"]]


def since(item: Item) -> float:
    return datetime.fromisoformat(item["since"]).timestamp()


def advised(hosts: Hosts, item: Item, verb: str) -> None:
    """Run the command of certs-init that an item advises, on the tree of keys."""
    (command,) = [line for line in commands(item) if line.startswith(f"docker compose run --rm certs-init {verb} ")]
    words = command.removeprefix("docker compose run --rm certs-init ").split()
    ran = certs_init(hosts.keys, *words, host="", config=hosts.config.source)
    assert ran.status == 0, (ran.lines, ran.err)


def test_what_is_wrong_with_pc2_is_on_mainpcs_list(hosts: TurnedHosts) -> None:
    """In pc2's own words; gone once pc2 is well."""
    mainpc, pc2 = hosts.start_both()
    garbage = hosts.folder(UMRA) / "garbage.key"
    garbage.write_text("garbage")
    item = found(mainpc, "warning:pc2/key_files")
    assert item["what"].startswith(f"pc2: {garbage}")
    assert (item["host"], item["level"]) == ("pc2", "attention")
    assert found(pc2, "warning:pc2/key_files")["what"] == item["what"], "pc2 has mainpc's list"
    garbage.unlink()
    gone(mainpc, "warning:pc2/key_files")


@pytest.mark.parametrize(
    ("end", "consequence"),
    [(AgentProcess.kill, "host_silent:pc2"), (AgentProcess.terminate, "host_stopped:pc2")],
    ids=["killed", "stopped"],
)
def test_an_open_link_of_pc2_alone_is_why_it_is_silent(
    hosts: TurnedHosts, end: Callable[[AgentProcess], object], consequence: str
) -> None:
    """SECURE_ZMQ=0 on pc2: the host and the fix are named, on both lists under one id."""
    mainpc, pc2 = hosts.start_both()
    end(pc2)
    hosts.open = {UMRA}
    pc2 = hosts.start(UMRA).wait_until_serving()
    item = found(mainpc, "link_open:pc2")
    wait_until(lambda: consequence in explained(found(mainpc, "link_open:pc2")), PATIENCE_S, "it explains that")
    assert item["what"] == "pc2 has an open link (SECURE_ZMQ=0), and mainpc an encrypted one, so they can't talk"
    assert (item["level"], item["remedies"][0]["on"], commands(item)) == (
        "broken",
        "pc2",
        ["docker compose up -d pc2"],
    )
    assert consequence not in listed(mainpc)
    assert found(pc2, "link_open:pc2")["remedies"][0]["on"] == "pc2"
    pc2.kill()
    hosts.open = set()
    hosts.start(UMRA).wait_until_ready()
    gone(mainpc, "link_open:pc2", consequence)


def test_an_open_link_of_both_hosts_names_both(tmp_path: Path) -> None:
    """Everything works, and nobody is authenticated."""
    with Hosts(tmp_path, secure=False) as hosts:
        mainpc, pc2 = hosts.start_both()
        item = found(mainpc, "link_open:mainpc")
        wait_until(lambda: "mainpc and pc2" in found(mainpc, "link_open:mainpc")["what"], PATIENCE_S, "both are named")
        assert item["level"] == "attention"
        found(pc2, "link_open:mainpc")


def test_a_revoked_key_of_pc2_is_why_it_is_silent(hosts: TurnedHosts) -> None:
    """The advice mends it: pc2 gets a new key, and is back, without a restart."""
    mainpc, pc2 = hosts.start_both()
    certs_init(hosts.keys, "revoke", UMRA, host="", config=hosts.config.source)
    wait_until(
        lambda: "host_silent:pc2" in explained(found(mainpc, f"key_revoked:{UMRA}")), PATIENCE_S, "it explains that"
    )
    item = found(mainpc, f"key_revoked:{UMRA}")
    assert item["what"] == f"the key of {UMRA} on pc2 is revoked, and it has no other"
    assert found(pc2, f"key_revoked:{UMRA}")["what"] == "mainpc refuses the key of pc2"
    wait_until(
        lambda: f"refusals:pc2/key_revoked/{UMRA}" in explained(found(pc2, f"key_revoked:{UMRA}")),
        PATIENCE_S,
        "pc2's agent, which asks itself, is named, and settles it once it has a new key",
    )
    assert "mainpc_silent" not in listed(pc2)
    causes = [line["cause"] for line in pc2.logged("mainpc_disconnected")]
    assert len(causes) == len(set(causes)), "each reason is logged once"
    advised(hosts, item, "replace")
    gone(mainpc, f"key_revoked:{UMRA}", "host_silent:pc2")
    gone(pc2, f"key_revoked:{UMRA}")
    assert not [name for name in listed(mainpc) if name.startswith("refusals:pc2")]


def expire(hosts: Hosts, name: str) -> None:
    """Date the key of a name so that it has expired, wherever it lies."""
    ended = int(time.time()) - CLOCK_TOLERANCE_S - 1
    for path in hosts.keys.rglob(f"*{PUBLIC_SUFFIX}"):
        certificate = load_certificate(path)
        if certificate.owner.name == name:
            replace_certificate(replace(certificate, validity=Validity(ended - DAY_S, ended)), path)


def test_an_expired_key_of_pc2_is_why_it_is_silent(hosts: TurnedHosts) -> None:
    """It says expired, and never soon; the two commands, in their order, mend it."""
    mainpc, _ = hosts.start_both()
    expire(hosts, UMRA)
    wait_until(
        lambda: "host_silent:pc2" in explained(found(mainpc, f"key_expired:{UMRA}")), PATIENCE_S, "it explains that"
    )
    item = found(mainpc, f"key_expired:{UMRA}")
    assert f"the key of {UMRA} on pc2 expired 20" in item["what"]
    assert "soon" not in str(attention(mainpc))
    assert f"key_expires:{UMRA}" not in listed(mainpc)
    advised(hosts, item, "revoke")
    advised(hosts, found(mainpc, f"key_revoked:{UMRA}"), "replace")
    gone(mainpc, f"key_revoked:{UMRA}", f"key_expired:{UMRA}", "host_silent:pc2")


def test_an_expired_key_of_the_operator_is_replaced(hosts: TurnedHosts) -> None:
    """It explains no silence; its commands work though no operator can ask."""
    mainpc, _ = hosts.start_both()
    expire(hosts, "operator")
    item = found(mainpc, "key_expired:operator")
    assert [line.removeprefix("docker compose run --rm certs-init ") for line in commands(item)] == [
        "revoke operator",
        "replace operator",
    ]
    advised(hosts, item, "revoke")
    advised(hosts, item, "replace")
    gone(mainpc, "key_expired:operator")
    with hosts.client(SDT) as client:
        assert client.call("get_peers")["status"] == "success"


def test_a_key_that_is_revoked_is_logged_once(hosts: TurnedHosts) -> None:
    """When it is revoked, and not again at every start."""
    mainpc, _ = hosts.start_both()
    certs_init(hosts.keys, "revoke", "operator", host="", config=hosts.config.source)
    wait_until(lambda: mainpc.logged("key_revoked"), PATIENCE_S, "it is logged")
    mainpc.terminate()
    mainpc = hosts.start(SDT).wait_until_serving()
    assert mainpc.logged("key_revoked") == []


def test_a_host_that_has_not_applied_the_keys_is_named(hosts: TurnedHosts) -> None:
    """Until it has: its disk was full, and one more key needs space there."""
    mainpc, pc2 = hosts.start_both()
    pc2.forbid_files_to_grow()
    authorize(hosts.folder(SDT), new_pair("guest"))
    item = found(mainpc, "revocation_pending")
    assert item["what"] == f"{UMRA} has not applied the newest list of keys, and may accept a revoked key"
    assert commands(item)[0] == "docker compose logs pc2"
    pc2.allow_files_to_grow()
    gone(mainpc, "revocation_pending")


@pytest.mark.parametrize(("turned_s", "said"), [(7_200, "2 h ahead of"), (-7_200, "2 h behind")])
def test_a_clock_of_pc2_that_is_wrong_is_named(hosts: TurnedHosts, turned_s: float, said: str) -> None:
    """Also where its keys are not valid yet by it: it tells mainpc nevertheless."""
    hosts.turned_s = {UMRA: turned_s}
    mainpc, _ = hosts.start_both()
    item = found(mainpc, "clocks_differ:pc2")
    assert item["what"] == f"pc2's clock is {said} mainpc's"
    gone(mainpc, "host_silent:pc2")  # as it was before its first heartbeat
    assert item["level"] == ("broken" if turned_s < 0 else "attention"), item["cause"]
    assert item["remedies"][0]["on"] == "pc2"


def test_a_killed_agent_is_silent_since_its_last_heartbeat(hosts: TurnedHosts) -> None:
    """With what it said last; and the list is well again once it runs."""
    mainpc, pc2 = hosts.start_both()
    (hosts.folder(UMRA) / "garbage.key").write_text("garbage")
    said = found(mainpc, "warning:pc2/key_files")["evidence"][0]["value"]
    killed = time.time()
    pc2.kill()
    item = found(mainpc, "host_silent:pc2")
    assert {"name": "said last", "value": said} in item["evidence"]
    gone(mainpc, "warning:pc2/key_files")
    (hosts.folder(UMRA) / "garbage.key").unlink()
    ended = "its agent sends no heartbeats: its connections were closed, so it or its container ended"
    assert (item["cause"], commands(item)[0]) == (ended, "docker compose up -d pc2")
    assert abs(since(item) - killed) < TTL_S
    hosts.start(UMRA).wait_until_ready()
    gone(mainpc, "host_silent:pc2")


def test_a_frozen_agent_is_told_from_one_that_ended(hosts: TurnedHosts) -> None:
    """Each host says of the other that its machine answers; all is well once it goes on."""
    mainpc, pc2 = hosts.start_both()

    for frozen, asked, name in ((pc2, mainpc, "host_silent:pc2"), (mainpc, pc2, "mainpc_silent")):
        frozen.send(signal.SIGSTOP)
        shown(asked, name, "its machine still acknowledges on its connections")
        assert commands(listed(asked)[name])[0].startswith("docker compose unpause ")
        frozen.send(signal.SIGCONT)
        gone(asked, name)
        assert frozen.running, "it goes on, and is not started again"


def test_pc2_says_that_mainpc_is_silent(hosts: TurnedHosts) -> None:
    """Since when, with what mainpc said last; a restart of pc2 meanwhile forgets neither; then all is well again."""
    mainpc, pc2 = hosts.start_both()
    (hosts.folder(SDT) / "garbage.key").write_text("garbage")
    found(pc2, "warning:mainpc/key_files")
    killed = time.time()
    mainpc.kill()
    item = found(pc2, "mainpc_silent")
    assert (item["what"], item["level"]) == ("mainpc does not answer pc2", "broken")
    shown(pc2, "mainpc_silent", "its connections were closed, so it or its container ended")
    assert abs(since(item) - killed) < TTL_S
    assert listed(pc2)["warning:mainpc/key_files"]["last_known"] == item["since"]
    pc2.kill()
    pc2 = hosts.start(UMRA).wait_until_serving()
    again = found(pc2, "mainpc_silent")
    assert (again["since"], "warning:mainpc/key_files" in listed(pc2)) == (item["since"], True)
    assert attention(pc2)["headline"] == "mainpc does not answer pc2; and 1 more trouble."
    (hosts.folder(SDT) / "garbage.key").unlink()
    hosts.start(SDT).wait_until_ready()
    gone(pc2, "mainpc_silent", "warning:mainpc/key_files")
