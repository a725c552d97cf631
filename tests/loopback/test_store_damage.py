"""pc2's agent with a broken database: it serves, says so, and one command brings the last backup back."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.assembly import StartAgain
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.damage import DAMAGED, REPLACED, quarantined

pytestmark = pytest.mark.unified_memory_agent


def cli(hosts: Hosts, *words: str) -> "subprocess.Popen[str]":
    """Start the command line with the operator's key."""
    environment = {**hosts.environment(UMRA), "TWINHOST_CERTIFICATES": str(hosts.folder("operator"))}
    return subprocess.Popen(
        [sys.executable, "-m", "twinhost.cli", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(hosts: Hosts, *words: str) -> str:
    """Run a command that must succeed; return what it wrote."""
    out, err = (process := cli(hosts, *words)).communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def write(hosts: Hosts, *users: str) -> None:
    with hosts.client(UMRA) as client:
        for user in users:
            client.call("update_twin", user_id=user, twin_data={"of": user, "text": "x" * 3_000})


def revisions(hosts: Hosts, *users: str) -> list[int]:
    with hosts.client(UMRA) as client:
        return [int(client.call("get_twin", user_id=user)["revision"]) for user in users]


def store_damage(agent: AgentProcess) -> dict[str, Any]:
    return dict(agent.health()["checks"]["store_damage"])


def overwrite(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)


@pytest.mark.parametrize("where", ["database", "log"])
def test_a_damaged_memory_is_restored_by_one_command(hosts: Hosts, tmp_path: Path, where: str) -> None:
    """Health is not ready from the start until the backup is in its place; the loss is reported by count."""
    agent = hosts.start(UMRA).wait_until_serving()
    assert store_damage(agent) == {"ok": True, "detail": "ok"}
    write(hosts, "a", "b")
    ran(hosts, "memory", "backup", str(tmp_path / "umra.backup"))
    write(hosts, "c", "d", "e")
    database = hosts.database(UMRA)
    agent.kill()
    if where == "log":
        log = database.with_name(f"{database.name}-wal")
        overwrite(log, log.stat().st_size // 2)
    else:
        overwrite(database, 0)

    agent = hosts.start(UMRA).wait_until_serving()
    (damaged,) = quarantined(database, DAMAGED)
    health = agent.health()
    assert (health["status"], health["ready"], store_damage(agent)["ok"]) == ("degraded", False, False)
    assert damaged.name in store_damage(agent)["detail"]
    (entry,) = wait_until(lambda: agent.logged("database_damaged"), PATIENCE_S, "it is logged")
    assert entry["kept_as"] == damaged.name
    assert revisions(hosts, "a", "c") == [0, 0]
    write(hosts, "f")  # it serves

    agent.kill()  # the red check outlives a restart
    agent = hosts.start(UMRA).wait_until_serving()
    assert store_damage(agent)["ok"] is False

    restoring = cli(hosts, "memory", "restore", str(tmp_path / "umra.backup"), "--yes")
    assert agent.wait() == StartAgain.EXIT_STATUS
    agent = hosts.start(UMRA).wait_until_serving()  # what the engine does
    out, err = restoring.communicate(timeout=60)
    assert (restoring.returncode, err) == (0, "")
    (twins,) = (line.split() for line in out.splitlines() if line.startswith("twins"))
    assert twins[:3] == ["twins", "1", "2"]
    assert revisions(hosts, "a", "b", "c", "f") == [1, 1, 0, 0]
    assert store_damage(agent)["ok"] is True
    assert len(quarantined(database, DAMAGED)) == len(quarantined(database, REPLACED)) == 1


def test_a_broken_word_index_is_rebuilt_in_place(hosts: Hosts) -> None:
    """The rows it is made of are whole: the start costs none, there is no loss to report, and soon all is found."""
    agent = hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA) as client:
        client.call("add_interaction", session_id="s", interaction_type="code", content="the gateway is open")
    agent.kill()
    with closing(sqlite3.connect(hosts.database(UMRA))) as connection, connection:
        connection.execute("DELETE FROM recall_passages_data WHERE id > 10")
    agent = hosts.start(UMRA).wait_until_serving()
    assert len(wait_until(lambda: agent.logged("index_rebuilt"), PATIENCE_S, "it is logged")) == 1
    assert (store_damage(agent)["ok"], quarantined(hosts.database(UMRA), DAMAGED)) == (True, [])
    wait_until(lambda: agent.health()["not_indexed"] == 0, PATIENCE_S, "the index is filled")
    with hosts.client(UMRA) as client:
        assert [found["content"] for found in client.call("search_memory", query="gateway")["results"]] == [
            "the gateway is open"
        ]


def test_an_acknowledged_loss_is_no_longer_reported(hosts: Hosts) -> None:
    """Where there is no backup; the damaged file stays."""
    hosts.database(UMRA).write_bytes(b"not a database")
    agent = hosts.start(UMRA).wait_until_serving()
    assert store_damage(agent)["ok"] is False
    with hosts.client(UMRA) as client:
        reply = client.call("acknowledge_damage")
    (damaged,) = quarantined(hosts.database(UMRA), DAMAGED)
    assert reply["acknowledged"] == [damaged.name]
    wait_until(lambda: store_damage(agent)["ok"], PATIENCE_S, "the check is green")


def test_writes_during_a_backup_are_in_it_whole_or_not(hosts: Hosts, tmp_path: Path) -> None:
    """The agent answers between the parts."""
    hosts.start(UMRA).wait_until_serving()
    write(hosts, *(f"u{number}" for number in range(300)))
    taking = cli(hosts, "memory", "backup", str(tmp_path / "umra.backup"))
    written = 0
    while taking.poll() is None:
        write(hosts, f"meanwhile{written}")
        written += 1
    out, err = taking.communicate(timeout=60)
    assert (taking.returncode, err) == (0, "")
    assert written > 0
    assert " twins" in out


def test_mainpcs_damaged_database_stops_its_start(hosts: Hosts) -> None:
    """Its registry anchors the audit log: it does not go on as if nothing had been there."""
    hosts.database(SDT).write_bytes(b"not a database, " * 50)
    agent = hosts.start(SDT)
    assert agent.wait() == ConfigurationError.EXIT_STATUS
    assert hosts.database(SDT).read_bytes() == b"not a database, " * 50
    assert quarantined(hosts.database(SDT), DAMAGED) == []


@pytest.mark.parametrize("where", ["page", "log"])
def test_hidden_damage_stops_mainpcs_start_too(hosts: Hosts, where: str) -> None:
    """A page of a table that is read later, or its log, which SQLite reads up to the first bad frame; both stay."""
    agent = hosts.start(SDT).wait_until_serving()
    with hosts.client(SDT) as client:
        for number in range(50):
            client.call("register_agent", agent_name=f"agent-{number}", status="HEALTHY")
    agent.kill()
    database = hosts.database(SDT)
    log = database.with_name(f"{database.name}-wal")
    if where == "log":
        overwrite(log, log.stat().st_size // 2)
    else:
        with closing(sqlite3.connect(database)) as connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'metrics_minute'").fetchone()
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        overwrite(database, (page - 1) * page_bytes)
    before = {path: path.read_bytes() for path in (database, log) if path.exists()}
    agent = hosts.start(SDT)
    assert agent.wait() == ConfigurationError.EXIT_STATUS
    assert "is damaged" in agent.lines[-1]
    assert "restore a backup" in agent.lines[-1]
    assert {path: path.read_bytes() for path in before} == before


def test_a_database_of_a_newer_program_is_no_damage(hosts: Hosts) -> None:
    """It is refused and left alone, as everywhere."""
    hosts.start(UMRA).wait_until_serving().terminate()
    database = hosts.database(UMRA)
    content = bytearray(database.read_bytes())
    content[60:64] = (999).to_bytes(4)
    database.write_bytes(content)
    assert hosts.start(UMRA).wait() == ConfigurationError.EXIT_STATUS
    assert database.read_bytes() == content
    assert quarantined(database, DAMAGED) == []


def test_mainpc_hears_of_it(hosts: Hosts) -> None:
    """As an error report, and by the status in pc2's heartbeats, until the loss is accepted."""
    hosts.start(SDT).wait_until_ready()
    agent = hosts.start(UMRA).wait_until_ready()
    write(hosts, "a")
    agent.kill()
    overwrite(hosts.database(UMRA), 0)
    hosts.start(UMRA).wait_until_serving()
    with hosts.client(SDT) as mainpc, hosts.client(UMRA) as pc2:

        def status() -> str:
            return str(mainpc.call("get_agent_info", agent_name=UMRA)["agent_info"]["status"])

        wait_until(lambda: status() == "DEGRADED", PATIENCE_S, "pc2 says that it is not whole")
        (report,) = wait_until(lambda: mainpc.call("get_errors")["errors"], PATIENCE_S, "the damage is reported")
        assert (report["error_type"], report["severity"], report["written_by"]) == ("store_damage", "critical", UMRA)
        assert "was quarantined" in report["message"]
        assert UMRA not in mainpc.call("get_ok_agents")["agents"]
        pc2.call("acknowledge_damage")
        wait_until(lambda: status() == "HEALTHY", PATIENCE_S, "pc2 is well again")
