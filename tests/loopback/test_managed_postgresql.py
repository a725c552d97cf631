"""A PostgreSQL of somebody else, as docs/how-to/run-with-standbys.md has it in a DSN: with TLS, and a password."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT
from tests.loopback.test_failover_shown import Witness
from tests.postgres import running_cluster
from twinhost.store.replication.postgres import Databases, OutcomeUnknown

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "not-in-the-dsn"
DSN_OF_THE_PAGE: str
(DSN_OF_THE_PAGE,) = re.findall(
    r"^TWINHOST_DATABASE=(\S+)", (REPOSITORY / "docs/how-to/run-with-standbys.md").read_text(), re.MULTILINE
)
VARIABLES = re.compile(r"^ENV (SSL_CERT_\w+)=(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """One that has TLS, asks for the password, and lets the agents' role make the tables."""
    with running_cluster() as cluster:
        (cluster.folder / "data/pg_hba.conf").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
        with cluster.connect() as connection:
            connection.execute(f"CREATE ROLE log LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute("CREATE DATABASE log OWNER log")
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
