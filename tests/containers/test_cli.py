"""The operator's commands in their container: what they show, and their exit statuses."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.stack import REPOSITORY, Stack, project_name, run_twinhost
from tests.unit.cli.running import run_process
from tests.waiting import PATIENCE_S, wait_until


def test_status_shows_both_agents_and_who_they_are(stack: Stack) -> None:
    """Health, keys, and registrations on one page."""
    done = stack.run("cli", "status")
    assert done.status in (0, 1), done.out  # other tests leave refusals, which need attention
    for word in ("SystemDigitalTwin", "UnifiedMemoryReasoningAgent", "operator", "CURVE", "HEALTHY"):
        assert word in done.out
    assert stack.keys("pc2").own_keys.public.fingerprint in done.out


def test_agents_is_json_for_programs(stack: Stack) -> None:
    """`--json` prints one document."""
    done = stack.run("cli", "agents", "--json")
    assert done.status == 0, done.err
    assert {agent["name"] for agent in json.loads(done.out)["agents"]} >= {"SystemDigitalTwin"}


def test_ping_reaches_both(stack: Stack) -> None:
    """An authenticated round trip to each agent."""
    done = stack.run("cli", "ping", "--count", "3")
    assert done.status == 0, done.err
    assert "SystemDigitalTwin" in done.out
    assert "UnifiedMemoryReasoningAgent" in done.out


def test_twinhost_runs_a_command_and_nothing_else(stack: Stack, tmp_path: Path) -> None:
    """From any folder: the answer alone, with the operator's key, without certs-init; no container of it stays."""
    started_at, before = stack.container("certs-init").attrs["State"]["StartedAt"], one_off(stack)
    done = stack.twinhost("status", cwd=tmp_path)
    assert done.status in (0, 1), done.out
    assert done.err == ""
    assert "\n\nLink encrypted and authenticated with CURVE, asked as operator\n" in done.out
    assert stack.container("certs-init").attrs["State"]["StartedAt"] == started_at
    wait_until(lambda: one_off(stack) == before, PATIENCE_S, "the engine has removed the container")


def one_off(stack: Stack) -> str:
    """Return the ids of the containers of `cli` that are there."""
    return stack.compose("ps", "--all", "--quiet", "cli").out


def test_twinhost_passes_arguments_and_exit_status(stack: Stack) -> None:
    """Each argument as it is; 1 for a refusal, 2 for a wrong usage."""
    words = ("call", "UnifiedMemoryReasoningAgent", "update_twin", "user_id=42", 'twin_data={"a b": "$HOME *"}')
    assert stack.twinhost(*words).status == 0
    read = stack.twinhost("call", "UnifiedMemoryReasoningAgent", "get_twin", "user_id=42", "--json")
    assert json.loads(read.out)["twin"] == {"a b": "$HOME *"}
    assert stack.twinhost("call", "SystemDigitalTwin", "get_agent_info", "agent_name=Nobody").status == 1
    assert stack.twinhost("nonsense").status == 2


def test_the_command_at_the_end_of_a_refusal_works(stack: Stack) -> None:
    """It lists the fields of the action, from the schema in the image."""
    refused = stack.twinhost("call", "SystemDigitalTwin", "publish_event")
    advice = refused.err.strip().rpartition("; ")[2]
    assert advice == "./twinhost explain publish_event lists the fields"
    explained = stack.twinhost(*advice.removesuffix(" lists the fields").split()[1:])
    assert (explained.status, explained.err) == (0, "")
    assert "event.source_agent" in explained.out


def test_keys_are_changed_where_mainpc_runs(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the installed command, from any folder; the container of the command line says what to run instead."""
    monkeypatch.chdir(tmp_path)
    variables = {"COMPOSE_PROJECT_NAME": stack.project}
    invited = run_process(variables, "keys", "invite", "Guest", "--host", "pc3", "--role", "agent", "--json")
    assert (invited.status, json.loads(invited.out)["lines"][0][:11]) == (0, "twinhost://"), invited.err
    assert "Guest" in stack.run("certs-init", "pending").out
    assert run_process(variables, "keys", "reject", "Guest").status == 0
    refused = stack.run("cli", "keys", "reject", "Guest")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.rstrip().endswith("run in the checkout there: docker compose run --rm certs-init reject Guest")


@pytest.fixture
def bare_project() -> Iterator[dict[str, str]]:
    """The settings of a project that was never started."""
    variables = {"COMPOSE_PROJECT_NAME": project_name()}
    yield variables
    command = ["docker", "compose", "-p", variables["COMPOSE_PROJECT_NAME"], "--profile", "tools", "down", "--volumes"]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)


def test_twinhost_makes_the_keys_where_there_are_none(bare_project: dict[str, str]) -> None:
    """As the longer form does; after that the agents are what is missing."""
    done = run_twinhost(bare_project, "ping", "mainpc")
    assert done.status == 1
    assert "error [server_unreachable]: SystemDigitalTwin: " in done.err
    assert "no such file" not in done.err
