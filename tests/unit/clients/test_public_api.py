"""The public names and their signatures, as `public_api.txt` has them.

A change of the file is a change of the interface: additions are compatible if they are optional. To write it again:

    PYTHONPATH=services:. .venv/bin/python tests/unit/clients/test_public_api.py
"""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import pytest

import twinhost
import twinhost.clients
from twinhost.agent.health import Ping
from twinhost.agent.schema import replies_schema, requests_schema
from twinhost.cli.schemas.client import module_of
from twinhost.clients import memory_replies, shared_replies, system_replies
from twinhost.clients.replies import Part as ReplyPart
from twinhost.secure_zmq.actions import Declaration
from twinhost.secure_zmq.wire import Request

REPOSITORY = Path(__file__).resolve().parents[3]
PINNED = Path(__file__).with_name("public_api.txt")
EXAMPLE = """
import twinhost

with twinhost.connect("UnifiedMemoryReasoningAgent") as memory:
    found: str = memory.search("roses", limit=5).results[0].content
    stored: list[str] = [each.memory_id for each in memory.store_many([{"content": "x", "pin": True}])]
    for row in memory.iter_query(keywords=["garden"]):
        print(row.content, row.pinned)

with twinhost.connect("SystemDigitalTwin") as system:
    stale: bool = system.get_metrics().metrics.stale
    for event in system.events("EVENT:"):
        print(event.event_type)
    system.publish_event({"event_id": "1", "event_type": "t", "source_agent": "me"})


async def ask() -> int:
    async with twinhost.connect_async("UnifiedMemoryReasoningAgent") as client:
        return (await client.memory_status()).total_memories
"""


class Part(msgspec.Struct):
    """An object in a request, of which each may have further ones."""

    word: Literal["loud", "low"]
    others: list["Part"] = []


class Greet(Request, tag="greet"):
    """Greet somebody."""

    whom: str
    part: Part
    often: int = 1


class Greeted(TypedDict):
    status: Literal["ok"]
    greeting: str
    replaced: NotRequired["Greeted"]


OTHERS_EXAMPLE = """
import twinhost
from greeter_client import AsyncGreeter, Greeter

with twinhost.connect("Greeter", client=Greeter) as greeter:
    text: str = greeter.greet("Ana", part={"word": "low"}, often=2).greeting
    before = greeter.greet("Ana", part={"word": "low", "others": [{"word": "loud"}]}).replaced
    if before is not None:
        text = before.greeting


async def ask() -> bool:
    async with twinhost.connect_async("Greeter", client=AsyncGreeter) as client:
        return bool((await client.ping())["ok"])
"""
WRONG = {
    'memory.search("roses", limit="5")': "arg-type",
    "memory.search(limit=5)": "call-arg",
    'memory.search("roses", 5)': "call-arg",
    'memory.search("roses").results[0].contents': "attr-defined",
    'memory.search("roses").results = []': "misc",
    'system.publish_event({"event_id": "1"})': "typeddict-item",
    "system.reserve_ram(1).placement.host": "union-attr",
    'greeter.greet("Ana", part={"word": "shrill"})': "typeddict-item",
    'greeter.greet("Ana", part={"word": "low"}).replaced.greeting': "union-attr",
    'twinhost.connect("Greeter", client=AsyncGreeter)': "type-var",
}


def public_api() -> Iterator[str]:
    """Yield a line for each public name, method, and type of a reply."""
    for module in (twinhost, twinhost.clients):
        for name in module.__all__:
            yield from _described(f"{module.__name__}.{name}", getattr(module, name))
    for module in (memory_replies, system_replies):
        yield from _types(module)


def _described(name: str, found: Any) -> Iterator[str]:
    if not inspect.isclass(found):
        yield f"{name}{_signature(found)}"
        return
    bases = ", ".join(base.__name__ for base in found.__bases__)
    yield f"class {name}({bases})"
    if found.__init__ is not Exception.__init__ and isinstance(found.__init__, FunctionType):
        yield f"    __init__{_signature(found.__init__)}"
    for method in sorted(vars(found)) if issubclass(found, Exception) else dir(found):
        member = inspect.getattr_static(found, method)
        if method.startswith("_"):
            continue
        if isinstance(member, FunctionType):
            kind = "async " if inspect.iscoroutinefunction(member) else ""
            yield f"    {kind}{method}{_signature(member)}"
        else:
            yield f"    {method}"


def _types(module: ModuleType) -> Iterator[str]:
    for name, found in vars(module).items():
        if getattr(found, "__module__", None) not in (module.__name__, shared_replies.__name__):
            continue
        defaults = (
            dict(zip(found.__struct_fields__, found.__struct_defaults__, strict=True))
            if issubclass(found, ReplyPart)
            else {}
        )
        fields = [
            f"{field}: {_short(inspect.formatannotation(kind))}{' = None' if defaults.get(field, 0) is None else ''}"
            for field, kind in inspect.get_annotations(found).items()
        ]
        yield f"{module.__name__}.{name}({', '.join(fields)})"


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    shown = [
        parameter.replace(default=_Environment()) if parameter.default is os.environ else parameter
        for parameter in signature.parameters.values()
    ]
    return _short(str(signature.replace(parameters=shown)))


def _short(text: str) -> str:
    """Return annotations without the modules of their types."""
    return re.sub(r"\b[A-Za-z_][\w.]*\.(?=[A-Za-z_])", "", text)


class _Environment:
    """Stands for the process's environment, which has secrets."""

    def __repr__(self) -> str:
        return "os.environ"


def test_the_public_api_is_pinned() -> None:
    """If a change is meant, write the file again (see above) and name the change in CHANGELOG.md."""
    assert PINNED.read_text(encoding="utf-8").splitlines() == list(public_api())


def test_importing_the_clients_loads_little_else() -> None:
    """Of third parties, only what a client of `call` loads: no agent, no asyncio."""
    program = (
        "import sys; from twinhost import Client; before = set(sys.modules); "
        "from twinhost.clients import SystemDigitalTwin, UnifiedMemoryReasoningAgent; "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('twinhost.clients')))"
    )
    environment = {"PYTHONPATH": str(REPOSITORY / "services")}
    found = subprocess.run([sys.executable, "-B", "-c", program], env=environment, capture_output=True, check=True)
    assert found.stdout.decode() == "['twinhost.version']\n"


@pytest.mark.thorough
def test_a_program_is_type_checked(tmp_path: Path) -> None:
    """mypy accepts the example, and finds every mistake in a program with mistakes."""
    (tmp_path / "right.py").write_text(EXAMPLE, encoding="utf-8")
    (tmp_path / "others.py").write_text(OTHERS_EXAMPLE, encoding="utf-8")
    declared = {"greet": Declaration("greet", Greet, (Greeted,), {}), "ping": Declaration("ping", Ping, (), {})}
    schemas = {"requests": requests_schema("Greeter", declared), "replies": replies_schema("Greeter", declared)}
    module = module_of("Greeter", msgspec.json.decode(msgspec.json.encode(schemas)))
    (tmp_path / "greeter_client.py").write_text(module, encoding="utf-8")
    head = (
        "import twinhost\n"
        "from greeter_client import AsyncGreeter, Greeter\n"
        "from twinhost.clients import SystemDigitalTwin, UnifiedMemoryReasoningAgent\n"
        "def mistakes(system: SystemDigitalTwin, memory: UnifiedMemoryReasoningAgent, greeter: Greeter) -> None:\n"
    )
    (tmp_path / "wrong.py").write_text(head + textwrap.indent("\n".join(WRONG), "    "), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), "--no-error-summary"]
    right = [str(tmp_path / f"{name}.py") for name in ("right", "others", "greeter_client")]
    files = [*right, str(tmp_path / "wrong.py")]
    checked = subprocess.run([*command, *files], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    found = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert [line for line in found if "wrong.py" not in line] == []
    first = {int(line.split(":")[1]) - 5: line.rpartition("[")[2].rstrip("]") for line in reversed(found)}
    assert first == dict(enumerate(WRONG.values()))


if __name__ == "__main__":
    PINNED.write_text("\n".join(public_api()) + "\n", encoding="utf-8")
