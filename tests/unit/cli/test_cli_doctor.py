"""`doctor`: every fault that it looks for is put there, and has to be seen by the check that is for it."""

import json
import os
import re
import shutil
import socket
import time
from contextlib import nullcontext
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from tests.identities import new_pair
from tests.ports import free_ports
from tests.unit.cli.loopback_agents import SAMPLE, SDT, UMRA, LoopbackAgent, StartHosts, TwoHosts
from tests.unit.cli.running import Cli
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.attack import Verdict
from twinhost.agent.host_metrics import MachineSample
from twinhost.cli.doctor import link
from twinhost.deployment import Settings, load_settings
from twinhost.moments import iso_time
from twinhost.secure_zmq.certificates import REVOKED_FOLDER
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.key_writer import write_key_pair, write_revocation
from twinhost.secure_zmq.keys import DAY_S, Validity
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.version import versions

pytestmark = pytest.mark.thorough

HERE = "here"
SHORT_S = 1.0  # to wait for an answer that never comes
Checks = dict[tuple[str, str], dict[str, Any]]


def examined(hosts: TwoHosts, cli: Cli, status: int) -> Checks:
    """Run it, and return its checks by place and name."""
    ran = cli(hosts, "doctor", "--json")
    assert (ran.status, ran.err) == (status, ""), ran.out
    return {(check["where"], check["check"]): check for check in json.loads(ran.out)["checks"]}


def settings_of(hosts: TwoHosts) -> Settings:
    return load_settings(hosts.environment)


def wrong(checks: Checks) -> set[tuple[str, str]]:
    return {key for key, check in checks.items() if check["verdict"] != "ok"}


def test_a_well_deployment_has_nothing_but_ok(hosts: TwoHosts, cli: Cli) -> None:
    """Exit status 0, and every check was made."""
    checks = examined(hosts, cli, 0)
    assert wrong(checks) == set()
    assert "as operator" in checks[SDT, "answers, and knows us"]["sentence"]
    assert hosts.fingerprints[UMRA] in checks[UMRA, "answers, and knows us"]["sentence"]
    assert {name for where, name in checks if where == SDT} - {name for where, name in checks if where == UMRA} == {
        "audit log",
        "machines",
        "port of the event feed",
    }


def test_hosts_on_one_machine_are_named(hosts: TwoHosts, cli: Cli) -> None:
    """The verdict is `ok`; a host that measures only its container, or nothing, is a warning."""
    one = "mainpc and pc2 are one machine: its capacity is counted once"
    assert examined(hosts, cli, 0)[SDT, "machines"]["sentence"] == one
    machine = MachineSample(boot_id="other", virtual_machine="Docker Desktop")
    hosts.mainpc.metrics.ingest("pc2", msgspec.structs.replace(SAMPLE, machine=machine))
    found = examined(hosts, cli, 0)[SDT, "machines"]
    assert (found["verdict"], "pc2: these are figures of the virtual machine" in found["sentence"]) == ("ok", True)
    hosts.mainpc.metrics.ingest("pc2", msgspec.structs.replace(SAMPLE, machine=None, limited=True))
    found = examined(hosts, cli, 0)[SDT, "machines"]
    assert (found["verdict"], "pc2: its version measures only its container" in found["sentence"]) == ("warning", True)


def refusals(agent: LoopbackAgent) -> dict[str, int]:
    return {cause: n for cause, n in agent.handshakes.counts().items() if n and cause != Outcome.ACCEPTED}


def test_it_says_how_many_refusals_it_caused(hosts: TwoHosts, cli: Cli) -> None:
    """As many as the agents count, whatever they had refused before; the audit log has them like any others."""
    stranger = new_pair("intruder")
    for _ in range(3):
        be_refused(SecuredAddress(hosts.mainpc.address, stranger, hosts.mainpc.own_keys.public))
    checks = examined(hosts, cli, 0)
    sentence = list(checks.values())[-1]["sentence"]
    counted = {name: int(count) for name, count in re.findall(rf"({SDT}|{UMRA}) counted (\d+)", sentence)}
    assert 6 <= counted[SDT] <= sum(refusals(hosts.mainpc).values()) - 3
    assert 6 <= counted[UMRA] <= sum(refusals(hosts.pc2).values())
    wait_until(lambda: len(audited(hosts, "handshake_refused")) >= 6, PATIENCE_S, "they are audited")
    assert {line["cause"] for line in audited(hosts, "handshake_refused")} >= {
        "key_not_authorized",
        "wrong_server_key_or_mismatched_halves",
        "broken_off_or_plain_client",
    }


def be_refused(address: SecuredAddress) -> None:
    with Client(address) as client, pytest.raises(TwinhostError):
        client.call("ping", deadline_s=4.0)


def audited(hosts: TwoHosts, event: str) -> list[dict[str, Any]]:
    assert hosts.mainpc.audit is not None
    lines = map(json.loads, hosts.mainpc.audit.read_page(0, 1_000).lines)
    return [line for line in lines if line["event"] == event]


def test_people_see_tables_that_fit(hosts: TwoHosts, cli: Cli) -> None:
    """One for each place, and the sum in the last line."""
    ran = cli(hosts, "doctor")
    assert (ran.status, ran.err) == (0, "")
    assert max(len(line) for line in ran.out.splitlines()) <= 100
    for title in (HERE, SDT, UMRA, "all agents"):
        assert f"\n{title}\n" in f"\n{ran.out}"
    assert ran.out.splitlines()[-1] == "Examination: 34 ok, 0 warning, 0 failed, 0 not played"


def test_junit_has_a_case_for_every_check(hosts: TwoHosts, cli: Cli) -> None:
    """A failure as one, and what was not played as skipped."""
    hosts.folders["operator"] = hosts.folders["client"]
    hosts.pc2.faults["store"] = "disk \x1b full <&>"
    ran = cli(hosts, "doctor", "--format", "junit")
    assert ran.status == 1
    root = ElementTree.fromstring(ran.out)
    cases = root.findall("testsuite/testcase")
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == (str(len(cases)), "1", "5")
    (failure,) = root.findall("testsuite/testcase/failure")
    assert failure.get("message") == r"error: store: disk \x1b full <&>"


def test_with_an_agents_key_the_operators_checks_are_not_played(hosts: TwoHosts, cli: Cli) -> None:
    """The rest works from there too."""
    hosts.folders["operator"] = hosts.folders["client"]
    checks = examined(hosts, cli, 0)
    assert {name for _, name in wrong(checks)} == {
        "time of its keys",
        "audit log",
        "same keys on every host",
        "refusals it caused",
    }
    for key in wrong(checks):
        assert checks[key]["verdict"] == "not played"
        assert checks[key]["sentence"].startswith("needs an operator's key")
    assert f"as {UMRA}" in checks[SDT, "answers, and knows us"]["sentence"]


@pytest.mark.parametrize(
    ("name", "mode", "complaint"),
    [
        ("operator.key_secret", 0o644, "others can use the secret; run: chmod 600"),
        ("server.key", 0o666, "others can change what it holds; run: chmod 644"),
        ("", 0o777, "others can change what it holds; run: chmod 700"),
    ],
)
def test_modes_that_let_others_in_are_found(hosts: TwoHosts, cli: Cli, name: str, mode: int, complaint: str) -> None:
    """With the command that mends them; a secret that others can read is used for nothing."""
    (hosts.folders["operator"] / name).chmod(mode)
    checks = examined(hosts, cli, 1)
    assert complaint in checks[HERE, "modes and owners"]["sentence"]
    if name.endswith("secret"):
        assert checks[HERE, "halves of own key"]["verdict"] == "failed"
        assert checks[SDT, "agent"]["verdict"] == "not played"


def test_a_link_among_the_keys_is_found(hosts: TwoHosts, cli: Cli) -> None:
    """Where it leads may be changed by others."""
    path = hosts.folders["operator"] / "server.key"
    path.rename(hosts.root / "elsewhere")
    path.symlink_to(hosts.root / "elsewhere")
    assert "is a symbolic link" in examined(hosts, cli, 1)[HERE, "modes and owners"]["sentence"]


def test_halves_that_do_not_match_are_found_here(hosts: TwoHosts, cli: Cli) -> None:
    """libzmq would say nothing of it, and the agent would hang up."""
    path = hosts.folders["operator"] / "operator.key_secret"
    own = hosts.pairs["operator"].public.z85.decode()
    path.write_text(path.read_text().replace(own, new_pair().public.z85.decode()))
    check = examined(hosts, cli, 1)[HERE, "halves of own key"]
    assert check["verdict"] == "failed"
    assert "not halves of one pair" in check["sentence"]


def test_a_public_file_of_another_key_beside_the_secret_is_found(hosts: TwoHosts, cli: Cli) -> None:
    """Whoever was given it pins what nobody holds."""
    shutil.copy(hosts.folders["operator"] / "client.key", hosts.folders["operator"] / "operator.key")
    check = examined(hosts, cli, 1)[HERE, "halves of own key"]
    assert hosts.fingerprints["operator"] in check["sentence"]
    assert hosts.fingerprints[UMRA] in check["sentence"]


def test_a_file_that_can_not_be_believed_is_found(hosts: TwoHosts, cli: Cli) -> None:
    """By its name."""
    (hosts.folders["operator"] / "third.key").write_text("abc")
    check = examined(hosts, cli, 1)[HERE, "public key files"]
    assert check["verdict"] == "failed"
    assert "third.key" in check["sentence"]


@pytest.mark.parametrize("value", ["yes", ""])
def test_another_value_of_secure_zmq_is_found(hosts: TwoHosts, cli: Cli, monkeypatch: Any, value: str) -> None:
    """And nothing is asked."""
    monkeypatch.setattr(TwoHosts, "environment", {**hosts.environment, "SECURE_ZMQ": value})
    checks = examined(hosts, cli, 1)
    assert checks[HERE, "SECURE_ZMQ"]["verdict"] == "failed"
    assert checks[SDT, "agent"]["verdict"] == "not played"


def test_an_open_link_fails(open_hosts: TwoHosts, cli: Cli) -> None:
    """Loudly: here, at each agent, and at each door."""
    checks = examined(open_hosts, cli, 1)
    for key in ((HERE, "SECURE_ZMQ"), (SDT, "answers, and knows us"), (UMRA, "plain client refused")):
        assert checks[key]["verdict"] == "failed"
        assert "SECURE_ZMQ" in checks[key]["sentence"]


def test_secured_here_and_open_there_is_reported(open_hosts: TwoHosts, cli: Cli) -> None:
    """CURVE client, plain server: libzmq tries for ever and says nothing."""
    open_hosts.secure = True
    check = examined(open_hosts, cli, 1)[SDT, "SECURE_ZMQ the same"]
    assert check["sentence"].startswith("SECURE_ZMQ=0 there and SECURE_ZMQ=1 here")


def test_open_here_and_secured_there_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """Plain client, CURVE server."""
    hosts.secure = False
    check = examined(hosts, cli, 1)[SDT, "SECURE_ZMQ the same"]
    assert check["sentence"].startswith("SECURE_ZMQ=1 there and SECURE_ZMQ=0 here")


def test_an_unauthorised_key_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """FAILED_AUTH 400: the server knows why, and the client's socket is dead."""
    (hosts.folders["server"] / "operator.key").unlink()
    hosts.mainpc.reload_peers()
    checks = examined(hosts, cli, 1)
    assert "refuses ours" in checks[SDT, "answers, and knows us"]["sentence"]
    assert hosts.fingerprints["operator"] in checks[SDT, "answers, and knows us"]["sentence"]
    assert checks[UMRA, "answers, and knows us"]["verdict"] == "ok"


def test_a_wrong_pin_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """NO_DETAIL for ever: the key that was pinned is named."""
    stranger = new_pair(SDT, "mainpc")
    (hosts.folders["operator"] / "server.key").unlink()
    write_key_pair(stranger, hosts.root / "server.key_secret")
    shutil.copy(hosts.root / "server.key", hosts.folders["operator"] / "server.key")
    checks = examined(hosts, cli, 1)
    sentence = checks[SDT, "answers, and knows us"]["sentence"]
    assert "the agent's key is not the pinned" in sentence
    assert stranger.public.fingerprint in sentence
    assert checks[SDT, "unknown key refused"]["verdict"] == "not played"


def test_a_zap_fault_is_distinguished_from_a_wrong_pin(hosts: TwoHosts, cli: Cli, monkeypatch: Any) -> None:
    """To a client of libzmq ZAP 300 looks like one; by hand it does not."""
    monkeypatch.setattr("twinhost.cli.doctor.checks._DEADLINE_S", SHORT_S)

    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(hosts.pc2.peers, "judge", broken)
    check = examined(hosts, cli, 1)[UMRA, "answers, and knows us"]
    assert check["verdict"] == "failed"
    assert check["sentence"].startswith("its ZAP handler has a fault: it holds the pinned key")


def test_a_mute_peer_is_reported(hosts: TwoHosts, cli: Cli, monkeypatch: Any) -> None:
    """Something listens there and does not speak ZeroMQ; that it lets nobody in is no proof of anything."""
    monkeypatch.setattr("twinhost.cli.doctor.checks._DEADLINE_S", SHORT_S)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hosts.write_config(hosts.mainpc.port, mute.getsockname()[1])
        checks = examined(hosts, cli, 1)
    assert checks[UMRA, "port"]["verdict"] == "ok"
    assert "sends no ZeroMQ greeting" in checks[UMRA, "SECURE_ZMQ the same"]["sentence"]
    assert "no handshake followed" in checks[UMRA, "answers, and knows us"]["sentence"]
    assert checks[UMRA, "unknown key refused"]["verdict"] == "not played"


def test_a_closed_port_is_reported_and_the_rest_is_skipped(hosts: TwoHosts, cli: Cli) -> None:
    """One cause, one failure."""
    hosts.pc2.stop()
    checks = examined(hosts, cli, 1)
    assert "can't be reached" in checks[UMRA, "port"]["sentence"]
    assert checks[UMRA, "agent"]["verdict"] == "not played"
    assert checks["all agents", "same keys on every host"]["verdict"] == "not played"
    assert (UMRA, "plain client refused") not in checks


def test_an_unresolvable_address_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """With the variable that mends it."""
    path = hosts.root / "network_config.yaml"
    path.write_text(path.read_text().replace("pc2: {address: 127.0.0.1}", "pc2: {address: nowhere.invalid}"))
    check = examined(hosts, cli, 1)[UMRA, "address"]
    assert check["verdict"] == "failed"
    assert "'nowhere.invalid' does not resolve" in check["sentence"]
    assert "PC2_IP" in check["sentence"]


@pytest.mark.parametrize(("open_port", "verdict"), [(True, "ok"), (False, "failed")])
def test_the_event_feeds_port_is_looked_at(hosts: TwoHosts, cli: Cli, open_port: bool, verdict: str) -> None:
    """Where the configuration has one."""
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) if open_port else nullcontext():
        path = hosts.root / "network_config.yaml"
        path.write_text(path.read_text().replace(f"events: {hosts.mainpc.events_port}", f"events: {port}"))
        check = examined(hosts, cli, 0 if open_port else 1)[SDT, "port of the event feed"]
        assert check["verdict"] == verdict
        assert open_port or "a revocation now waits for a heartbeat" in check["sentence"]


@pytest.mark.parametrize(("ahead_s", "verdict"), [(0, "ok"), (40, "warning"), (-40, "warning"), (90, "failed")])
def test_clock_skew_is_reported(hosts: TwoHosts, cli: Cli, ahead_s: float, verdict: str) -> None:
    """Against the tolerance that validity grants."""
    hosts.pc2.document = {"timestamp": iso_time(time.time() + ahead_s)}
    check = examined(hosts, cli, 1 if verdict == "failed" else 0)[UMRA, "clock"]
    assert check["verdict"] == verdict
    assert "60 s are tolerated" in check["sentence"]


@pytest.mark.parametrize("there", [{}, {**versions(), "libzmq": "4.2.1"}])
def test_another_version_is_a_warning(hosts: TwoHosts, cli: Cli, there: dict[str, str]) -> None:
    """Also none at all."""
    hosts.pc2.document = {"version": there}
    assert examined(hosts, cli, 0)[UMRA, "versions"]["verdict"] == "warning"


def test_what_an_agent_says_of_itself_is_passed_on(hosts: TwoHosts, cli: Cli) -> None:
    """A warning as one, a failed check as failed."""
    hosts.mainpc.warnings.append("the key of x ends soon; rotate it")
    hosts.pc2.faults["store"] = "disk full"
    checks = examined(hosts, cli, 1)
    assert (checks[SDT, "health"]["verdict"], checks[UMRA, "health"]["verdict"]) == ("warning", "failed")
    assert checks[UMRA, "health"]["sentence"] == "error: store: disk full"


def test_another_agent_at_the_address_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """The document names it."""
    hosts.pc2.document = {"agent": "Somebody"}
    check = examined(hosts, cli, 1)[UMRA, "health"]
    assert "is Somebody" in check["sentence"]


def test_keys_near_their_end_are_warnings(start_hosts: StartHosts, cli: Cli) -> None:
    """Our own, in the folder, and in the agents' lists."""
    now = int(time.time())
    checks = examined(start_hosts(operator=Validity(now - DAY_S, now + 3 * DAY_S)), cli, 0)
    for key in ((HERE, "time of own key"), (HERE, "time of public keys"), (SDT, "time of its keys")):
        assert checks[key]["verdict"] == "warning"
        assert "2 d 23 h" in checks[key]["sentence"]


def test_an_expired_own_key_fails(start_hosts: StartHosts, cli: Cli) -> None:
    """And the refusal that follows from it is there too."""
    now = int(time.time())
    checks = examined(start_hosts(operator=Validity(now - 2 * DAY_S, now - DAY_S)), cli, 1)
    assert "expired 1 d 0 h ago" in checks[HERE, "time of own key"]["sentence"]
    assert checks[SDT, "answers, and knows us"]["verdict"] == "failed"


def test_a_key_that_is_not_good_yet_speaks_of_the_clock(start_hosts: StartHosts, cli: Cli) -> None:
    """A new key is good at once, so somebody's clock is wrong."""
    check = examined(start_hosts(operator=Validity(int(time.time()) + DAY_S)), cli, 1)[HERE, "time of own key"]
    assert "clock" in check["sentence"]


def test_a_revoked_own_key_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """Where this folder knows of it."""
    write_revocation(hosts.pairs["operator"].certificate, hosts.folders["operator"] / REVOKED_FOLDER)
    assert "is revoked" in examined(hosts, cli, 1)[HERE, "time of own key"]["sentence"]


def test_hosts_with_different_allowlists_are_reported(hosts: TwoHosts, cli: Cli) -> None:
    """A revocation that one of them has not received."""
    write_revocation(hosts.pairs["client"].certificate, hosts.folders["server"] / REVOKED_FOLDER)
    hosts.mainpc.reload_peers()
    check = examined(hosts, cli, 0)["all agents", "same keys on every host"]
    assert check["verdict"] == "warning"
    assert "is revoked on mainpc, live on pc2" in check["sentence"]


def test_a_broken_audit_log_fails(hosts: TwoHosts, cli: Cli) -> None:
    """With the first findings."""
    audit = hosts.mainpc.audit
    assert audit is not None
    for _ in range(3):
        audit.note(AuditEvent.GRANTS_CHANGED)
    wait_until(lambda: audit.head.seq == 3, PATIENCE_S, "the lines are written")
    (path,) = (hosts.root / "audit").glob("audit-*.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    check = examined(hosts, cli, 1)[SDT, "audit log"]
    assert check["verdict"] == "failed"
    assert "line 1 is missing" in check["sentence"]


def test_a_pin_that_is_nowhere_here_is_asked_of_mainpc(hosts: TwoHosts, cli: Cli) -> None:
    """Over the authenticated link, so it is as good as a file."""
    (hosts.folders["operator"] / "client.key").unlink()
    check = examined(hosts, cli, 0)[UMRA, "answers, and knows us"]
    assert hosts.fingerprints[UMRA] in check["sentence"]


def test_a_missing_pin_of_mainpc_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """Without it no agent is called that it would have to report on."""
    (hosts.folders["operator"] / "server.key").unlink()
    checks = examined(hosts, cli, 1)
    assert "server.key is missing" in checks[SDT, "answers, and knows us"]["sentence"]
    assert checks[UMRA, "answers, and knows us"]["verdict"] == "ok"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_file_of_another_owner_is_found(hosts: TwoHosts, cli: Cli) -> None:
    """Whoever owns it can change it."""
    os.chown(hosts.folders["operator"] / "server.key", 12_345, -1)
    check = examined(hosts, cli, 1)[HERE, "modes and owners"]
    assert "server.key belongs to uid 12345 and not to 0" in check["sentence"]


def test_another_agents_expired_key_fails(start_hosts: StartHosts, cli: Cli) -> None:
    """In the folder and in the agents' lists; whoever holds it gets in nowhere."""
    now = int(time.time())
    checks = examined(start_hosts(client=Validity(now - 2 * DAY_S, now - DAY_S)), cli, 1)
    for key in ((HERE, "time of public keys"), (SDT, "time of its keys")):
        assert checks[key]["verdict"] == "failed"
        assert UMRA in checks[key]["sentence"]


def test_an_agent_without_a_zap_handler_fails(hosts: TwoHosts, cli: Cli, monkeypatch: Any) -> None:
    """A key that was made just now is served: the check for it turns red."""
    everybody = next(peer for peer in hosts.pc2.peers.all() if peer.name == "operator")
    monkeypatch.setattr(hosts.pc2.peers, "judge", lambda *_: everybody)
    monkeypatch.setattr(hosts.pc2.peers, "live", lambda _: everybody)
    checks = examined(hosts, cli, 1)
    assert checks[UMRA, "unknown key refused"]["verdict"] == "failed"
    assert "that nobody has authorised" in checks[UMRA, "unknown key refused"]["sentence"]
    assert checks[SDT, "unknown key refused"]["verdict"] == "ok"


def test_a_pin_that_was_not_to_fit_and_does_fails(hosts: TwoHosts) -> None:
    """The check can fail: here the "wrong" pin is the right one."""
    settings = settings_of(hosts)
    found = link.try_pin(settings, settings.config.agent(UMRA), hosts.pairs["client"].public)
    assert found.verdict is Verdict.FAILED


def test_without_a_configuration_this_host_is_still_examined(hosts: TwoHosts, cli: Cli) -> None:
    """What can be said is said."""
    (hosts.root / "network_config.yaml").write_text("hosts: [")
    checks = examined(hosts, cli, 1)
    assert checks[HERE, "network configuration"]["verdict"] == "failed"
    assert checks[HERE, "halves of own key"]["verdict"] == "ok"
