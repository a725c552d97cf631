"""The database of a failover, in containers: who is let in, and that the node with the writes may die."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import docker
import pytest
from docker.models.containers import Container

from tests.containers.kept import Finished, execute
from tests.containers.stack import REPOSITORY, Stack
from tests.waiting import wait_until

IMAGE = "twinhost-database:0.2.0"
WITNESS = "witness"
NODES = ("database-mainpc", "database-pc2")
STATES = "SELECT nodename, goalstate FROM pgautofailover.node"
FORMED_WITHIN_S = 120.0
WRITES_AGAIN_WITHIN_S = 28.0  # 13 s on an idle machine, 20 s if the primary is frozen
AS_MAINPC = "sslcert=/keys/mainpc/agent.crt sslkey=/keys/mainpc/agent.key"
AS_NODE = "sslcert=/keys/database-pc2/node.crt sslkey=/keys/database-pc2/node.key"
NOBODY = "sslcert=/none sslkey=/none"
FOREIGN = "sslcert=/tmp/foreign.crt sslkey=/tmp/foreign.key"
VERIFIED = "sslmode=verify-full sslrootcert=/keys/ca/ca.crt"
# Writes a line for each row that was acknowledged without a warning, and for each that was not, until a file is there.
WRITER = f"""
import os, subprocess, sys
agent = sys.argv[1]
dsn = "{VERIFIED} {AS_MAINPC} user=twinhost dbname=twinhost target_session_attrs=read-write connect_timeout=2"
dsn += " host={",".join(NODES)}"
seq = 0
while not os.path.exists(f"/tmp/{{agent}}.stop"):
    seq += 1
    insert = f"INSERT INTO commits VALUES ('{{agent}}', {{seq}}, 1, 'x')"
    done = subprocess.run(["timeout", "--signal=KILL", "3", "psql", "-XqAt", dsn, "-c", insert], capture_output=True)
    print("failed" if done.returncode or done.stderr else seq, flush=True)
print("end", flush=True)
"""


class Ledger:
    """A process that appends, and what it was told was stored."""

    def __init__(self, client: Container, agent: str) -> None:
        self._client, self._agent = client, agent
        script = f'python3 -c "$WRITER" {agent} >/tmp/{agent}'
        client.exec_run(["sh", "-c", script], environment={"WRITER": WRITER}, detach=True)
        wait_until(lambda: "20" in self.lines(), 30, "rows are acknowledged")

    def lines(self) -> list[str]:
        """Return the number of each row, or that it failed."""
        return execute(self._client, "cat", f"/tmp/{self._agent}").out.split()

    def wait_for_more(self) -> float:
        """Return after how many seconds a row was acknowledged that was not yet sent now."""
        began, lines = time.monotonic(), len(self.lines()) + 1
        wait_until(lambda: set(self.lines()[lines:]) - {"failed"}, 60, "rows are acknowledged again")
        return time.monotonic() - began

    def finish(self) -> set[str]:
        """Return the rows that were acknowledged."""
        execute(self._client, "touch", f"/tmp/{self._agent}.stop")
        wait_until(lambda: "end" in self.lines(), 30, "it has ended")
        return set(self.lines()) - {"failed", "end"}


@dataclass(frozen=True)
class Pair:
    """Both nodes, their witness, and a container that has every key, to try them from."""

    stack: Stack
    client: Container
    formed_s: float

    def ask(self, service: str, sql: str, database: str = "twinhost") -> str:
        """Return what a server's own superuser is answered."""
        done = self.stack.execute(service, "psql", "-XqAt", "--field-separator= ", "-c", sql, database)
        assert done.status == 0, done.err
        return done.out.strip()

    def states(self) -> dict[str, str]:
        """Return the state that the witness has given each node."""
        return dict(line.split(" ") for line in self.ask(WITNESS, STATES, "pg_auto_failover").splitlines())

    def node(self, state: str) -> str:
        """Return the node in a state."""
        (name,) = [name for name, given in self.states().items() if given == state]
        return name

    def connect(self, dsn: str, sql: str = "SELECT 1") -> Finished:
        """Connect from elsewhere."""
        return execute(self.client, "psql", "-XqAt", f"{VERIFIED} {dsn}", "-c", sql)

    def wait_until_formed(self) -> None:
        """Wait until each commit is on both nodes."""
        done = self.stack.execute(WITNESS, "python3", "/app/database/run.py", "formed")
        assert done.status == 0, done.err + self.stack.compose("logs", *NODES).out


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    stack = Stack(tmp_path_factory.mktemp("database"), {}, services=(WITNESS, *NODES))
    client = None
    try:
        began = time.monotonic()
        stack.start()
        wait_until(lambda: stack.execute(WITNESS, "pg_isready", "--quiet").status == 0, 60, "the witness answers")
        done = stack.execute(WITNESS, "python3", "/app/database/run.py", "formed")
        assert done.status == 0, done.err + stack.compose("logs", *NODES).out
        formed_s = time.monotonic() - began
        keys = {f"{stack.project}_database-certificates": {"bind": "/keys", "mode": "ro"}}
        client = engine.containers.run(
            IMAGE,
            ["infinity"],
            entrypoint="sleep",
            init=True,
            network=f"{stack.project}_link",
            volumes=keys,
            detach=True,
        )
        yield Pair(stack, client, formed_s)
    finally:
        if client is not None:
            client.remove(force=True)
        stack.stop()


def test_it_forms_from_nothing_and_has_each_commit_twice(pair: Pair) -> None:
    assert pair.formed_s < FORMED_WITHIN_S
    assert sorted(pair.states().values()) == ["primary", "secondary"]
    primary = pair.node("primary")
    assert pair.ask(primary, "SELECT sync_state FROM pg_stat_replication") == "quorum"
    assert pair.ask(primary, "SHOW synchronous_commit") == "on"
    assert pair.ask(primary, "SHOW wal_sender_timeout") == "4s"
    ssl = "SELECT DISTINCT ssl, version, client_dn FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)"
    assert pair.ask(primary, ssl) == f"t TLSv1.3 /CN={pair.node('secondary')}"


def test_a_node_takes_no_server_that_is_not_verified(pair: Pair) -> None:
    """Also where pg_auto_failover does not ask for it."""
    dsn = f"host={NODES[0]} user=pgautofailover_replicator dbname=twinhost"
    assert pair.stack.execute(NODES[1], "psql", "-XqAt", dsn, "-c", "SELECT 1").out == "1\n"
    done = pair.stack.execute(NODES[1], "psql", "-XqAt", f"{dsn} sslrootcert=/none", "-c", "SELECT 1")
    assert done.status != 0
    assert "sslrootcert" in done.err or "root certificate file" in done.err
    receiver = pair.ask(pair.node("secondary"), "SELECT conninfo FROM pg_stat_wal_receiver")
    assert "sslmode=verify-full" in receiver


def test_connections_are_refused_without_the_right_key(pair: Pair) -> None:
    node, twinhost = f"host={NODES[0]}", "user=twinhost dbname=twinhost"
    replicator = "user=pgautofailover_replicator dbname=postgres"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=mainpc"
    assert execute(pair.client, *made.split(), "-keyout", "/tmp/foreign.key", "-out", "/tmp/foreign.crt").status == 0
    refused = {
        f"{node} {twinhost} {NOBODY}": "connection requires a valid client certificate",
        f"{node} {replicator} {NOBODY}": "connection requires a valid client certificate",
        f"{node} {twinhost} {FOREIGN}": "unknown ca",
        f"{node} {twinhost} {AS_MAINPC} sslmode=disable": "no encryption",
        f"{node} {twinhost} {AS_NODE}": 'certificate authentication failed for user "twinhost"',
        f"{node} {replicator} {AS_MAINPC}": 'certificate authentication failed for user "pgautofailover_replicator"',
        f"{node} user=twinhost dbname=postgres {AS_MAINPC}": "no pg_hba.conf entry",
        f"{node} user=postgres dbname=twinhost {AS_MAINPC}": "no pg_hba.conf entry",
        f"{node} {twinhost} {AS_MAINPC} sslrootcert=/tmp/foreign.crt": "certificate verify failed",
        f"host={WITNESS} user=autoctl_node dbname=pg_auto_failover {AS_MAINPC}": "certificate authentication failed",
        f"host={WITNESS} user=autoctl_node dbname=pg_auto_failover {NOBODY}": "requires a valid client certificate",
    }
    for dsn, reason in refused.items():
        done = pair.connect(dsn)
        assert done.status != 0, dsn
        assert reason in done.err, dsn
    done = pair.connect(f"{node} {twinhost} {AS_MAINPC}")
    assert (done.status, done.out) == (0, "1\n"), done.err


def test_an_agent_can_append_and_no_more(pair: Pair) -> None:
    agent = f"host={pair.node('primary')} user=twinhost dbname=twinhost {AS_MAINPC}"
    allowed = (
        "INSERT INTO epochs (agent) VALUES ('a')",
        "UPDATE epochs SET epoch = epoch + 1 WHERE agent = 'a'",
        "INSERT INTO commits SELECT agent, 1, epoch, 'x' FROM epochs WHERE agent = 'a' AND epoch = 1 FOR SHARE",
        "SELECT count(*) FROM commits WHERE agent = 'a'",
    )
    for sql in allowed:
        done = pair.connect(agent, sql)
        assert (done.status, done.err) == (0, ""), sql
    refused = (
        "UPDATE commits SET statements = 'y'",
        "DELETE FROM commits",
        "DELETE FROM epochs",
        "TRUNCATE commits",
        "DROP TABLE commits",
        "CREATE TABLE mine (a int)",
        "CREATE TEMPORARY TABLE mine (a int)",
        "COPY commits TO PROGRAM 'true'",
        "ALTER SYSTEM SET synchronous_commit = off",
        "SELECT pg_read_file('/certificates/node.key')",
    )
    for sql in refused:
        done = pair.connect(agent, sql)
        assert done.status != 0, sql
        assert "permission denied" in done.err or "must be owner" in done.err, done.err


def test_tables_of_an_older_version_get_what_is_new(pair: Pair) -> None:
    """At the next `make up`, which asks both nodes; the one that follows has it from the other."""
    tables = (REPOSITORY / "services/twinhost/store/replication/tables.sql").read_text()
    pair.ask(pair.node("primary"), "ALTER TABLE epochs DROP COLUMN turn")
    for node in NODES:
        done = pair.stack.compose("exec", "-T", node, "python3", "/app/database/run.py", "tables", given=tables)
        assert (done.status, done.out, done.err) == (0, "", "")
    agent = f"host={pair.node('primary')} user=twinhost dbname=twinhost {AS_MAINPC}"
    done = pair.connect(agent, "SELECT turn FROM epochs")
    assert (done.status, done.err) == (0, "")


def test_a_volume_has_one_server(pair: Pair) -> None:
    done = pair.stack.compose("run", "--rm", "-T", "--no-deps", pair.node("secondary"))
    assert done.status == 1
    assert "another container uses this volume" in done.err


def stored(pair: Pair, node: str, agent: str) -> set[str]:
    return set(pair.ask(node, f"SELECT seq FROM commits WHERE agent = '{agent}'").split())


def test_the_primary_dies_and_comes_back(pair: Pair) -> None:
    """All that was acknowledged is on the other node, and on itself once it is back."""
    first, second = pair.node("primary"), pair.node("secondary")
    ledger = Ledger(pair.client, "a1")
    pair.stack.container(first).kill()
    assert ledger.wait_for_more() < WRITES_AGAIN_WITHIN_S
    assert "failed" in ledger.lines()
    assert pair.node("wait_primary") == second

    _take_over_its_pid(pair, first)
    pair.stack.container(first).start()
    pair.wait_until_formed()
    assert (pair.node("primary"), pair.node("secondary")) == (second, first)
    assert "servers diverged at WAL location" in pair.stack.logs(first)  # by pg_rewind, perhaps on a line of its own
    acknowledged = ledger.finish()
    there = stored(pair, second, "a1")
    assert acknowledged <= there
    wait_until(lambda: stored(pair, first, "a1") == there, 10, "it has the same rows")


def test_a_frozen_primary_is_replaced(pair: Pair) -> None:
    first, second = pair.node("primary"), pair.node("secondary")
    ledger = Ledger(pair.client, "a3")
    pair.stack.container(first).pause()
    try:
        assert ledger.wait_for_more() < WRITES_AGAIN_WITHIN_S
    finally:
        pair.stack.container(first).unpause()
    pair.wait_until_formed()
    assert (pair.node("primary"), pair.node("secondary")) == (second, first)
    acknowledged = ledger.finish()
    assert acknowledged <= stored(pair, second, "a3")


def test_writes_go_on_without_the_standby(pair: Pair) -> None:
    first, second = pair.node("primary"), pair.node("secondary")
    ledger = Ledger(pair.client, "a2")
    pair.stack.container(second).kill()
    assert ledger.wait_for_more() < WRITES_AGAIN_WITHIN_S
    wait_until(lambda: pair.states()[first] == "wait_primary", 30, "one copy is enough")
    pair.stack.container(second).start()
    pair.wait_until_formed()
    acknowledged = ledger.finish()
    assert acknowledged <= stored(pair, first, "a2")
    wait_until(lambda: stored(pair, second, "a2") >= acknowledged, 10, "it has the rows that it missed")


def test_a_server_that_follows_never_starts_to_take_writes(pair: Pair) -> None:
    """pg_auto_failover takes the file away by which it follows, and may start a server that has crashed just then."""
    first, second = pair.node("primary"), pair.node("secondary")
    ledger = Ledger(pair.client, "a5")
    log = len(pair.stack.logs(second))
    crash = "rm standby.signal && kill -KILL $(head -n 1 postmaster.pid)"
    done = pair.stack.execute(second, "sh", "-c", f"cd /var/lib/postgresql/data && {crash}")
    assert done.status == 0, done.err
    wait_until(lambda: "PostgreSQL was not running, restarted" in pair.stack.logs(second)[log:], 30, "it is started")
    pair.wait_until_formed()
    assert (pair.node("primary"), pair.node("secondary")) == (first, second)
    acknowledged = ledger.finish()
    wait_until(lambda: stored(pair, second, "a5") >= acknowledged, 10, "it has all rows")


@pytest.mark.parametrize("state", ["secondary", "primary"])
def test_a_node_whose_volume_was_lost_begins_again(pair: Pair, state: str) -> None:
    """As a copy of the other one, once that takes writes."""
    lost = pair.node(state)
    other = next(node for node in NODES if node != lost)
    ledger = Ledger(pair.client, f"lost-{state}")
    pair.stack.container(lost).kill()
    _change_volume(pair, lost, "find . -mindepth 1 -delete")
    pair.stack.container(lost).start()
    assert ledger.wait_for_more() < WRITES_AGAIN_WITHIN_S
    pair.wait_until_formed()
    assert (pair.node("primary"), pair.node("secondary")) == (other, lost)
    acknowledged = ledger.finish()
    assert acknowledged <= stored(pair, other, f"lost-{state}")
    wait_until(lambda: stored(pair, lost, f"lost-{state}") >= acknowledged, 10, "it has a copy of all")


def test_a_new_witness_gets_to_know_both_nodes(pair: Pair) -> None:
    """In place of one that was lost, beside writes; then it promotes, as the lost one did."""
    first, second = pair.node("primary"), pair.node("secondary")
    join = ("python3", "/app/database/run.py", "join-witness")
    ledger = Ledger(pair.client, "a4")
    pair.stack.container(WITNESS).kill()
    _change_volume(pair, WITNESS, "find . -mindepth 1 -delete")
    pair.stack.container(WITNESS).start()
    refused = pair.stack.execute(second, *join)
    assert refused.status == 1
    assert f"the new witness has to know {first} first" in refused.err
    for node in (first, second):
        for _ in range(2):  # again, it changes nothing
            done = pair.stack.execute(node, *join)
            assert done.status == 0, done.err
    pair.wait_until_formed()
    assert (pair.node("primary"), pair.node("secondary")) == (first, second)
    assert ledger.wait_for_more() < WRITES_AGAIN_WITHIN_S

    pair.stack.container(first).kill()
    assert ledger.wait_for_more() < WRITES_AGAIN_WITHIN_S
    pair.stack.container(first).start()
    pair.wait_until_formed()
    assert ledger.finish() <= stored(pair, second, "a4")


def test_a_creation_that_was_broken_off_goes_on(pair: Pair) -> None:
    """By a kill, or by the witness's end: the next start gets further, and not the same error again."""
    keeper = ".local/share/pg_autoctl/var/lib/postgresql/data"
    half_made = {
        WITNESS: "mkdir data && touch data/PG_VERSION",
        NODES[0]: f"mkdir --parents {keeper} && touch {keeper}/pg_autoctl.init",  # the witness ended before it knew it
        NODES[1]: "mkdir data && touch begun data/PG_VERSION",
    }
    for part, left in half_made.items():
        pair.stack.container(part).kill()
        _change_volume(pair, part, f"find . -mindepth 1 -delete && {left}")
    for part in (WITNESS, NODES[0]):
        pair.stack.container(part).start()
    made = ("test", "-e", "/var/lib/postgresql/created")
    wait_until(lambda: pair.stack.execute(NODES[0], *made).status == 0, FORMED_WITHIN_S, "the first node is made")

    pair.stack.container(NODES[0]).kill()
    _change_volume(pair, NODES[0], "rm created && touch begun")  # killed just before it noted that
    for node in NODES:
        pair.stack.container(node).start()
    pair.wait_until_formed()
    assert pair.node("primary") == NODES[0]


def _take_over_its_pid(pair: Pair, node: str) -> None:
    """Have the file that says which process a killed server was name one that lives in the next container."""
    _change_volume(pair, node, "sed --in-place '1s/.*/1/' data/postmaster.pid")


def _change_volume(pair: Pair, part: str, command: str) -> None:
    pair.stack.engine.containers.run(
        IMAGE,
        ["-c", command],
        entrypoint="sh",
        working_dir="/volume",
        volumes={f"{pair.stack.project}_{part}-state": {"bind": "/volume"}},
        remove=True,
    )
