"""What a node of the database asks its server and the witness before it ends or leaves, against a real PostgreSQL."""

from collections.abc import Iterator

import pytest
from database import run

from tests.postgres import Cluster, running_cluster
from tests.waiting import PATIENCE_S, wait_until
from twinhost.store.replication.postgres import TABLES

# As the witness has them: a state is of a type of its own, which is not compared with a text.
_NODES = """
CREATE SCHEMA pgautofailover;
CREATE TYPE pgautofailover.replication_state AS ENUM ('primary', 'wait_primary', 'draining', 'secondary');
CREATE TABLE pgautofailover.node (
    nodename text, goalstate pgautofailover.replication_state, reportedpgisrunning bool, reporttime timestamptz
)
"""


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


@pytest.mark.parametrize(
    ("state", "runs", "silent_s", "takes_writes"),
    [
        ("primary", True, 0, True),
        ("wait_primary", True, 1, True),
        ("wait_primary", True, 3, False),
        ("primary", False, 0, False),
        ("draining", True, 0, False),
        ("secondary", True, 0, False),
    ],
)
def test_the_witness_knows_whether_the_other_takes_writes(
    first: Cluster, state: str, runs: bool, silent_s: int, takes_writes: bool
) -> None:
    mine, other = run.NODES
    with first.connect() as witness:
        witness.execute(_NODES)
        try:
            add = "INSERT INTO pgautofailover.node VALUES (%s, %s, %s, now() - make_interval(secs => %s))"
            witness.execute(add, (other, state, runs, silent_s))
            assert says(first, run._TAKES_WRITES.format(other, run._HEARD_S)) == takes_writes
            assert not says(first, run._TAKES_WRITES.format(mine, run._HEARD_S))
        finally:
            witness.execute("DROP SCHEMA pgautofailover CASCADE")
