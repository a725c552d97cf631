"""Upgrades of both machines by the page's commands, while others write: nothing is lost, and no call waits too long."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import docker
import pytest

from tests.containers.stack import AGENTS, IMAGE
from tests.containers.test_failover import COMMANDS, Pair, Writer, writing

CALL_S = 30.0  # of a program's call, with standbys
DATABASE = "twinhost-database:0.2.0"
# The version after this one, which has a table more in SQLite, and a column more in PostgreSQL.
NEXT = """
FROM IMAGE
USER root
RUN cd /opt/venv/lib/python3*/site-packages/twinhost \\
    && set -- system_digital_twin/state_files.py unified_memory_reasoning/__main__.py \\
    && sed -i '/^MIGRATIONS = (/,/^)/ s/^)/    "CREATE TABLE of_next (number INTEGER) STRICT",\\n)/' "$@" \\
    && sed -i "/^_LOOK = / s/WHERE/WHERE of_next = '' AND/" store/replication/postgres.py \\
    && [ "$(grep -l of_next "$@" store/replication/postgres.py | wc -l)" = 3 ]
USER 10001:10001
"""
NEXT_TABLES = "\nALTER TABLE epochs ADD COLUMN IF NOT EXISTS of_next text NOT NULL DEFAULT '';\n"
NEXT_DATABASE = "FROM IMAGE\nLABEL of=next\n"
VERSION = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone())"


class Upgraded(Pair):
    """One whose images are exchanged."""

    built: list[str]

    def use(self, variable: str, image: str, recipe: str) -> None:
        """Build another image on one that is there, and have .env name it."""
        name = f"{self.variables['COMPOSE_PROJECT_NAME']}-{variable.lower()}:next"
        tag = f"{name}-ha" if image.endswith("-ha") else name
        done = self.run(f"docker build --quiet --tag {tag} -", recipe.replace("IMAGE", image, 1))
        assert done.status == 0, done.err
        self.built.append(tag)
        with (self.folder / ".env").open("a") as file:
            file.write(f"{variable}={name}\n")

    def follow(self, section: str) -> None:
        """Run the commands of a section of the page, but for what builds an image: it is there."""
        for command in COMMANDS[section]:
            if not command.startswith("scripts/setup/image.sh"):
                began = time.monotonic()
                done = self.run(command)
                print(f"{time.monotonic() - began:5.1f} s  {command}")
                assert done.status == 0, f"{command}\n{done.out}{done.err}"

    def schema(self, service: str) -> int:
        """Return the schema version of a file."""
        path = f"/var/lib/twinhost/{AGENTS[service.removesuffix('-standby')]}.sqlite3"
        return int(self.run(f'docker compose exec -T {service} python -c "{VERSION}" {path}').out)


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    with Upgraded.started(tmp_path_factory.mktemp("upgraded"), engine) as pair:
        pair.built = []
        yield pair
    for tag in pair.built:
        engine.images.remove(tag)


@contextmanager
def each_call_in_time(*writers: Writer) -> Iterator[None]:
    """Require that no call of a writer was without a reply for longer than a program waits for one."""
    over = threading.Event()

    def watch(writer: Writer) -> float:
        longest, since, seen = 0.0, time.monotonic(), writer.acknowledged()
        while not over.wait(0.1):
            if (count := writer.acknowledged()) > seen:
                since, seen = time.monotonic(), count
            longest = max(longest, time.monotonic() - since)
        return longest

    with ThreadPoolExecutor(len(writers)) as threads:
        waits = [threads.submit(watch, writer) for writer in writers]
        try:
            yield
            for writer in writers:
                writer.seconds_without(CALL_S)
        finally:
            over.set()
    for writer, wait in zip(writers, waits, strict=True):
        print(f"{writer.host}: no call was acknowledged for {wait.result():.2f} s at most")
        assert wait.result() < CALL_S


def test_both_machines_are_upgraded_one_after_the_other(pair: Upgraded) -> None:
    """To a version whose tables are others: the standbys first, which take over; then both agents stand by."""
    before = {host: pair.schema(host) for host in AGENTS}
    pair.use("TWINHOST_IMAGE", f"{IMAGE}-ha", NEXT)
    with (pair.folder / "services/twinhost/store/replication/tables.sql").open("a") as tables:
        tables.write(NEXT_TABLES)
    with writing(pair, "mainpc", "upgraded-mainpc") as one, writing(pair, "pc2", "upgraded-pc2") as two:
        with each_call_in_time(one, two):
            pair.follow("Upgrade twinhost")
        for writer in (one, two):
            writer.require_whole()
    for host in AGENTS:
        pair.require_equal(host)
        for service in (host, f"{host}-standby"):
            assert pair.schema(service) == before[host] + 1
            assert pair.container(service).attrs["Config"]["Image"].endswith(":next-ha")


def test_the_database_is_upgraded_one_node_after_the_other(pair: Upgraded) -> None:
    """The one that takes no writes first; then it takes them, and the other one has its turn."""
    pair.use("TWINHOST_DATABASE_IMAGE", DATABASE, NEXT_DATABASE)
    if pair.primary() != "database-mainpc":  # the page begins with the other one
        assert pair.run("docker compose exec witness pg_autoctl perform switchover").status == 0
    with writing(pair, "mainpc", "moved-mainpc") as one, writing(pair, "pc2", "moved-pc2") as two:
        with each_call_in_time(one, two):
            pair.follow("Upgrade PostgreSQL")
        assert pair.primary() == "database-pc2"
        for writer in (one, two):
            writer.require_whole()
    for service in ("database-mainpc", "database-pc2", "witness"):
        assert pair.container(service).attrs["Config"]["Labels"]["of"] == "next"
    for host in AGENTS:
        pair.require_equal(host)
