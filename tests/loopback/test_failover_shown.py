"""What is shown of a failover, with a real PostgreSQL: by health, metrics, `status`, the page, and by a standby."""

import os
import pwd
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from database import run

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess
from tests.loopback.test_standby import Machine
from tests.ports import free_ports
from tests.postgres import Cluster, running_cluster
from tests.unit.cli.running import run_process
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.replication.looks import SILENT_AFTER_S
from twinhost.store.replication.postgres import witness_fault

SOON_S = SILENT_AFTER_S + PATIENCE_S
AUTHORITY = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
LIMITS = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth", "subjectAltName=DNS:localhost"]


class Witness:
    """A server with TLS, and the DSN parameter that verifies it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        (port,) = free_ports(1)
        self.address = f"localhost:{port}"
        run._certify(
            folder / "ca", "ca", "a CA", ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
        )
        run._certify(folder / "node", "node", "localhost", LIMITS, folder / "ca")
        self.authority = folder / "node" / "ca.crt"
        data = cluster.folder / "data"
        lines = ["ssl = on", f"port = {port}", "listen_addresses = 'localhost'"]
        for name in ("crt", "key"):
            path = Path(shutil.copy(folder / "node" / f"node.{name}", data))
            lines.append(f"ssl_{'cert' if name == 'crt' else 'key'}_file = '{path}'")
            if os.geteuid() == 0:
                os.chown(path, pwd.getpwnam("postgres").pw_uid, -1)
        with (data / "postgresql.conf").open("a") as settings:
            settings.writelines(f"{line}\n" for line in lines)
        cluster.stop("fast")
        cluster.start()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    with running_cluster() as cluster:
        yield Witness(cluster, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def here(tmp_path: Path, cluster: Cluster, witness: Witness) -> Iterator[Machine]:
    """Both agents of one machine, in a database that says where its witness is; one commit has one copy there."""
    dsn = cluster.new_database()
    with cluster.connect(dsn) as connection:
        connection.execute(
            f"""ALTER DATABASE {dsn.partition("@/")[2].partition("?")[0]}
            SET "twinhost.witness" = '{witness.address}'""".encode()
        )
    with Machine(tmp_path / "here", f"{dsn}&sslrootcert={witness.authority}") as machine:
        path = Path(machine.config.source)
        standby = "host: mainpc, standby: {host: pc2, address: 127.0.0.1},"
        path.write_text(path.read_text().replace("host: mainpc,", standby))  # of mainpc's agent alone
        yield machine


@contextmanager
def standing_by(cluster: Cluster, dsn: str, agent: str, name: str) -> Iterator[Callable[[int], None]]:
    """Yield what has a standby say how far it has followed; it is no process, since both have one host name here."""
    with cluster.connect(dsn) as connection:

        def stand(applied: int) -> None:
            connection.execute(
                "INSERT INTO standbys (agent, name, applied) VALUES (%s, %s, %s) ON CONFLICT (agent, name) "
                "DO UPDATE SET applied = excluded.applied, beat = standbys.beat + 1",
                (agent, name, applied),
            )

        yield stand


def log_of(agent: AgentProcess) -> dict[str, Any]:
    document: dict[str, Any] = agent.health().get("log", {})  # nothing while its port does not answer
    return document


def page(agent: AgentProcess) -> dict[str, Any]:
    _, document = agent.http("/api/state")
    return dict(document)


def test_health_status_metrics_and_page_say_the_same(here: Machine, cluster: Cluster, witness: Witness) -> None:
    """Of both agents: who is active, how far a standby is, how many copies there are, and whether the witness lives."""
    sdt, umra = here.start(SDT).wait_until_ready(), here.start(UMRA).wait_until_ready()
    with here.client(SDT) as client, standing_by(cluster, here.dsn, SDT, "the-standby") as stand:
        durable = log_of(sdt)["transactions"]
        assert durable > 0

        def followed() -> bool:
            stand(durable)
            log = log_of(sdt)
            return bool(log.get("standbys")) and log["copies"] == 1 and "witness" in log and "witness" in log_of(umra)

        wait_until(followed, SOON_S, "the standby is seen, and the witness answers")
        log = log_of(sdt)
        assert (log["role"], log["epoch"]) == ("active", 1)
        assert log["witness"] == {"name": witness.address, "answers": True}
        assert log["standbys"][0]["name"] == "the-standby"
        assert client.call("health")["log"]["standbys"][0]["name"] == "the-standby"
        assert log_of(umra)["standbys"] == []
        rows = {row["agent"]: row for row in page(sdt)["failover"]["agents"]}
        assert {name: (row["holder"], row["epoch"]) for name, row in rows.items()} == {
            SDT: (log["holder"], 1),
            UMRA: (log["holder"], 1),
        }
        ran = run_process(here.environment(SDT) | {"TWINHOST_CERTIFICATES": str(here.folder("operator"))}, "status")
        said = " ".join(ran.out.split())
        since = f"since {log['since']} (epoch 1); standby the-standby is"
        assert f"Failover {SDT} is active on {log['holder']} {since}" in said
        assert "behind; 1 copy; witness well Failover" in said
        assert "(epoch 1); no standby follows; 1 copy; witness well Agents" in said
        with urllib.request.urlopen(f"http://127.0.0.1:{here.config.agent(SDT).http_port}/metrics") as answer:
            metrics = answer.read().decode()
        for line in ("twinhost_log_active 1.0", "twinhost_log_copies 1.0", "twinhost_log_witness 1.0"):
            assert f"\n{line}\n" in metrics
        assert 'twinhost_log_standby_lag{standby="the-standby"}' in metrics
        attention = [item["id"] for item in client.call("get_attention")["items"]]
        assert "one_copy" in attention
        wait_until(lambda: f"standby_silent:{SDT}" in items(client), SOON_S, "it is missed")
        assert f"standby_silent:{UMRA}" not in items(client), "it is to have none"
        assert log_of(sdt)["standbys"] == []


def items(client: Client) -> set[str]:
    return {item["id"] for item in client.call("get_attention")["items"]}


def test_a_dead_witness_is_a_trouble_until_it_answers(here: Machine, witness: Witness) -> None:
    here.start(SDT).wait_until_ready()
    with here.client(SDT) as client:
        witness.cluster.stop()
        wait_until(lambda: "witness_silent" in items(client), SOON_S, "it is missed")
        witness.cluster.start()
        wait_until(lambda: "witness_silent" not in items(client), SOON_S, "it answers again")


def test_the_page_has_the_next_epoch_after_a_start_again(here: Machine) -> None:
    """On the same machine, which is no takeover."""
    for epoch in (1, 2):
        sdt = here.start(SDT).wait_until_ready()
        (row,) = wait_until(lambda: epoch_of(sdt, epoch), SOON_S, "it is written who is active")  # noqa: B023
        assert row["moved_from"] == ""
        assert sdt.terminate() == 0


def epoch_of(agent: AgentProcess, epoch: int) -> list[Any]:
    return [row for row in page(agent).get("failover", {"agents": []})["agents"] if row["epoch"] == epoch]


def test_a_standby_says_over_http_who_is_active(here: Machine, tmp_path: Path) -> None:
    first = here.start(SDT).wait_until_ready()
    holder = log_of(first)["holder"]
    with Machine(tmp_path / "there", here.dsn, here) as there:
        second = there.follow(SDT)

        def followed() -> bool:
            log = log_of(second)
            return bool(log.get("holder") == holder and log["transactions"] > 0)

        wait_until(followed, SOON_S, "it follows")
        port = there.config.agent(SDT).http_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.headers["Content-Type"].startswith("text/html")
            page = answer.read().decode()
        assert f"{SDT} is active on <b>{holder}</b> since " in page
        assert " or before (epoch 1)" in page
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert "\ntwinhost_log_active 0.0\n" in answer.read().decode()


def test_why_a_standby_ended_is_on_the_list(here: Machine, tmp_path: Path) -> None:
    """The active process says it, until the standby follows."""
    here.start(SDT).wait_until_ready()
    with Machine(tmp_path / "there", here.dsn, here) as there, here.client(SDT) as client:
        there.database(SDT).parent.mkdir(exist_ok=True)
        staged = there.database(SDT).with_name(f"{SDT}.sqlite3.restore")
        staged.touch()
        refused = there.start(SDT)
        assert refused.wait() == ConfigurationError.EXIT_STATUS
        wait_until(lambda: "a restored backup waits" in cause_of(client), SOON_S, "it is quoted")
        assert cause_of(client).startswith("there ended: ")
        staged.unlink()
        there.follow(SDT)
        wait_until(lambda: f"standby_silent:{SDT}" not in items(client), SOON_S, "it follows")


def cause_of(client: Client) -> str:
    """Return why no standby follows."""
    causes = [item["cause"] for item in client.call("get_attention")["items"] if item["kind"] == "standby_silent"]
    return str(causes[0]) if causes else ""


def test_a_witness_is_known_by_its_certificate(witness: Witness, tmp_path: Path) -> None:
    """And not by a port that is open; it logs nothing of those who look."""
    dsn = f"postgresql:///twinhost?host=/run&sslrootcert={witness.authority}"
    log = witness.cluster.folder / "log"
    before = log.read_text()
    assert witness_fault(witness.address, dsn) is None
    time.sleep(0.5)  # what it would log
    assert log.read_text() == before
    run._certify(tmp_path / "ca", "ca", "another", AUTHORITY)
    other = f"postgresql:///twinhost?host=/run&sslrootcert={tmp_path}/ca/ca.crt"
    assert "certificate verify failed" in str(witness_fault(witness.address, other))
    assert "mismatch" in str(witness_fault(witness.address.replace("localhost", "127.0.0.1"), dsn))
    assert witness_fault(f"localhost:{free_ports(1)[0]}", dsn) == "Connection refused"
    assert witness_fault("no-such-host.invalid", dsn) is not None
