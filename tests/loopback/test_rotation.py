"""Keys are rotated while four clients call without a pause: no call is lost or doubled, and the old key is dead."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.traffic import Traffic
from tests.waiting import PATIENCE_S, wait_until
from twinhost.certificates.layout import plan_layout
from twinhost.certificates.rotate import rotate_client, rotate_server
from twinhost.secure_zmq.certificates import load_certificates, pins_of
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, WrongServerKey
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress

CALLS = 20_000
BEFORE, AFTER = 2_000, 2_000  # calls before the rotation begins, and after it ended


class Following:
    """The keys in a folder, read again by a thread, as a long-lived client of its own would do it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.own = load_certificates(folder).own_keys
        self.pins = pins_of(folder, name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(0.05):
            self.own = load_certificates(self._folder).own_keys
            self.pins = pins_of(self._folder, self._name)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as both:
        both.start_both()
        yield both


def rotated_under_traffic(hosts: Hosts, of: str, change: str, rotate: Callable[[], None]) -> Traffic:
    """Rotate amid traffic to one agent; return the traffic's account."""
    keys = Following(hosts.keys / "operator", of)
    address = FollowedAddress(hosts.config.agent(of).endpoint, lambda: keys.own, lambda: keys.pins)
    read: tuple[str, dict[str, Any]] = ("get_agent_endpoint", {"agent_name": SDT})
    traffic = Traffic(address, read if of == SDT else ("get_twin", {"user_id": "nobody"}), change)
    traffic.start()
    try:
        wait_until(lambda: traffic.answered >= BEFORE, PATIENCE_S, "the traffic flows")
        rotate()
        so_far = traffic.answered
        wait_until(lambda: traffic.answered >= max(CALLS, so_far + AFTER), 120, "the traffic goes on")
    finally:
        traffic.stop()
        keys.stop()
    return traffic


def revisions(hosts: Hosts, of: str) -> dict[str, int]:
    """Return how many changes of each client took effect."""
    with closing(sqlite3.connect(hosts.database(of))) as database:
        if of == UMRA:
            return dict(database.execute("SELECT user_id, revision FROM twins"))
        rows = database.execute("SELECT name, record FROM agents WHERE name LIKE 'client-%'")
        return {name: msgspec.json.decode(record)["revision"] for name, record in rows}


def assert_whole(hosts: Hosts, of: str, traffic: Traffic) -> None:
    """Every call was answered, and every answered change took effect once."""
    assert traffic.failures == []
    assert traffic.answered >= CALLS
    assert revisions(hosts, of) == {
        f"client-{number}": account.changes for number, account in enumerate(traffic.accounts)
    }


def test_the_server_key_is_rotated_under_traffic(hosts: Hosts) -> None:
    """`rotate server`: 20,000 calls of four clients, none lost or doubled; the old pin leads nowhere."""
    layout = plan_layout(hosts.keys, hosts.config, None)
    old = load_certificates(hosts.keys / "mainpc").own_keys
    operator = load_certificates(hosts.keys / "operator").own_keys
    said: list[str] = []
    traffic = rotated_under_traffic(
        hosts, SDT, "register_agent", lambda: rotate_server(layout, hosts.config, said.append)
    )
    new = load_certificates(hosts.keys / "mainpc").own_keys
    assert new.public != old.public
    assert_whole(hosts, SDT, traffic)
    assert said[-1].startswith("proven")
    with (
        Client(SecuredAddress(hosts.config.agent(SDT).endpoint, operator, old.public)) as client,
        pytest.raises(WrongServerKey),
    ):
        client.call("ping")
    with (
        Client(SecuredAddress(hosts.config.agent(SDT).endpoint, old, new.public)) as client,
        pytest.raises(NotAuthorized),
    ):
        client.call("ping")


def test_an_agents_key_is_rotated_under_traffic(hosts: Hosts) -> None:
    """`rotate client NAME`: pc2's agent changes its key, serving and calling, while four clients call it."""
    layout = plan_layout(hosts.keys, hosts.config, None)
    old = load_certificates(hosts.keys / "pc2").own_keys
    said: list[str] = []
    traffic = rotated_under_traffic(
        hosts, UMRA, "update_twin", lambda: rotate_client(layout, hosts.config, UMRA, said.append)
    )
    new = load_certificates(hosts.keys / "pc2").own_keys
    assert new.public != old.public
    assert_whole(hosts, UMRA, traffic)
    with (
        Client(SecuredAddress(hosts.config.agent(SDT).endpoint, old, pins_of(hosts.keys / "pc2", SDT)[0])) as client,
        pytest.raises(NotAuthorized),
    ):
        client.call("ping")
    with hosts.client(SDT) as operator:
        assert UMRA in operator.call("get_ok_agents")["agents"]
