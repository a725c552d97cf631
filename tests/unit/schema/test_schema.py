"""The schemas say what the agents' decoders do: every action is there, and what is refused for its form is refused."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import msgspec
import pytest

from tests.loopback.agent_processes import SERVICES
from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.schema.json_schema import Schema, places, replaced
from twinhost.agent.assembly import Assembly, Foundation
from twinhost.agent.health import GetPeers, HealthActions
from twinhost.agent.health import Ping as BuiltInPing
from twinhost.agent.schema import GetSchema, replies_schema, requests_schema
from twinhost.agent.subscriptions import CheckSubscription
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.schema import AGENTS
from twinhost.secure_zmq.actions import Declaration
from twinhost.secure_zmq.wire import Request, tag_of
from twinhost.system_digital_twin import __main__ as twin
from twinhost.system_digital_twin.state_files import MIGRATIONS as TWIN_MIGRATIONS
from twinhost.unified_memory_reasoning import __main__ as memory

HOST = {twin.NAME: "mainpc", memory.NAME: "pc2"}
ASSEMBLE: dict[str, tuple[Sequence[str], Callable[[Foundation], Assembly]]] = {
    twin.NAME: (TWIN_MIGRATIONS, twin.assemble),
    memory.NAME: (memory.MIGRATIONS, memory.assemble),
}
ANYTHING: list[Any] = [
    None, True, 0, 1, -1, 2, 1.5, 1e300, 10**15, 2**70, "", "x", "x" * 20_000, "x" * 3_000_000,
    [], [1], ["x"], ["x"] * 3_000, {}, {"x": 1}, {"x": "x"}, {"": {}}, {f"{n}": 1 for n in range(2_000)},
]  # fmt: skip


@dataclass(frozen=True)
class Agent:
    """An agent: what it decodes with, and the schema that was written for it."""

    types: dict[str, type[Request]]
    schema: Schema
    decoder: msgspec.json.Decoder[Request]

    def definition(self, action: str) -> dict[str, Any]:
        return self.schema.definition(self.schema.root["discriminator"]["mapping"][action])

    def refusal(self, instance: Any) -> msgspec.ValidationError | None:
        try:
            self.decoder.decode(msgspec.json.encode(instance))
        except msgspec.ValidationError as error:
            return error
        return None


def run(arguments: Sequence[str], cwd: Path | None = None, seed: str = "0") -> "subprocess.CompletedProcess[bytes]":
    """Run a Python of its own: what the tests' has imported would be in the schemas too."""
    environment = {"PYTHONPATH": str(SERVICES), "PYTHONHASHSEED": seed}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, timeout=60, check=False
    )


def write(folder: Path, seed: str = "0") -> dict[str, bytes]:
    """Run the command, as the image's build does, and return the files by name."""
    done = run(["-m", "twinhost.schema", str(folder)], seed=seed)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write(tmp_path_factory.mktemp("schemas") / "made" / "below")


@pytest.fixture(scope="module", params=sorted(AGENTS))
def agent(request: pytest.FixtureRequest, written: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """One of both agents, its table of actions as it is assembled."""
    name = request.param
    migrations, assemble = ASSEMBLE[name]
    with ExitStack() as stack:
        environment = environment_of(tmp_path_factory.mktemp("agent"), HOST[name])
        assembled = stack.enter_context(Assembled(name, migrations, assemble, environment))
        health = assembled.assembly.health or HealthActions(dict)
        actions = [*assembled.assembly.actions, *health.actions()]
    requests: list[type[Request]] = [*(action.request for action in actions), GetPeers, GetSchema]
    if name == twin.NAME:  # which has an event feed
        requests.append(CheckSubscription)
    types = {tag_of(request): request for request in requests}
    union: Any = next(iter(types.values()))
    for each in types.values():
        union = union | each
    return Agent(types, Schema(json.loads(written[f"{name}.json"])), msgspec.json.Decoder(union))


def test_there_are_files_for_each_agent(written: dict[str, bytes]) -> None:
    """By the name of the agent in the configuration, for requests, replies, and the feed, in a folder that is made."""
    agents = load_network_config(DEFAULT_PATH, {}).agents
    titles = {f"{name}.json": f"Requests to {name}" for name in agents}
    titles |= {f"{name}.replies.json": f"Replies of {name}, by the request's action" for name in agents}
    titles[f"{twin.NAME}.feed.json"] = f"Events on the feed of {twin.NAME}, by topic"
    assert written.keys() == titles.keys()
    for name, content in written.items():
        document = json.loads(content)
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert document["title"] == titles[name]
        assert content.endswith(b"}\n")
        assert content.count(b"\n") > 100  # indented, for people


def test_the_files_are_the_same_every_time(written: dict[str, bytes], tmp_path: Path) -> None:
    """Byte for byte, whatever the order of hashes, and where they were written before."""
    (tmp_path / "SystemDigitalTwin.json").write_text("an older one, which was longer" * 10_000)
    assert write(tmp_path, seed="1") == written
    assert write(tmp_path, seed="2") == written


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    """One line says how it is called, and the exit status is 1: an image's build stops there."""
    for arguments in ([], ["one", "two"]):
        done = run(["-m", "twinhost.schema", *arguments], cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"usage: python -m twinhost.schema FOLDER\n"
        assert list(tmp_path.iterdir()) == []


class Part(msgspec.Struct):
    """A part of a reply: one field always has a value, and one may be left out."""

    size: int
    colour: str = "red"
    weight: float | msgspec.UnsetType = msgspec.UNSET


class Made(TypedDict):
    status: Literal["ok"]
    part: Part
    mood: Literal["low", "normal", "high"]


def test_a_schema_has_the_declared_order_and_says_what_is_sent() -> None:
    """msgspec sorts both, and calls a field with a default optional, which a reply has all the same."""
    declared = {"ping": Declaration("ping", BuiltInPing, (Made,), {})}
    definitions = replies_schema("Maker", declared)["$defs"]
    assert list(definitions["Made"]["properties"])[:3] == ["status", "part", "mood"]
    assert definitions["Made"]["properties"]["mood"]["enum"] == ["low", "normal", "high"]
    assert definitions["Part"]["required"] == ["size", "colour"]


def test_two_types_may_have_one_name() -> None:
    """As where an author's agent has a request that is named like one that every agent has."""

    class Ping(Request, tag="ping_twice"):
        """Ping, and ping again."""

    requests: dict[str, type[Request]] = {"ping": BuiltInPing, "ping_twice": Ping}
    schema = requests_schema("Twice", {name: Declaration(name, each, (), {}) for name, each in requests.items()})
    names = [reference.rpartition("/")[2] for reference in schema["discriminator"]["mapping"].values()]
    assert len(set(names)) == 2
    assert all("additionalProperties" not in schema["$defs"][name] for name in names)


def test_every_action_is_there_and_nothing_else(agent: Agent) -> None:
    """As in the agent's table of actions; each is one of the alternatives, by the value of `action`."""
    mapping = agent.schema.root["discriminator"]["mapping"]
    assert mapping.keys() == agent.types.keys()
    assert agent.schema.root["discriminator"]["propertyName"] == "action"
    assert sorted(each["$ref"] for each in agent.schema.root["anyOf"]) == sorted(mapping.values())
    for action, request_type in agent.types.items():
        definition = agent.definition(action)
        assert definition["properties"]["action"] == {"enum": [action]}
        assert definition["description"].split() == str(request_type.__doc__).split(), action
        assert definition["properties"].keys() == {"action", *request_type.__struct_fields__}


def test_what_is_made_from_the_schema_is_accepted(agent: Agent) -> None:
    """The least of each request and the whole of it; where a handler wants more than a form, that alone is amiss."""
    for action in agent.types:
        for whole in (False, True):
            instance = agent.schema.instance(agent.definition(action), whole=whole)
            assert agent.schema.allows(instance), (action, instance)
            refusal = agent.refusal(instance)
            assert refusal is None or isinstance(refusal.__cause__, ValueError), (action, instance, refusal)


@pytest.mark.thorough
def test_schema_and_decoder_refuse_the_same(agent: Agent) -> None:
    """Anything at all in every place of every request: both take it, or both refuse it.

    What a request refuses of its own accord, by comparing fields or looking into them, no schema expresses.
    """
    tried = refused = 0
    for action in agent.types:
        for whole in (False, True):
            good = agent.schema.instance(agent.definition(action), whole=whole)
            for path in places(good):
                for value in ANYTHING:
                    instance = replaced(good, path, value)
                    refusal = agent.refusal(instance)
                    tried, refused = tried + 1, refused + (refusal is not None)
                    if refusal is None or not isinstance(refusal.__cause__, ValueError):
                        assert agent.schema.allows(instance) is (refusal is None), (action, path, value, refusal)
    assert 0.2 * tried < refused < tried


def test_a_field_that_is_needed_is_needed_in_both(agent: Agent) -> None:
    """And a field that nobody knows is let pass by both, since agents ignore it."""
    for action in agent.types:
        definition = agent.definition(action)
        good = agent.schema.instance(definition, whole=True)
        for name in good:
            less = {key: value for key, value in good.items() if key != name}
            refusal = agent.refusal(less)
            if refusal is None or not isinstance(refusal.__cause__, ValueError):
                assert agent.schema.allows(less) is (refusal is None) is (name not in definition["required"])
        assert agent.schema.allows({**good, "source_agent": 1, "no such field": []})


def test_a_request_of_no_agent_is_in_no_schema(written: dict[str, bytes], tmp_path: Path) -> None:
    """Somebody else's subclass of `Request` is none of theirs."""
    code = (
        "import pathlib, twinhost.schema as it, twinhost.secure_zmq.wire as wire\n"
        "class Stranger(wire.Request, tag='stranger'): pass\n"
        f"it.main(pathlib.Path({str(tmp_path)!r}))"
    )
    assert run(["-c", code]).returncode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
