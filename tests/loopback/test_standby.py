"""Two processes of each agent with one log in a real PostgreSQL: one serves, and the other one takes over from it.

Both have the same keys. Each has a state folder and ports of its own, as on two machines.
"""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.ledger import check
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts, SmallVolume
from tests.loopback.bare_zmq import Context, Socket
from tests.loopback.test_agents_recovery import times_written, write
from tests.ports import free_ports
from tests.postgres import Cluster, running_cluster
from tests.replayed import contents
from tests.waiting import PATIENCE_S, at_most, suspend, wait_until
from twinhost.certificates.following import ROLE_FILE
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, ConnectionRefused, LimitReached, StoreUnavailable
from twinhost.store.audit_log.followed import FollowedFiles
from twinhost.store.database import LOG_POSITION, Database
from twinhost.store.replication.epochs import CLAIM_AFTER_S, HOLDS_S
from twinhost.store.replication.postgres import TABLES, Log
from twinhost.store.replication.replica import EXIT_STATUS, Replica
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.state_files import MIGRATIONS as SDT_MIGRATIONS
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS as UMRA_MIGRATIONS
from twinhost.unified_memory_reasoning.search.index_tables import FUNCTIONS

_TAKEOVER_S = CLAIM_AFTER_S + PATIENCE_S  # on a busy machine; 5 s are promised, and measured elsewhere
TABLES_FILE = Path("services/twinhost/store/replication/tables.sql")
_QUIET_S = 0.3  # without a reply, and none comes: whoever could send one has ended
_IN_THE_RESERVE = 2 * 1_048_576  # bytes, of a volume of 64 MiB
STOP_GRACE_S = 10.0  # of docker-compose.yml
_NEWEST = {SDT: len(SDT_MIGRATIONS) + 1, UMRA: len(UMRA_MIGRATIONS) + 1}  # the stored replies come first


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


class Machine(Hosts):
    """What one machine has of both hosts."""

    def __init__(self, root: Path, dsn: str, like: "Machine | None" = None, *, same_port: bool = False) -> None:
        """Have keys of its own, or those of another machine; `same_port`: both processes may not serve at once."""
        root.mkdir()
        super().__init__(root)
        self.dsn = dsn
        if like is not None:
            shutil.copytree(like.keys, self.keys, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ROLE_FILE))
            text = Path(like.config.source).read_text()
            for agent in map(like.config.agent, (SDT, UMRA)):
                before = [agent.http_port, *([] if same_port else [agent.zmq_port, agent.events_port])]
                for port, mine in zip(before, free_ports(len(before)), strict=True):
                    text = text.replace(f": {port},", f": {mine},").replace(f": {port}}}", f": {mine}}}")
            (root / "network_config.yaml").write_text(text)
            self.config = load_network_config(root / "network_config.yaml", {})

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of an agent's process."""
        own = {"TWINHOST_PROCESS": self.root.name}
        return super().environment(name) | ({"TWINHOST_DATABASE": self.dsn, **own} if self.dsn else {})

    def follow(self, name: str) -> AgentProcess:
        """Start an agent that stands by."""
        agent = self.start(name)
        wait_until(lambda: agent.logged("standing_by"), PATIENCE_S, f"a second {name} stands by: {agent.lines}")
        assert not agent.logged("active")
        return agent

    def tables(self, name: str) -> dict[str, str]:
        """Return what an agent's file has."""
        with closing(sqlite3.connect(self.database(name))) as connection:
            return contents(connection)

    def ledger_of(self, name: str) -> Path:
        return self.root / f"{name}.ledger"

    def write_without_end(self, name: str) -> "subprocess.Popen[str]":
        """Start a program that writes, and keeps a ledger."""
        environment = self.environment(name) | {"TWINHOST_CERTIFICATES": str(self.folder("operator"))}
        program = [sys.executable, "-m", "tests.loopback.ledger_writer", name, str(self.ledger_of(name))]
        path = os.pathsep.join((environment["PYTHONPATH"], str(Path(__file__).parents[2])))
        return subprocess.Popen(program, env=environment | {"PYTHONPATH": path}, text=True)

    def acknowledged(self, name: str) -> int:
        return self.ledger_of(name).read_text().count('"acknowledged"') if self.ledger_of(name).exists() else 0


@pytest.fixture
def here(tmp_path: Path, cluster: Cluster) -> Iterator[Machine]:
    with Machine(tmp_path / "here", cluster.new_database()) as machine:
        yield machine


@pytest.fixture
def there(tmp_path: Path, here: Machine) -> Iterator[Machine]:
    with Machine(tmp_path / "there", here.dsn, here) as machine:
        yield machine


def log_of(dsn: str, name: str, path: Path) -> dict[str, str]:
    """Return the tables that the whole log makes in an empty file."""
    with closing(Log(dsn, name)) as log, closing(Replica(path, FUNCTIONS, _NEWEST[name])) as replica:
        replica.require_log(log.look().log)
        replica.follow(log, log.last())
        return contents(replica._connection)


def written(machine: Machine, name: str) -> dict[str, int]:
    """Return how often the calls of a ledger took effect, as the machine's file has it."""
    twins = "SELECT user_id, revision FROM twins"
    agents = "SELECT name, json_extract(CAST(record AS TEXT), '$.revision') FROM agents WHERE name LIKE 'call-%'"
    with closing(sqlite3.connect(machine.database(name))) as connection:
        return dict(connection.execute(agents if name == SDT else twins))


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_the_standby_goes_on_where_the_active_was_killed(name: str, here: Machine, tmp_path: Path) -> None:
    """On the same port: the standby binds it only then. The ledger is another process's."""
    with Machine(tmp_path / "there", here.dsn, here, same_port=True) as there:
        first = here.start(name).wait_until_serving()
        second = there.follow(name)
        with here.client(name) as client:
            reply = write(name, client, "kept", request_id="r1")
        with here.write_without_end(name) as writer:
            try:
                wait_until(lambda: here.acknowledged(name) > 20, PATIENCE_S, "calls are acknowledged")
                first.kill()
                killed_at, before = time.monotonic(), here.acknowledged(name)
                wait_until(lambda: here.acknowledged(name) > before + 2, _TAKEOVER_S, "the standby answers")
                print(f"{name} answered {time.monotonic() - killed_at:.2f} s after the kill")
                wait_until(lambda: here.acknowledged(name) > before + 20, PATIENCE_S, "calls are acknowledged")
            finally:
                writer.kill()
        with there.client(name) as client:
            assert write(name, client, "kept", request_id="r1") == reply
            assert times_written(name, client, "kept") == 1
        if name == SDT:
            assert second.health()["checks"]["audit_log"]["ok"]
            audit = "audit/audit-000000000001.jsonl"
            of_both = [(machine.root / SDT / audit).read_bytes() for machine in (here, there)]
            assert of_both[1].startswith(of_both[0])
        assert second.terminate() == 0
        verdict = check(here.ledger_of(name), {call: n for call, n in written(there, name).items() if call != "kept"})
        assert verdict.whole, verdict
        assert there.tables(name) == log_of(there.dsn, name, tmp_path / "from nothing")


def test_a_process_that_was_stopped_does_not_reply(here: Machine, there: Machine, context: Context) -> None:
    """It is continued after another one became active: not to what was asked meanwhile, a read or a change."""
    first = here.start(SDT).wait_until_serving()
    second = there.follow(SDT)
    peer = patient_peer(context, here)
    with here.client(SDT) as client, there.client(SDT) as other:
        write(SDT, client, "before")
        peer.send(request("get_registered_agents"))
        assert b"before" in peer.recv()
        suspend(first.pid)
        peer.send(request("get_registered_agents"))
        peer.send(request("register_agent", agent_name="lost", status="HEALTHY"))
        wait_until(lambda: second.logged("serving"), _TAKEOVER_S, "the standby serves")
        write(SDT, other, "after")
        first.send(signal.SIGCONT)
        assert first.wait() == EXIT_STATUS
        assert first.logged("ended_by_log")
        assert not peer.poll(int(_QUIET_S * 1_000))
        assert times_written(SDT, other, "before") == times_written(SDT, other, "after") == 1
        assert times_written(SDT, other, "lost") == 0
    again = here.follow(SDT)  # and follows what it missed
    assert second.terminate() == 0
    wait_until(lambda: again.logged("serving"), PATIENCE_S, "it serves again, at once")
    with here.client(SDT) as client:
        assert times_written(SDT, client, "after") == 1


def patient_peer(context: Context, machine: Machine) -> Socket:
    """Return a DEALER with the operator's key: a client would give the session up after 2 s without a reply."""
    keys, server = load_certificates(machine.folder("operator")), machine.config.agent(SDT)
    peer = context.socket(zmq.DEALER)
    peer.curve_serverkey = keys.public_key(server.key).z85
    peer.curve_secretkey, peer.curve_publickey = keys.own_keys.secret_z85, keys.own_keys.public.z85
    peer.rcvtimeo = int(PATIENCE_S * 1_000)
    peer.connect(server.endpoint)
    return peer


def request(action: str, **fields: Any) -> bytes:
    return json.dumps({"action": action, **fields}).encode()


def test_memories_are_found_after_a_takeover(here: Machine, there: Machine) -> None:
    """The standby has the index of words, too."""
    first = here.start(UMRA).wait_until_serving()
    there.follow(UMRA)
    with here.client(UMRA) as client:
        client.call("store_memory", content="the roses need water on Friday", keywords=["garden"])
        client.call("add_interaction", session_id="s", interaction_type="user_query", content="my violin is in Cremona")
    first.kill()
    with there.client(UMRA) as client:
        wait_until(lambda: answers(client), _TAKEOVER_S, "the standby answers")
        for query in ("when do the roses need water", "violin"):
            assert client.call("search_memory", query=query)["results"], query
        assert client.call("query_memory", keywords=["garden"])["count"] == 1


def answers(client: Client) -> bool:
    """Return whether an agent replies within a second."""
    with suppress(ConnectionRefused):
        return bool(client.call("ping", deadline_s=1.0))
    return False


def test_without_its_database_an_idle_agent_ends(here: Machine) -> None:
    """Within 3 s it answers nothing more, also no read; and it serves again once the database is back."""
    with running_cluster() as cluster:
        here.dsn = cluster.new_database()
        agent = here.start(SDT).wait_until_serving()
        with here.client(SDT) as client:
            write(SDT, client)
            cluster.stop()
            stopped_at = time.monotonic()
            answered_at = stopped_at
            while answers_now(client):
                answered_at = time.monotonic()
            assert answered_at - stopped_at <= HOLDS_S
        assert agent.wait() == EXIT_STATUS
        again = here.start(SDT)  # and waits, since an engine starts what has ended later each time
        wait_until(lambda: again.logged("log_not_reached"), PATIENCE_S, "it has asked")
        cluster.start()
        with here.client(SDT) as client:
            wait_until(lambda: answers(client), _TAKEOVER_S, "it serves again")
            assert times_written(SDT, client) == 1


def test_both_are_stopped_while_their_database_is_frozen(here: Machine, tmp_path: Path) -> None:
    """Within the time that the engine gives them: a frozen database refuses nothing."""
    with running_cluster() as cluster:
        here.dsn = cluster.new_database()
        with Machine(tmp_path / "there", here.dsn, here) as there:
            active = here.start(UMRA).wait_until_serving()
            standby = there.follow(UMRA)
            cluster.freeze()
            try:
                for process in (active, standby):  # each has asked, and waits
                    with at_most(STOP_GRACE_S):
                        assert process.terminate() == 0
            finally:
                cluster.thaw()
            assert active.logged("epoch_not_released")
            assert standby.logged("log_not_reached")


def test_the_least_role_is_enough(here: Machine, there: Machine, cluster: Cluster) -> None:
    """It may create no table where they are there."""
    with cluster.connect(here.dsn) as connection:
        grants = re.findall(r"^GRANT [^;]+ TO twinhost;", TABLES_FILE.read_text(), re.MULTILINE)
        for statement in (TABLES, "CREATE ROLE least LOGIN", *grants):
            if "CONNECT" not in statement:
                connection.execute(statement.replace("TO twinhost", "TO least").encode())
    here.dsn = here.dsn.replace("postgres@", "least@")
    first = here.start(SDT).wait_until_serving()
    with here.client(SDT) as client:
        write(SDT, client)
    there.dsn = here.dsn
    second = there.follow(SDT)
    assert first.terminate() == 0
    wait_until(lambda: second.logged("serving"), PATIENCE_S, "it serves at once")


def answers_now(client: Client) -> bool:
    try:
        client.call("get_registered_agents", deadline_s=0.2)
    except ConnectionRefused:
        return False
    return True


def test_a_dsn_that_can_not_be_used_is_one_sentence(here: Machine) -> None:
    here.dsn = "postgresql://log:hunter2@db.example/twinhost"
    refused = here.start(SDT)
    assert refused.wait() == ConfigurationError.EXIT_STATUS
    (sentence,) = refused.lines
    assert sentence.startswith(f"{SDT} does not start: TWINHOST_DATABASE can't be used: it has a password in it")
    assert "hunter2" not in sentence


def test_only_an_agent_with_a_log_loads_psycopg(here: Machine) -> None:
    loaded = {}
    for dsn in (here.dsn, ""):
        here.dsn = dsn
        agent = here.start(SDT).wait_until_serving()
        loaded[bool(dsn)] = "psycopg" in Path(f"/proc/{agent.pid}/maps").read_text()
        assert agent.terminate() == 0
    assert loaded == {True: True, False: False}


def test_each_process_says_over_http_what_it_is(here: Machine, there: Machine) -> None:
    """The standby is not ready; once it is active, health, and a metric, have the next epoch."""
    first = here.start(SDT).wait_until_ready()
    second = there.follow(SDT)
    assert roles(first, second) == [("active", 1), ("standby", None)]
    assert second.http("/healthz")[0] == 200
    assert second.http("/readyz")[0] == 503
    wait_until((there.root / f"{SDT}.healthy").exists, PATIENCE_S, "the engine's health check passes")
    with here.client(SDT) as client:
        assert client.call("health")["log"]["role"] == "active"
    assert first.terminate() == 0
    second.wait_until_ready()
    assert roles(second) == [("active", 2)]
    with urllib.request.urlopen(f"http://127.0.0.1:{there.config.agent(SDT).http_port}/metrics") as metrics:
        assert b"twinhost_epoch 2.0" in metrics.read()


def roles(*processes: AgentProcess) -> list[tuple[str, int | None]]:
    documents = [wait_until(process.health, PATIENCE_S, "it answers")["log"] for process in processes]
    return [(document["role"], document.get("epoch")) for document in documents]


def test_a_standby_that_is_told_to_stop_does(here: Machine, there: Machine) -> None:
    here.start(SDT).wait_until_serving()
    standby = there.follow(SDT)
    assert standby.terminate() == 0
    assert not standby.logged("active")


def test_what_the_log_does_not_have_is_refused(here: Machine) -> None:
    """A restored backup: a standby would lose it."""
    agent = here.start(UMRA).wait_until_serving()
    with (
        here.client(UMRA) as client,
        pytest.raises(LimitReached, match="make leave-ha, then restore it, then make up-ha"),
    ):
        client.call("begin_restore", size=1, sha256="0" * 64)
    assert agent.terminate() == 0
    here.database(UMRA).with_name(f"{UMRA}.sqlite3.restore").touch()
    refused = here.start(UMRA)
    assert refused.wait() == ConfigurationError.EXIT_STATUS
    assert "a restored backup waits beside" in refused.lines[-1]


def caught_up(machine: Machine) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the tables of mainpc's agent, and its audit log, once a machine whose process has ended has all."""
    folder = machine.root / SDT
    replica = Replica(machine.database(SDT), FUNCTIONS, _NEWEST[SDT], FollowedFiles(folder / "audit").write)
    with closing(Log(machine.dsn, SDT)) as log, closing(replica):
        replica.follow(log, log.last())
    return machine.tables(SDT), {file.name: file.read_bytes() for file in (folder / "audit").iterdir()}


def joined(first: Machine, second: Machine) -> None:
    """Have a second machine begin with a snapshot of the first one, and be active in its place; stop both."""
    active = first.start(SDT).wait_until_serving()
    standby = second.start(SDT)
    wait_until(lambda: standby.logged("snapshot_joined"), PATIENCE_S, "it begins with a snapshot")
    with first.client(SDT) as client:
        write(SDT, client, "after")
    assert active.terminate() == 0
    wait_until(lambda: standby.logged("serving"), PATIENCE_S, "it serves at once")
    with second.client(SDT) as client:
        assert [times_written(SDT, client, name) for name in ("a", "b", "c")] == [1, 1, 1]
    assert standby.health()["checks"]["audit_log"]["ok"]
    assert standby.terminate() == 0
    assert caught_up(first) == caught_up(second)


def test_a_deployment_gets_standbys_and_leaves_them(here: Machine, there: Machine, cluster: Cluster) -> None:
    """From a volume of before to a log, back to one machine alone, and to another log: no row and no line differs."""
    dsn, here.dsn = here.dsn, ""
    agent = here.start(SDT).wait_until_serving()
    with here.client(SDT) as client:
        for name in ("a", "b", "c"):
            write(SDT, client, name)
    assert agent.terminate() == 0
    here.dsn = dsn
    joined(here, there)

    with_log, lines = caught_up(here)
    here.dsn = ""
    Database(here.database(SDT), [REPLY_LOG_SCHEMA, *SDT_MIGRATIONS]).close()  # as an agent without a log opens it
    del with_log[LOG_POSITION]
    assert here.tables(SDT) == with_log
    agent = here.start(SDT).wait_until_serving()
    with here.client(SDT) as client:
        assert [times_written(SDT, client, name) for name in ("a", "after")] == [1, 1]
        write(SDT, client, "alone")
    assert agent.health()["checks"]["audit_log"]["ok"]
    assert agent.terminate() == 0
    for name, content in lines.items():
        assert (here.root / SDT / "audit" / name).read_bytes().startswith(content)

    here.dsn = there.dsn = cluster.new_database()
    joined(here, there)
    with closing(sqlite3.connect(there.database(SDT))) as connection:
        assert connection.execute("SELECT count(*) FROM agents WHERE name = 'alone'").fetchone() == (1,)
    assert len(list((there.root / SDT).glob("*.sqlite3.replaced-*Z"))) == 1  # it was of the first log
    assert len(list((there.root / SDT).glob("audit.replaced-*Z"))) == 1


def test_who_followed_last_does_not_serve_alone(here: Machine, there: Machine) -> None:
    """It may lack what the other machine has, and revocations; the one that was active last serves."""
    first = here.start(SDT).wait_until_serving()
    second = there.follow(SDT)
    wait_until((there.folder(SDT) / ROLE_FILE).exists, PATIENCE_S, "it follows")
    assert second.terminate() == 0
    assert first.terminate() == 0
    here.dsn = there.dsn = ""
    refused = there.start(SDT)
    assert refused.wait() == ConfigurationError.EXIT_STATUS
    assert f"{SDT} was active on here last, which these files and keys follow: start it there" in refused.lines[-1]
    here.start(SDT).wait_until_serving()


def test_where_the_disk_is_full_the_standby_goes_on(here: Machine, there: Machine) -> None:
    """PostgreSQL has the transaction that the full disk does not; the process says what to do, and then follows."""
    with here.small_volume(SDT) as volume:
        first = here.start(SDT).wait_until_serving()
        second = there.follow(SDT)
        with here.client(SDT) as client:
            write(SDT, client, "before")
            volume.fill()
            with suppress(ConnectionRefused):
                for number in range(1_000):
                    write(SDT, client, f"call-{number}", deadline_s=CLAIM_AFTER_S)
        assert first.wait() == EXIT_STATUS
        (ended,) = first.logged("ended_by_log")
        assert "is in the log and SQLite failed: database or disk is full" in ended["reason"]
        wait_until(lambda: second.logged("serving"), _TAKEOVER_S, "the standby serves")
        with there.client(SDT) as client:
            assert times_written(SDT, client, "before") == 1
        refused = here.start(SDT)
        assert refused.wait() == ConfigurationError.EXIT_STATUS
        assert "(database or disk is full); free space on its volume" in refused.lines[-1]
        volume.empty()
        again = here.follow(SDT)
        assert second.terminate() == 0
        wait_until(lambda: again.logged("serving"), PATIENCE_S, "it serves at once")
        assert again.terminate() == 0
        assert caught_up(here) == caught_up(there)


def test_an_agent_without_space_gives_way(here: Machine, there: Machine) -> None:
    """Though nothing that it writes fails. A standby that has no space either does not replace it."""
    with SmallVolume(here.root / SDT, "64m") as volume, SmallVolume(there.root / SDT, "64m") as other:
        first = here.start(SDT).wait_until_serving()
        other.fill(but=_IN_THE_RESERVE)
        second = there.follow(SDT)
        wait_until(lambda: f"standby_differs:{SDT}" in attention(first), PATIENCE_S, "the standby's volume is full")
        volume.fill(but=_IN_THE_RESERVE)
        wait_until(lambda: not first.health()["checks"]["disk"]["ok"], PATIENCE_S, "the agent's volume is full")
        with here.client(SDT) as client, pytest.raises(StoreUnavailable):
            client.call("publish_event", event={"event_type": "refused", "source_agent": "operator", "data": {}})
        other.empty()
        assert first.wait() == EXIT_STATUS
        (again,) = first.logged("starting_again")
        assert "a standby goes on, since " in again["reason"]
        wait_until(lambda: second.logged("serving"), PATIENCE_S, "the standby serves at once")
        with there.client(SDT) as client:
            write(SDT, client, "after")


def attention(mainpc: AgentProcess) -> list[str]:
    """Return the ids of the attention list."""
    return [item["id"] for item in mainpc.http("/api/state")[1]["attention"]["items"]]


def test_who_has_run_without_the_log_does_not_follow_it(here: Machine, there: Machine) -> None:
    first = here.start(SDT).wait_until_serving()
    assert first.terminate() == 0
    dsn, here.dsn = here.dsn, ""
    alone = here.start(SDT).wait_until_serving()
    assert alone.terminate() == 0
    there.start(SDT).wait_until_serving()
    here.dsn = dsn
    refused = here.start(SDT)
    assert refused.wait() == ConfigurationError.EXIT_STATUS
    assert "was not made from this log; move it away to begin with a snapshot" in refused.lines[-1]
