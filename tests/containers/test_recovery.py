"""kill -9 of an agent's main process: both hosts are back within 10 s, and nothing acknowledged is lost or doubled."""

import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.containers.stack import Stack
from tests.ledger import Ledger, check
from tests.waiting import wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError

RECOVERY_S = 10.0
CALLS_BEFORE_AND_AFTER = 100
PAUSE_S = 0.01  # between two calls of a writer: the registry takes 10,000 names
WRITERS = 3
CALL_DEADLINE_S = 20.0


def register(client: Client, call: str) -> None:
    client.call("register_agent", deadline_s=CALL_DEADLINE_S, agent_name=call, status="HEALTHY")


def store_twin(client: Client, call: str) -> None:
    client.call("update_twin", deadline_s=CALL_DEADLINE_S, user_id=call, twin_data={"call": call})


MUTATIONS = {"mainpc": register, "pc2": store_twin}


class Writers:
    """Clients that call one host without a pause, and write down what was acknowledged."""

    def __init__(self, stack: Stack, host: str, folder: Path) -> None:
        self._address, self._host, self._folder = stack.address(host), host, folder
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        self.acknowledged = [0] * WRITERS
        self.failures: list[str] = []

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Wait until every writer has had some more calls acknowledged."""
        goal = [count + CALLS_BEFORE_AND_AFTER for count in self.acknowledged]

        def reached() -> bool:
            return all(count >= wanted for count, wanted in zip(self.acknowledged, goal, strict=True))

        wait_until(reached, 60, f"{CALLS_BEFORE_AND_AFTER} more calls of each writer")

    def ledgers(self) -> list[Path]:
        return [self._folder / f"{self._host}-{number}.jsonl" for number in range(WRITERS)]

    def _write(self, number: int) -> None:
        ledger = Ledger(self.ledgers()[number])
        with Client(self._address) as client:
            count = 0
            while not self._stop.is_set():
                call = f"ledger-{number}-{count}-{self._folder.name}"
                count += 1
                ledger.sent(call)
                try:
                    MUTATIONS[self._host](client, call)
                except TwinhostError as error:
                    self.failures.append(str(error))
                    continue
                ledger.acknowledged(call)
                self.acknowledged[number] += 1
                self._stop.wait(PAUSE_S)
        ledger.close()


def observed(stack: Stack, host: str, calls: set[str]) -> dict[str, int]:
    """Return how often each call took effect, by the agent's store."""
    with stack.client(host) as client:
        if host == "pc2":
            return {call: int(client.call("get_twin", user_id=call)["revision"]) for call in calls}
        agents = client.call("get_registered_agents", deadline_s=20)["agents"]
    return {agent["name"]: agent["revision"] for agent in agents if agent["name"].startswith("ledger-")}


def forget_registrations(stack: Stack) -> None:
    """Leave the registry as it was."""
    with stack.client("mainpc") as client:
        for agent in client.call("get_registered_agents", deadline_s=20)["agents"]:
            if agent["name"].startswith("ledger-"):
                client.call("unregister", agent_name=agent["name"])


def started_at(stack: Stack, host: str) -> str:
    return str(stack.container(host).attrs["State"]["StartedAt"])


def ended_at(stack: Stack, host: str) -> float:
    return datetime.fromisoformat(stack.container(host).attrs["State"]["FinishedAt"]).timestamp()


def in_touch_since(stack: Stack, moment: float) -> bool:
    """Whether both hosts are ready and mainpc received a heartbeat of UMRA after a moment."""
    if any(stack.http(host, "/readyz")[0] != 200 for host in ("mainpc", "pc2")):
        return False
    with stack.client("mainpc") as client:
        info = client.call("get_agent_info", agent_name="UnifiedMemoryReasoningAgent")["agent_info"]
    return info["status"] == "HEALTHY" and datetime.fromisoformat(info["last_seen"]).timestamp() > moment


def kill_and_see_recovery(stack: Stack, *victims: str) -> None:
    """Kill, and see that the engine restarted the victims and that all is well in time; nothing is restarted here."""
    before = {host: started_at(stack, host) for host in victims}
    moment = time.time()
    for host in victims:
        stack.kill_main_process(host)
    wait_until(
        lambda: all(started_at(stack, host) != before[host] for host in victims) and in_touch_since(stack, moment),
        RECOVERY_S,
        f"{' and '.join(victims)} restarted, both hosts ready, and UMRA registered",
    )
    assert time.time() - min(ended_at(stack, host) for host in victims) < RECOVERY_S


@pytest.mark.parametrize("victims", [("mainpc",), ("pc2",), ("mainpc", "pc2")], ids="+".join)
def test_nothing_acknowledged_is_lost_or_doubled_by_a_kill(
    stack: Stack, tmp_path: Path, victims: tuple[str, ...]
) -> None:
    """Writers call both hosts throughout; every acknowledged call is there exactly once."""
    with Writers(stack, "mainpc", tmp_path) as at_mainpc, Writers(stack, "pc2", tmp_path) as at_pc2:
        for writers in (at_mainpc, at_pc2):
            writers.wait_for_more()
        kill_and_see_recovery(stack, *victims)
        for writers in (at_mainpc, at_pc2):
            writers.wait_for_more()
    for host, writers in (("mainpc", at_mainpc), ("pc2", at_pc2)):
        assert writers.failures == []
        for path in writers.ledgers():
            calls = {line.split('"')[3] for line in path.read_text().splitlines()}
            verdict = check(path, {call: n for call, n in observed(stack, host, calls).items() if call in calls})
            assert verdict.whole, verdict
            assert verdict.acknowledged >= 2 * CALLS_BEFORE_AND_AFTER
    forget_registrations(stack)


def test_a_retry_after_a_kill_gets_the_stored_reply(stack: Stack) -> None:
    """The same request_id after a crash is answered as before, and not executed again."""
    with stack.client("pc2") as client:
        first = client.call("update_twin", request_id="retry-1", user_id="retried", twin_data={"n": 1})
        kill_and_see_recovery(stack, "pc2")
        again = client.call(
            "update_twin", deadline_s=CALL_DEADLINE_S, request_id="retry-1", user_id="retried", twin_data={"n": 1}
        )
        assert again == first
        assert client.call("get_twin", user_id="retried")["revision"] == 1
