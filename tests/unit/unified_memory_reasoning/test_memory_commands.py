"""The commands of older clients of the memory: served in each form in which they are written, judged as everybody."""

from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.memory_model_bench import ANA, BEN, MemoryBench, SetableClock

WORDS = {
    "TEST_PING", "STORE_MEMORY", "QUERY_MEMORY", "REINFORCE_MEMORY", "GET_MEMORY_STATUS", "SYNC_MEMORIES",
    "DELETE_MEMORY", "HEALTH_CHECK",
}  # fmt: skip


bench = bench_of(lambda path: MemoryBench(path, SetableClock()))


def command(bench: MemoryBench, word: str, form: str = "payload", **fields: Any) -> dict[str, Any]:
    """Return the answer to a command, its fields where that form has them."""
    message = {"command": word, **fields} if form == "beside" else {"command": word, form: fields}
    return bench.send(message)


@pytest.mark.parametrize("form", ["payload", "data", "beside"])
def test_a_client_of_the_older_dialect_does_all_it_did(bench: MemoryBench, form: str) -> None:
    """Store, query, reinforce, status, sync, and delete, each with SUCCESS, a message, and data."""
    stored = command(bench, "STORE_MEMORY", form, content="x", keywords=["k"], source="s")
    memory_id = stored["data"]["memory_id"]
    assert (stored["status"], stored["message"]) == ("SUCCESS", f"memory {memory_id} stored")
    for fields in ({"memory_id": memory_id}, {"id": memory_id}, {"ids": [memory_id]}, {"keywords": ["k"]}):
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
    assert (synced["status"], synced["data"]["unchanged"], synced["data"]["synced_count"]) == ("SUCCESS", 1, 1)
    assert synced["message"] == "0 added, 0 changed, 1 unchanged, 0 refused"
    deleted = command(bench, "DELETE_MEMORY", form, id=memory_id)
    assert (deleted["status"], deleted["message"]) == ("SUCCESS", f"memory {memory_id} deleted")
    assert bench.memories.count == 0


@pytest.mark.parametrize("form", ["payload", "data", "beside"])
def test_ping_and_health_are_answered(bench: MemoryBench, form: str) -> None:
    """SUCCESS says that the command was served; the agent's status is in the data."""
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


def test_fields_beside_a_payload_belong_to_the_message(bench: MemoryBench) -> None:
    """An `id` beside it names the message, and no memory."""
    bench.send({"command": "STORE_MEMORY", "id": "message-7", "payload": {"memory_id": "m", "content": "x"}})
    assert bench.ids() == ["m"]


def test_a_request_id_counts_in_this_dialect_too(bench: MemoryBench) -> None:
    """A retry is answered with the stored reply; with another body it is an error; the id is repeated in both."""
    message = {"command": "STORE_MEMORY", "payload": {"content": "x"}, "request_id": "r"}
    replies = [bench.send(message) for _ in range(2)]
    assert replies[0] == replies[1]
    assert (replies[0]["request_id"], bench.memories.count) == ("r", 1)
    other = bench.send({**message, "payload": {"content": "y"}})
    assert (other["status"], other["code"], other["request_id"]) == ("ERROR", "request_id_reused", "r")
    bench.send({"command": "STORE_MEMORY", "content": "x", "request_id": "s", "on_behalf_of": BEN.name})
    assert {memory["written_by"] for memory in bench.ask("query_memory")["memories"]} == {ANA.name}


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
        (
            {"command": "DELETE_MEMORY", "data": {"id": "m", "memory_id": "n"}},
            "`memory_id` and `id` name different memories",
        ),
        ({"command": "SYNC_MEMORIES", "memories": [{}]}, "at `$.memories[0]`"),
        ({"command": "SYNC_MEMORIES", "payload": {"memories": 1}}, "at `$.memories`"),
        ({"command": "SYNC_MEMORIES", "payload": {"memories": []}}, "`memories` is empty"),
        ({"command": "QUERY_MEMORY", "payload": {"query": "cat"}}, "at `$.query`"),
        ({"command": "QUERY_MEMORY", "payload": {"query": {"ids": "m"}}}, "at `$.ids`"),
    ],
)
def test_a_wrong_field_is_an_error_with_the_same_message(
    bench: MemoryBench, message: dict[str, Any], sentence: str
) -> None:
    reply = bench.send(message)
    assert (reply["status"], reply["code"]) == ("ERROR", "malformed_request")
    assert sentence in reply["message"]
    assert bench.memories.count == 0


@pytest.mark.parametrize("form", ["payload", "data", "beside"])
@pytest.mark.parametrize("value", ["hello", "", 0, False, [1, {"a": None}], {"command": "x"}, {}, 1.5])
def test_a_ping_repeats_any_json_value(bench: MemoryBench, form: str, value: Any) -> None:
    """In `echo` of the data, beside the health document; a value has no place beside `command`."""
    if form == "beside":
        assert "echo" not in bench.send({"command": "TEST_PING", "text": value})["data"]
        return
    reply = bench.send({"command": "TEST_PING", form: value})
    assert (reply["status"], reply["message"], reply["data"]["agent"]) == ("SUCCESS", "pong", "UMRA")
    assert (reply["data"]["echo"], type(reply["data"]["echo"])) == (value, type(value))


def test_a_ping_without_a_value_has_no_echo(bench: MemoryBench) -> None:
    assert "echo" not in bench.send({"command": "TEST_PING"})["data"]


@pytest.mark.parametrize("deep", [500, 1_500, 100_000])
def test_a_ping_with_a_deep_value_is_no_fault(bench: MemoryBench, deep: int) -> None:
    """It is repeated, or refused: never a fault of the agent."""
    reply = bench.send_bytes(b'{"command": "TEST_PING", "payload": ' + b"[" * deep + b"]" * deep + b"}")
    assert reply["status"] == "SUCCESS" or reply["code"] == "malformed_request"


@pytest.mark.parametrize("form", ["payload", "data", "beside"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"id": "a"}, ["a"]),
        ({"memory_id": "b"}, ["b"]),
        ({"ids": ["a", "b", "nobody"]}, ["b", "a"]),
        ({"source": "s"}, ["c", "a"]),
        ({"keywords": ["K1", "K9"]}, ["b", "a"]),
        ({"source": "s", "keywords": ["k1"]}, ["a"]),
        ({"source": "s", "limit": 1}, ["c"]),
        ({"min_strength": 0.5, "rank": 3}, ["c", "b", "a"]),
    ],
)
def test_filters_inside_query_select(bench: MemoryBench, form: str, query: dict[str, Any], expected: list[str]) -> None:
    """Each of them, in each place where the fields may be; all that are given must fit."""
    for memory_id, source in (("a", "s"), ("b", "t"), ("c", "s")):
        keywords = ["k1"] if memory_id != "c" else ["k2"]
        command(bench, "STORE_MEMORY", id=memory_id, content=memory_id, source=source, keywords=keywords)
    reply = command(bench, "QUERY_MEMORY", form, query=query)
    assert (reply["status"], reply["message"]) == ("SUCCESS", f"{len(expected)} memories found")
    assert [memory["id"] for memory in reply["data"]["memories"]] == expected


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "malformed_request"),
        ({"limit": 5}, "malformed_request"),
        ({"query": {}}, "malformed_request"),
        ({"query": None}, "malformed_request"),
        ({"query": {"name": "m"}}, "malformed_request"),
        ({"query": {"id": None}}, "malformed_request"),
        ({"query": {"id": "nobody"}}, "not_found"),
        ({"query": {"source": "nowhere"}}, "not_found"),
        ({"keywords": ["none"]}, "not_found"),
    ],
)
def test_no_query_or_nothing_that_fits_is_an_error(bench: MemoryBench, fields: dict[str, Any], code: str) -> None:
    """With a sentence, and without all memories."""
    bench.store()
    reply = command(bench, "QUERY_MEMORY", **fields)
    assert (reply["status"], reply["code"]) == ("ERROR", code)
    assert reply.keys() == {"status", "message", "code"}


def test_a_sync_counts_what_is_stored_of_it(bench: MemoryBench) -> None:
    """Refused records don't count."""
    bench.store(caller=BEN)
    at = bench.ask("query_memory")["memories"][0]["last_accessed"]
    records = [{"id": name, "content": "newer", "last_accessed": at, "revised": at} for name in ("n", "o")]
    reply = command(bench, "SYNC_MEMORIES", memories=records)
    assert (reply["status"], reply["data"]["synced_count"], reply["data"]["added"]) == ("SUCCESS", 2, 2)


@pytest.mark.parametrize("word", ["REINFORCE_MEMORY", "DELETE_MEMORY"])
def test_what_is_not_there_is_an_error(bench: MemoryBench, word: str) -> None:
    """This dialect has no status but SUCCESS and ERROR."""
    reply = command(bench, word, memory_id="nobody")
    assert (reply["status"], reply["code"]) == ("ERROR", "not_found")


def test_who_may_not_delete_may_not_in_this_dialect_either(bench: MemoryBench) -> None:
    bench.store(caller=BEN)
    assert command(bench, "DELETE_MEMORY", memory_id="m")["code"] == "not_granted"


def test_a_memory_of_full_size_is_stored_by_a_command(bench: MemoryBench) -> None:
    """As large as by its action."""
    assert command(bench, "STORE_MEMORY", content="x" * 65_536)["status"] == "SUCCESS"


@pytest.mark.parametrize("word", ["NOPE", "store_memory", "", "x" * 1_000])
def test_an_unknown_command_is_an_error_of_this_dialect(bench: MemoryBench, word: str) -> None:
    """It lists the commands; with its `request_id`."""
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
    """A command that is no text, and a request that names an action."""
    reply = bench.send(message)
    assert (reply["status"], reply["code"]) == ("error", code)


def test_every_command_of_the_contract_is_served(bench: MemoryBench) -> None:
    for word in sorted(WORDS):
        assert command(bench, word)["status"] in {"SUCCESS", "ERROR"}
