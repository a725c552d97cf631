"""A new action takes three files: the feature's module, its test, and the grants; nothing else names it."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import OPERATOR, UMRA, Twin
from twinhost.agent.assembly import Assembly, Foundation
from twinhost.cli.schemas.explain import explain
from twinhost.cli.schemas.requests import schema_of_agent
from twinhost.moments import SYSTEM_CLOCK
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.schema import declarations_of, replies_of, schema_of
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import Request
from twinhost.system_digital_twin import SUCCESS, Success
from twinhost.system_digital_twin import __main__ as twin
from twinhost.system_digital_twin.registry import actions as registry_actions
from twinhost.system_digital_twin.state_files import MIGRATIONS

PAGE = Path(__file__).parents[3] / "docs/how-to/add-an-action.md"
# So that the page can be followed literally while these tests stay.
RENAMED = {"get_uptime": "get_the_uptime", "GetUptime": "GetTheUptime", "Uptime": "TheUptime"}


class GetTheUptime(Request, tag="get_the_uptime"):
    """Return how long this agent has been running, in seconds."""


class TheUptime(Success):
    """The time since the agent started, in seconds."""

    uptime_s: float


class UptimeActions(Feature):
    """The uptime."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @action()
    def uptime(self, request: GetTheUptime, caller: Caller) -> TheUptime:
        return {"status": SUCCESS, "uptime_s": round(time.monotonic() - self._started, 3)}


def blocks(language: str) -> list[str]:
    """Return the page's code in a language, with other names."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    return [re.sub("|".join(rf"\b{name}\b" for name in RENAMED), lambda name: RENAMED[name[0]], code) for code in found]


def feature_of_the_page() -> Feature:
    """Run the page's first code as a part of the module that it names, and return its feature."""
    module = {**vars(registry_actions)}
    exec(compile(blocks("python")[0], str(PAGE), "exec"), module)
    feature: type[Feature] = module["RegistryActions"]
    uptime = feature.__new__(feature)
    vars(uptime).update(_clock=SYSTEM_CLOCK, _started=SYSTEM_CLOCK.monotonic())  # as the page says of the constructor
    return uptime


def grants_of_the_page() -> Mapping[str, list[str]]:
    (text,) = blocks("yaml")
    grants: dict[str, list[str]] = yaml.safe_load(text)["grants"]
    return grants


@pytest.fixture(params=[UptimeActions, feature_of_the_page], ids=["this test's", "the page's"])
def feature(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Feature:
    """A feature with the action; the agent has it, beside its own."""
    made: Callable[[], Feature] = request.param
    feature = made()
    monkeypatch.setattr(twin, "FEATURES", (*twin.FEATURES, type(feature)))
    return feature


@contextmanager
def running(home: Path, feature: Feature, grants: Mapping[str, list[str]]) -> Iterator[Assembled]:
    """The agent with one more feature, and with these grants beside its own."""
    config = DEFAULT_PATH.read_text(encoding="utf-8")
    for role, actions in grants.items():
        lines = "".join(f"    - {name}\n" for name in actions)
        config = config.replace(f"grants:\n  {role}:\n", f"grants:\n  {role}:\n{lines}")
    (home / "network_config.yaml").write_text(config, encoding="utf-8")

    def assemble(foundation: Foundation) -> Assembly:
        assembly = twin.assemble(foundation)
        return dataclasses.replace(assembly, actions=[*assembly.actions, *feature.actions()])

    environment = {**environment_of(home, "mainpc"), "NETWORK_CONFIG_PATH": str(home / "network_config.yaml")}
    with Assembled(twin.NAME, MIGRATIONS, assemble, environment) as agent:
        yield agent


def test_a_new_action_is_called_with_a_grant(tmp_path: Path, feature: Feature) -> None:
    """By an agent, with the line that the page adds to the grants; the reply is what its type says."""
    with running(tmp_path, feature, grants_of_the_page()) as agent:
        first = agent.ask("get_the_uptime", UMRA)
        assert first.keys() == {"status", "uptime_s"}
        assert agent.ask("get_the_uptime", UMRA)["uptime_s"] >= first["uptime_s"] >= 0
        assert agent.ask("get_the_uptime", UMRA, since=1)["ignored_fields"] == ["since"]


def test_a_new_action_is_refused_without_a_grant(tmp_path: Path, feature: Feature) -> None:
    """To everybody but operators, who may call every action."""
    with running(tmp_path, feature, {}) as agent:
        assert agent.ask("get_the_uptime", UMRA)["code"] == "not_granted"
        assert agent.ask("get_the_uptime", OPERATOR)["status"] == "success"


def test_a_new_action_is_in_the_schemas(feature: Feature) -> None:
    """Of requests and of replies, with the sentences of its types; its options are those of the decorator."""
    declared = declarations_of(twin.NAME)["get_the_uptime"]
    assert (declared.method, declared.options) == (
        "uptime",
        {"mutates": False, "apart": False, "forwardable": False, "from_reserve": False, "unowned": ""},
    )
    request = schema_of(twin.NAME)["$defs"]["GetTheUptime"]
    assert request["properties"]["action"] == {"enum": ["get_the_uptime"]}
    assert request["description"] == GetTheUptime.__doc__
    replies = replies_of(twin.NAME)
    assert {"$ref": "#/$defs/TheUptime"} in replies["properties"]["get_the_uptime"]["anyOf"]
    assert replies["$defs"]["TheUptime"]["properties"]["uptime_s"] == {"type": "number"}


def test_explain_shows_a_new_action(feature: Feature) -> None:
    """With its sentence and a command that can be copied."""
    schema = schema_of_agent(twin.NAME)
    assert schema is not None
    assert schema.description("get_the_uptime") == GetTheUptime.__doc__
    application = typer.Typer()
    application.command()(explain)
    shown = CliRunner().invoke(application, [twin.NAME, "get_the_uptime"])
    assert shown.exit_code == 0, shown.output
    for part in ("Return how long this agent has been running", f"./twinhost call {twin.NAME} get_the_uptime"):
        assert part in shown.output


def test_the_three_files_of_the_page_exist() -> None:
    """The module that its code belongs to, the class that it extends, and the option names in its table."""
    text = PAGE.read_text(encoding="utf-8")
    assert "services/twinhost/system_digital_twin/registry/actions.py" in text
    assert "tests/unit/system_digital_twin/test_actions.py" in text
    assert "config/network_config.yaml" in text
    assert set(re.findall(r"^\| `(\w+)=[^`]+`", text, re.M)) == set(declarations_of(twin.NAME)["ping"].options)
    for path in re.findall(r"`((?:services|tests|config|scripts)/[\w./]+)`", text):
        assert (PAGE.parents[2] / path).exists(), path


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    """Against the page's feature, with the page's grants."""
    (code,) = (block for block in blocks("python") if block.startswith("def test_"))
    names: dict[str, Any] = {"Twin": Twin}
    exec(compile(code, str(PAGE), "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    with running(tmp_path, feature_of_the_page(), grants_of_the_page()) as agent:
        test(SimpleNamespace(ask=lambda name: agent.ask(name, UMRA)))
