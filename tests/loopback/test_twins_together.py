"""Eight clients change one twin at the same time, and no change is lost."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.loopback.agent_processes import UMRA, Hosts
from twinhost import Client, Conflict

CLIENTS = 8
FIELDS = 160


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as hosts:
        hosts.start(UMRA).wait_until_serving()
        yield hosts


def together(hosts: Hosts, write: Callable[[Client, int], None]) -> None:
    """Let the clients write their shares of the fields at the same time."""

    def share(number: int) -> None:
        with hosts.client(UMRA) as client:
            for field in range(number, FIELDS, CLIENTS):
                write(client, field)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(share, range(CLIENTS)))
    with hosts.client(UMRA) as client:
        twin = client.call("get_twin", user_id="shared")
    assert twin["twin"] == {f"f{field}": field for field in range(FIELDS)}
    assert twin["revision"] == FIELDS


def test_patches_of_eight_clients_keep_160_of_160_fields(hosts: Hosts) -> None:
    def write(client: Client, field: int) -> None:
        client.call("patch_twin", user_id="shared", patch={f"f{field}": field})

    together(hosts, write)


def test_updates_with_if_revision_keep_160_of_160_fields(hosts: Hosts) -> None:
    """Each client reads, adds its field, and repeats both after a conflict, which has the current revision."""

    def write(client: Client, field: int) -> None:
        while True:
            found = client.call("get_twin", user_id="shared")
            data = {**found["twin"], f"f{field}": field}
            try:
                client.call("update_twin", user_id="shared", twin_data=data, if_revision=found["revision"])
                return
            except Conflict as conflict:
                conflicts.append((found["revision"], conflict.revision or 0))

    conflicts: list[tuple[int, int]] = []
    together(hosts, write)
    assert all(read < current for read, current in conflicts)
