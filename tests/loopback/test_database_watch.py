"""What a node of the database asks its server before it ends or leaves, against a real PostgreSQL."""

from collections.abc import Iterator

import pytest
from database import run

from tests.postgres import Cluster, running_cluster
from tests.waiting import PATIENCE_S, wait_until
from twinhost.store.replication.postgres import TABLES


@pytest.fixture(scope="module")
def first() -> Iterator[Cluster]:
    with running_cluster() as first:
        yield first


def says(cluster: Cluster, sql: str) -> bool:
    with cluster.connect() as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return bool(row[0])


def test_a_node_knows_when_the_other_can_go_on(first: Cluster) -> None:
    assert not says(first, run._SPARE)
    with running_cluster(first) as second:
        first.set("synchronous_standby_names", "*")
        wait_until(lambda: says(first, run._SPARE), PATIENCE_S, "each commit is on the other one")
        assert says(second, run._SPARE)
        first.set("synchronous_standby_names", "")


def test_an_agent_without_a_log_has_left(first: Cluster) -> None:
    """Also where its standby on this machine, started again, has made its row again; one that is active stays."""
    dsn = first.new_database()

    def asked(sql: str, agent: str) -> list[object]:
        with first.connect(dsn) as connection:
            return list(connection.execute(sql.replace(":'agent'", f"'{agent}'").encode()).fetchall())

    with first.connect(dsn) as connection:
        connection.execute(TABLES.encode())
        connection.execute("INSERT INTO epochs (agent, log, holder) VALUES ('one', 'a', 'pc2'), ('two', 'b', '')")
    assert asked(run._FORGET, "one") == [("pc2",)]
    assert asked(run._STAYS, "two") == [(True, False)]
    with first.connect(dsn) as connection:
        connection.execute("UPDATE epochs SET holder = ''")
    assert asked(run._FORGET, "one") == []
    assert asked(run._STAYS, "two") == [(False, False)]
    with first.connect(dsn) as connection:
        connection.execute("INSERT INTO epochs (agent) VALUES ('one')")
    assert asked(run._STAYS, "two") == [(False, False)]
    assert asked(run._STAYS, "one") == [(True, False)]
