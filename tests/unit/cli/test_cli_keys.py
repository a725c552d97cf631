"""`keys list`: both agents' lists as one, with what is amiss where one can see it."""

import json
import re
import time

import pytest

from tests.identities import new_pair
from tests.unit.cli.loopback_agents import SDT, UMRA, LoopbackAgent, StartHosts, TwoHosts
from tests.unit.cli.running import Cli, run_on_terminal
from twinhost.moments import iso_time
from twinhost.secure_zmq.certificates import INVITES_FOLDER, REVOKED_FOLDER
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.key_writer import write_certificate, write_revocation
from twinhost.secure_zmq.keys import DAY_S, KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.secure_zmq.sessions import SecuredSessions

pytestmark = pytest.mark.thorough

REGISTRATION = {"agent_id": "third", "agent_type": "agent", "host": "192.0.2.30", "port": 7330}
BELOW = {SDT: "agent on mainpc", UMRA: "agent on pc2", "operator": "operator on mainpc"}  # after the fingerprint


@pytest.fixture
def ageing(start_hosts: StartHosts) -> TwoHosts:
    """Hosts whose keys have a beginning and an end: pc2's is near it, the operator's far."""
    now = int(time.time())
    return start_hosts(
        client=Validity(now - 360 * DAY_S, now + 5 * DAY_S + 3_600),
        operator=Validity(now - 10 * DAY_S, now + 355 * DAY_S + 3_600),
    )


def test_a_key_that_both_know_is_one_entry(ageing: TwoHosts, cli: Cli) -> None:
    """With its age, its days left, and its owner's sessions on each host."""
    ran = cli(ageing, "keys", "list", "--json")
    assert (ran.status, ran.err) == (0, "")
    document = json.loads(ran.out)
    keys = {key["name"]: key for key in document["keys"]}
    assert {name: key["fingerprint"] for name, key in keys.items()} == ageing.fingerprints
    operator, pc2, mainpc = keys["operator"], keys[UMRA], keys[SDT]
    assert (operator["host"], operator["roles"]) == ("mainpc", ["operator"])
    assert (operator["age_days"], operator["days_left"]) == (10.0, 355.0)
    assert (pc2["age_days"], pc2["days_left"]) == (360.0, 5.0)
    assert (mainpc["age_days"], mainpc["days_left"]) == (None, None)
    assert operator["sessions"] == {"mainpc": 1, "pc2": 1}
    assert set(operator["last_seen"]) == {"mainpc", "pc2"}
    assert pc2["sessions"] == pc2["last_seen"] == {}
    assert {tuple(key["standing"].items()) for key in keys.values()} == {(("mainpc", "live"), ("pc2", "live"))}
    assert (document["invitations"], document["revoked"]) == ([], {"mainpc": [], "pc2": []})


def test_people_see_a_table_that_fits(ageing: TwoHosts, cli: Cli) -> None:
    """Every name and every fingerprint whole, in 80 columns."""
    ran = cli(ageing, "keys", "list")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Keys (3)\n")
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    rows = {line.split()[0]: line for line in ran.out.splitlines()[2:-2] if not line.startswith(" ")}
    assert list(rows) == sorted([SDT, UMRA, "operator"])
    assert rows[UMRA].split()[1:] == ["360", "d", "5", "d", "none", "never", "live"]
    assert rows["operator"].split()[1:8] == ["10", "d", "355", "d", "1", "on", "mainpc"]
    assert "  no expiry  " in rows[SDT]
    for name, fingerprint in ageing.fingerprints.items():
        assert ran.out.splitlines()[ran.out.splitlines().index(rows[name]) + (2 if name == "operator" else 1)] == (
            f"  {fingerprint}  {BELOW[name]}"
        )
    assert ran.out.endswith("Revoked permanently: 0 keys\n")


def sessions_of(agent: LoopbackAgent) -> SecuredSessions:
    assert isinstance(agent.socket.sessions, SecuredSessions)
    return agent.socket.sessions


def test_never_is_said_only_of_a_key_younger_than_the_record(ageing: TwoHosts, cli: Cli) -> None:
    """Of an older one nobody knows; the shortest record counts, and `status` says the same."""
    now = time.time()
    mainpcs, pc2s = sessions_of(ageing.mainpc), sessions_of(ageing.pc2)
    mainpcs.restore_last_seen({}, now - 400 * DAY_S)
    pc2s.restore_last_seen({}, now - 90)
    for command in (["keys", "list"], ["status"]):
        out = cli(ageing, *command).out
        assert re.search(rf"{UMRA} .* none +not for.*\n +1 min 3\d s *\n", out), out
    document = json.loads(cli(ageing, "keys", "list", "--json").out)
    assert document["seen_since"] == {"mainpc": iso_time(now - 400 * DAY_S), "pc2": iso_time(now - 90)}
    pc2s.restore_last_seen({}, now - 361 * DAY_S)
    assert re.search(rf"{UMRA} .* none +never +live", cli(ageing, "keys", "list").out)


def test_a_key_near_its_end_is_yellow_and_one_far_from_it_is_not(ageing: TwoHosts) -> None:
    """From 14 days before on."""
    out = run_on_terminal(ageing.environment, "keys", "list").out
    assert re.search(r"\x1b\[33m5 d *\x1b\[0m", out)
    assert "\x1b[33m355 d" not in out


def test_a_new_key_has_its_whole_life_before_it(start_hosts: StartHosts, cli: Cli) -> None:
    """365 days, and not 364 a second later; what expires soon is shown in hours."""
    now = int(time.time())
    hosts = start_hosts(
        operator=Validity(now, now + 365 * DAY_S), client=Validity(now - DAY_S, now + DAY_S + 3 * 3_600 + 60)
    )
    shown = cli(hosts, "keys", "list").out
    assert "365 d" in shown
    assert "364 d" not in shown
    assert "1 d 3 h" in shown


def test_a_narrow_table_folds_and_keeps_the_fingerprints(ageing: TwoHosts) -> None:
    """On a terminal of 60 columns nothing is lost."""
    out = run_on_terminal(ageing.environment, "keys", "list", columns=60).out
    for fingerprint in ageing.fingerprints.values():
        assert fingerprint in out


def test_an_expired_key_is_red_and_refused(start_hosts: StartHosts) -> None:
    """It is listed, and not live."""
    now = int(time.time())
    hosts = start_hosts(client=Validity(now - 20 * DAY_S, now - DAY_S))
    out = run_on_terminal(hosts.environment, "keys", "list").out
    assert len(re.findall(r"\x1b\[31mexpired *\x1b\[0m", out)) == 2


def test_a_revocation_missing_on_one_host_is_shown(hosts: TwoHosts, cli: Cli) -> None:
    """The two are distinguished, and revoked keys are counted."""
    write_revocation(hosts.pairs["client"].certificate, hosts.folders["server"] / REVOKED_FOLDER)
    hosts.mainpc.reload_peers()
    ran = cli(hosts, "keys", "list", "--json")
    document = json.loads(ran.out)
    (pc2,) = (key for key in document["keys"] if key["name"] == UMRA)
    assert pc2["standing"] == {"mainpc": "revoked", "pc2": "live"}
    assert document["revoked"] == {"mainpc": [hosts.fingerprints[UMRA]], "pc2": []}
    assert document["unacknowledged"] == [{"agent": UMRA, "host": "pc2", "revoked": [hosts.fingerprints[UMRA]]}]
    shown = cli(hosts, "keys", "list").out
    assert "revoked" in shown
    assert "Revoked permanently: 1 key\n" in shown
    assert " ".join(shown.split()).endswith(
        f"Not acknowledged on pc2 by {UMRA}: 1 of them; it may accept what mainpc has revoked"
    )


def test_an_acknowledged_revocation_is_no_warning(hosts: TwoHosts, cli: Cli) -> None:
    """Both have it."""
    gone = new_pair("gone")
    for stem, agent in (("server", hosts.mainpc), ("client", hosts.pc2)):
        write_revocation(gone.certificate, hosts.folders[stem] / REVOKED_FOLDER)
        agent.reload_peers()
    assert json.loads(cli(hosts, "keys", "list", "--json").out)["unacknowledged"] == []
    assert cli(hosts, "keys", "list").out.endswith("Revoked permanently: 1 key\n")


@pytest.mark.parametrize("follows", ["the newest list", "an older list", "none"])
def test_an_agent_that_cant_be_asked_is_judged_by_its_heartbeat(hosts: TwoHosts, cli: Cli, follows: str) -> None:
    """An agent of a third machine, which no configuration names."""
    third, gone = new_pair("third", "pc3"), new_pair("gone")
    write_certificate(third.certificate, hosts.folders["server"] / "third.key")
    for stem, agent in (("server", hosts.mainpc), ("client", hosts.pc2)):
        write_revocation(gone.certificate, hosts.folders[stem] / REVOKED_FOLDER)
        agent.reload_peers()
    server = SecuredAddress(hosts.mainpc.address, third, hosts.pairs["server"].public)
    with Client(server) as client:
        client.call("register_agent", registration_data=REGISTRATION)
        newest = client.call("get_trust")["revision"]
        revision = {"the newest list": newest, "an older list": "0" * 32, "none": None}[follows]
        client.call("heartbeat", agent_name="third", trust_revision=revision)
    behind = json.loads(cli(hosts, "keys", "list", "--json").out)["unacknowledged"]
    assert behind == ([] if follows == "the newest list" else [{"agent": "third", "host": "pc3", "revoked": None}])


def test_a_key_that_one_host_does_not_know_shows(hosts: TwoHosts, cli: Cli) -> None:
    """As an enrolment that has not reached the other."""
    write_certificate(new_pair("pc3-agent", "pc3").certificate, hosts.folders["server"] / "pc3.key")
    hosts.mainpc.reload_peers()
    document = json.loads(cli(hosts, "keys", "list", "--json").out)
    (newcomer,) = (key for key in document["keys"] if key["name"] == "pc3-agent")
    assert newcomer["standing"] == {"mainpc": "live", "pc2": "not listed"}


def test_an_open_invitation_has_a_table_of_its_own(hosts: TwoHosts, cli: Cli) -> None:
    """The name, and how long it is still valid."""
    ends = Validity(not_after=int(time.time()) + 3_540)
    token = KeyPair.generate(KeyOwner("pc3-agent", "pc3", frozenset({"agent"})), ends)
    folder = hosts.folders["server"] / INVITES_FOLDER
    folder.mkdir()
    write_certificate(token.certificate, folder / "pc3-agent.key")
    hosts.mainpc.reload_peers()
    document = json.loads(cli(hosts, "keys", "list", "--json").out)
    (invitation,) = document["invitations"]
    assert (invitation["name"], invitation["host"]) == ("invitation:pc3-agent", "pc3")
    assert (invitation["fingerprint"], invitation["standing"]) == (token.public.fingerprint, {"mainpc": "live"})
    assert invitation["name"] not in [key["name"] for key in document["keys"]]
    shown = cli(hosts, "keys", "list").out
    assert "Open invitations (1)\n" in shown
    assert "58 min" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_an_agent_that_can_not_be_asked_is_a_warning(
    hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's list is shown, and the exit status says that something may be missing."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 1.0)
    hosts.pc2.stop()
    ran = cli(hosts, "keys", "list")
    assert ran.status == 1
    assert ran.out.startswith("Keys (3)\n")
    (sentence,) = ran.err.splitlines()
    assert sentence.startswith(f"warning [server_unreachable]: {UMRA}: ")
    document = json.loads(cli(hosts, "keys", "list", "--json").out)
    assert (document["code"], len(document["keys"])) == ("server_unreachable", 3)


def test_without_the_operators_key_the_list_is_refused(hosts: TwoHosts, cli: Cli) -> None:
    """One sentence for both agents, with the command that has that key."""
    hosts.folders["operator"] = folder = hosts.folders["client"]
    ran = cli(hosts, "keys", "list", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "not_granted")
    assert ran.err == (
        f"warning [not_granted]: keys list needs an operator's key, and {folder} has the key of {UMRA} on pc2 (agent); "
        "in the checkout on mainpc's machine, run: ./twinhost keys list\n"
    )


def test_on_an_open_link_there_are_no_keys(open_hosts: TwoHosts, cli: Cli) -> None:
    """It says so, and asks nobody."""
    ran = cli(open_hosts, "keys", "list")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "warning [open_link]: SECURE_ZMQ=0: nobody is authenticated, so the agents use no keys\n"


@pytest.mark.parametrize("words", [("keys", "nonsense"), ("keys", "list", "surplus"), ("audit", "nonsense")])
def test_a_wrong_usage_of_a_group_is_2(hosts: TwoHosts, cli: Cli, words: tuple[str, ...]) -> None:
    """As of every command."""
    ran = cli(hosts, *words)
    assert ran.status == 2
    assert "Traceback" not in ran.err
