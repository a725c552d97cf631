"""Every agent returns its own schema: `explain` and `call` know an agent that is not part of this project."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from tests import fork_server
from twinhost.clients.replies import read
from twinhost.schema import AGENTS, replies_of, schema_of
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted, UnexpectedReply
from twinhost.testing import Stack

TEMPLATE = Path(__file__).resolve().parents[2] / "services/twinhost/cli/new/template/greeter.py"
Run = Callable[..., tuple[int, str, str]]


def loaded(name: str, path: Path) -> ModuleType:
    spec = util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # its annotations are looked up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    module = loaded("greeter", TEMPLATE)  # what `twinhost new agent` writes
    with Stack() as stack:
        stack.enrol("guest", role="guest")
        stack.add("Greeter", module.MIGRATIONS, module.assemble, {"agent": ["greet", "who_is"]})
        yield stack
    del sys.modules["greeter"]


@pytest.fixture
def cli(stack: Stack) -> Run:
    """Run the command line with the operator's key; return its status and what it wrote."""

    def run(*arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, **stack.environment()}
        done = fork_server.run(["twinhost.cli", *arguments], env=environment, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_returns_the_schema_that_the_image_has(stack: Stack, agent: str) -> None:
    """What it serves is what its features declare, request for request and reply for reply."""
    with stack.client(agent) as client:
        schema = client.call("get_schema")
    assert schema["agent"] == agent
    assert schema["requests"] == json.loads(json.dumps(schema_of(agent)))
    assert schema["replies"] == json.loads(json.dumps(replies_of(agent)))


def test_typed_replies_of_an_authors_agent_are_in_its_schema(stack: Stack) -> None:
    """A handler that returns a TypedDict declares it; another one returns an object."""
    with stack.client("Greeter") as client:
        replies = client.call("get_schema")["replies"]
    assert replies["properties"]["greet"]["anyOf"][0] == {"$ref": "#/$defs/Greeted"}
    assert set(replies["$defs"]["Greeted"]["required"]) == {"status", "greeting"}
    assert replies["properties"]["who_is"]["anyOf"][0] == {"type": "object"}


def test_a_role_without_the_grant_gets_no_schema(stack: Stack) -> None:
    with stack.client("Greeter", by="guest") as guest, pytest.raises(NotGranted):
        guest.call("get_schema")


def test_explain_asks_the_agent_itself(cli: Run) -> None:
    status, out, _ = cli("explain", "Greeter", "greet", "--json")
    assert status == 0
    action = json.loads(out)["agents"]["Greeter"]["greet"]
    assert action["description"] == "Greet somebody, and publish that on mainpc."
    assert {"name": "name", "type": "string", "bounds": "1 to 256 characters", "required": True} in action["fields"]


def test_call_sends_the_types_that_the_agent_wants(cli: Run) -> None:
    """A number for a text field, and a field that it does not have, which without the schema would pass unseen."""
    status, out, err = cli("call", "Greeter", "greet", "name=42", "loudly=yes", "--json")
    assert status == 0, err
    assert json.loads(out)["greeting"] == "Hello, 42!"
    assert "greet has no field loudly" in err


def test_an_author_gets_a_typed_client(cli: Run, stack: Stack, tmp_path: Path) -> None:
    """The module that `client` writes calls the agent, is accepted by ruff as it is, and fits an older agent."""
    path = tmp_path / "greeter_client.py"
    assert cli("client", "Greeter", "--out", str(path))[0] == 0
    for command in (["check"], ["format", "--check"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", str(path)], check=True, capture_output=True
        )
    client = loaded("greeter_client", path)
    with client.Greeter(stack.address("Greeter")) as greeter:
        assert greeter.greet("Ana").greeting == "Hello, Ana!"
        assert greeter.who_is("Ana")["twin"] == {}
        assert repr(greeter).startswith("<Greeter agent='Greeter' address='tcp://")
        with pytest.raises(MalformedRequest, match="by its own schema, greet of Greeter has no field 'nam'; did you"):
            greeter.call("greet", nam="Ana")
        with pytest.raises(UnexpectedReply, match="older than the client in greeter_client"):
            _ = greeter._ask(client.Peers, "ping", {}).peers
        with pytest.raises(UnexpectedReply, match="write that again: twinhost client AGENT"):
            read({"greeting": 5}, client.Greeted, "the reply to greet")

    async def greeting() -> object:
        async with client.AsyncGreeter(stack.address("Greeter")) as greeter:
            return (await greeter.greet("Ana", deadline_s=9.0)).greeting

    assert asyncio.run(greeting()) == "Hello, Ana!"


def test_an_agent_that_is_not_named_is_not_waited_for(cli: Run, stack: Stack) -> None:
    """It is left out with a warning, or not asked at all where another one is named."""
    stack.stop("Greeter")
    try:
        status, out, err = cli("explain", "get_ok_agents")
        assert (status, "get_ok_agents of SystemDigitalTwin" in out) == (0, True)
        assert "Greeter was not asked" in err
        assert "Greeter" not in cli("explain", "SystemDigitalTwin", "ping")[2]
    finally:
        stack.start("Greeter")
