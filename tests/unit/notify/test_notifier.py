"""The process: what it can't store is told all the same, and its heartbeat says what hinders it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from tests.receivers import HttpReceiver
from tests.unit.notify.test_rules import item
from tests.unit.system_digital_twin.twin import Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.deployment import MEMORY_AGENT, REGISTRY_AGENT, Settings, load_settings
from twinhost.moments import iso_time
from twinhost.network_config.load import DEFAULT_PATH, PATH_VARIABLE
from twinhost.notify import notifier as process
from twinhost.notify.destinations import Destination, NotTaken
from twinhost.notify.notifier import Notifier
from twinhost.notify.outbox import Letter
from twinhost.notify.rules import RETURN_S, Memory, View, trial_message
from twinhost.secure_zmq.errors import ConfigurationError, ServerUnreachable


class Hosts:
    """What mainpc answers, and the statuses that it was sent."""

    def __init__(self, _: Any) -> None:
        self.view = View(())
        self.statuses: list[str] = []
        self.goodbyes = 0

    def look(self) -> View:
        return self.view

    def beat(self, status: str) -> None:
        self.statuses.append(status)

    def say_goodbye(self) -> None:
        self.goodbyes += 1

    def close(self) -> None:
        """Do nothing."""


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


def queued(notifier: Notifier, clock: Clock, destination: str = "phone") -> Letter:
    """Queue a message, and return it."""
    notifier._outbox.keep(Memory(), trial_message(clock.time()), [destination], clock.time())
    letter = notifier._outbox.due(destination, clock.time())
    assert letter is not None
    return letter


def test_a_destination_that_takes_nothing_is_in_the_heartbeat(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 10 minutes, so that mainpc's list has it; in as many characters as a status may have."""
    notifier = notifier_of(tmp_path, 1, clock, monkeypatch)
    notifier._outbox.failed(queued(notifier, clock), clock.time())
    clock.let_pass(590)
    assert notifier._status() == "HEALTHY"
    clock.let_pass(20)
    assert notifier._status() == "can't deliver to phone"
    notifier._outbox.failed(queued(notifier, clock, "x" * 99), clock.time())
    notifier._destinations = ["x" * 99]
    clock.let_pass(610)
    assert len(notifier._status()) == 64


@pytest.mark.parametrize("fault", [NotTaken("full"), ConfigurationError("its secret is gone"), ValueError("a bug")])
def test_a_message_that_fails_ends_no_deliveries(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    notifier = notifier_of(tmp_path, 1, clock, monkeypatch)
    (courier,) = notifier._couriers

    def fails(*_: object) -> str:
        raise fault

    monkeypatch.setattr(Destination, "send", fails)
    letter = queued(notifier, clock)
    with capture_logs() as lines:
        courier._deliver(letter)
    assert notifier._outbox.waits_since("phone") is not None, "it is tried again"
    logged = "delivery_fault" if isinstance(fault, ValueError) else "message_not_delivered"
    assert [line["event"] for line in lines] == [logged], "a traceback is for a bug alone"


def test_what_is_for_nobody_is_dropped_at_the_start(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = notifier_of(tmp_path, 1, clock, monkeypatch)
    queued(notifier, clock, "gone")
    notifier._database.close()
    notifier._unlock()
    assert notifier_of(tmp_path, 1, clock, monkeypatch)._outbox.due("gone", clock.time()) is None


def test_a_process_that_stops_says_so(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else mainpc would have it as silent."""
    notifier = notifier_of(tmp_path, 1, clock, monkeypatch)
    notifier.stop()
    notifier.run()
    assert isinstance(notifier._hosts, Hosts)
    assert notifier._hosts.goodbyes == 1


class Asked:
    """A client of an agent that answers as a test says."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def call(self, *_: object, **__: object) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return {"items": self._answer}


def test_pc2_is_asked_while_mainpc_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what it knows itself: that mainpc is silent, and what is wrong with pc2; not for what mainpc said last."""
    silent, own, last = item("mainpc_silent"), item("warning:pc2/outbox"), item("errors", last_known=iso_time(0))
    no_answer = ServerUnreachable("no answer")
    for answer, told in (([silent, own, last], ["mainpc_silent", own["id"]]), ([own], []), (no_answer, [])):
        answers = {REGISTRY_AGENT: no_answer, MEMORY_AGENT: answer}
        monkeypatch.setattr(Settings, "client", lambda _, agent, answers=answers: Asked(answers[agent.name]))
        view = process.Hosts(load_settings({"SECURE_ZMQ": "0"})).look()
        assert ([one["id"] for one in view.items], view.fault) == (told, "no answer")
