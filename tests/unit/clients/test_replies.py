"""Replies of agents of other versions: what is new is ignored, and what is missing is an error where it is read."""

import json
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from scripts import write_clients

import twinhost
import twinhost.clients
from tests.unit.schema.json_schema import Schema
from twinhost.clients.memory_replies import MemoryDocument, SearchResults
from twinhost.clients.replies import read
from twinhost.schema import declarations_of, replies_of
from twinhost.version import VERSION

RESULT = dict[str, Any](
    id=7,
    kind="memory",
    session_id=None,
    speaker=None,
    content="The roses stand by the gate.",
    content_bytes=28,
    cut=False,
    importance=0.5,
    strength=1,
    timestamp="2026-11-27T08:00:00+00:00",
    score=0.5,
    similarity=0.5,
    written_by="operator",
)
REPLY = {"status": "ok", "results": [RESULT], "more": False, "words": ["roses"], "words_left_out": [], "channels": []}


def of(reply: dict[str, Any]) -> SearchResults:
    return read(reply, SearchResults, "the reply to search_memory")


def test_a_reply_has_attributes_and_optional_ones_are_none() -> None:
    reply = of({**REPLY, "request_id": "r", "ignored_fields": ["speeker"]})
    assert (reply.status, reply.request_id, reply.ignored_fields) == ("ok", "r", ["speeker"])
    assert (reply.results[0].content, reply.results[0].valid_from) == ("The roses stand by the gate.", None)


def test_what_a_newer_agent_sends_besides_is_ignored() -> None:
    """Fields, and further words of a field that has few."""
    newer = of({**REPLY, "mood": "sunny", "results": [{**RESULT, "kind": "dream", "colour": "red"}]})
    assert newer.results[0].kind == "dream"
    assert not hasattr(newer, "mood")


def test_reading_what_an_older_agent_does_not_send_is_an_error() -> None:
    """Everything else can be used."""
    older = of({name: value for name, value in REPLY.items() if name != "channels"})
    assert older.words == ["roses"]
    sentence = (
        rf"the agent sent no `channels` in SearchResults, as it is older than this client \(twinhost {VERSION}\); "
        r"update the agent, or use getattr\(reply, 'channels', None\)"
    )
    with pytest.raises(twinhost.UnexpectedReply, match=sentence):
        _ = older.channels
    assert getattr(older, "channels", None) is None
    assert not hasattr(older, "channels")


def test_a_field_of_another_type_is_an_error_with_its_path() -> None:
    with pytest.raises(twinhost.UnexpectedReply, match=r"search_memory does not fit .* at `\$\.results\[0\]\.content`"):
        of({**REPLY, "results": [{**RESULT, "content": 5}]})


def test_a_reply_is_written_as_it_was_received() -> None:
    """So a memory of one store can be sent to another."""
    older = {name: value for name, value in REPLY.items() if name != "channels"}
    assert msgspec.to_builtins(of(older)) == {**older, "results": [RESULT]}


@pytest.mark.parametrize("whole", [True, False], ids=["all fields", "required fields"])
@pytest.mark.parametrize("agent", write_clients.AGENTS, ids=lambda agent: str(agent.name))
def test_every_reply_by_the_schema_has_its_type(agent: write_clients.Agent, whole: bool) -> None:
    """What an agent may send is read by the method's type, and no field of it is left out."""
    schema = Schema(json.loads(msgspec.json.encode(replies_of(agent.name))))
    declarations = declarations_of(agent.name)
    for action, alternatives in schema.root["properties"].items():
        method = getattr(getattr(twinhost.clients, agent.name), write_clients.method_name(agent, action, declarations))
        returned = get_type_hints(method)["return"]
        kinds = get_args(returned) if get_origin(returned) is UnionType else [returned]
        for number, each in enumerate(alternatives["anyOf"][:-1]):  # the last one is the refusal
            if get_origin(returned) is dict:
                continue
            reply = schema.instance(schema.definition(each["$ref"]), whole=whole)
            typed = read(reply, kinds[number % len(kinds)], action)
            assert without_nulls(msgspec.to_builtins(typed)) == without_nulls(reply), action


def without_nulls(value: Any) -> Any:
    """Return a document without nulls, since an optional field that is null is absent, and without `accepts`."""
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(each) for name, each in value.items() if each is not None and name != "accepts"}


def test_a_reply_can_not_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        of(REPLY).more = True  # type: ignore[misc]


def test_a_type_is_made_by_its_fields_in_a_test() -> None:
    """By name; what is left out is as if it was not sent."""
    memory = MemoryDocument(id="roses", content="The roses stand by the gate.")
    assert memory.id == "roses"
    assert not hasattr(memory, "strength")


def test_the_typed_clients_are_current() -> None:
    """Otherwise run: .venv/bin/python scripts/write_clients.py."""
    assert write_clients.main(["--check"]) == 0


def test_a_method_without_an_example_of_its_own_gets_one() -> None:
    """So that a new action needs no change of the generator's data."""
    classes = write_clients.classes_of(write_clients.AGENTS[1])
    assert classes.call("ping") == ">>> reply = memory.ping()"
    assert classes.call("search") == ">>> reply = memory.search('my-query')"
    assert classes.call("resolve_conflict") == ">>> reply = memory.resolve_conflict('my-op-id', priority=1)"
