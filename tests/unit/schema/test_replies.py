"""The schemas of replies: every action has one, its handler says the same, and what isn't so is refused."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.schema.json_schema import Schema, closed, places, replaced
from tests.unit.schema.test_schema import ASSEMBLE, HOST
from twinhost.agent.health import HealthDocument, Refusal
from twinhost.schema import AGENTS, declarations_of, replies_of, schema_of
from twinhost.secure_zmq.actions import Action, Declaration


@pytest.fixture(params=sorted(AGENTS))
def name(request: pytest.FixtureRequest) -> str:
    agent: str = request.param
    return agent


@pytest.fixture
def declared(name: str) -> dict[str, Declaration]:
    return declarations_of(name)


@pytest.fixture
def schema(name: str) -> Schema:
    return Schema(json.loads(msgspec.json.encode(replies_of(name))))


@pytest.fixture
def actions(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Action[Any]]]:
    """The agent's own actions, as they are assembled."""
    migrations, assemble = ASSEMBLE[name]
    with ExitStack() as stack:
        environment = environment_of(tmp_path_factory.mktemp("agent"), HOST[name])
        yield list(stack.enter_context(Assembled(name, migrations, assemble, environment)).assembly.actions)


def test_every_action_has_a_reply_and_nothing_else_has(
    name: str, declared: dict[str, Declaration], schema: Schema, actions: list[Action[Any]]
) -> None:
    """What is declared is what is assembled, and in both schemas; each may be refused instead."""
    requests = schema_of(name)["discriminator"]["mapping"].keys()
    assert schema.root["properties"].keys() == requests == declared.keys()
    others = {"health", "health_check", "ping", "get_schema", "get_peers"}  # every agent's
    others |= {"check_subscription"} if name == "SystemDigitalTwin" else set()  # of an agent with an event feed
    assert {action.name for action in actions} == declared.keys() - others
    for action in requests:
        assert {"$ref": f"#/$defs/{Refusal.__name__}"} in schema.root["properties"][action]["anyOf"]


def test_health_is_answered_with_its_document(name: str, declared: dict[str, Declaration]) -> None:
    """Both names of the action have the same document, which holds at least what every agent's does."""
    (document,) = declared["health"].replies
    assert declared["health_check"].replies == (document,)
    assert HealthDocument.__required_keys__ <= document.__required_keys__  # type: ignore[attr-defined]
    assert (document is HealthDocument) is (name == "SystemDigitalTwin")


def test_every_reply_says_what_it_is(declared: dict[str, Declaration]) -> None:
    """A sentence each; and a status, which no refusal's can be mistaken for. What another agent answers is its own."""
    own = [each for name, each in declared.items() if name != "coordinate_memory"]
    for kind in {kind for each in own for kind in each.replies}:
        assert kind.__doc__, kind
        words = set(get_args(get_type_hints(kind)["status"]))
        assert words, kind
        assert words <= ({"ok", "degraded", "error"} if "health" in kind.__name__.lower() else {"ok", "success"}), kind


def test_schema_instances_are_allowed_and_incomplete_ones_not(schema: Schema) -> None:
    """The least of each reply and the whole of it; less than the least is none."""
    narrow = Schema(closed(schema.root))
    for action, replies in schema.root["properties"].items():
        for each in replies["anyOf"]:
            definition = schema.definition(each["$ref"])
            whole = schema.instance(definition, whole=True)
            assert narrow.allows({action: whole}), (action, whole)
            assert whole["request_id"]
            assert narrow.allows({action: {**whole, "ignored_fields": ["of no action"]}})
            assert not narrow.allows({action: {**whole, "ignored_fields": "of no action"}})
            assert schema.allows({action: {**whole, "of a later version": 1}})
            assert not narrow.allows({action: {**whole, "of no version": 1}})
            least = schema.instance(definition, whole=False)
            assert narrow.allows({action: least}), (action, least)
            for field in least:
                less = {key: value for key, value in least.items() if key != field}
                assert not narrow.allows(less, definition), (action, field)


def test_a_value_of_no_type_is_refused_in_every_place(schema: Schema) -> None:
    """In every place of every reply that has a type at all."""
    nonsense = {"nonsense": [{"of": "no kind"}]}
    tried = refused = 0
    for action, replies in schema.root["properties"].items():
        whole = schema.instance(schema.definition(replies["anyOf"][0]["$ref"]), whole=True)
        for path in places(whole):
            tried += 1
            refused += not schema.allows({action: replaced(whole, path, nonsense)})
    assert refused > 0.9 * tried
