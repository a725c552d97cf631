"""The README is true: its commands run, its output is what is printed, its code works."""

import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from urllib.request import urlopen

import pytest

from tests.containers.stack import REPOSITORY, Stack, free_ports

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMPOSE = "docker compose "
TWINHOST = "./twinhost "


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [re.sub(r"^ +", "", text, flags=re.M) for text in re.findall(rf"```{language}\n(.*?)```", README, re.S)]


def commands(prompt: str) -> list[str]:
    """Return the commands after a prompt, in order."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line.removeprefix(prompt) for line in lines if line.startswith(prompt)]


def output_of(command: str) -> list[str]:
    """Return the lines that the README shows under a command, without the ellipses."""
    (block,) = [block for block in blocks("console") if block.startswith(f"$ {command}\n") and block.count("\n") > 1]
    return [line for line in block.splitlines()[1:] if line != "…"]


RUN_HERE = [command for command in commands("$ ") if command.startswith(COMPOSE)]


@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_does_what_the_readme_says(stack: Stack, command: str) -> None:
    """Every compose command of the README ends well, but the one that shows a refusal."""
    arguments = shlex.split(command.removeprefix(COMPOSE))
    done = stack.compose("run", "-T", *arguments[1:])
    if "SECURE_ZMQ=0" not in command:
        assert done.status == 0, done.err
        return
    assert done.status == 1
    for line in output_of(command):
        assert line in done.out + done.err


@pytest.mark.parametrize("command", [command for command in commands("$ ") if command.startswith(TWINHOST)])
def test_a_twinhost_command_does_what_the_readme_says(stack: Stack, command: str) -> None:
    """Every one of them ends well."""
    done = stack.twinhost(*shlex.split(command.removeprefix(TWINHOST)))
    assert done.status == 0, done.err


def test_the_shown_status_is_what_status_prints(stack: Stack) -> None:
    """Headings, agents and identities stand in the output as in the README; ages, sessions and fingerprints differ."""
    printed = re.sub(r"\d+ on ", "N on ", re.sub(r" +", " ", stack.run("cli", "status").out))
    for line in output_of("make up"):
        if "SHA256:" in line or line.startswith(("==>", "Page ", "HTTP on")):
            continue
        stable = re.sub(r"\s+\d+ s( ago)?\b.*", "", line)
        assert re.sub(r"\d+ on ", "N on ", re.sub(r" +", " ", stable)) in printed, f"{line!r} is not in:\n{printed}"


def test_every_make_target_of_the_readme_is_there() -> None:
    """`make …` in the text and in the blocks names targets of the Makefile."""
    targets = set(re.findall(r"`make ([a-z]+)`|\$ make ([a-z]+)", README))
    for target in sorted({name for pair in targets for name in pair if name}):
        done = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readmes_python_works(stack: Stack) -> None:
    """The agent of your own registers and reads."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = stack.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "python", "cli", "-c", code)
    assert done.status == 0, done.err
    assert "UnifiedMemoryReasoningAgent" in done.out


@pytest.fixture
def project() -> Iterator[dict[str, str]]:
    """The environment of a project of its own, removed in the end."""
    environment = {**os.environ, **free_ports(), "COMPOSE_PROJECT_NAME": f"twinhost-test-{uuid.uuid4().hex[:8]}"}
    yield environment
    subprocess.run(["make", "clean", "YES=1"], cwd=REPOSITORY, env=environment, capture_output=True, check=True)


def make(target: str, environment: dict[str, str]) -> str:
    """Run a target that must succeed; return what it prints."""
    done = subprocess.run(
        ["make", target], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_up_shows_a_working_system_and_make_down_stops_it(project: dict[str, str]) -> None:
    """The first command of the README, beside whatever else is running."""
    shown = make("up", project)
    assert "Link encrypted and authenticated with CURVE, asked as operator" in shown
    assert "Registered agents (2)" in shown
    page = f"http://127.0.0.1:{project['MAINPC_HTTP_PORT']}/"
    assert f"{page}\n" in shown
    assert f"{page}healthz\n" in shown
    with urlopen(page, timeout=5) as answer:
        assert b"<title>" in answer.read()
    assert "UnifiedMemoryReasoningAgent" in make("status", project)
    make("down", project)
    listing = ["docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={project['COMPOSE_PROJECT_NAME']}"]
    assert subprocess.run(listing, capture_output=True, text=True, check=True).stdout == ""


def test_make_up_starts_the_host_that_this_machine_is(project: dict[str, str]) -> None:
    """With TWINHOST_HOST=mainpc that one alone, whether or not the other machine is there yet."""
    shown = make("up", project | {"TWINHOST_HOST": "mainpc"})
    assert "HTTP on pc2" not in shown
    listing = ["docker", "ps", "--format", '{{.Label "com.docker.compose.service"}}', "--filter"]
    listing.append(f"label=com.docker.compose.project={project['COMPOSE_PROJECT_NAME']}")
    assert subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split() == ["mainpc"]
