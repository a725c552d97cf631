"""The agent as it starts, with its keys and its audit log: what is logged, and what is absent on an open link."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.identities import authorize, new_pair
from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, UMRA
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.errors import LimitReached, PeerNotLive, StoreUnavailable
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import Outcome
from twinhost.store.audit_log import log
from twinhost.store.audit_log.chain import Anchor, Head
from twinhost.store.audit_log.verify import verify
from twinhost.system_digital_twin.__main__ import NAME, assemble
from twinhost.system_digital_twin.state_files import MIGRATIONS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    environment_of(tmp_path, "mainpc")
    enrolled = tmp_path / "certificates/mainpc/enrolled"
    enrolled.mkdir(exist_ok=True)
    return tmp_path


def start(home: Path, *, secure: bool = True) -> Assembled:
    return Assembled(NAME, MIGRATIONS, assemble, environment_of(home, "mainpc", secure=secure))


@pytest.fixture
def agent(home: Path) -> Iterator[Assembled]:
    with start(home) as agent:
        yield agent


def lines(agent: Assembled) -> list[dict[str, Any]]:
    """Let the loop turn once, and return the log as an operator reads it."""
    agent.assembly.on_tick()
    reply = agent.ask("get_audit", OPERATOR)
    assert reply["status"] == "success", reply
    return [json.loads(line) for line in reply["lines"]]


def events(agent: Assembled) -> list[str]:
    return [line["event"] for line in lines(agent)]


def test_a_start_is_logged_with_its_grants_and_every_key(agent: Assembled) -> None:
    """Secured or not, who may do what, and whose keys were found."""
    first, *others = lines(agent)
    assert (first["event"], first["secure"]) == ("started", True)
    assert "operator: *" in first["grants"]
    assert len(first["grants_sha256"]) == 64
    assert sorted((line["event"], line["name"]) for line in others) == [
        ("key_authorized", NAME),
        ("key_authorized", UMRA.name),
        ("key_authorized", "operator"),
    ]


def test_a_stop_is_logged_and_the_next_start_continues(home: Path) -> None:
    """One chain, which a reader can verify without trusting this program."""
    with start(home) as agent:
        agent.assembly.on_tick()
    with start(home) as agent:
        assert events(agent) == ["started", *["key_authorized"] * 3, "stopped", "started"]
        reply = agent.ask("get_audit", OPERATOR)
        end = agent.ask("get_audit", OPERATOR, position=reply["position"])
    findings = verify(reply["lines"], Anchor(**reply["anchor"]), Head(**end["head"]))
    assert (findings.lines, findings.findings, end["lines"]) == (6, (), [])


def test_the_agent_also_stops_where_it_cannot_log_the_stop(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the agent ends as it should, and says nothing untrue."""
    agent = start(home)
    agent.database.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreUnavailable), agent.database.transaction():
        agent.database.execute("DELETE FROM audited_keys")
    agent.assembly.on_stop()
    agent.database.close()


def test_only_refusals_of_a_caller_are_reported(agent: Assembled) -> None:
    """With the name, the action, and the cause; a slip in a request is nobody's attack."""
    agent.ask("unregister", UMRA, agent_name="Other")
    agent.ask("get_audit", UMRA)
    agent.ask("get_agent_info", UMRA, agent_name="Ghost")
    agent.ask("no_such_action", UMRA)
    agent.assembly.on_refusal(None, None, PeerNotLive("its key is gone"))
    agent.assembly.on_refusal(UMRA, "propose_key", LimitReached("100 keys a day"))
    refused = [line for line in lines(agent) if line["event"] == "request_refused"]
    assert [(line["code"], line["peer"], line["action"]) for line in refused] == [
        ("not_granted", UMRA.name, "unregister"),
        ("not_granted", UMRA.name, "get_audit"),
        ("peer_not_live", "unknown", ""),
        ("limit_reached", UMRA.name, "propose_key"),
    ]
    assert refused[0]["reason"].startswith(f"{UMRA.name} may not act for")


def test_handshakes_are_logged_with_what_is_known(agent: Assembled) -> None:
    """Who came in, and why somebody did not."""
    agent.handshakes.accepted("agent", "SHA256:x", "192.0.2.1")
    agent.handshakes.refused(Outcome.KEY_REVOKED, address="192.0.2.2", fingerprint="SHA256:y")
    agent.handshakes.refused(Outcome.NOT_ZMTP)
    logged = [line for line in lines(agent) if line["event"].startswith("handshake_")]
    assert [(line["event"], line.get("cause"), line.get("peer"), line.get("fingerprint")) for line in logged] == [
        ("handshake_accepted", None, "agent", "SHA256:x"),
        ("handshake_refused", "key_revoked", None, "SHA256:y"),
        ("handshake_refused", "not_zmtp", None, None),
    ]


@pytest.mark.sdt_security
def test_a_key_that_the_log_can_not_record_is_not_served(agent: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    """While as many lines wait for a full disk as may wait, no new session; those that wait are not lost meanwhile."""
    monkeypatch.setattr(log, "MAX_NOTES", 2)
    agent.assembly.on_grants(None, {"agent": {"ping"}})
    agent.assembly.on_grants(None, {"agent": {"health"}})
    agent.handshakes.accepted("agent", "SHA256:x", "192.0.2.1")
    for _ in range(3):
        with pytest.raises(PeerNotLive, match="can't be recorded, so nothing is answered; free space"):
            agent.handshakes.require_recorded("SHA256:x")
    agent.assembly.on_tick()
    agent.handshakes.require_recorded("SHA256:x")
    assert [event for event in events(agent) if event not in {"started", "key_authorized"}] == [
        *("grants_changed", "grants_changed", "handshake_accepted")
    ]


def test_changed_grants_and_a_rejected_file_are_logged(agent: Assembled) -> None:
    """As the watch of the file reports them."""
    agent.assembly.on_grants("network_config.yaml is not YAML", {})
    agent.assembly.on_grants(None, {"agent": {"ping", "health"}})
    agent.assembly.on_grants(None, {"agent": {"ping", "register_agent"}, "operator": {"*"}})
    logged = [line for line in lines(agent) if line["event"].startswith("grants_")]
    assert [(line["event"], line.get("cause")) for line in logged] == [
        ("grants_rejected", "network_config.yaml is not YAML"),
        ("grants_changed", None),
        ("grants_changed", None),
    ]
    assert logged[1]["grants"] == "agent: 2 actions"
    assert (logged[2]["added"], logged[2]["removed"]) == ("agent register_agent, operator *", "agent health")
    digest = hashlib.sha256(b"agent ping\nagent register_agent\noperator *").hexdigest()
    assert logged[2]["grants_sha256"] == digest


def test_the_log_is_for_operators(agent: Assembled) -> None:
    """Not for agents, nor for mainpc's own; and a page has bounds."""
    for caller in (UMRA, SDT, UNAUTHENTICATED):
        assert agent.ask("get_audit", caller)["code"] == "not_granted"
    for fields in ({"limit": 0}, {"limit": 2_001}, {"after_seq": -1}, {"position": "x" * 129}, {"position": "x"}):
        assert agent.ask("get_audit", OPERATOR, **fields)["code"] == "malformed_request"


def test_the_log_is_read_in_pages(agent: Assembled) -> None:
    """By number, or by the position of the page before."""
    lines(agent)
    first = agent.ask("get_audit", OPERATOR, limit=3)
    second = agent.ask("get_audit", OPERATOR, limit=3, position=first["position"])
    assert [json.loads(line)["seq"] for line in first["lines"] + second["lines"]] == [1, 2, 3, 4]
    assert [json.loads(line)["seq"] for line in agent.ask("get_audit", OPERATOR, after_seq=3)["lines"]] == [4]


def test_an_enrolment_goes_from_invitation_to_heartbeat(home: Path) -> None:
    """The actions are there, under the shipped grants; the heartbeat has the revision that the newcomer has."""
    certificates = home / "certificates/mainpc"
    (certificates / "invites").mkdir(exist_ok=True)
    token, pair = new_pair("newcomer", "pc3"), new_pair("somewhere")
    authorize(certificates / "invites", token)
    with start(home) as agent:
        key = pair.public.z85.decode()
        assert agent.ask("enrol", caller(agent, token), public_key=key)["status"] == "success"
        document = agent.ask("confirm_key", caller(agent, pair))
        newcomer = caller(agent, pair)
        assert newcomer.name == "newcomer"
        agent.ask("register_agent", newcomer, agent_name="newcomer", status="HEALTHY")
        beat = agent.ask("heartbeat", newcomer, agent_name="newcomer")
        assert beat["trust_revision"] == document["revision"] == agent.ask("get_trust", newcomer)["revision"]
        assert agent.ask("get_agent_endpoint", newcomer, agent_name="newcomer")["public_key"] == key
        logged = events(agent)
        assert (logged.count("invitation_used"), logged.count("key_authorized")) == (1, 4)


def caller(agent: Assembled, pair: KeyPair) -> Caller:
    peer = agent.keys.peers.find(pair.public.raw)
    assert peer is not None
    return Caller(peer.name, peer.host, peer.roles, peer.fingerprint)


def test_a_folder_that_can_not_be_written_is_a_warning(home: Path) -> None:
    """Nobody can enrol; everything else goes on."""
    with start(home) as agent:
        shutil.rmtree(home / "certificates/mainpc/enrolled")
        (home / "certificates/mainpc/enrolled").touch()
        document = agent.health.document()
        assert any("so nobody can enrol; run: certs-init verify" in sentence for sentence in document["warnings"])
        assert document["checks"]["audit_log"]["ok"]


def test_an_open_link_has_a_log_and_no_keys(home: Path) -> None:
    """SECURE_ZMQ=0: the start says so, no key action is known, and a heartbeat names no list."""
    with start(home, secure=False) as agent:
        first, *others = lines(agent)
        assert (first["event"], first["secure"], others) == ("started", False, [])
        for action in ("enrol", "confirm_key", "propose_key", "retire_keys", "get_trust"):
            assert agent.ask(action, OPERATOR, public_key="x" * 40)["code"] == "unknown_action"
        agent.ask("register_agent", UNAUTHENTICATED, agent_name="a", status="HEALTHY")
        assert agent.ask("heartbeat", UNAUTHENTICATED, agent_name="a")["trust_revision"] is None
        assert agent.ask("get_audit", UNAUTHENTICATED)["code"] == "not_granted"
