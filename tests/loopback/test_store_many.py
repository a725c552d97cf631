"""`store_many`: each memory is stored once, and its reply or its error is in its place."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import twinhost
from tests.loopback.agent_processes import UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.clients import AsyncUnifiedMemoryReasoningAgent, UnifiedMemoryReasoningAgent
from twinhost.clients.memory_replies import MemoryFields, MemoryStored

MANY = 300


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path) as hosts:
        hosts.start(UMRA).wait_until_serving()
        yield hosts


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def store_many(hosts: Hosts, asynchronous: bool, memories: Sequence[Any], **options: Any) -> list[Any]:
    options = {"deadline_s": PATIENCE_S, **options}
    if not asynchronous:
        with UnifiedMemoryReasoningAgent(hosts.address(UMRA)) as memory:
            return list(memory.store_many(memories, **options))

    async def stored() -> list[Any]:
        async with AsyncUnifiedMemoryReasoningAgent(hosts.address(UMRA)) as memory:
            return list(await memory.store_many(memories, **options))

    return asyncio.run(stored())


def notes(count: int) -> list[MemoryFields]:
    return [{"content": f"Note {number} of the garden."} for number in range(count)]


def contents(hosts: Hosts) -> dict[str, str]:
    """Return all memories, by id."""
    with UnifiedMemoryReasoningAgent(hosts.address(UMRA)) as memory:
        return {row.id: row.content for row in memory.iter_query(limit=1_000)}


@pytest.mark.parametrize("in_flight", [1, 3, 256])
def test_many_are_stored_with_typed_replies_in_their_order(hosts: Hosts, asynchronous: bool, in_flight: int) -> None:
    found = store_many(hosts, asynchronous, notes(MANY), in_flight=in_flight)
    assert {type(stored) for stored in found} == {MemoryStored}
    assert [contents(hosts)[stored.memory_id] for stored in found] == [note["content"] for note in notes(MANY)]
    assert store_many(hosts, asynchronous, []) == []


def test_a_refused_memory_has_its_error_in_its_place(hosts: Hosts, asynchronous: bool) -> None:
    """The others are stored; a field of None is as if it were absent."""
    memories = [*notes(3), {"content": ""}, {"content": "x", "supersedes": ["nobody"]}, {"content": "y", "key": None}]
    found = store_many(hosts, asynchronous, memories, return_exceptions=True)
    kinds = [MemoryStored] * 3 + [twinhost.MalformedRequest, twinhost.NotFound, MemoryStored]
    assert [type(each) for each in found] == kinds
    assert "`$.content`" in str(found[3])
    assert len(contents(hosts)) == 4


def test_the_first_error_is_raised_with_its_place(hosts: Hosts, asynchronous: bool) -> None:
    """What comes before it is stored."""
    with pytest.raises(twinhost.MalformedRequest) as refused:
        store_many(hosts, asynchronous, [*notes(40), {"content": ""}, *notes(40)])
    assert refused.value.__notes__ == ["items[40] has this error; what comes before it is done"]
    assert {note["content"] for note in notes(40)} <= set(contents(hosts).values())


def test_what_is_no_memory_is_refused_before_anything_is_sent(hosts: Hosts, asynchronous: bool) -> None:
    with pytest.raises(TypeError, match=r"items\[1\] is a str; give a dict with the fields of one call"):
        store_many(hosts, asynchronous, [{"content": "first"}, "second"])
    with pytest.raises(ValueError, match="in_flight is 0; choose 1 to 256"):
        store_many(hosts, asynchronous, notes(1), in_flight=0)
    assert contents(hosts) == {}


def test_a_repeated_call_stores_nothing_twice(hosts: Hosts, asynchronous: bool) -> None:
    """Of another one, with the same `request_id`, it says so."""
    first = store_many(hosts, asynchronous, notes(MANY), request_id="of-may")
    assert store_many(hosts, asynchronous, notes(MANY), request_id="of-may") == first
    assert len(contents(hosts)) == MANY
    other = store_many(hosts, asynchronous, [{"content": "other"}], request_id="of-may", return_exceptions=True)
    assert [type(each) for each in other] == [twinhost.RequestIdReused]


def test_what_was_acknowledged_before_a_kill_is_stored_once(hosts: Hosts, asynchronous: bool) -> None:
    """All others have the error of the lost connection, and the repeated call stores them."""

    def kill() -> None:
        wait_until(lambda: len(contents(hosts)) > MANY // 10, PATIENCE_S, "some are stored")
        hosts.processes[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    many, options = notes(20_000), {"request_id": "of-june", "return_exceptions": True}
    found = store_many(hosts, asynchronous, many, deadline_s=1.0, **options)
    killer.join()
    acknowledged = [each for each in found if isinstance(each, MemoryStored)]
    errors = found[len(acknowledged) :]
    assert len(found) == len(many)
    assert acknowledged
    assert errors
    assert all(isinstance(error, twinhost.ServerUnreachable) for error in errors)
    hosts.start(UMRA).wait_until_serving()
    upto = len(acknowledged) + 100
    again = store_many(hosts, asynchronous, many[:upto], **options)
    assert again[: len(acknowledged)] == acknowledged
    assert [contents(hosts)[each.memory_id] for each in again] == [note["content"] for note in many[:upto]]
    assert len(contents(hosts)) == upto
