"""Spaces of the memory after a takeover: each is a database of its own, and all are in the one log of the agent."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.loopback.agent_processes import UMRA
from tests.loopback.test_standby import _NEWEST, _TAKEOVER_S, Machine, answers
from tests.postgres import Cluster, running_cluster
from tests.replayed import contents
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.store.replication.postgres import Log
from twinhost.store.replication.replica import Replica
from twinhost.unified_memory_reasoning.search.index_tables import FUNCTIONS

SPACES = {"private": "private.operator", "team": "team"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def here(tmp_path: Path, cluster: Cluster) -> Iterator[Machine]:
    with Machine(tmp_path / "here", cluster.new_database()) as machine:
        with Path(machine.config.source).open("a") as config:
            config.write("spaces: {team: {readers: [operator], writers: [operator]}}\n")
        yield machine


@pytest.fixture
def there(tmp_path: Path, here: Machine) -> Iterator[Machine]:
    with Machine(tmp_path / "there", here.dsn, here) as machine:
        yield machine


def store(client: Client, content: str, *spaces: str) -> None:
    for space in spaces:
        client.call("store_memory", content=f"{content} of {space}", keywords=[content], space=space)


def found(client: Client, keyword: str) -> dict[str, int]:
    """Return how many memories each space has."""
    return {
        space: client.call("query_memory", keywords=[keyword], space=space)["count"] for space in ("shared", *SPACES)
    }


def tables_of(state: Path) -> dict[str, dict[str, str]]:
    """Return what the databases of the spaces have."""
    tables = {}
    for path in sorted(state.glob("spaces/*/memory.sqlite3")):
        with closing(sqlite3.connect(path)) as connection:
            tables[path.parent.name] = contents(connection)
    return tables


def from_nothing(dsn: str, folder: Path) -> dict[str, dict[str, str]]:
    """Return what the whole log makes of the spaces in an empty folder."""
    folder.mkdir()
    with closing(Log(dsn, UMRA)) as log, closing(Replica(folder / "own", FUNCTIONS, _NEWEST[UMRA])) as replica:
        replica.require_log(log.look().log)
        replica.follow(log, log.last())
    return tables_of(folder)


def test_every_space_has_what_was_acknowledged(here: Machine, there: Machine, tmp_path: Path) -> None:
    """Also one that was deleted, and made again; and all files are what the log makes."""
    first = here.start(UMRA).wait_until_serving()
    second = there.follow(UMRA)
    with here.client(UMRA) as client:
        store(client, "violin", "shared", *SPACES)
        client.call("delete_space", name="team")
        assert found(client, "violin") == {"shared": 1, "private": 1, "team": 0}
        store(client, "cello", "team")
        store(client, "piano", "private")
    first.kill()
    with there.client(UMRA) as client:
        wait_until(lambda: answers(client), _TAKEOVER_S, "the standby answers")
        assert found(client, "violin") == {"shared": 1, "private": 1, "team": 0}
        assert found(client, "cello") == {"shared": 0, "private": 0, "team": 1}
        assert client.call("search_memory", query="piano", space="private")["results"]
        store(client, "flute", *SPACES)
    again = here.follow(UMRA)
    assert second.terminate() == 0
    wait_until(lambda: again.logged("serving"), PATIENCE_S, "it serves again")
    with here.client(UMRA) as client:
        assert found(client, "flute") == {"shared": 0, "private": 1, "team": 1}
    assert again.terminate() == 0
    assert tables_of(here.root / UMRA) == from_nothing(here.dsn, tmp_path / "from nothing")
    assert set(tables_of(here.root / UMRA)) == set(SPACES.values())


def test_what_only_a_space_had_is_repeated_once(here: Machine) -> None:
    """The agent's own file does not count these transactions: after a restart the space's file does."""
    for number in range(3):
        agent = here.start(UMRA).wait_until_serving()
        with here.client(UMRA) as client:
            store(client, f"note{number}", *SPACES)
        agent.kill()
    here.start(UMRA).wait_until_serving()
    with here.client(UMRA) as client:
        for number in range(3):
            assert found(client, f"note{number}") == {"shared": 0, "private": 1, "team": 1}


def test_a_deletion_is_repeated(here: Machine, there: Machine) -> None:
    first = here.start(UMRA).wait_until_serving()
    there.follow(UMRA)
    with here.client(UMRA) as client:
        store(client, "violin", "team", "shared")
        folder = there.root / UMRA / "spaces/team"
        wait_until(folder.exists, PATIENCE_S, "the standby has the space")
        client.call("delete_space", name="team")
    first.kill()
    with there.client(UMRA) as client:
        wait_until(lambda: answers(client), _TAKEOVER_S, "the standby answers")
        assert not folder.exists()
        assert found(client, "violin") == {"shared": 1, "private": 0, "team": 0}


def test_spaces_of_before_the_log_are_taken_along(here: Machine, there: Machine) -> None:
    """A log that begins with an agent's file begins with those of its spaces; a snapshot has all of them."""
    dsn, here.dsn = here.dsn, ""
    agent = here.start(UMRA).wait_until_serving()
    with here.client(UMRA) as client:
        store(client, "violin", *SPACES)
    assert agent.terminate() == 0
    here.dsn = dsn
    first = here.start(UMRA).wait_until_serving()
    second = there.follow(UMRA)
    wait_until(lambda: second.logged("snapshot_joined"), PATIENCE_S, "the other machine begins with a snapshot")
    with here.client(UMRA) as client:
        store(client, "cello", *SPACES)
    first.kill()
    with there.client(UMRA) as client:
        wait_until(lambda: answers(client), _TAKEOVER_S, "the standby answers")
        for keyword in ("violin", "cello"):
            assert found(client, keyword) == {"shared": 0, "private": 1, "team": 1}
    assert second.terminate() == 0
    replica = Replica(here.database(UMRA), FUNCTIONS, _NEWEST[UMRA])
    with closing(Log(dsn, UMRA)) as log, closing(replica):
        replica.follow(log, log.last())
    assert tables_of(here.root / UMRA) == tables_of(there.root / UMRA)


def test_a_space_that_is_not_of_the_log_is_not_served(here: Machine) -> None:
    """As one whose folder was copied here: a standby would lack what it has."""
    dsn, here.dsn = here.dsn, ""
    agent = here.start(UMRA).wait_until_serving()
    with here.client(UMRA) as client:
        store(client, "violin", "team")
    assert agent.terminate() == 0
    kept = shutil.move(here.root / UMRA / "spaces/team", here.root / "kept")
    here.dsn = dsn
    agent = here.start(UMRA).wait_until_serving()
    shutil.move(kept, here.root / UMRA / "spaces/team")
    with here.client(UMRA) as client, pytest.raises(Exception, match="was not made from this log"):
        store(client, "cello", "team")
