"""How long a request holds the loop at a stretch, in CPU time: no more than others can wait for.

The goal is 15 ms on an otherwise idle machine; the limit here is wider, since others share its caches. What `also`
stores as a whole is not interrupted, and is left out: docs/reference/reliability.md has its figures.
"""

import gc
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.memory import SDT, assembled
from twinhost.moments import iso_time
from twinhost.secure_zmq import dispatch
from twinhost.secure_zmq.dispatch import SLICE_S
from twinhost.secure_zmq.framing.inbound import Inbound

LIMIT_S = 0.07
TRIES = 3  # of which the best counts
LARGEST = 65_000  # characters
_words = random.Random(7)
WORDS = ["".join(_words.choices("abcdefghijklmnoprstuvw", k=_words.randint(3, 9))) for _ in range(4_000)]
SAID = {"interaction_type": "user_query", "speaker": "bob"}


def prose(size: int) -> str:
    """Return sentences of many words, other ones each time."""
    sentences = (" ".join(_words.choices(WORDS, k=9)).capitalize() + ". " for _ in range(1 + size // 40))
    return "".join(sentences)[:size]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Assembled]:
    """An agent with memories of 4 MB, a session of long turns, and one of short ones."""
    with assembled(tmp_path_factory.mktemp("home"), budgets={}) as agent:
        for number in range(60):
            agent.ask("store_memory", SDT, memory_id=f"m{number}", content=prose(LARGEST))
        for _ in range(260):
            agent.ask("add_interaction", SDT, session_id="long", content=prose(4_000), **SAID)
        for number in range(1_300):
            agent.ask("add_interaction", SDT, session_id="short", content=f"We decided on plan {number}!", **SAID)
        for _ in range(12):
            large = prose(LARGEST)
            agent.ask(
                "add_interaction", SDT, session_id="large", **{**SAID, "content": large, "interaction_type": "code"}
            )
        gc.collect()
        gc.freeze()  # as a start does
        yield agent
        gc.unfreeze()


def stretch_s(agent: Assembled, action: str, **fields: Any) -> float:
    """Ask for something while somebody else waits; return the longest time until that one would be served."""
    inbound = Inbound(json.dumps({"action": action, **fields}).encode(), SDT)
    longest = 0.0
    while True:
        began = time.thread_time()
        replies = agent.answer([inbound], crowded=True)
        longest = max(longest, time.thread_time() - began)
        if replies:
            assert replies[0]["status"] == "ok", replies
            return longest
        inbound.begun = agent.begun


def ids(agent: Assembled, session_id: str, number: int) -> list[int]:
    """Return interactions of a session that are left, amid it."""
    rows = agent.database.execute("SELECT id FROM interactions WHERE session_id = ? ORDER BY id", (session_id,))
    there = [number for (number,) in rows]
    return there[len(there) // 2 :][:number]


def requests(agent: Assembled, name: str, attempt: int) -> tuple[str, dict[str, Any]]:
    moment = iso_time(time.time())
    records = [{"id": f"m{number}", "content": prose(LARGEST), "last_accessed": moment} for number in range(20, 40)]
    several: dict[str, tuple[str, dict[str, Any]]] = {
        "a long memory over another": ("store_memory", {"memory_id": "m1", "content": prose(LARGEST)}),
        "another keyword of a long memory": (
            "store_memory",
            {"memory_id": "m2", "content": str(attempt) + "x " * 30_000, "keywords": [f"k{attempt}"]},
        ),
        "a long memory's end": ("delete_memory", {"memory_id": f"m{10 + attempt}"}),
        "a sync of long memories over others": ("sync_memories", {"memories": records}),
        "one of many long turns": ("delete_interactions", {"session_id": "long", "ids": ids(agent, "long", 1)}),
        "some of many short turns": ("delete_interactions", {"session_id": "short", "ids": ids(agent, "short", 100)}),
        "the largest turns": ("delete_interactions", {"session_id": "large", "ids": ids(agent, "large", 2)}),
        "what one said": ("clear_context", {"session_id": "large", "speaker": "bob"}),
    }
    return several[name]


CASES = (
    *("a long memory over another", "another keyword of a long memory", "a long memory's end"),
    *("a sync of long memories over others", "one of many long turns", "some of many short turns"),
    *("the largest turns", "what one said"),
)


@pytest.mark.parametrize("case", CASES)
def test_no_part_of_a_request_holds_the_loop(agent: Assembled, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(dispatch, "SLICE_S", SLICE_S)
    seen = []
    for attempt in range(TRIES):
        action, fields = requests(agent, case, attempt)
        seen.append(stretch_s(agent, action, **fields))
        if seen[-1] <= LIMIT_S:
            return
    pytest.fail(f"{case}: {[round(1_000 * seconds) for seconds in seen]} ms")


def test_what_also_says_is_read_before_it_is_stored(agent: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    body = {"action": "store_memory", "content": "a", "also": [{"content": f"lamp {n} is red"} for n in range(20)]}
    inbound, parts = Inbound(json.dumps(body).encode(), SDT), 0
    while not (replies := agent.answer([inbound], crowded=True)):
        assert agent.database.value("SELECT count(*) FROM memories WHERE content LIKE 'lamp %'") == 0
        inbound.begun, parts = agent.begun, parts + 1
    assert (len(replies[0]["also"]), parts) == (20, 20)
    assert agent.database.value("SELECT count(*) FROM memories WHERE content LIKE 'lamp %'") == 20
