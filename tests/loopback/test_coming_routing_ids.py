"""The automatic routing-ids of libzmq: where they start, and who may know."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.identities import authorize
from tests.unit.cli.bare_agents import SERVER, target_at
from tests.waiting import PATIENCE_S
from twinhost.adversary.attack import Verdict
from twinhost.adversary.insiders import ATTACKS, predicted_starts
from twinhost.secure_zmq.key_writer import write_key_pair

REPOSITORY = Path(__file__).resolve().parents[2]
(ATTACK,) = (attack for attack in ATTACKS if attack.name == "predicted routing-ids")
FIRST_IDS = """
{imports}
import zmq
context = zmq.Context()
for _ in range(3):
    router, dealer = context.socket(zmq.{kind}), context.socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{{router.bind_to_random_port('tcp://127.0.0.1')}}")
    dealer.send(b"hello")
    print(router.recv_multipart()[0].hex())
"""
SERVE = """
import ctypes, sys, threading
from pathlib import Path
import structlog
from twinhost.secure_zmq.keys import load_key_pair
from tests.loopback.agent import serving
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
home = Path(sys.argv[1])
if sys.argv[2] == "without a seed":
    ctypes.CDLL(None).srand(1)
with serving(home, load_key_pair(home / "own.key_secret")) as agent:
    print(agent.address, flush=True)
    threading.Event().wait()
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/services:{REPOSITORY}"}


def first_ids(imports: str) -> list[str]:
    """Return the first routing-id of each of three sockets of a new process."""
    script = FIRST_IDS.format(imports=imports, kind="ROUTER")
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout.split()


@contextmanager
def agent_process(home: Path, seed: str) -> Iterator["tuple[int, subprocess.Popen[str]]"]:
    """An agent in a process of its own; yields its port, and the process."""
    write_key_pair(SERVER, home / "own.key_secret")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(home), seed],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline().rpartition(":")[2]), process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


def test_libzmq_alone_starts_at_the_same_routing_ids() -> None:
    """The fact behind the attack: they are those of a `rand()` without a seed, in every process."""
    predicted = {f"00{start:08x}" for start in predicted_starts(20)}
    first, second = first_ids(""), first_ids("")
    assert first[0] == second[0]
    assert {*first, *second} <= predicted


@pytest.mark.parametrize("imports", ["import twinhost.secure_zmq", "import main_pc_code.utils.network_utils"])
def test_ours_start_anywhere(imports: str) -> None:
    """After any import of the package, at a place that no other process has."""
    predicted = {f"00{start:08x}" for start in predicted_starts(20)}
    starts = [*first_ids(imports), *first_ids(imports)]
    assert len({*starts, *predicted}) == len(starts) + len(predicted)


@pytest.mark.parametrize("seed", ["", "without a seed"])
def test_a_coming_routing_id_aborts_only_without_it(tmp_path: Path, seed: str) -> None:
    """A peer with an agent's key takes routing-ids that are to come; without the seed one of them ends the process."""
    target = target_at(1, tmp_path)
    assert target.own_keys is not None
    authorize(tmp_path, target.own_keys)
    with agent_process(tmp_path, seed) as (port, process):
        mainpc = replace(target.agent, zmq_port=port)
        outcome = ATTACK.play(replace(target, agent=mainpc))
        if seed:
            assert outcome.verdict is Verdict.FAILED
            assert process.wait(PATIENCE_S) == -signal.SIGABRT
        else:
            assert (outcome.verdict, process.poll()) == (Verdict.OK, None), outcome
            assert "20 predictable routing-ids" in outcome.sentence
