"""Keys after a takeover: whoever was told that a key is enrolled, retired, or revoked finds it so on the other machine.

The active process is killed right after each reply. Each machine has a folder of keys of its own.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess
from tests.loopback.test_standby import _TAKEOVER_S, Machine, answers
from tests.postgres import Cluster, running_cluster
from tests.unit.certificates.trees import Ran, certs_init
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.self_check import INTERVAL_S
from twinhost.certificates.acknowledgement import HostAnswer, wait_until_acknowledged
from twinhost.certificates.admission import invite
from twinhost.certificates.bundle import Invitation, request_fingerprint
from twinhost.certificates.following import active_elsewhere
from twinhost.certificates.layout import plan_layout
from twinhost.certificates.revoke import revoke
from twinhost.network_config import NetworkConfig
from twinhost.network_config.model import Host
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, NotGranted, PeerNotLive
from twinhost.secure_zmq.key_writer import render_certificate, revoked_file_name, write_key_pair
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.store.audit_log.copies import copied_log
from twinhost.store.replication.looks import SILENT_AFTER_S
from twinhost.store.replication.postgres import Log
from twinhost.store.replication.snapshots import write_snapshot
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

SEEN_WITHIN_S = INTERVAL_S + SILENT_AFTER_S + PATIENCE_S
OWNER = KeyOwner("somebody", "pc3", frozenset({"agent"}))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


class Pair(NamedTuple):
    """Both machines, and the process that serves on the first one while the other stands by."""

    here: Machine
    there: Machine
    first: AgentProcess

    def take_over(self) -> None:
        """Kill the active process, and wait until the other one answers."""
        self.first.kill()
        with self.there.client(SDT) as client:
            wait_until(lambda: answers(client), _TAKEOVER_S, "the standby answers")


@pytest.fixture
def pair(tmp_path: Path, cluster: Cluster) -> Iterator[Pair]:
    with (
        Machine(tmp_path / "here", cluster.new_database()) as here,
        Machine(tmp_path / "there", here.dsn, here) as there,
    ):
        first = here.start(SDT).wait_until_serving()
        there.follow(SDT)
        yield Pair(here, there, first)


def client_with(machine: Machine, keys: KeyPair, agent: str = SDT) -> Client:
    """Return a client of an agent of the machine with a pair of its own."""
    server = machine.config.agent(agent)
    pin = load_certificates(machine.folder("operator")).public_key(server.key)
    return Client(SecuredAddress(server.endpoint, keys, pin))


def new_invitation(machine: Machine) -> Invitation:
    invitation = invite(plan_layout(machine.keys, machine.config, None), machine.config, OWNER, 15)
    token = invitation.token
    wait_until(lambda: accepted(machine, token), PATIENCE_S, "mainpc knows of the invitation")
    return invitation


def accepted(machine: Machine, keys: KeyPair, agent: str = SDT) -> bool:
    """Return whether a key is accepted at a handshake, whatever its holder may do."""
    with client_with(machine, keys, agent) as client:
        try:
            client.call("get_peers", deadline_s=PATIENCE_S)
        except (NotAuthorized, PeerNotLive):
            return False
        except NotGranted:
            return True
        return True


def enrol(machine: Machine, by: KeyPair, action: str = "enrol") -> KeyPair:
    """Have a new key authorised, which another one proposes."""
    keys = KeyPair.generate(OWNER)
    fields: dict[str, Any] = {"may_retire": True} if action == "propose_key" else {}
    with client_with(machine, by) as client:
        client.call(action, public_key=keys.public.z85.decode(), **fields)
    with client_with(machine, keys) as client:
        client.call("confirm_key")
    return keys


def test_a_key_that_was_confirmed_is_accepted(pair: Pair) -> None:
    """And its invitation is used."""
    invitation = new_invitation(pair.here)
    keys = enrol(pair.here, invitation.token)
    pair.take_over()
    assert accepted(pair.there, keys)
    assert not accepted(pair.there, invitation.token)


def test_a_machine_that_begins_with_a_snapshot_has_the_keys(tmp_path: Path, cluster: Cluster) -> None:
    """Its folder was made before the key was enrolled, and the log after the snapshot has nothing of it."""
    with (
        Machine(tmp_path / "here", cluster.new_database()) as here,
        Machine(tmp_path / "there", here.dsn, here) as there,
    ):
        first = here.start(SDT).wait_until_serving()
        keys = enrol(here, new_invitation(here).token)
        with closing(Log(here.dsn, SDT)) as log, cluster.connect(here.dsn) as connection:
            state = here.root / SDT
            copied = partial(copied_log, state / AUDIT_FOLDER)
            seq = write_snapshot(
                here.database(SDT), lambda _, copy: copied(copy / AUDIT_FOLDER, copy / f"{SDT}.sqlite3"), log
            )
            connection.execute("DELETE FROM commits WHERE seq <= %s", (seq,))
        second = there.follow(SDT)
        wait_until(lambda: second.logged("snapshot_joined"), PATIENCE_S, "it begins with the snapshot")
        of_both = [{file.name for file in machine.folder(SDT).glob("enrolled/*.key")} for machine in (here, there)]
        assert of_both[0] == of_both[1] != set()
        Pair(here, there, first).take_over()
        assert accepted(there, keys)


def test_a_key_that_was_retired_is_refused(pair: Pair) -> None:
    older = enrol(pair.here, new_invitation(pair.here).token)
    newer = enrol(pair.here, older, "propose_key")

    def retired() -> bool:
        with client_with(pair.here, newer) as client:
            return bool(client.call("retire_keys")["retired"] == [older.public.fingerprint])

    wait_until(retired, PATIENCE_S, "the older key is retired, once it was quiet for long enough")
    pair.take_over()
    assert accepted(pair.there, newer)
    assert not accepted(pair.there, older)


def test_a_revocation_that_was_acknowledged_holds(pair: Pair) -> None:
    """As certs-init asks: it says so only once a standby has the revocation."""
    keys = enrol(pair.here, new_invitation(pair.here).token)
    layout = plan_layout(pair.here.keys, pair.here.config, None)
    done = revoke(layout, OWNER.name)
    fingerprints = [target.fingerprint for target in done.revoked]
    answers_ = wait_until_acknowledged(layout, pair.here.config, fingerprints, [])
    assert HostAnswer("mainpc", f"acknowledged by {SDT}") in answers_
    pair.take_over()
    assert not accepted(pair.there, keys)


def at_both_addresses(pair: Pair) -> NetworkConfig:
    """Return a configuration in which SystemDigitalTwin is on either machine."""
    agent, there = pair.here.config.agent(SDT), pair.there.config.agent(SDT)
    both = replace(agent, standby=Host("pc2", "127.0.0.1"), standby_ports={"zmq": there.zmq_port})
    return replace(pair.here.config, agents={**pair.here.config.agents, SDT: both})


def test_certs_init_asks_the_machine_that_is_active(pair: Pair) -> None:
    """And doesn't take a dead one for a stopped one, whose folder has the revocation at its next start."""
    config, tree = at_both_addresses(pair), plan_layout(pair.there.keys, pair.there.config, None)
    keys = enrol(pair.here, new_invitation(pair.here).token)
    pair.take_over()
    fingerprints = [target.fingerprint for target in revoke(tree, OWNER.name).revoked]
    assert HostAnswer("mainpc", f"acknowledged by {SDT}") in wait_until_acknowledged(tree, config, fingerprints, [])
    assert not accepted(pair.there, keys)
    for process in pair.there.processes:
        process.kill()
    answer = wait_until_acknowledged(tree, config, fingerprints, [])[0]
    assert (answer.host, answer.missing) == ("mainpc", True)
    assert "did not answer" in answer.sentence


def test_the_commands_of_one_machine_go_where_it_is_active(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers, where certs-init has a volume of the standbys' folders beside its own."""
    monkeypatch.setattr("twinhost.cli.certs_init.CERTIFICATES_VOLUME", pair.here.keys)
    monkeypatch.setattr("twinhost.cli.certs_init.STANDBYS_VOLUME", pair.there.keys)
    config, port = pair.here.root / "both.yaml", pair.there.config.agent(SDT).zmq_port
    standby = f"standby: {{host: pc2, address: 127.0.0.1, ports: {{zmq: {port}}}}}, ports:"
    config.write_text(Path(pair.here.config.source).read_text().replace("ports:", standby, 1))

    def run(*arguments: str, given: str = "") -> Ran:
        settings = {"TWINHOST_DATABASE": pair.here.dsn}
        return certs_init(pair.here.keys, *arguments, stdin=given.encode(), config=str(config), settings=settings)

    pair.take_over()
    again = pair.here.follow(SDT)
    wait_until(lambda: active_elsewhere(pair.here.folder(SDT)), PATIENCE_S, f"it follows: {again.lines}")
    guest = KeyPair.generate(OWNER)
    ran = run(
        "accept",
        "-",
        "--fingerprint",
        request_fingerprint(guest.certificate),
        given=render_certificate(guest.certificate),
    )
    assert ran.status == 0, ran.err
    wait_until(lambda: accepted(pair.there, guest), PATIENCE_S, "the guest is let in")
    ran = run("revoke", OWNER.name)
    assert f"mainpc: acknowledged by {SDT}" in ran.out, ran.out + ran.err
    assert not accepted(pair.there, guest)
    revoked = pair.here.folder(SDT) / "revoked" / revoked_file_name(guest.public.fingerprint)
    wait_until(revoked.exists, PATIENCE_S, "the folder that follows has the revocation")


def test_pc2_s_standby_refuses_what_pc2_has_acknowledged(tmp_path: Path, cluster: Cluster) -> None:
    """It reaches no SystemDigitalTwin, so it knows only what the log has."""
    with (
        Machine(tmp_path / "here", cluster.new_database()) as here,
        Machine(tmp_path / "there", here.dsn, here) as there,
    ):
        here.start(SDT).wait_until_serving()
        first = here.start(UMRA).wait_until_ready()
        there.follow(UMRA)
        keys = enrol(here, new_invitation(here).token)
        wait_until(lambda: accepted(here, keys, UMRA), PATIENCE_S, "pc2 accepts it")
        layout = plan_layout(here.keys, here.config, None)
        fingerprints = [target.fingerprint for target in revoke(layout, OWNER.name).revoked]
        answers_ = wait_until_acknowledged(layout, here.config, fingerprints, [])
        assert HostAnswer("pc2", f"acknowledged by {UMRA}") in answers_
        first.kill()
        with there.client(UMRA) as client:
            wait_until(lambda: answers(client), _TAKEOVER_S, "the standby answers")
        assert not accepted(there, keys, UMRA)


def test_who_comes_back_has_the_log_s_keys_and_each_revocation(pair: Pair) -> None:
    """Its folder lacks a key that was enrolled meanwhile, and has a revocation that nobody was told of."""
    unheard = enrol(pair.here, new_invitation(pair.here).token)
    pair.take_over()
    layout = plan_layout(pair.here.keys, pair.here.config, None)
    revoke(layout, OWNER.name)
    there = plan_layout(pair.there.keys, pair.there.config, None)
    fingerprints = [target.fingerprint for target in revoke(there, "operator").revoked]
    assert HostAnswer("mainpc", f"acknowledged by {SDT}") in wait_until_acknowledged(
        there, pair.there.config, fingerprints, []
    )
    invitation = invite(there, pair.there.config, KeyOwner("late", "pc3", frozenset({"agent"})), 15)
    wait_until(lambda: accepted(pair.there, invitation.token), PATIENCE_S, "it knows of the invitation")
    again = pair.here.follow(SDT)
    folder = pair.here.folder(SDT)
    wait_until((folder / "invites/late.key").exists, PATIENCE_S, "the invitation is in its folder")
    assert active_elsewhere(folder)
    assert active_elsewhere(pair.there.folder(SDT)) is None
    for process in pair.there.processes:
        process.terminate()
    wait_until(lambda: again.logged("serving"), _TAKEOVER_S, "the first machine serves again")
    assert active_elsewhere(folder) is None
    assert accepted(pair.here, invitation.token)
    assert not accepted(pair.here, unheard)


def test_what_was_written_while_nothing_ran_is_kept(pair: Pair) -> None:
    """The folder of the machine that was active last is the newest: its own log's older contents don't replace it."""
    for process in (*pair.there.processes, *pair.here.processes):
        process.terminate()
    invitation = invite(plan_layout(pair.here.keys, pair.here.config, None), pair.here.config, OWNER, 15)
    pair.here.start(SDT).wait_until_serving()
    assert accepted(pair.here, invitation.token)


def test_no_secret_is_in_the_log(pair: Pair, cluster: Cluster) -> None:
    """Neither one that lies where it belongs, nor one under the name of a public key."""
    folder = pair.here.folder(SDT)
    secret = (folder / "server.key_secret").read_text()
    (folder / "wrong.key").write_text(secret)
    new_invitation(pair.here)  # so that the folder was read since
    with cluster.connect(pair.here.dsn) as connection:
        log = b"".join(row[0] for row in connection.execute("SELECT statements FROM commits").fetchall())
    assert (folder / "server.key").read_bytes() in log
    secrets = {path.read_text().split('secret-key = "')[1][:40] for path in pair.here.keys.rglob("*.key_secret")}
    assert len(secrets) == 3
    assert not [found for found in secrets if found.encode() in log]


def warnings(standby: AgentProcess) -> str:
    """Return what a process that stands by warns of over HTTP."""
    return "\n".join(standby.health().get("warnings", ["no answer"]))


def cause(pair: Pair) -> str:
    """Return why a standby would not be the agent as the active process is, as that one says."""
    with pair.here.client(SDT) as client:
        items = client.call("get_attention")["items"]
    return " ".join(item["cause"] for item in items if item["kind"] == "standby_differs")


def test_a_standby_with_another_secret_does_not_take_over(pair: Pair, tmp_path: Path) -> None:
    """It says so: clients would refuse it, and the machine that comes back could not be active."""
    with Machine(tmp_path / "other", pair.here.dsn, pair.here) as other:
        for path in other.folder(SDT).glob("server.key*"):
            path.unlink()
        another = KeyPair.generate(KeyOwner(SDT, "mainpc", frozenset({"agent"})))
        write_key_pair(another, other.folder(SDT) / "server.key_secret")
        standby = other.follow(SDT)
        wait_until(lambda: "copy the secret again" in warnings(standby), PATIENCE_S, f"it warns: {standby.lines}")
        wait_until(lambda: "copy the secret again" in cause(pair), SEEN_WITHIN_S, "the attention list has it")
        pair.take_over()
        assert not standby.logged("active")


def test_a_standby_warns_of_another_configuration(pair: Pair, tmp_path: Path) -> None:
    with Machine(tmp_path / "other", pair.here.dsn, pair.here) as other:
        path = Path(other.config.source)
        path.write_text(path.read_text().replace("registration_ttl_s: 15", "registration_ttl_s: 16"))
        standby = other.follow(SDT)
        wait_until(lambda: "limits in network_config.yaml differs" in warnings(standby), PATIENCE_S, "it warns")
        wait_until(lambda: "limits in network" in cause(pair), SEEN_WITHIN_S, "the attention list has it")
        path.write_text(path.read_text().replace("registration_ttl_s: 16", "registration_ttl_s: 15"))
        wait_until(lambda: not cause(pair), SEEN_WITHIN_S, "it is off the list")
    assert warnings(pair.there.processes[0]) == ""
