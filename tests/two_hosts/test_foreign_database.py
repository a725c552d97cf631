"""mainpc and pc2 with a PostgreSQL of somebody else, on a third machine: with TLS, and a password."""

import os
import re
from collections.abc import Iterator
from contextlib import closing

import docker
import pytest
from database import run

from tests.containers.stack import AGENTS
from tests.ledger import check
from tests.two_hosts.machine_room import WITH_WITNESS, MachineRoom, why_not
from tests.two_hosts.test_three_machines import (
    BACK_WITHIN_S,
    GOES_ON_WITHIN_S,
    IMAGES,
    PAGE,
    STANDBYS,
    Three,
    bring_home,
    section,
    writing,
)
from tests.waiting import PATIENCE_S, wait_until

SOMEWHERE = "witness"  # the machine whose engine has the service
USER = 10001
PASSWORD = "not-in-the-dsn"
SECTION = section("A PostgreSQL of somebody else")
LIMITS = [
    "basicConstraints=critical,CA:FALSE",
    "extendedKeyUsage=serverAuth",
    f"subjectAltName=IP:{WITH_WITNESS[SOMEWHERE]}",
]
SERVER = """set -e
touch /run/postgresql/settings.conf
initdb --pgdata "$PGDATA" --username postgres --auth trust >/dev/null
printf 'local all all trust\\nhostssl all all all scram-sha-256\\n' >"$PGDATA/pg_hba.conf"
cat >>"$PGDATA/postgresql.conf" <<END
listen_addresses = '*'
unix_socket_directories = '/run/postgresql'
ssl = on
ssl_cert_file = '/keys/node.crt'
ssl_key_file = '/keys/node.key'
END
exec postgres -D "$PGDATA"
"""
ROLE = f"CREATE ROLE log LOGIN PASSWORD '{PASSWORD}'"

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(900)]


class Foreign(Three):
    """Both machines after the steps of both pages, with data of before."""

    def follow(self) -> None:
        self.begin_without_standbys()
        self.start_service()
        (line,) = re.findall(r"^TWINHOST_DATABASE=(\S+)$", SECTION, re.MULTILINE)
        dsn = line.replace("db.example", WITH_WITNESS[SOMEWHERE])
        (authority,) = re.findall(r"`sslrootcert=(/app/config/\S+)`", SECTION)
        addresses = {f"{host.upper()}_IP": WITH_WITNESS[host] for host in AGENTS}
        for host in AGENTS:
            checkout = self.checkouts[host]
            own = {"TWINHOST_HOST": host, "TWINHOST_PUBLISH_ADDRESS": WITH_WITNESS[host]}
            database = dsn.replace("sslrootcert=system", f"sslrootcert={authority}")
            checkout.set({**addresses, **own, "TWINHOST_DATABASE": database})
            (checkout.folder / "config/ca.crt").write_bytes((self.ledgers / "node/ca.crt").read_bytes())
            passwords = checkout.folder / "config/pgpass"
            passwords.write_text(f"*:*:log:log:{PASSWORD}\n")
            passwords.chmod(0o600)
            os.chown(passwords, USER, USER)
        self.checkouts["mainpc"].run(self.ssh)
        self.walk.follow(SECTION)

    def start_service(self) -> None:
        """Start it, with a role that may make tables."""
        authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]
        run._certify(self.ledgers / "authority", "ca", "a CA", authority)
        run._certify(self.ledgers / "node", "node", "a service", LIMITS, self.ledgers / "authority")
        keys = self.ledgers / "node"
        for path in (keys, *keys.iterdir()):
            os.chown(path, USER, USER)
        machine = self.room.machines[SOMEWHERE]
        port = f"{WITH_WITNESS[SOMEWHERE]}:5432:5432"
        options = ["--detach", "--name", "service", "--publish", port, "--volume", f"{keys}:/keys:ro"]
        machine.docker("run", *options, "--entrypoint", "sh", IMAGES[-1], "-c", SERVER)
        wait_until(lambda: self.ask_service("SELECT 1"), PATIENCE_S, "the service answers")
        assert self.ask_service(ROLE)
        assert self.ask_service("CREATE DATABASE log OWNER log")

    def ask_service(self, sql: str) -> bool:
        command = ["exec", "service", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-c", sql]
        return self.room.machines[SOMEWHERE].docker(*command, check=False).returncode == 0

    def running(self, host: str) -> set[str]:
        return set(self.room.machines[host].docker("ps", "--format", "{{.Names}}").stdout.split())

    def line(self, host: str, name: str) -> str:
        """Return a setting of `.env`; empty if it has none."""
        return self.checkouts[host].run(f"sed -n 's/^{name}=//p' .env").out.strip()


@pytest.fixture(scope="module")
def two(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    if reason := why_not():
        pytest.skip(reason)
    with closing(MachineRoom(tmp_path_factory.mktemp("foreign"), WITH_WITNESS)) as room:
        room.open(*IMAGES)
        two = Foreign(room, tmp_path_factory.mktemp("site"))
        two.follow()
        yield two


def test_two_commands_set_it_up(two: Foreign) -> None:
    """Each machine has its agent and the other one's standby, and nothing of a database."""
    wait_until(two.both_follow, BACK_WITHIN_S, "both agents have a standby")
    two.require_all_of_before()
    for host, other in STANDBYS.items():
        assert two.running(host) == {f"twinhost-{host}-1", f"twinhost-{other}-standby-1"}
        assert two.line(host, "COMPOSE_PROFILES") == f"{other}-standby"
        assert not (two.room.machines[host].volumes / "twinhost_database-certificates").exists()
    assert [two.role(host, host)["role"] for host in AGENTS] == ["active", "active"]


def test_compose_and_make_know_the_standbys(two: Foreign) -> None:
    for command in ("docker compose up -d --wait pc2-standby", "make up"):
        assert two.checkouts["mainpc"].run("docker compose rm --stop --force pc2-standby").status == 0
        done = two.checkouts["mainpc"].run(command)
        assert done.status == 0, done.err
        wait_until(two.both_follow, BACK_WITHIN_S, "both agents have a standby")
        assert two.running("mainpc") == {"twinhost-mainpc-1", "twinhost-pc2-standby-1"}


@pytest.mark.parametrize("host", list(STANDBYS))
def test_a_client_goes_on_when_a_machine_is_off(host: str, two: Foreign) -> None:
    other = STANDBYS[host]
    with writing(two, other) as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
        two.power_off(host)
        for writer in writers:
            writer.wait_for_more(GOES_ON_WITHIN_S)
        assert two.role(other, f"{host}-standby")["role"] == "active"
        two.power_on(host)
        wait_until(two.both_follow, BACK_WITHIN_S, "both agents have a standby again")
        for writer in writers:
            writer.end()
            writer.require_whole()


def test_both_machines_leave_and_come_back(two: Foreign) -> None:
    """By the page's commands, but for the witness's; to the same database, which `.env` keeps as a comment."""
    bring_home(two)
    database = two.line("mainpc", "TWINHOST_DATABASE")
    with writing(two, "mainpc") as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
    (leave,) = re.findall(r"## Go back\n.*?(```console\nmainpc.*?```)", PAGE, re.S)
    two.walk.follow(re.sub(r"mainpc\$ ssh witness.*\n", "", leave))
    two.wait_until_back()
    for host in AGENTS:
        assert two.running(host) == {f"twinhost-{host}-1"}
        assert two.line(host, "TWINHOST_DATABASE") == ""
    for writer in writers:
        assert check(writer.path, writer.found((writer.host, writer.host))).whole
    for host in AGENTS:
        done = two.checkouts[host].run("make up-ha")
        assert done.status == 0, done.err
        assert two.line(host, "TWINHOST_DATABASE") == database
    wait_until(two.both_follow, BACK_WITHIN_S, "both agents have a standby")
    for writer in writers:
        writer.require_whole()
