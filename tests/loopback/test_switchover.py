"""Which process is active, as an operator asks for it: `switchover`, `promote`, and `failover: manual`."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ledger import check
from tests.loopback.agent_processes import SDT, UMRA
from tests.loopback.test_agents_recovery import times_written, write
from tests.loopback.test_standby import _TAKEOVER_S, Machine, cluster, here, there, written  # noqa: F401 - fixtures
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.assembly import StartAgain
from twinhost.store.replication.epochs import CLAIM_AFTER_S

PROMISED_S = 5.0  # without an answer


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


def ask(machine: Machine, *words: str) -> Answer:
    """Run a command as in a container of an agent."""
    environment = machine.environment(SDT) | {"TWINHOST_CERTIFICATES": str(machine.folder("operator"))}
    command = [sys.executable, "-m", "twinhost.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return Answer(done.returncode, done.stdout, done.stderr)


def by_hand(*machines: Machine) -> None:
    """Set `failover: manual` for the processes that start from now on."""
    for machine in machines:
        with Path(machine.config.source).open("a") as config:
            config.write("failover: manual\n")


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_a_switchover_loses_no_call(name: str, here: Machine, tmp_path: Path) -> None:  # noqa: F811
    """A retry heals each, and the first process stands by when it is started again."""
    with Machine(tmp_path / "there", here.dsn, here, same_port=True) as there:  # noqa: F811
        first = here.start(name).wait_until_serving()
        second = there.follow(name)
        with here.write_without_end(name) as writer:
            try:
                wait_until(lambda: here.acknowledged(name) > 20, PATIENCE_S, "calls are acknowledged")
                with ThreadPoolExecutor(1) as thread:
                    asking = thread.submit(ask, here, "switchover", name, "--json")
                    gap_s = longest_gap(here, name, lambda: bool(second.logged("serving")) and asking.done())
                answer = asking.result()
                assert (answer.status, answer.err) == (0, ""), answer
                asked = json.loads(answer.out)
                assert (asked["agent"], asked["active"], asked["epoch"]) == (name, "there", 2)
                assert first.wait() == StartAgain.EXIT_STATUS
                again = here.follow(name)
                before = here.acknowledged(name)
                wait_until(lambda: here.acknowledged(name) > before + 20, PATIENCE_S, "calls are acknowledged")
                time.sleep(CLAIM_AFTER_S)
                assert not again.logged("active")
            finally:
                writer.kill()
        assert second.terminate() == 0
        wait_until(lambda: again.logged("serving"), PATIENCE_S, "it serves at once")
        assert again.terminate() == 0
        verdict = check(here.ledger_of(name), written(there, name))
        assert verdict.whole, verdict
        print(f"{name}: {asked['after_s']} s until the claim, {gap_s:.2f} s without an answer")
        assert gap_s <= PROMISED_S


def longest_gap(machine: Machine, name: str, until: Callable[[], bool]) -> float:
    """Return the longest time without an acknowledged call, in seconds, until something is so."""
    longest, seen, at = 0.0, machine.acknowledged(name), time.monotonic()
    while not until():
        time.sleep(0.02)
        if (now := machine.acknowledged(name)) > seen:
            longest, seen, at = max(longest, time.monotonic() - at), now, time.monotonic()
        assert time.monotonic() - at < PATIENCE_S, "calls are acknowledged"
    return longest


def test_a_switchover_needs_somebody_who_follows(here: Machine) -> None:  # noqa: F811
    agent = here.start(SDT).wait_until_serving()
    answer = ask(here, "switchover", "mainpc")
    assert answer.status == 1
    assert answer.err == f"error [conflict]: no process of {SDT} stands by for here; start one\n"
    answer = ask(here, "switchover", "mainpc", "--to", "there")
    assert f"no process named there stands by for {SDT} (who does: none does); start it" in answer.err
    assert agent.running
    assert not agent.logged("starting_again")


def test_a_promotion_never_makes_two(here: Machine, there: Machine) -> None:  # noqa: F811
    first = here.start(SDT).wait_until_serving()
    second = there.follow(SDT)
    answer = ask(there, "promote", "mainpc")
    assert answer.status == 1
    assert answer.err == (
        f"error [conflict]: {SDT} is active on here, which has just confirmed it; run: ./twinhost switchover {SDT}\n"
    )
    assert first.running
    assert not second.logged("active")


def test_a_standby_waits_for_its_promotion(here: Machine, there: Machine) -> None:  # noqa: F811
    """With `failover: manual`; who was active last goes on by itself."""
    by_hand(here, there)
    first = here.start(SDT).wait_until_serving()
    second = there.follow(SDT)
    with here.client(SDT) as client:
        write(SDT, client, "before")
    first.kill()
    time.sleep(CLAIM_AFTER_S + 2)
    assert not second.logged("active")
    first = here.start(SDT)
    wait_until(lambda: first.logged("serving"), _TAKEOVER_S, "it is its turn")
    assert first.terminate() == 0
    time.sleep(CLAIM_AFTER_S + 2)  # its epoch is released
    assert not second.logged("active")

    answer = ask(there, "promote")
    assert answer.status == 0, answer
    assert answer.out.startswith(f"{SDT} is active on there after ")
    assert answer.out.endswith(" s, epoch 3\n")
    wait_until(lambda: second.logged("serving"), PATIENCE_S, "it serves")
    with there.client(SDT) as client:
        assert times_written(SDT, client, "before") == 1
    first = here.follow(SDT)
    second.kill()
    time.sleep(CLAIM_AFTER_S + 2)
    assert not first.logged("active")
    assert ask(there, "promote").err == (
        f"error [conflict]: no process named there stands by for {SDT} (who does: here); start it, or name another\n"
    )
    assert ask(here, "promote").status == 0
