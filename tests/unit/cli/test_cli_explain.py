"""`explain`: what an agent may be asked, from the schema that its own decoder has."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli, run_process
from twinhost.agent.health import Ping
from twinhost.agent.schema import requests_schema
from twinhost.cli.arguments import parse_fields
from twinhost.cli.schemas.explain import example_command
from twinhost.cli.schemas.requests import RequestSchema, schema_of_agent
from twinhost.schema import AGENTS, declarations_of, main
from twinhost.secure_zmq.actions import Declaration
from twinhost.secure_zmq.errors import NotGranted, RequestError
from twinhost.secure_zmq.wire import Request
from twinhost.testing import Stack


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_example_is_read_by_the_agents_decoder(agent: str) -> None:
    """As typed on a command line, each is a request that the type takes, its own checks included."""
    schema = schema_of_agent(agent)
    assert schema is not None
    types = {name: each.request for name, each in declarations_of(agent).items()}
    assert set(schema.actions) <= types.keys()
    for action in schema.actions:
        words = shlex.split(example_command(agent, action, schema.example(action)))
        assert words[:4] == ["./twinhost", "call", agent, action]
        fields = parse_fields(words[4:], lambda name, text, value, a=action: schema.typed(a, name, text, value))  # type: ignore[misc]
        assert fields == schema.example(action)
        assert schema.unknown(action, fields) == []
        payload = msgspec.json.encode({"action": action, **fields})
        assert isinstance(msgspec.json.decode(payload, type=types[action]), Request), action


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Both agents, with the grants as shipped; `gardener` has the key of an agent."""
    with Stack() as stack:
        stack.enrol("gardener")
        yield stack


@pytest.mark.parametrize("profile", [False, True], ids=["with grants", "of a profile"])
@pytest.mark.parametrize("name", ["gardener", "operator"])
def test_each_example_is_one_that_the_reader_may_send(stack: Stack, tmp_path: Path, name: str, profile: bool) -> None:
    """Or it says what it needs. A profile's configuration has no grants, so those that are shipped count."""
    environment = stack.environment(name)
    if profile:
        document = yaml.safe_load(Path(environment["NETWORK_CONFIG_PATH"]).read_text())
        (tmp_path / "network_config.yaml").write_text(yaml.safe_dump({**document, "grants": {}}))
        environment |= {"NETWORK_CONFIG_PATH": str(tmp_path / "network_config.yaml")}
    explained = json.loads(run_process(environment, "explain", "--json").out)["agents"]
    assert sum(map(len, explained.values())) > 80
    wrong = []
    for agent, actions in explained.items():
        with stack.client(agent, by=name) as client:
            for action, shown in actions.items():
                refused = False
                try:
                    client.call(action, **shown["example"])
                except NotGranted:
                    refused = True
                except RequestError:  # such as a memory that is not there
                    pass
                others = name == "operator" and "an agent's action" in shown["description"]
                if refused != bool(shown["needs"] or others):
                    wrong.append((action, refused, shown))
    assert wrong == []


def test_an_example_says_what_it_needs_beyond_the_readers_key(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    for name, action, heading in (
        ("gardener", "get_audit", "Example, which needs a key with the role operator"),
        ("operator", "get_audit", "Example"),
        ("gardener", "enrol", "Example, which needs the one-time key of an invitation"),
        ("gardener", "heartbeat", "Example"),
    ):
        *_, above, example = run_process(stack.environment(name), "explain", action).out.splitlines()
        assert above == heading
    assert example == f"./twinhost call {SDT} heartbeat agent_name=gardener"


class Step(msgspec.Struct):
    name: str
    further: "list[Step]" = []


class Plan(Request, tag="plan"):
    """A request of an author's agent, whose type has fields of itself."""

    first: Step


def test_a_type_within_itself_is_shown_once() -> None:
    requests: dict[str, type[Request]] = {"plan": Plan, "ping": Ping}
    declared = {name: Declaration(name, each, (), {}) for name, each in requests.items()}
    schema = msgspec.convert(requests_schema("Planner", declared), RequestSchema)
    paths = [field.path for field in schema.fields("plan")]
    assert paths == ["first", "first.name", "first.further", "on_behalf_of"]


def test_an_action_shows_its_fields_and_an_example(hosts: TwoHosts, cli: Cli) -> None:
    """Names, types, bounds, defaults; the fields of an object below it; enumerations with their values."""
    ran = cli(hosts, "explain", SDT, "report_error")
    assert (ran.status, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["error.error_id", "string", "1", "to", "256", "characters", "required"] in lines
    assert ["error.recovery_attempted", "boolean", "false"] in lines
    assert "one of info, warning, error, critical" in cli(hosts, "explain", SDT, "report_error", "--json").out
    assert ran.out.splitlines()[-1].startswith(f"./twinhost call {SDT} report_error 'error={{")


def test_an_action_is_found_without_its_agent(hosts: TwoHosts, cli: Cli) -> None:
    """That is the command at the end of a refusal; what both agents have is shown for both."""
    assert cli(hosts, "explain", "get_twin").out == cli(hosts, "explain", "pc2", "get_twin").out
    both = cli(hosts, "explain", "ping").out
    assert f"ping of {SDT}" in both
    assert f"ping of {UMRA}" in both


def test_an_agent_alone_shows_its_actions(hosts: TwoHosts, cli: Cli) -> None:
    """Without an argument, those of every agent."""
    mine, all_of_them = cli(hosts, "explain", "mainpc").out, cli(hosts, "explain").out
    assert "\npublish_event " in mine
    assert "\nget_twin " not in mine
    assert "\nget_twin " in all_of_them
    document = json.loads(cli(hosts, "explain", "--json").out)
    assert set(document["agents"][SDT]) == set(schema_actions(SDT))


def schema_actions(agent: str) -> list[str]:
    schema = schema_of_agent(agent)
    assert schema is not None
    return schema.actions


def test_a_mistyped_action_is_told_the_nearest_one(hosts: TwoHosts, cli: Cli) -> None:
    """With and without its agent; one that resembles none is told them all."""
    for words in (("get_evnts",), ("mainpc", "get_evnts")):
        ran = cli(hosts, "explain", *words)
        assert (ran.status, ran.out) == (2, "")
        assert "'get_evnts'; did you mean get_events?" in ran.err
    assert "its actions: acknowledge_errors, " in cli(hosts, "explain", "mainpc", "zzzzz").err
    assert "there is no agent 'zzzzz'; the agents are: " in cli(hosts, "explain", "zzzzz").err


def test_no_key_is_needed_and_no_agent_is_asked(hosts: TwoHosts, cli: Cli) -> None:
    """Whoever writes a client has neither yet."""
    for folder in hosts.folders.values():
        for path in folder.glob("*.key*"):
            path.unlink()
    assert cli(hosts, "explain", "publish_event", "--json").status == 0


def test_the_file_of_the_image_is_what_is_shown(
    hosts: TwoHosts, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file that `/api/schema` serves."""
    main(tmp_path / "schema")
    path = tmp_path / "schema" / f"{SDT}.json"
    document: dict[str, Any] = json.loads(path.read_text())
    document["$defs"]["Ping"]["description"] = "As the file says."
    path.write_text(json.dumps(document))
    monkeypatch.setenv("TWINHOST_ASSETS", str(tmp_path))
    assert "As the file says." in cli(hosts, "explain", SDT, "ping").out


def test_the_example_is_of_the_program_that_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the wheel alone has no ./twinhost."""
    monkeypatch.setattr("twinhost.cli.schemas.explain.PROGRAM", "twinhost")
    assert example_command(SDT, "ping", {}) == f"twinhost call {SDT} ping"


def test_a_paragraph_is_one_line_until_it_is_shown() -> None:
    """The lines of the source are longer than the terminal's, and would leave single words behind."""
    schema = schema_of_agent(UMRA)
    assert schema is not None
    paragraphs = schema.description("store_memory").split("\n\n")
    assert (len(paragraphs), "\n" in "".join(paragraphs)) == (2, False)


@pytest.mark.parametrize("action", ["publish_event", "sync_memories", "simulate_load"])
def test_the_tables_are_narrow(hosts: TwoHosts, cli: Cli, action: str) -> None:
    """80 columns hold every table; the example alone is one line of whatever length, to be copied."""
    *lines, example = cli(hosts, "explain", action).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert example.startswith("./twinhost call ")
