"""What a node of the database asks its server before it ends, against a real PostgreSQL."""

from collections.abc import Iterator

import pytest
from database import run

from tests.postgres import Cluster, running_cluster
from tests.waiting import PATIENCE_S, wait_until


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
