"""A PostgreSQL of somebody else, as docs/how-to/run-with-standbys.md has it in a DSN: with TLS, and a password."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from tests.loopback.agent_processes import SDT, UMRA
from tests.loopback.test_failover_shown import Witness
from tests.postgres import running_cluster
from twinhost.secure_zmq.errors import Conflict
from twinhost.store.replication.forget import forget, main
from twinhost.store.replication.postgres import Databases, OutcomeUnknown, verified

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "not-in-the-dsn"
DSN_OF_THE_PAGE: str
(DSN_OF_THE_PAGE,) = re.findall(
    r"^TWINHOST_DATABASE=(\S+)", (REPOSITORY / "docs/how-to/run-with-standbys.md").read_text(), re.MULTILINE
)
TABLES = ("commits", "epochs", "snapshots", "standbys")
VARIABLES = re.compile(r"^ENV (SSL_CERT_\w+)=(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """One that has TLS, asks for the password, lets the agents' role make the tables, and knows no encoding."""
    with running_cluster() as cluster:
        (cluster.folder / "data/pg_hba.conf").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
        with cluster.connect() as connection:
            connection.execute(f"CREATE ROLE log LOGIN PASSWORD '{PASSWORD}'".encode())
            options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            connection.execute(f"CREATE DATABASE log OWNER log {options}".encode())
        yield Witness(cluster, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def dsn(server: Witness, tmp_path: Path) -> str:
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"*:*:log:log:{PASSWORD}\n")
    passwords.chmod(0o600)
    return DSN_OF_THE_PAGE.replace("db.example", server.address).replace("/app/config/pgpass", str(passwords))


@pytest.fixture
def authorities(server: Witness, tmp_path: Path) -> Path:
    """A folder as Debian's ca-certificates makes it."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(server.authority.read_bytes())
    subprocess.run(["openssl", "rehash", folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("target", ["agent-ha", "meaning-ha"])
def test_an_image_verifies_a_server_by_its_authorities(
    target: str, dsn: str, authorities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg's own OpenSSL looks for them in a folder that no image has, unless a variable names one."""
    with pytest.raises(OutcomeUnknown, match="certificate verify failed"):
        Databases(dsn, SDT)()
    stage = (REPOSITORY / "Dockerfile").read_text().partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
    ((variable, value),) = VARIABLES.findall(stage)
    assert (variable, value) == ("SSL_CERT_DIR", "/etc/ssl/certs")
    monkeypatch.setenv(variable, str(authorities))
    with closing(Databases(dsn, SDT)()) as log:
        log.create()
        assert log.look().number == 0


@pytest.fixture
def verified_dsn(dsn: str, authorities: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One whose server is verified, and has the tables, and two agents' logs; SystemDigitalTwin is active."""
    monkeypatch.setenv("SSL_CERT_DIR", str(authorities))
    for agent in (SDT, UMRA):
        with closing(Databases(dsn, agent)()) as log:
            log.create()
            assert log.claim(log.look(), f"{agent} here", f"log of {agent}") is not None
            assert log.append(1, 1, b"a transaction")
            log.stand("the-standby", 1)
            with log.new_snapshot(1, f"log of {agent}") as snapshot:
                snapshot.complete(b"all")
            if agent == UMRA:
                assert log.release(1, 1)
    yield dsn
    with psycopg.connect(verified(dsn)) as connection:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table}".encode())


def rows(dsn: str) -> list[tuple[str, str]]:
    """Return which table has something of which agent."""
    sql = " UNION ".join(f"SELECT '{table}', agent FROM {table}" for table in TABLES)
    with psycopg.connect(verified(dsn)) as connection:
        return sorted(connection.execute(sql.encode()).fetchall())


def test_logs_are_deleted_once_nobody_is_active(verified_dsn: str) -> None:
    """All that were asked for, or none; nothing of another agent."""
    before = rows(verified_dsn)
    assert len(before) == 2 * len(TABLES)
    with pytest.raises(Conflict, match=f"{SDT} is active on {SDT} here, so no log was deleted"):
        forget(verified_dsn, [UMRA, SDT])
    assert rows(verified_dsn) == before
    forget(verified_dsn, [UMRA])
    assert rows(verified_dsn) == [(table, SDT) for table in TABLES]


def test_a_role_that_may_not_delete_is_told_what_it_needs(verified_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(verified(verified_dsn)) as connection:
        connection.execute("REVOKE DELETE ON snapshots FROM log")
    before = rows(verified_dsn)
    monkeypatch.setenv("TWINHOST_DATABASE", verified_dsn)
    with pytest.raises(SystemExit, match="grant it DELETE on epochs, commits, snapshots, standbys"):
        main([UMRA])
    assert rows(verified_dsn) == before
    with psycopg.connect(verified(verified_dsn)) as connection:
        connection.execute("GRANT DELETE ON snapshots TO log")
