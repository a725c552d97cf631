"""The process: what it can't store is told all the same, and its heartbeat says what hinders it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.receivers import HttpReceiver
from tests.unit.notify.test_rules import item
from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.deployment import load_settings
from twinhost.network_config.load import DEFAULT_PATH, PATH_VARIABLE
from twinhost.notify import notifier as process
from twinhost.notify.notifier import Notifier
from twinhost.notify.rules import RETURN_S, View
from twinhost.secure_zmq.errors import ConfigurationError


class Hosts:
    """What mainpc answers, and the statuses that it was sent."""

    def __init__(self, _: Any) -> None:
        self.view = View(())
        self.statuses: list[str] = []

    def look(self) -> View:
        return self.view

    def beat(self, status: str) -> None:
        self.statuses.append(status)

    def say_goodbye(self) -> None:
        """Do nothing."""

    close = say_goodbye


@pytest.fixture
def clock() -> Clock:
    return Clock()


def notifier_of(tmp_path: Path, port: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Notifier:
    monkeypatch.setattr(process, "Hosts", Hosts)
    document = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))
    document["notify"] = {"destinations": {"phone": {"webhook": f"http://127.0.0.1:{port}/"}}}
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return Notifier(load_settings({PATH_VARIABLE: str(path), "SECURE_ZMQ": "0"}), tmp_path, clock)


def passes(notifier: Notifier, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds)):
        clock.let_pass(1.0)
        notifier._tick()


def test_what_can_not_be_stored_is_told_all_the_same(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, as of a disk that is full here too; meanwhile the heartbeat says so."""
    with HttpReceiver() as web:
        notifier = notifier_of(tmp_path, web.port, clock, monkeypatch)
        hosts, database = notifier._hosts, notifier._database
        assert isinstance(hosts, Hosts)
        for courier in notifier._couriers:
            courier.start()
        passes(notifier, clock, RETURN_S + 5)
        assert set(hosts.statuses) == {"HEALTHY"}
        database.execute("CREATE TRIGGER full BEFORE INSERT ON memory BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        hosts.view = View([item()])
        passes(notifier, clock, 60)
        assert hosts.statuses[-1] == "can't store its messages"
        wait_until(lambda: web.titles, PATIENCE_S, "it is delivered")
        database.execute("DROP TRIGGER full")
        passes(notifier, clock, 60)
        assert hosts.statuses[-1] == "HEALTHY"
        for courier in notifier._couriers:
            courier.stop()
        assert web.titles == ["mainpc's disk_full"]
        database.close()


def test_two_processes_do_not_send_the_same(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    notifier_of(tmp_path, 1, clock, monkeypatch)
    with pytest.raises(ConfigurationError, match="another process uses"):
        notifier_of(tmp_path, 1, clock, monkeypatch)
