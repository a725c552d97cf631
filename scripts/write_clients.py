#!/usr/bin/env python3
"""Write services/twinhost/clients/: a typed method for every action, and its reply, from the request and reply types.

Exit status: 0 written; with `--check`, 1 where a module is out of date, and nothing is written.
"""

import argparse
import ast
import functools
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "services")]

from scripts.client_types import MARK, Replies, docstring, paragraphs_of  # noqa: E402  (after the path)

from twinhost.cli.explain import RequestSchema  # noqa: E402
from twinhost.schema import AGENTS as PACKAGES  # noqa: E402
from twinhost.schema import declarations_of, schema_of  # noqa: E402
from twinhost.secure_zmq.actions import Declaration  # noqa: E402

EXAMPLES = REPOSITORY / "scripts/client_examples.txt"
FOLDER = REPOSITORY / "services/twinhost/clients"
CLASS_PARAGRAPHS = (
    "A method takes the action's first required field by position and all others by name. A field that is not given, "
    "or is None, is not sent, so that the agent's default holds. `deadline_s` is in seconds; `request_id` is only to "
    "repeat an earlier call.",
    "Raises UnexpectedReply for a reply that does not fit this version, and what `call` raises.",
)
NOT_ARGUMENTS = ("request_id", "on_behalf_of", "accepts", "traceparent")  # of every request


@dataclass(frozen=True)
class Agent:
    """An agent: its module here, the base of its classes, and the name of a client in the examples."""

    name: str
    module: str
    base: str
    base_module: str
    variable: str
    suffix: str = ""  # what a method's name leaves out of the action's


AGENTS = (
    Agent("SystemDigitalTwin", "system", "FeedClient", "events", "system"),
    Agent("UnifiedMemoryReasoningAgent", "memory", "TypedClient", "typed", "memory", r"_memor(y|ies)$"),
)


@dataclass(frozen=True)
class Pages:
    """How an action pages: the field that is the cursor, a page's rows, and the next cursor, None after the last."""

    cursor: str
    rows: str  # expressions of `page`
    following: str
    row: str  # the rows' type
    without: tuple[str, ...] = ()  # further fields that an iterator doesn't have
    needs: str = ""  # a field that an iterator must have
    identity: str = ""  # of a row, where rows that are added move those that follow


BEFORE = "page.next_before"
PAGES = {
    "get_audit": Pages("position", "page.lines", "page.position if page.lines else None", "str"),
    "get_errors": Pages("before", "page.errors", BEFORE, "StoredError"),
    "get_events": Pages("before", "page.events", BEFORE, "StoredEvent"),
    "get_pattern_proposals": Pages(
        "before", "page.proposals", "page.proposals[-1].proposal_id if page.more else None", "ProposalDocument"
    ),
    "get_twin_history": Pages("before", "page.changes", BEFORE, "TwinChange"),
    "list_error_patterns": Pages(
        "before", "page.patterns", "page.patterns[-1].pattern_id if page.more else None", "ErrorPatternDocument"
    ),
    "memory_by": Pages(
        "before",
        "getattr(page.written, kind).entries",
        "getattr(page.written, kind).next_before",
        "WrittenInteraction | WrittenMemory | WrittenErrorPattern | WrittenOutcome | WrittenUnknownError | WrittenTwin "
        "| WrittenTwinChange | WrittenClaim",
        needs="kind",
    ),
    "memory_history": Pages("skip", "page.memories", "page.next_skip", "MemoryDocument", identity="row.id"),
    "query_memory": Pages("before", "page.memories", BEFORE, "MemoryDocument", ("changed_since",)),
}
OF_OTHERS = {"coordinate_memory"}  # the reply is another agent's, and a method returns it as `call` does
CHOSEN_BY = {"get_metrics": ("metrics_type", "history")}  # replies that differ in a field's type: which value has which


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the modules, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args(arguments).check
    for path, text in modules().items():
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"{path} is out of date; run: .venv/bin/python scripts/write_clients.py", file=sys.stderr)
            return 1
    return 0


def modules() -> dict[Path, str]:
    """Return the text of each generated module."""
    found = {}
    for agent in AGENTS:
        replies = Replies()
        methods = Methods(agent, replies)
        found[FOLDER / f"{agent.module}.py"] = _formatted(methods.module(asynchronous=False))
        found[FOLDER / f"{agent.module}_async.py"] = _formatted(methods.module(asynchronous=True))
        found[FOLDER / f"{agent.module}_replies.py"] = _formatted(replies.module(agent.name))
    return found


def method_name(agent: Agent, action: str, actions: Iterable[str]) -> str:
    """Return the name of an action's method."""
    short = re.sub(agent.suffix, "", action) if agent.suffix else action
    return action if short != action and sum(re.sub(agent.suffix, "", each) == short for each in actions) > 1 else short


def iterator_name(method: str) -> str:
    """Return the name of the iterator over the pages of a method."""
    return f"iter_{re.sub('^(get|list)_', '', method)}"


class Methods:
    """The two classes of one agent: blocking, and for asyncio, in a module of its own as asyncio is slow to import."""

    def __init__(self, agent: Agent, replies: Replies) -> None:
        self._agent = agent
        self._replies = replies
        self._declarations = declarations_of(agent.name)
        self._requests = RequestSchema(schema_of(agent.name))
        self._names = {each: method_name(agent, each, self._declarations) for each in self._declarations}
        for kind in getattr(importlib.import_module(f"{PACKAGES[agent.name]}.__main__"), "FEED", {}).values():
            if "previous_seq" not in kind.__annotations__:  # else it is that of a reply, and this number
                replies.part(kind)

    def module(self, *, asynchronous: bool) -> str:
        """Return the module with one of the classes."""
        agent = self._agent
        text = "\n".join(self._class(asynchronous))
        used = sorted(set(re.findall(r"\b[A-Z]\w+\b", text)) & self._replies.names, key=str.casefold)
        typing = [name for name in ("Any", "Literal", "overload") if re.search(rf"\b{name}\b", text)]
        base, iterator = (f"Async{agent.base}", "AsyncIterator") if asynchronous else (agent.base, "Iterator")
        imports = {
            "aio" if asynchronous else agent.base_module: [base],
            f"{agent.module}_replies": used,
            "typed": [base] if agent.base_module == "typed" and not asynchronous else [],
        }
        if "**given(" in text:
            imports["typed"].append("given")
        lines = [
            f"from twinhost.clients.{module} import {', '.join(names)}"
            for module, names in sorted(imports.items())
            if names
        ]
        return (
            f'"""The typed client of {agent.name}{" for asyncio" if asynchronous else ""}.\n\n{MARK}\n"""\n\n'
            f"from collections.abc import {iterator}\n"
            f"from typing import {', '.join(typing)}\n\n"
            + "\n".join(lines)
            + "\nfrom twinhost.secure_zmq.client import DEFAULT_DEADLINE_S\n\n\n"
            f"{text}\n"
        )

    def _class(self, asynchronous: bool) -> Iterator[str]:
        agent = self._agent
        prefix, how = ("Async", " from asyncio") if asynchronous else ("", "")
        yield f"class {prefix}{agent.name}({prefix}{agent.base}):"
        yield docstring(
            [f"Calls {agent.name}{how}: a method for each action.", *CLASS_PARAGRAPHS, self._example("", asynchronous)],
            1,
        )
        for action, declaration in self._declarations.items():
            yield ""
            yield from self._method(action, declaration, asynchronous)
            if action in PAGES:
                yield ""
                yield from self._iterator(action, PAGES[action], asynchronous)

    def _method(self, action: str, declaration: Declaration, asynchronous: bool) -> Iterator[str]:
        name, arguments = self._names[action], self._arguments(declaration)
        word, wait = ("async def", "await ") if asynchronous else ("def", "")
        ask = f'return {wait}self._ask({{}}, "{action}", locals())'
        if action in OF_OTHERS:
            yield f"    {word} {name}({_signature(arguments)}) -> dict[str, Any]:"
            yield self._docstring(action, name, asynchronous)
            yield f'        return {wait}self.call("{action}", **given(locals()))'
            return
        if action not in CHOSEN_BY:
            reply = self._replies.reply(*declaration.replies)
            yield f"    {word} {name}({_signature(arguments)}) -> {reply}:"
            yield self._docstring(action, name, asynchronous)
            yield f"        {ask.format(reply)}"
            return
        field, value = CHOSEN_BY[action]
        default, other = (self._replies.reply(kind) for kind in declaration.replies)
        (chosen,) = (each for each in arguments if each.name == field)
        rest = chosen.type.replace(f', "{value}"', "")
        last = Argument(field, f'Literal["{value}"]', required=True)
        for narrow, reply in ((Argument(field, rest), default), (last, other)):
            yield "    @overload"
            narrowed = [narrow if each is chosen else each for each in arguments]
            yield f"    {word} {name}({_signature(narrowed, by_name=True)}) -> {reply}: ..."
        yield f"    {word} {name}({_signature(arguments)}) -> {default} | {other}:"
        yield self._docstring(action, name, asynchronous)
        yield f'        if {field} == "{value}":'
        yield f"            {ask.format(other)}"
        yield f"        {ask.format(default)}"

    def _iterator(self, action: str, pages: Pages, asynchronous: bool) -> Iterator[str]:
        declaration, method = self._declarations[action], self._names[action]
        kind, prefix = self._replies.reply(*declaration.replies), "Async" if asynchronous else ""
        arguments = [
            Argument(each.name, each.type.removesuffix(" | None"), required=True) if each.name == pages.needs else each
            for each in self._arguments(declaration)
            if each.name not in (pages.cursor, *pages.without)
        ]
        name = iterator_name(method)
        yield f"    def {name}({_signature(arguments, repeatable=False)}) -> {prefix}Iterator[{pages.row}]:"
        doc = f"Yield what `{method}` returns, page by page: `limit` is a page's size, `deadline_s` for each page."
        yield docstring([doc, self._example(name, asynchronous)], 2)
        identity = f", lambda row: {pages.identity}" if pages.identity else ""
        page_of = f"lambda page: ({pages.rows}, {pages.following})"
        yield f'        return self._pages({kind}, "{action}", locals(), "{pages.cursor}", {page_of}{identity})'

    def _arguments(self, declaration: Declaration) -> "list[Argument]":
        found = []
        for field in msgspec.structs.fields(declaration.request):
            if field.name not in NOT_ARGUMENTS:
                shown = self._replies.given(field.type)
                if "None" in shown.split(" | "):  # a method's None is a field that is not sent
                    assert field.default is None, f"{field.name} is null where it means something else"
                    shown = shown.removesuffix(" | None")
                shown = shown if field.required else f"{shown} | None"
                found.append(Argument(field.encode_name, shown, required=field.required))
        return found

    def _docstring(self, action: str, name: str, asynchronous: bool) -> str:
        paragraphs, limits = paragraphs_of(self._declarations[action].request), []
        for field in self._requests.fields(action):
            default = "" if field.default in (None, msgspec.UNSET, "", [], ()) else f"{field.default!r} if omitted"
            bounds = "" if "one of" in field.bounds else field.bounds.replace("; ", " or ")
            words = ", ".join(filter(None, (bounds, default)))
            if words and "." not in field.path and field.path not in NOT_ARGUMENTS:
                limits.append(f"`{field.path}` {words}")
        if limits:
            paragraphs.append(f"Limits: {'; '.join(limits)}.")
        if asynchronous:
            paragraphs = [paragraphs[0], f"See `{self._agent.name}.{name}`."] if paragraphs[1:] else paragraphs
        return docstring([*paragraphs, self._example(name, asynchronous)], 2)

    def _call(self, name: str) -> str:
        """Return an example of a method that has none of its own."""
        action = next(action for action, method in self._names.items() if method == name)
        required = [each.name for each in self._arguments(self._declarations[action]) if each.required]
        values = self._requests.example(action)
        given = [
            f"{field}={values[field]!r}" if number else repr(values[field]) for number, field in enumerate(required)
        ]
        return f">>> reply = {self._agent.variable}.{name}({', '.join(given)})"

    def _example(self, name: str, asynchronous: bool) -> str:
        title = f"{self._agent.name}.{name}" if name else self._agent.name
        text = _examples().get(title) or self._call(name)
        return for_asyncio(text, self._agent.variable) if asynchronous else text


@dataclass(frozen=True)
class Argument:
    """An argument of a method; without `required` it is by name, and None if omitted."""

    name: str
    type: str
    required: bool = False


@functools.cache
def _examples() -> dict[str, str]:
    """Return the examples by class and method."""
    _, *parts = re.split(r"^# (.+)\n", EXAMPLES.read_text(encoding="utf-8"), flags=re.M)
    return {title: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}


def for_asyncio(example: str, variable: str) -> str:
    """Return an example of the blocking client as one of the client for asyncio."""
    return "\n".join(_awaited(line, variable) for line in example.splitlines())


def _awaited(line: str, variable: str) -> str:
    """Await each call of a method in a line of an example; an iterator is iterated with `async for`."""
    prompt, source = line[:4], line[4:]
    if prompt not in (">>> ", "... ") or variable not in source:
        return line
    source = re.sub(rf"\bfor (\w+) in (?={variable}\.(iter_|events))", r"async for \1 in ", source)
    source = re.sub(rf"\bwith (.+) as {variable}", rf"async with \1 as {variable}", source)
    source = source.replace("connect(", "connect_async(")
    source = re.sub(rf"\blist\(({variable}\.(iter_|events)\w*\(.*\))\)", r"[each async for each in \1]", source)
    try:
        tree = ast.parse(source if prompt == ">>> " else source.strip())
    except SyntaxError:  # the head of a block
        return prompt + source
    shift = len(source) - len(source.lstrip()) if prompt == "... " else 0
    calls = [
        each
        for each in ast.walk(tree)
        if isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and isinstance(each.func.value, ast.Name)
        and each.func.value.id == variable
        and not each.func.attr.startswith(("iter_", "events", "close"))
    ]
    whole = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.Expr)]
    for call in sorted(calls, key=lambda each: -each.col_offset):
        start, end = call.col_offset + shift, (call.end_col_offset or 0) + shift
        awaited = f"await {source[start:end]}"
        source = source[:start] + (awaited if call in whole else f"({awaited})") + source[end:]
    return prompt + source


def _signature(arguments: "Sequence[Argument]", *, repeatable: bool = True, by_name: bool = False) -> str:
    """Return the arguments of a method: the first required one by position, the others by name."""
    first = next((each for each in arguments if each.required), None) if not by_name else None
    shown = ["self", *([f"{first.name}: {first.type}"] if first else []), "*"]
    rest = [each for each in arguments if each is not first]
    shown += [f"{each.name}: {each.type}{'' if each.required else ' = None'}" for each in rest]
    shown.append("deadline_s: float = DEFAULT_DEADLINE_S")
    return ", ".join([*shown, *(["request_id: str | None = None"] if repeatable else [])])


def _formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "generated.py", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
