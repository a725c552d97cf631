"""What a node of the database asks itself and the witness, before it ends or leaves, against a real PostgreSQL."""

from collections.abc import Iterator

import pytest
from database import run

from tests.postgres import Cluster, running_cluster
from tests.waiting import PATIENCE_S, wait_until

_NODE = "CREATE TABLE pgautofailover.node (nodename text, reportedstate text, goalstate text, reporttime timestamptz)"


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


def test_a_node_that_follows_knows_when_it_is_cut_off(first: Cluster) -> None:
    first.set("wal_sender_timeout", "4s")
    assert not says(first, run._CUT_OFF)
    with running_cluster(first) as second:
        wait_until(lambda: not says(second, run._CUT_OFF), PATIENCE_S, "it follows")
        first.freeze()
        try:
            wait_until(lambda: says(second, run._CUT_OFF), PATIENCE_S, "it hears nothing")
        finally:
            first.thaw()
        wait_until(lambda: not says(second, run._CUT_OFF), PATIENCE_S, "it follows again")


@pytest.mark.parametrize(
    ("other", "silent_s", "awaited"),
    [
        ("primary, primary", 0, True),
        ("primary, primary", 4, False),  # it may be gone, and this one is to take writes
        ("primary, wait_primary", 0, False),
        ("wait_primary, wait_primary", 0, False),
    ],
)
def test_a_node_leaves_only_if_the_other_is_well(first: Cluster, other: str, silent_s: int, awaited: bool) -> None:
    reported, goal = other.split(", ")
    mine, others = run.NODES
    with first.connect() as witness:
        witness.execute("CREATE SCHEMA pgautofailover")
        witness.execute(_NODE)
        add = "INSERT INTO pgautofailover.node VALUES (%s, %s, %s, now() - make_interval(secs => %s))"
        witness.execute(add, (mine, "secondary", "secondary", 0))
        witness.execute(add, (others, reported, goal, silent_s))
        try:
            assert says(first, run._AWAITED.format(mine)) == awaited
            assert not says(first, run._AWAITED.format(others))
            assert witness.execute(run._GOAL.format(others).encode()).fetchone() == (goal,)
        finally:
            witness.execute("DROP SCHEMA pgautofailover CASCADE")
