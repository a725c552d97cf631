"""Which keys the command line pins: from its folder, from what its host received from mainpc, or by asking mainpc."""

import json
import time
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.cli.loopback_agents import SDT, UMRA, StartHosts, TwoHosts
from tests.unit.cli.running import Cli
from twinhost.agent.trust import TrustDocument, TrustFolder
from twinhost.deployment import load_settings
from twinhost.secure_zmq.certificates import REVOKED_FOLDER, TRUST_FOLDER
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.key_writer import render_certificate, replace_certificate, write_revocation
from twinhost.secure_zmq.keys import DAY_S, KeyOwner, KeyPair, Validity


def folder_of(hosts: TwoHosts) -> Path:
    return hosts.folders["operator"]


def pinned(hosts: TwoHosts, name: str = UMRA) -> list[str]:
    settings = load_settings(hosts.environment)
    return [key.fingerprint for key in settings.pins(settings.config.agent(name))]


def join_by_invite(hosts: TwoHosts) -> None:
    """Leave the folder as `join` does: its own secret and mainpc's key; the agent there has written the rest."""
    hosts.folders["operator"] = hosts.folders["client"]
    for path in folder_of(hosts).glob("*.key"):
        if path.stem in {"operator"}:
            path.unlink()
    texts = tuple(render_certificate(pair.certificate) for pair in hosts.pairs.values())
    TrustFolder(folder_of(hosts) / TRUST_FOLDER, lambda _: None).apply(TrustDocument("1", texts, (), ()))


def test_the_folder_comes_first(hosts: TwoHosts) -> None:
    assert pinned(hosts) == [hosts.fingerprints[UMRA]]
    assert pinned(hosts, SDT) == [hosts.fingerprints[SDT]]


def test_on_a_joined_machine_the_trust_folder_counts(hosts: TwoHosts, cli: Cli) -> None:
    """By the names of the agents, as the trust folder has them, whatever the configuration calls their files."""
    join_by_invite(hosts)
    (folder_of(hosts) / "server.key").unlink()  # so trust/SystemDigitalTwin.key is all there is
    assert pinned(hosts, SDT) == [hosts.fingerprints[SDT]]
    ran = cli(hosts, "ping", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert set(json.loads(ran.out)["agents"]) == {SDT, UMRA}


def test_the_next_key_of_a_rotation_is_pinned_too(hosts: TwoHosts) -> None:
    """The current one first."""
    following = new_pair(SDT, "mainpc")
    texts = tuple(render_certificate(pair.certificate) for pair in hosts.pairs.values())
    document = TrustDocument("1", texts, (render_certificate(following.certificate),), ())
    TrustFolder(folder_of(hosts) / TRUST_FOLDER, lambda _: None).apply(document)
    assert pinned(hosts, SDT) == [hosts.fingerprints[SDT], following.public.fingerprint]


def test_an_agents_key_is_not_granted_the_audit_log(hosts: TwoHosts, cli: Cli) -> None:
    """One sentence, which says who may."""
    join_by_invite(hosts)
    for command in ("tail", "verify"):
        ran = cli(hosts, "audit", command)
        assert (ran.status, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert ran.err.startswith("error [not_granted]: ")
        assert f"is not granted to {UMRA} (role agent); an operator may ask for it" in ran.err


def test_where_no_file_speaks_of_an_agent_mainpc_is_asked(hosts: TwoHosts, cli: Cli) -> None:
    """Over the authenticated link; every command works."""
    (folder_of(hosts) / "client.key").unlink()
    assert pinned(hosts) == [hosts.fingerprints[UMRA]]
    for command in ("status", "ping", "keys list"):
        ran = cli(hosts, *command.split(), "--json")
        assert (ran.status, ran.err) == (0, "")


def test_a_key_that_expired_here_is_requested_again(hosts: TwoHosts) -> None:
    """The folder of a host that was away while the agent's key was rotated."""
    now = int(time.time())
    over = KeyPair.generate(KeyOwner(UMRA, "pc2", frozenset({"agent"})), Validity(now - 2 * DAY_S, now - DAY_S))
    replace_certificate(over.certificate, folder_of(hosts) / "client.key")
    assert pinned(hosts) == [hosts.fingerprints[UMRA]]


def test_a_key_that_is_revoked_here_is_never_pinned(hosts: TwoHosts, cli: Cli) -> None:
    """Neither the file in the folder nor mainpc, which has not received it yet, brings it back."""
    write_revocation(hosts.pairs["client"].certificate, folder_of(hosts) / REVOKED_FOLDER)
    assert pinned(hosts) == []
    ran = cli(hosts, "ping", "pc2", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "wrong_server_key")
    assert "every pinned key is expired or revoked" in ran.err


def test_mainpc_itself_must_be_known(hosts: TwoHosts, cli: Cli) -> None:
    """Nobody else could vouch for it; the others are asked all the same."""
    (folder_of(hosts) / "server.key").unlink()
    ran = cli(hosts, "status", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (2, "key_file_missing")
    assert "server.key is missing" in ran.out
    assert json.loads(ran.out)["agents"][UMRA]["health"]["status"] == "ok"


def test_an_expired_pin_of_mainpc_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """It is not pinned as if it were good."""
    write_revocation(hosts.pairs["server"].certificate, folder_of(hosts) / REVOKED_FOLDER)
    ran = cli(hosts, "ping", "mainpc", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "wrong_server_key")


def test_an_agent_that_mainpc_does_not_know_is_one_sentence(start_hosts: StartHosts, cli: Cli) -> None:
    """Not registered, so there is no answer to ask for; the error names what to do."""
    hosts = start_hosts()
    (folder_of(hosts) / "client.key").unlink()
    ran = cli(hosts, "ping", "pc2", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "key_file_missing")
    for words in ("client.key is missing", f"{SDT} does not provide the key", f"start {UMRA}", "certs-init trust"):
        assert words in ran.err


def test_an_agent_whose_key_was_revoked_needs_a_new_one(start_hosts: StartHosts, cli: Cli) -> None:
    """Copying its public key would be refused; certs-init makes it another, or says how on two machines."""
    hosts = start_hosts()
    (folder_of(hosts) / "client.key").unlink()
    write_revocation(hosts.pairs["client"].certificate, folder_of(hosts) / REVOKED_FOLDER)
    ran = cli(hosts, "ping", "pc2", "--json")
    assert ran.status == 1
    assert f"it was revoked; for a new key, on mainpc run: docker compose run --rm certs-init replace {UMRA}" in ran.err
    assert "certs-init public" not in ran.err


def test_without_mainpc_the_others_whose_key_is_here_are_shown(
    hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can't be asked hides nobody."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 1.0)
    hosts.mainpc.stop()
    ran = cli(hosts, "keys", "list", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "server_unreachable")
    assert len(json.loads(ran.out)["keys"]) == 3


def test_a_file_of_somebody_elses_key_is_reported(hosts: TwoHosts, cli: Cli) -> None:
    """It is neither pinned nor passed over."""
    (folder_of(hosts) / "client.key").write_bytes((folder_of(hosts) / "server.key").read_bytes())
    ran = cli(hosts, "ping", "pc2", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "key_mismatch")
    assert f"client.key is the key of {SDT}, not of {UMRA}" in ran.err
