"""Messages about each trouble that an operator must be told of: one that says all of it, and one that says it is over.

The process is the real one, down to the HTTP request that a server here takes. It asks mainpc's agent in this process,
without a socket, so that its clock can be moved.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.receivers import HttpReceiver
from tests.staged_troubles import BEAT_S, FOURTEEN, PAIRS, STAGINGS, Deployment, Staging
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.certificates.layout import NOTIFIER_ROLE, NOTIFY
from twinhost.deployment import Settings, load_settings
from twinhost.network_config import Agent
from twinhost.network_config.load import DEFAULT_PATH, PATH_VARIABLE
from twinhost.notify import notifier as process
from twinhost.notify.notifier import Notifier
from twinhost.notify.rules import RETURN_S
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.framing.exchange import successful
from twinhost.secure_zmq.wire import Reply

pytestmark = pytest.mark.thorough

TOLD_WITHIN_S, WITH_A_TTL_S = 30.0, 60.0
MENDED_WITHIN_S, QUIET_S = 60, 60
SILENCE = {"host_silent:pc2", "agents_silent:pc2"}
ITSELF = Caller(NOTIFY, "pc2", frozenset({NOTIFIER_ROLE}), "SHA256:of-notify")


class InProcess:
    """A client, with the key of the process, of mainpc's agent."""

    def __init__(self, twin: Twin, agent: Agent) -> None:
        assert agent.name == SDT.name, "mainpc answers, so nobody else is asked"
        self._twin = twin

    def call(self, action: str, /, *, deadline_s: float, **fields: Any) -> Reply:
        return successful(self._twin.ask(action, ITSELF, **fields))

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Told:
    """A message as the server got it, and when, by the clock that is moved."""

    at: float
    body: dict[str, Any]

    @property
    def title(self) -> str:
        return str(self.body["title"])


class Notified(Deployment):
    """A deployment in which the process runs too: it turns with mainpc's agent, and its deliveries with the clock."""

    def __init__(self, twin: Twin, clock: Clock, home: Path, notifier: Notifier, web: HttpReceiver) -> None:
        self._notifier, self._web = notifier, web
        self.told: list[Told] = []
        super().__init__(twin, clock, home)
        self.pass_seconds(round(RETURN_S) + 10)

    def turn(self, seconds: float = 1.0) -> None:
        super().turn(seconds)
        self._notifier._tick()
        outbox = self._notifier._outbox
        wait_until(lambda: outbox.due("phone", self.now) is None, PATIENCE_S, "all is delivered")
        self.told += [Told(self.now, body) for body in self._web.bodies[len(self.told) :]]

    def wait_for(self, messages: int, seconds: int) -> None:
        """Let time pass until so many were delivered."""
        deadline = self.now + seconds
        while len(self.told) < messages and self.now < deadline:
            self.pass_seconds(1)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    with notified(tmp_path, monkeypatch) as deployment:
        yield deployment


@contextmanager
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    """Return a deployment that is well, and has been told nothing."""
    monkeypatch.setattr(process, "_TICK_S", 0.01)  # of the deliveries, in real time
    clock = Clock()
    with Twin(Deployment.environment(tmp_path), clock) as twin, HttpReceiver() as web:
        monkeypatch.setattr(Settings, "client", lambda _, agent: InProcess(twin, agent))
        document = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))
        document["notify"] = {"destinations": {"phone": {"webhook": f"http://127.0.0.1:{web.port}/"}}}
        config = tmp_path / "notify.yaml"
        config.write_text(yaml.safe_dump(document))
        notifier = Notifier(load_settings({PATH_VARIABLE: str(config), "SECURE_ZMQ": "0"}), tmp_path, clock)
        for courier in notifier._couriers:
            courier.start()
        yield Notified(twin, clock, tmp_path, notifier, web)
        for courier in notifier._couriers:
            courier.stop()
        notifier._database.close()


@pytest.mark.parametrize("staging", STAGINGS, ids=lambda staging: staging.name)
def test_one_message_says_it_and_one_its_end(deployment: Notified, staging: Staging) -> None:
    """In time: what, since when, where, why, and the command; nothing of what it explains, and nothing twice."""
    stage_and_mend(deployment, staging, QUIET_S)


def test_one_after_the_other_each_has_its_message(deployment: Notified) -> None:
    """In time, on a bad afternoon: no trouble waits because there were many before, nor shares another one's message.

    The brute force is the last, since a day passes until it ends.
    """
    began = deployment.now
    for staging in sorted((*FOURTEEN, *PAIRS), key=lambda staging: staging.name == "brute force"):
        stage_and_mend(deployment, staging)
        assert deployment.now - began < 3_600 or staging.name == "brute force"
    deployment.pass_seconds(QUIET_S)
    assert len(deployment.told) == 2 * len((*FOURTEEN, *PAIRS))


def stage_and_mend(deployment: Notified, staging: Staging, quiet_s: int = 0) -> None:
    """Require one message about a trouble, which says all of it, and one that says it is over; then time may pass."""
    before, staged_at = len(deployment.told), deployment.now
    began = staging.stage(deployment)
    deployment.wait_for(before + 1, round(WITH_A_TTL_S))
    deployment.pass_seconds(quiet_s)
    (told,) = deployment.told[before:]
    assert told.at - staged_at <= (WITH_A_TTL_S if SILENCE & {*staging.hides, staging.id} else TOLD_WITHIN_S)
    staging.require_what(told.title)
    assert told.body["level"] == staging.level
    news = {each["id"]: each for each in told.body["news"]}
    assert [*news] == [staging.id, *staging.beside]
    assert abs(news[staging.id]["since"] - began) <= staging.within_s
    said = told.body["text"].split("\n\n")[0].splitlines()
    staging.require_what(said[0])
    since = datetime.fromtimestamp(news[staging.id]["since"], UTC)
    since_when = f"{staging.level.capitalize()} since {since:%Y-%m-%d %H:%M} UTC."
    assert said[1] in (since_when, f"{since_when} It came back once.")
    staging.require_cause(said[2].removeprefix("Cause: "))
    assert any(line.startswith(f"On {staging.on}: {staging.command} (") for line in said)

    staging.mend(deployment)
    deployment.wait_for(before + 2, MENDED_WITHIN_S)
    deployment.pass_seconds(quiet_s)
    assert len(deployment.told) == before + 2, [message.title for message in deployment.told[before:]]
    ended = deployment.told[-1]
    mended = re.fullmatch(r"Resolved after \S+ (?:s|min|h|d)(?: \S+ (?:min|h))?: (.*)", ended.title)
    assert mended is not None, ended.title
    assert mended[1] == told.title
    assert {(each["id"], each["event"]) for each in ended.body["news"]} == {(name, "ended") for name in news}


@pytest.mark.parametrize("earlier_s", [3, 8])
def test_a_cause_that_is_found_later_is_the_one_message(deployment: Notified, earlier_s: int) -> None:
    """pc2 counts as silent for seconds before anybody finds that mainpc's disk is full, and can store no heartbeat."""
    deployment.pc2_answers = False
    while "host_silent:pc2" not in deployment.ids():
        deployment.pass_seconds(1)
    deployment.pass_seconds(earlier_s)
    assert deployment.ids() == ["host_silent:pc2"]
    deployment.free_bytes = 0
    deployment.pass_seconds(QUIET_S)
    assert [told.title for told in deployment.told] == ["mainpc's disk is full: 0 MB of 98.0 GB free"]
    assert "\nIt explains: " in deployment.told[0].body["text"]
    assert "pc2 does not respond" in deployment.told[0].body["text"]
    deployment.recover()
    deployment.pass_seconds(QUIET_S)
    assert len(deployment.told) == 2


def test_it_registers_again_after_it_was_unregistered(deployment: Notified) -> None:
    deployment.twin.call("unregister", OPERATOR, agent_name=NOTIFY)
    deployment.pass_seconds(3 * BEAT_S)
    assert deployment.twin.call("get_all_agents")["agents"][NOTIFY]["status"] == "HEALTHY"


def test_what_comes_and_goes_is_told_a_few_times(deployment: Notified) -> None:
    """As mainpc's list takes it: each time it has to stay away for longer, until it has ended."""
    for _ in range(30):
        deployment.silence_pc2(30)
        deployment.recover()
        deployment.pass_seconds(16)
    told = len(deployment.told)
    assert told in (3, 5, 7), "of the 60 turns, with one that has not ended yet"
    assert "It came back " in deployment.told[-1].body["text"]
    deployment.pass_seconds(400)
    assert len(deployment.told) == told + 1
    assert deployment.told[-1].title.startswith("Resolved after ")
