"""Every command that is advised exists, for whoever reads it: with its words, and of Compose with its services.

The commands are those of the code: what is computed there stands for itself, and what is known only at run time is the
word `mainpc`, which is a host, a service, an agent, and a name.
"""

import ast
import builtins
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

import twinhost
from twinhost.agent.troubles import Kind
from twinhost.cli import archive, certs_init
from twinhost.cli.program import program
from twinhost.secure_zmq.wire import Request

ROOT = Path(__file__).parents[3]
PACKAGE = Path(twinhost.__file__).parent
PROGRAMS = {"certs-init": certs_init.commands, "archive": archive.app}
ELSEWHERE = {  # of Docker, systemd, NVIDIA, util-linux, procps, and OpenSSH
    "scp config/network_config.yaml mainpc:twinhost/config/",
    "docker system df",
    "docker builder prune",
    "docker image prune",
    "timedatectl status",
    "sudo timedatectl set-ntp true",
    "nvidia-smi",
    "nvidia-smi -q -d TEMPERATURE,PERFORMANCE",
    "sudo dmesg --level=emerg,alert,crit,err",
    "ps -eo rss,pid,args --sort=-rss | head",
}


KNOWN = {"given": "--role agent", "keys": "TWINHOST_CLI_KEYS=pc2 "}  # roles that are joined; whose key is used


class Unknown(str):
    """A value of which the word `mainpc` is as good as any."""

    def __getattr__(self, _: str) -> "Unknown":
        return self

    def __getitem__(self, _: Any) -> "Unknown":
        return self

    def __call__(self, *_: Any) -> "Unknown":
        return self


class Names(dict[str, Any]):
    """The names of a function: those that the module does not have are unknown."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(self._module, name) or hasattr(builtins, name):
            raise KeyError(name)
        return Unknown(KNOWN.get(name, "mainpc"))


def branches(node: ast.expr, function: ast.AST) -> Iterator[ast.expr]:
    """Yield each expression that a value may come from."""
    if isinstance(node, ast.IfExp):
        yield from branches(node.body, function)
        yield from branches(node.orelse, function)
    elif isinstance(node, ast.Name):
        assigned = [
            one.value
            for one in ast.walk(function)
            if isinstance(one, ast.Assign) and any(isinstance(t, ast.Name) and t.id == node.id for t in one.targets)
        ]
        for value in assigned:
            yield from branches(value, function)
        if not assigned:
            yield node
    else:
        yield node


def command_of(call: ast.Call) -> ast.expr | None:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    place = {"Remedy": 1, "warn": 2, "old_backup": 3}.get(name)
    if place is not None and len(call.args) > place:
        return call.args[place]
    if name in ("warn", "add", "Condition"):
        return next((keyword.value for keyword in call.keywords if keyword.arg == "command"), None)
    return None


def advised() -> set[str]:
    """Return the commands of the whole package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"Remedy\(|health\.(add|warn)\(|Condition\(|old_backup\(", text):
            continue
        module = import_module(".".join(["twinhost", *path.relative_to(PACKAGE).with_suffix("").parts]))
        tree = ast.parse(text)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for function in [*functions, tree]:
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and (node := command_of(call)) is not None:
                    for one in branches(node, function):
                        code = compile(ast.Expression(one), str(path), "eval")
                        found.add(str(eval(code, vars(module), Names(module))))
    for kind in Kind:
        found.update(word for word in re.findall(r"`(.*?)`", f"{kind.advice} {kind.meaning}") if "./" in word)
    return found - {"", "mainpc"}


COMMANDS = sorted(advised())


def parse(app: typer.Typer, words: list[str]) -> None:
    """Parse a command line without running it."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("program", [*words])
    while isinstance(command, TyperGroup) and (rest := [*context._protected_args, *context.args]):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def test_the_commands_are_found() -> None:
    """By their number, at least: a rule that finds none would test none."""
    assert len(COMMANDS) >= 30
    assert {"./twinhost errors", "docker compose up -d mainpc", *ELSEWHERE} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_advised_exists(command: str) -> None:
    piped = re.fullmatch(r"(.*) \| ssh mainpc 'cd twinhost && (.*)'", command)
    for part in piped.groups() if piped else (command,):
        if part not in ELSEWHERE:
            require_existing(part)


def require_existing(command: str) -> None:
    inner = re.fullmatch(r"(?:\(umask 077; |TWINHOST_CLI_KEYS=pc2 )?(.*?)(?: > [\w.-]+\)?)?", command)
    assert inner is not None
    words = shlex.split(inner[1])
    if words[0] == "./twinhost":
        parse(program(), words[1:])
        if words[1] == "call":
            import_module("twinhost.system_digital_twin.__main__")
            actions = {one.__struct_config__.tag: set(one.__struct_fields__) for one in _requests(Request)}
            fields = {word.partition("=")[0] for word in words[4:]}
            assert fields <= actions[words[3]]
        return
    assert words[:2] == ["docker", "compose"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    match words[2:]:
        case ["run", "--rm", "-T" | "certs-init" | "archive", *_]:
            service, *arguments = [word for word in words[4:] if word != "-T"]
            assert service in services
            parse(PROGRAMS[service], arguments)
        case (
            ["up", "-d", service]
            | ["ps", "-a", service]
            | ["logs" | "restart" | "unpause", service]
            | ["exec", service, *_]
        ):
            assert service in services
        case ["cp", source, "."]:
            assert source.partition(":")[0] in services
        case _:
            pytest.fail(f"nothing tests {command}")


def _requests(base: type[Request]) -> Iterator[type[Request]]:
    for one in base.__subclasses__():
        yield one
        yield from _requests(one)
