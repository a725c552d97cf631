"""pc2's agent killed 20 times amid writes of every kind, in two spaces: each acknowledged one is there exactly once."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.ledger import Ledger, check
from tests.loopback.agent_processes import UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused

KILLS = 20
RECORDS = 1_000
CLIENTS = 3
CALLS_BETWEEN = 8

SPACES = ("shared", f"private:{UMRA}")  # each call is for one of them

Write = Callable[[Client, str, str], dict[str, Any]]


def add_interaction(client: Client, call: str, space: str) -> dict[str, Any]:
    fields = {"session_id": "s", "interaction_type": "user_query", "content": call, "space": space}
    return client.call("add_interaction", request_id=call, deadline_s=1, **fields)


def store_memory(client: Client, call: str, space: str) -> dict[str, Any]:
    return client.call("store_memory", request_id=call, deadline_s=1, content=call, space=space)


def add_error_pattern(client: Client, call: str, space: str) -> dict[str, Any]:
    fields = {"error_type": call, "pattern": f"failed: {call}$", "space": space}
    return client.call("add_error_pattern", request_id=call, deadline_s=1, **fields)


def update_twin(client: Client, call: str, space: str) -> dict[str, Any]:
    return client.call("update_twin", request_id=call, deadline_s=1, user_id=call, twin_data={}, space=space)


WRITES: tuple[Write, ...] = (add_interaction, store_memory, add_error_pattern, update_twin)
SEEN_AS: dict[str, Callable[[dict[str, Any]], tuple[str, int]]] = {
    "interactions": lambda entry: (entry["content"], 1),
    "memories": lambda entry: (entry["content"], 1),
    "error_patterns": lambda entry: (entry["error_type"], 1),
    "twins": lambda entry: (entry["user_id"], entry["revision"]),
}


class Writer(threading.Thread):
    """A client that repeats each call until it is acknowledged, and writes both down."""

    def __init__(self, hosts: Hosts, ledger: Ledger, lock: threading.Lock, number: int) -> None:
        super().__init__(name=f"writer-{number}")
        self._hosts, self._ledger, self._lock, self._number = hosts, ledger, lock, number
        self.enough = threading.Event()
        self.done = 0

    def wait_for_more(self, calls: int) -> None:
        """Wait until so many more are acknowledged."""
        least = self.done + calls
        wait_until(lambda: self.done >= least, PATIENCE_S, f"calls of {self.name} are acknowledged")

    def run(self) -> None:
        with self._hosts.client(UMRA, by=UMRA) as client:
            for number in itertools.count():
                if self.enough.is_set():
                    return
                call = f"call-{self._number}-{number}"
                with self._lock:
                    self._ledger.sent(call)
                space = SPACES[number // len(WRITES) % len(SPACES)]
                while not self._acknowledged(client, WRITES[number % len(WRITES)], call, space):
                    pass
                with self._lock:
                    self._ledger.acknowledged(call)
                self.done += 1

    def _acknowledged(self, client: Client, write: Write, call: str, space: str) -> bool:
        try:
            write(client, call, space)
        except ConnectionRefused:
            return False
        return True


def observed(client: Client) -> Counter[str]:
    """Return how often each call took effect, from all that pc2's key has written."""
    times: Counter[str] = Counter()
    for space, (kind, seen_as) in itertools.product(SPACES, SEEN_AS.items()):
        before: int | None = None
        while True:
            page = client.call("memory_by", name=UMRA, kind=kind, before=before, space=space)["written"][kind]
            for entry in page["entries"]:
                call, count = seen_as(entry)
                times[call] += count
            if not page["more"]:
                break
            before = page["next_before"]
    return times


@pytest.mark.unified_memory_agent
def test_nothing_acknowledged_is_lost_or_doubled(hosts: Hosts, tmp_path: Path) -> None:
    """Three clients write contexts, memories, patterns, and twins while it happens; and health is as before."""
    agent = hosts.start(UMRA).wait_until_serving()
    ledger, lock = Ledger(tmp_path / "ledger"), threading.Lock()
    writers = [Writer(hosts, ledger, lock, number) for number in range(CLIENTS)]
    for writer in writers:
        writer.start()
    for _ in range(KILLS):
        for writer in writers:
            writer.wait_for_more(CALLS_BETWEEN)
        agent.kill()
        agent = hosts.start(UMRA)
    for writer in writers:
        writer.enough.set()
    for writer in writers:
        writer.join(PATIENCE_S)
    ledger.close()
    agent.wait_until_serving()
    with hosts.client(UMRA) as client:
        verdict = check(tmp_path / "ledger", observed(client))
    assert verdict.whole, verdict
    assert verdict.acknowledged >= KILLS * CLIENTS * CALLS_BETWEEN
    assert agent.health()["checks"]["store_damage"]["ok"]


def test_a_sync_killed_halfway_is_completed_when_repeated(hosts: Hosts) -> None:
    """It is done in parts, each of which is stored; the client repeats it with the same id."""
    text = "The rent of the box room is {} a month, and Ana lives in Cebu with {} cats. " * 20
    moment = "2026-11-27T08:00:00+00:00"
    records = [{"id": f"m-{number}", "content": text, "last_accessed": moment} for number in range(RECORDS)]
    agent = hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA, by=UMRA) as client, ThreadPoolExecutor(1) as pool, hosts.client(UMRA) as other:

        def stored() -> int:
            return int(other.call("memory_status")["total_memories"])

        reply = pool.submit(client.call, "sync_memories", request_id="all", memories=records, deadline_s=PATIENCE_S)
        wait_until(lambda: stored() > 0, PATIENCE_S, "some are stored")
        agent.kill()
        hosts.start(UMRA).wait_until_serving()
        merged = reply.result()
        assert merged["added"] + merged["unchanged"] == stored() == RECORDS
        assert merged["unchanged"] > 0
        assert client.call("sync_memories", request_id="all", memories=records) == merged
