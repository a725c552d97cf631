"""What the link tells mainpc with its heartbeats, and what it makes of the answers; against a mainpc of this test."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.configuration import SHIPPED
from tests.unit.agent.test_memory_figures import NONE
from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.conditions import Condition
from twinhost.agent.membership.member import MainpcLink
from twinhost.agent.membership.watch import MainpcWatch
from twinhost.moments import iso_time
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    NotAuthorized,
    NotGranted,
    SecurityMismatch,
    ServerUnreachable,
    StoreUnavailable,
    TwinhostError,
)
from twinhost.secure_zmq.server_address import UnencryptedAddress

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
WELL = {"status": "success", "level": "well", "headline": "All is well.", "as_of": "", "items": []}


class Mainpc:
    """Answers as a mainpc does whose clock is `behind_s`; a round trip takes `trip_s`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.behind_s, self.trip_s = 0.0, 1.0
        self.failure: TwinhostError | None = None
        self.refuses: dict[str, TwinhostError] = {}
        self.more: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, action: str, **fields: Any) -> dict[str, Any]:
        self.asked.append((action, fields))
        if (failure := self.failure or self.refuses.get(action)) is not None:
            raise failure
        self.clock.let_pass(self.trip_s / 2)
        timestamp = iso_time(self.clock.time() - self.behind_s)
        self.clock.let_pass(self.trip_s / 2)
        return {**WELL, "timestamp": timestamp, "registration": "r", **self.more}

    def times(self, action: str) -> int:
        return sum(asked == action for asked, _ in self.asked)

    @property
    def heartbeat(self) -> dict[str, Any]:
        return [fields for action, fields in self.asked if action == "heartbeat"][-1]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.mainpc = Mainpc(self.clock)
        self.conditions: list[Condition] = []
        agents = SHIPPED.agents
        self.watch = MainpcWatch(
            folder / "attention.json", agents[UMRA], agents[SDT], tuple, lambda: 15.0, self.clock, secure=True
        )
        self.link = MainpcLink(
            UnencryptedAddress("tcp://127.0.0.1:1"),
            agents[UMRA],
            5.0,
            65_536,
            None,
            conditions=lambda: self.conditions,
            watch=self.watch,
            clock=self.clock,
        )
        self.turn()

    def turn(self, failure: TwinhostError | None = None) -> None:
        self.mainpc.failure = failure
        self.link._turn(cast(Client, self.mainpc))
        self.clock.let_pass(1)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_conditions_are_sent_while_there_are_any(bench: Bench) -> None:
    bench.turn()
    assert "conditions" not in bench.mainpc.heartbeat
    bench.conditions = [Condition(name="disk", what="it is full", level="degraded", command="df -h")]
    bench.turn()
    (sent,) = bench.mainpc.heartbeat["conditions"]
    assert sent == {"name": "disk", "what": "it is full", "level": "degraded", "command": "df -h"}
    bench.conditions = []
    bench.turn()
    assert "conditions" not in bench.mainpc.heartbeat


def test_a_heartbeat_reports_how_much_is_in_the_memory(bench: Bench) -> None:
    bench.turn()
    assert "memory" not in bench.mainpc.heartbeat, "an agent without one has no figures"
    bench.link.figures = lambda: NONE
    bench.turn()
    assert bench.mainpc.heartbeat["memory"] == msgspec.to_builtins(NONE)


def test_a_heartbeat_reports_the_clock_of_the_one_before(bench: Bench) -> None:
    bench.mainpc.behind_s = 7_200
    bench.turn()
    assert "clock" not in bench.mainpc.heartbeat
    bench.turn()
    clock = bench.mainpc.heartbeat["clock"]
    assert clock["ahead_s"] == pytest.approx(7_200, abs=clock["within_s"])
    assert clock["within_s"] == pytest.approx(0.5, abs=0.1)
    assert abs(clock.get("set_by_s", 0.0)) < 0.1
    bench.clock.set_wall_clock(-3_600)
    bench.turn()
    bench.turn()
    assert bench.mainpc.heartbeat["clock"]["set_by_s"] == pytest.approx(-3_600, abs=0.1)


@pytest.mark.parametrize("timestamp", ["", "yesterday", None, 5])
def test_an_answer_without_a_time_compares_no_clock(bench: Bench, timestamp: object) -> None:
    bench.mainpc.more = {"timestamp": timestamp}
    bench.turn()
    bench.turn()
    assert "clock" not in bench.mainpc.heartbeat


def test_the_list_is_fetched_when_it_has_changed(bench: Bench) -> None:
    """And at most every two seconds; an older mainpc has none."""
    bench.turn()
    bench.turn()
    assert bench.mainpc.times("get_attention") == 0
    bench.mainpc.more = {"attention_revision": "r1"}
    bench.turn()
    bench.turn()
    assert bench.mainpc.times("get_attention") == 1
    bench.mainpc.trip_s = 0
    for number in range(2, 12):  # another one each second
        bench.mainpc.more = {"attention_revision": f"r{number}"}
        bench.turn()
    assert bench.mainpc.times("get_attention") == 1 + 10 / 2


def test_a_list_that_is_not_granted_breaks_no_heartbeat(bench: Bench) -> None:
    """And is asked for again after 10 minutes: mainpc's audit log has each attempt."""
    bench.mainpc.more = {"attention_revision": "r1"}
    bench.mainpc.refuses = {"get_attention": NotGranted("not granted")}
    for _ in range(100):
        bench.turn()
    assert (bench.link.fault, bench.mainpc.times("get_attention")) == (None, 1)
    bench.clock.let_pass(600)
    bench.turn()
    assert bench.mainpc.times("get_attention") == 2


def test_a_mainpc_that_can_not_write_is_asked_what_is_wrong(bench: Bench) -> None:
    """Its heartbeat's answer, which would say that the list has changed, is a refusal."""
    bench.turn()
    bench.mainpc.refuses = {"heartbeat": StoreUnavailable("the disk is full")}
    bench.turn()
    assert bench.mainpc.times("get_attention") == 1
    assert "mainpc_silent" not in str(bench.watch.list())


def test_the_watch_learns_when_mainpc_answers(bench: Bench) -> None:
    """A refusal is an answer; silence has the cause that the link has seen."""

    def silence() -> list[str | None]:
        return [item["cause"] for item in bench.watch.list()["items"] if item["kind"] == "mainpc_silent"]

    bench.turn()
    for _ in range(20):
        bench.turn(StoreUnavailable("the disk is full"))
    assert silence() == []
    for _ in range(20):
        bench.turn(ServerUnreachable("no reply to heartbeat"))
    assert silence() == ["no reply to heartbeat"]
    bench.mainpc.trip_s = 0.0
    bench.turn()
    assert silence() == []


@pytest.mark.parametrize("verdict", [NotAuthorized("refused this key"), SecurityMismatch("requires CURVE")])
def test_a_refusal_is_one_reason_and_logged_once(bench: Bench, verdict: TwinhostError) -> None:
    """The silence that follows each attempt is not another one."""
    bench.turn()
    with capture_logs() as lines:
        for _ in range(10):
            bench.turn(verdict)
            bench.turn(ServerUnreachable("no reply to heartbeat"))
    assert [line["cause"] for line in lines if line["event"] == "mainpc_disconnected"] == [type(verdict).__name__]
    assert bench.link.fault == f"{type(verdict).__name__}: {verdict}"
    for _ in range(12):
        bench.turn(ServerUnreachable("no reply to heartbeat"))
    assert str(bench.link.fault).startswith("ServerUnreachable"), "mainpc is gone altogether by now"


def test_a_cause_that_returns_after_a_connection_is_logged_again(bench: Bench) -> None:
    with capture_logs() as lines:
        for _ in range(2):
            bench.turn()
            bench.turn(ServerUnreachable("no reply to heartbeat"))
    assert len([line for line in lines if line["event"] == "mainpc_disconnected"]) == 2
