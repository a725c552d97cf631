"""What real processes have logged while they died, stopped, and handed over is what the model of a failover does."""

import json
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, AgentProcess
from tests.loopback.test_agents_recovery import write
from tests.loopback.test_standby import _TAKEOVER_S, Machine
from tests.postgres import Cluster, running_cluster
from tests.unit.store.replication.model import accept
from tests.waiting import PATIENCE_S, suspend, wait_until
from twinhost.store.replication.replica import EXIT_STATUS

Line = dict[str, Any]


class Traced(Machine):
    """One whose processes log what they do with their epoch, and with the log."""

    def environment(self, name: str) -> dict[str, str]:
        return super().environment(name) | {"TWINHOST_LOG_LEVEL": "debug"}

    def written(self, *calls: str) -> None:
        with self.client(SDT) as client:
            for call in calls:
                write(SDT, client, call)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def trace(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """The lines of both machines' processes: one is killed, one stopped for as long as it takes, one hands over."""
    root = tmp_path_factory.mktemp("machines")
    with Traced(root / "here", cluster.new_database()) as here, Traced(root / "there", here.dsn, here) as there:
        active = here.start(SDT).wait_until_serving()
        standby = there.follow(SDT)
        here.written("one", "two")
        wait_until(lambda: standby.logged("log_followed"), PATIENCE_S, "it follows, after a beat")
        active.kill()
        served(standby)
        there.written("three", "four")
        again = here.follow(SDT)
        suspend(standby.pid)
        served(again)
        here.written("five")
        standby.send(signal.SIGCONT)
        assert standby.wait() == EXIT_STATUS
        last = there.follow(SDT)
        assert again.terminate() == 0
        served(last)
        there.written("six")
        assert last.terminate() == 0
        return [line for machine in (here, there) for process in machine.processes for line in lines(machine, process)]


def served(process: AgentProcess) -> None:
    wait_until(lambda: process.logged("serving"), _TAKEOVER_S, "the standby serves")


def lines(machine: Machine, process: AgentProcess) -> Iterator[Line]:
    for line in process.lines:
        if line.startswith("{"):
            yield json.loads(line) | {"process": machine.root.name}


def test_the_model_does_what_the_processes_did(trace: list[Line]) -> None:
    assert accept(trace) > 50
    claims = [(line["epoch"], line["process"]) for line in trace if line["event"] == "epoch_claimed"]
    assert sorted(claims) == [(1, "here"), (2, "there"), (3, "here"), (4, "there")]
    assert {"ended_by_log", "epoch_released", "log_followed"} <= {line["event"] for line in trace}


def one(trace: list[Line], event: str, **fields: Any) -> Line:
    """Return the first line of an event with these fields."""
    return next(line for line in trace if line["event"] == event and fields.items() <= line.items())


def at(line: Line, seconds: float) -> str:
    """Return the time so much later than a line."""
    return (moment(line) + timedelta(seconds=seconds)).isoformat()


def moment(line: Line) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


def with_two_holders(trace: list[Line]) -> list[Line]:
    second = one(trace, "epoch_claimed", epoch=2)
    return [*trace, second | {"process": "third", "timestamp": at(second, 0.001)}]


def with_a_claim_too_soon(trace: list[Line]) -> list[Line]:
    beat = one(trace, "epoch_confirmed", epoch=1)
    return [*trace, beat | {"timestamp": at(one(trace, "epoch_claimed", epoch=2), -1.0)}]


def with_a_reply_after_it_was_fenced(trace: list[Line]) -> list[Line]:
    held = one(trace, "epoch_held", epoch=2)
    return [*trace, held | {"timestamp": at(one(trace, "epoch_claimed", epoch=3), 0.001)}]


def with_a_transaction_after_it_was_fenced(trace: list[Line]) -> list[Line]:
    last = [line for line in trace if line["event"] == "transaction_appended" and line["epoch"] == 2][-1]
    return [*trace, last | {"timestamp": at(one(trace, "epoch_claimed", epoch=3), 0.001)}]


def with_a_reply_after_its_beats(trace: list[Line]) -> list[Line]:
    """While nobody else has claimed yet."""
    held = one(trace, "epoch_held", epoch=2)
    return [*trace, held | {"timestamp": at(one(trace, "epoch_claimed", epoch=3), -0.1)}]


def with_a_gap(trace: list[Line]) -> list[Line]:
    missing = [line for line in trace if line["event"] == "transaction_appended"][1]
    return [line for line in trace if line is not missing]


def with_what_is_not_durable(trace: list[Line]) -> list[Line]:
    followed = one(trace, "log_followed", process="there")
    return [line | {"transactions": 1_000} if line is followed else line for line in trace]


@pytest.mark.parametrize(
    ("doctored", "why"),
    [
        (with_two_holders, "there has claimed 2"),
        (with_a_claim_too_soon, "here may still answer"),
        (with_a_reply_after_it_was_fenced, "is another one's"),
        (with_a_transaction_after_it_was_fenced, "is another one's"),
        (with_a_reply_after_its_beats, "its last beat is too old"),
        (with_a_gap, "the last one was 1"),
        (with_what_is_not_durable, "it was not known to be durable"),
    ],
)
def test_the_model_refuses_what_must_not_be(
    trace: list[Line], doctored: Callable[[list[Line]], list[Line]], why: str
) -> None:
    with pytest.raises(AssertionError, match=why):
        accept(doctored(trace))


@pytest.mark.parametrize("late_s", [-0.001, 0.001])
def test_the_model_takes_a_line_of_a_process_stopped_before_it(trace: list[Line], late_s: float) -> None:
    """Its transaction was durable; the next process has repeated it; then the first one writes its line."""
    last = [line for line in trace if line["event"] == "transaction_appended" and line["epoch"] == 2][-1]
    followed = {"event": "log_followed", "process": "here", "transactions": last["seq"]}
    late = last | {"timestamp": at(one(trace, "ended_by_log", process="there"), late_s)}
    before = [line for line in trace if line is not last and not followed.items() <= line.items()]
    assert accept([*before, late]) > 50


@pytest.mark.parametrize("late_s", [-0.001, 0.001])
def test_the_model_takes_a_beat_of_a_process_that_was_stopped(trace: list[Line], late_s: float) -> None:
    beat = [line for line in trace if line["event"] == "epoch_confirmed" and line["epoch"] == 2][-1]
    end = one(trace, "ended_by_log", process="there")
    took_s = (moment(end) - moment(one(trace, "epoch_claimed", epoch=3))).total_seconds() + 1.0
    assert accept([*trace, beat | {"timestamp": at(end, late_s), "took_s": took_s}]) > 50
    with pytest.raises(AssertionError, match="asked for after the"):
        accept([*trace, beat | {"timestamp": at(end, late_s), "took_s": -0.3}])
