"""The commands of older clients of the memory: served in each form in which they are written, judged as everybody."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.memory_model_bench import ANA, BEN, MemoryBench, setable_clock

WORDS = {
    "TEST_PING", "STORE_MEMORY", "QUERY_MEMORY", "REINFORCE_MEMORY", "GET_MEMORY_STATUS", "SYNC_MEMORIES",
    "DELETE_MEMORY", "HEALTH_CHECK",
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBench]:
    with MemoryBench(tmp_path / "db", setable_clock(monkeypatch)) as bench:
        yield bench


def command(bench: MemoryBench, word: str, form: str = "payload", **fields: Any) -> dict[str, Any]:
    """Return the answer to a command, its fields where that form has them."""
    told = {"command": word, **fields} if form == "beside" else {"command": word, form: fields}
    return bench.send(told)


@pytest.mark.parametrize("form", ["payload", "data", "beside"])
def test_a_client_of_the_older_dialect_does_all_it_did(bench: MemoryBench, form: str) -> None:
    """Store, query, reinforce, status, sync, and delete, each with SUCCESS, a message, and data."""
    stored = command(bench, "STORE_MEMORY", form, content="x", keywords=["k"], source="s")
    memory_id = stored["data"]["memory_id"]
    assert (stored["status"], stored["message"]) == ("SUCCESS", f"memory {memory_id} stored")
    for fields in ({"memory_id": memory_id}, {"id": memory_id}, {"ids": [memory_id]}, {"keywords": ["k"]}, {}):
        found = command(bench, "QUERY_MEMORY", form, **fields)
        assert (found["status"], found["message"], found["data"]["count"]) == ("SUCCESS", "1 memories found", 1)
        assert found["data"]["memories"][0]["content"] == "x"
    for name in ("memory_id", "id"):
        reinforced = command(bench, "REINFORCE_MEMORY", form, **{name: memory_id})
        assert (reinforced["status"], reinforced["message"]) == ("SUCCESS", f"memory {memory_id} reinforced")
    assert reinforced["data"]["strength"] == pytest.approx(1.44)
    status = command(bench, "GET_MEMORY_STATUS", form)
    assert (status["status"], status["data"]["total_memories"]) == ("SUCCESS", 1)
    synced = command(bench, "SYNC_MEMORIES", form, memories=found["data"]["memories"])
    assert (synced["status"], synced["data"]["unchanged"]) == ("SUCCESS", 1)
    assert synced["message"] == "0 added, 0 changed, 1 unchanged, 0 refused"
    deleted = command(bench, "DELETE_MEMORY", form, id=memory_id)
    assert (deleted["status"], deleted["message"]) == ("SUCCESS", f"memory {memory_id} deleted")
    assert bench.memories.count == 0


@pytest.mark.parametrize("form", ["payload", "data", "beside"])
def test_ping_and_health_are_answered(bench: MemoryBench, form: str) -> None:
    """SUCCESS says that the command was served; how the agent is stands in the data."""
    ping = command(bench, "TEST_PING", form)
    assert (ping["status"], ping["message"], ping["data"]["agent"]) == ("SUCCESS", "pong", "UMRA")
    health = command(bench, "HEALTH_CHECK", form)
    assert (health["status"], health["message"], health["data"]["status"]) == (
        "SUCCESS",
        "health is degraded",
        "degraded",
    )


def test_a_null_payload_is_none(bench: MemoryBench) -> None:
    assert bench.send({"command": "TEST_PING", "payload": None, "data": None})["status"] == "SUCCESS"


def test_what_stands_beside_a_payload_is_the_message_s(bench: MemoryBench) -> None:
    """An `id` beside it names the message, and no memory."""
    bench.send({"command": "STORE_MEMORY", "id": "message-7", "payload": {"memory_id": "m", "content": "x"}})
    assert bench.ids() == ["m"]


def test_a_request_id_counts_in_this_dialect_too(bench: MemoryBench) -> None:
    """A retry is answered with the stored reply; with another body it is an error; the id is repeated in both."""
    told = {"command": "STORE_MEMORY", "payload": {"content": "x"}, "request_id": "r"}
    replies = [bench.send(told) for _ in range(2)]
    assert replies[0] == replies[1]
    assert (replies[0]["request_id"], bench.memories.count) == ("r", 1)
    other = bench.send({**told, "payload": {"content": "y"}})
    assert (other["status"], other["code"], other["request_id"]) == ("ERROR", "request_id_reused", "r")
    bench.send({"command": "STORE_MEMORY", "content": "x", "request_id": "s", "on_behalf_of": BEN.name})
    assert {each["written_by"] for each in bench.ask("query_memory")["memories"]} == {ANA.name}


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"command": "STORE_MEMORY", "payload": {}}, "missing required field `content` (in `payload` of STORE_MEMORY)"),
        ({"command": "STORE_MEMORY", "data": {"content": 7}}, "at `$.content` (in `data` of STORE_MEMORY)"),
        ({"command": "STORE_MEMORY", "content": ""}, "at `$.content` (in the message of STORE_MEMORY)"),
        ({"command": "STORE_MEMORY", "payload": "x"}, "Expected `object`, got `str` (in `payload` of STORE_MEMORY)"),
        ({"command": "STORE_MEMORY", "data": []}, "Expected `object`, got `array` (in `data` of STORE_MEMORY)"),
        ({"command": "QUERY_MEMORY", "limit": 0}, "at `$.limit`"),
        ({"command": "REINFORCE_MEMORY"}, "missing required field `memory_id`"),
        ({"command": "DELETE_MEMORY", "id": 7}, "at `$.id` (in the message of DELETE_MEMORY)"),
        ({"command": "DELETE_MEMORY", "data": {"id": "m", "memory_id": "n"}}, "`memory_id` and `id` name two memories"),
        ({"command": "SYNC_MEMORIES", "memories": [{}]}, "at `$.memories[0]`"),
        ({"command": "SYNC_MEMORIES", "payload": {"memories": 1}}, "at `$.memories`"),
    ],
)
def test_a_wrong_field_is_an_error_in_the_same_words(
    bench: MemoryBench, message: dict[str, Any], sentence: str
) -> None:
    reply = bench.send(message)
    assert (reply["status"], reply["code"]) == ("ERROR", "malformed_request")
    assert sentence in reply["message"]
    assert bench.memories.count == 0


@pytest.mark.parametrize("word", ["REINFORCE_MEMORY", "DELETE_MEMORY"])
def test_what_is_not_there_is_an_error(bench: MemoryBench, word: str) -> None:
    """This dialect has no word but SUCCESS and ERROR."""
    reply = command(bench, word, memory_id="nobody")
    assert (reply["status"], reply["code"]) == ("ERROR", "not_found")


def test_who_may_not_delete_may_not_in_this_dialect_either(bench: MemoryBench) -> None:
    bench.store(caller=BEN)
    assert command(bench, "DELETE_MEMORY", memory_id="m")["code"] == "not_granted"


def test_a_memory_of_full_size_is_stored_by_a_command(bench: MemoryBench) -> None:
    """As large as by its action."""
    assert command(bench, "STORE_MEMORY", content="x" * 65_536)["status"] == "SUCCESS"


@pytest.mark.parametrize("word", ["NOPE", "store_memory", "", "x" * 1_000])
def test_a_word_that_nobody_knows_is_an_error_of_this_dialect(bench: MemoryBench, word: str) -> None:
    """It names the words there are; with its `request_id`."""
    assert bench.send({"command": word, "payload": {}, "request_id": "r"}) == {
        "status": "ERROR",
        "message": f"there is no command {word[:64]!r} here; there are: {', '.join(sorted(WORDS))}",
        "code": "unknown_action",
        "request_id": "r",
    }


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"command": 7}, "malformed_request"),
        ({"command": None, "payload": {}}, "malformed_request"),
        ({"command": "NOPE", "action": "nope"}, "unknown_action"),
        ({"command": "NOPE", "action": None}, "malformed_request"),
        ({"command": "NOPE", "action": "get_memory"}, "malformed_request"),
    ],
)
def test_what_is_no_command_is_refused_as_today(bench: MemoryBench, message: dict[str, Any], code: str) -> None:
    """A word that is no text, and a request that names an action."""
    reply = bench.send(message)
    assert (reply["status"], reply["code"]) == ("error", code)


def test_every_word_of_the_contract_is_served(bench: MemoryBench) -> None:
    for word in sorted(WORDS):
        assert command(bench, word)["status"] in {"SUCCESS", "ERROR"}
