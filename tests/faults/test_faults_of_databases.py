"""A corrupted database is reported, kept, and replaced by the last backup with one command; a loss is counted."""

import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.stack import AGENTS, Stack
from tests.faults.house import House
from tests.faults.ledger_clients import OPERATOR, LedgerClients, times_made
from tests.faults.seen import ROWS
from tests.waiting import PATIENCE_S, wait_until

STATE = "/var/lib/twinhost"
DAMAGE = (  # one page of one table, so that the others can be counted still; its log is folded in before
    "import sqlite3, sys\n"
    "path, table, offset = sys.argv[1], sys.argv[2], int(sys.argv[3])\n"
    "with sqlite3.connect(path) as database:\n"
    "    (page,) = database.execute('SELECT rootpage FROM sqlite_master WHERE name = ?', (table,)).fetchone()\n"
    "    (size,) = database.execute('PRAGMA page_size').fetchone()\n"
    "    database.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n"
    "database.close()\n"
    "with open(path, 'r+b') as file:\n"
    "    file.seek((page - 1) * size)\n"
    "    file.write(bytes([255]) * offset)\n"
)
OWN_EVENTS = (  # those of mainpc itself, such as what it says is wrong
    "import sqlite3, sys\n"
    "database = sqlite3.connect(sys.argv[1])\n"
    "print(*database.execute('SELECT count(*) FROM happenings WHERE written_by = ?', (sys.argv[2],)).fetchone())\n"
)

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def spoiled(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Both hosts, whose databases will be damaged."""
    with House.built(Stack(tmp_path_factory.mktemp("spoiled"), {}), ROWS) as house:
        yield house


def written(house: House, folder: Path) -> LedgerClients:
    """Let the clients write some, and return them."""
    with LedgerClients(house.addresses, folder) as clients:
        clients.wait_for_more(PATIENCE_S)
    assert clients.failures == []
    return clients


def lost_if_gone(clients: LedgerClients, host: str) -> dict[str, int]:
    """Return how many changes of each kind one agent acknowledged."""
    return {client.change: client.acknowledged for client in clients.of(host)}


def damage(house: House, host: str, table: str, size: int) -> None:
    """Overwrite the beginning of a table's first page, while its agent does not run."""
    run_on_database(house, host, DAMAGE, table, str(size))


def run_on_database(house: House, host: str, script: str, *arguments: str) -> str:
    """Return what a script prints that gets the path of an agent's database, while that agent does not run."""
    assert house.stack.compose("stop", host).status == 0
    command = f'python -c "$SCRIPT" {STATE}/{AGENTS[host]}.sqlite3 {" ".join(arguments)}'
    options = ("--rm", "-T", "--no-deps", "--env", f"SCRIPT={script}", "--entrypoint", "sh")
    done = house.stack.compose("run", *options, host, "-c", command)
    assert done.status == 0, done.err
    return done.out


def taken(house: House, *command: str) -> bytes:
    """Return the backup that a command writes."""
    done = house.stack.compose_bytes("run", "--rm", "-T", *command)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def put_back(house: House, backup: bytes, *command: str) -> "subprocess.CompletedProcess[bytes]":
    """Give a backup to the command that restores it."""
    done = house.stack.compose_bytes("run", "--rm", "-T", *command, given=backup)
    assert done.returncode == 0, done.stderr.decode()
    return done


def made(house: House, clients: LedgerClients) -> int:
    """Return how many changes of some clients are there once, which is all of them, as was acknowledged."""
    return clients.require_whole(times_made({host: house.client(host) for host in AGENTS}, OPERATOR))


def test_pc2s_database_is_damaged(spoiled: House, tmp_path: Path, chance: random.Random) -> None:
    """It serves with an empty one and is red until the backup is back; the count of the loss is that of the ledgers."""
    house = spoiled
    kept = written(house, tmp_path / "kept")
    backup = taken(house, "cli", "memory", "backup", "-")
    gone = written(house, tmp_path / "gone")
    before = house.resident()
    damage(house, "pc2", "error_patterns", chance.randint(64, 4_096))

    assert house.stack.compose("start", "pc2").status == 0
    wait_until(lambda: house.stack.http("pc2", "/healthz")[0] == 200, PATIENCE_S, "pc2 serves")
    status, health = house.stack.http("pc2", "/readyz")
    assert (status, health["checks"]["store_damage"]["ok"]) == (503, False)
    (name,) = re.findall(r"\S+\.damaged-\S+", health["checks"]["store_damage"]["detail"])
    assert name in house.stack.execute("pc2", "ls", STATE).out.split()

    restored = put_back(house, backup, "cli", "memory", "restore", "-", "--yes", "--json")
    recovered_s = house.wait_until_healthy()
    rows = json.loads(restored.stdout)["rows"]
    counted = {"twin": rows["twins"]["lost"], "interaction": rows["interactions"]["lost"]}
    assert counted == lost_if_gone(gone, "pc2")
    lost = sum(counted.values())
    house.note(
        "pc2's database damaged",
        made(house, kept.only("pc2")),
        recovered_s,
        before,
        f"{lost} written since the backup, reported as lost",
    )


def test_mainpcs_database_is_damaged(spoiled: House, tmp_path: Path, chance: random.Random) -> None:
    """It does not start and says why, since its registry anchors the log; one command puts the backup in its place."""
    house = spoiled
    kept = written(house, tmp_path / "kept")
    backup = taken(house, "archive", "backup", "-")
    gone = written(house, tmp_path / "gone")
    before = house.resident()
    own_events = int(run_on_database(house, "mainpc", OWN_EVENTS, AGENTS["mainpc"]))
    damage(house, "mainpc", "happenings", chance.randint(64, 4_096))

    assert house.stack.compose("start", "mainpc").status == 0
    wait_until(lambda: "does not start" in house.stack.logs("mainpc"), PATIENCE_S, "mainpc says that it does not start")
    assert house.stack.http("mainpc", "/healthz")[0] == 0
    (sentence,) = {line for line in house.stack.logs("mainpc").splitlines() if "does not start" in line}
    assert "is damaged" in sentence
    assert "restore a backup" in sentence
    assert house.stack.http("pc2", "/healthz")[0] == 200
    assert house.stack.compose("stop", "mainpc").status == 0

    output = put_back(house, backup, "archive", "restore", "-", "--replace").stderr.decode()
    registered, reported = (
        int(each) for each in re.findall(r"fewer than .*: (\d+) registrations, (\d+) events", output)[0]
    )
    lost = lost_if_gone(gone, "mainpc")
    own_lost = own_events - int(run_on_database(house, "mainpc", OWN_EVENTS, AGENTS["mainpc"]))
    assert (registered, reported) == (lost["registration"], lost["event"] + own_lost)
    assert house.stack.compose("start", "mainpc").status == 0
    recovered_s = house.wait_until_healthy()
    kept_still = made(house, kept.only("mainpc"))
    remark = f"{registered + reported} written since the backup, reported as lost"
    house.note("mainpc's database damaged", kept_still, recovered_s, before, remark)
    assert house.stack.run("cli", "audit", "verify").status == 0
