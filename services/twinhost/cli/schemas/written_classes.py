"""The classes of a typed client as Python source: a method for each action, blocking and for asyncio."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from twinhost.cli.schemas.requests import RequestSchema
from twinhost.cli.schemas.written_types import (
    ReplyTypes,
    RequestTypes,
    Written,
    checked_name,
    docstring,
    literal,
    paragraphs_of,
    resolved,
)
from twinhost.clients.aio import AsyncTypedClient
from twinhost.clients.typed import TypedClient

PARAGRAPHS = (
    "A method takes the action's first required field by position and all others by name. A field that is not given, "
    "or is None, is not sent, so that the agent's default holds. `deadline_s` is in seconds, by default 5 after "
    "`wait_s`; `request_id` is only to repeat an earlier call.",
    "Raises UnexpectedReply for a reply that does not fit this version, and what `call` raises.",
)
NOT_ARGUMENTS = ("request_id", "on_behalf_of", "accepts", "traceparent")  # of every request
_ADDED = ("request_id", "ignored_fields", "accepts")  # to every reply, by the dispatcher
_REFUSAL = "Refusal"  # the title of the error reply, which every action has


@dataclass(frozen=True)
class Argument:
    """An argument of a method; without `required` it is by name, and None if omitted."""

    name: str
    type: str
    required: bool = False


class Classes:
    """The two classes of one agent."""

    base = "TypedClient"

    def __init__(self, agent: str, requests: RequestSchema, replies: Mapping[str, Any], written: Written) -> None:
        """Begin with an agent's schemas; the types that the methods need are written with them."""
        self.agent = agent
        self.requests = requests
        self.written = written
        self.replies = {action: _results(node, replies["$defs"]) for action, node in replies["properties"].items()}
        self.reply_types = ReplyTypes(_without_added(replies["$defs"], self.replies), written)
        self.request_types = RequestTypes(requests.definitions, written)

    def source(self, *, asynchronous: bool) -> str:
        """Return one of the classes.

        Raises:
            ConfigurationError: a name in the schema can't be one in Python.
        """
        prefix, how = ("Async", " from asyncio") if asynchronous else ("", "")
        paragraphs = [
            f"Calls {self.agent}{how}: a method for each action.",
            *self.paragraphs(asynchronous=asynchronous),
        ]
        lines = [
            f"class {prefix}{self.agent}({prefix}{self.base}):",
            docstring(paragraphs, 1, self.written.width, self.example("", asynchronous=asynchronous)),
            "",
            f"    _agent_name = {literal(self.agent)}",
        ]
        if renamed := {name: action for action in self.requests.actions if (name := self.name_of(action)) != action}:
            lines.append(f"    _renamed = {tuple(renamed.items())!r}  # methods, and their actions")
        for action in self.requests.actions:
            lines += ["", *self.methods(action, asynchronous=asynchronous)]
        return "\n".join(lines)

    def paragraphs(self, *, asynchronous: bool) -> Sequence[str]:
        """Return what the docstring of a class has after its first paragraph."""
        return PARAGRAPHS

    def example(self, name: str, *, asynchronous: bool) -> str:
        """Return an example of a method, or of the class; by default there is none."""
        return ""

    def name_of(self, action: str) -> str:
        """Return the name of an action's method."""
        return checked_name(action, f"the action of {self.agent}", not_of=(TypedClient, AsyncTypedClient))

    def arguments(self, action: str) -> list[Argument]:
        """Return the arguments of an action's method; None is a field that is not sent."""
        required, found = self.requests.required(action), []
        for field, node in self.requests.properties(action).items():
            if field not in NOT_ARGUMENTS:
                name = checked_name(field, f"the field of {self.agent}'s {action},")
                shown = self.request_types.shown(node).removesuffix(" | None")
                found.append(Argument(name, shown if field in required else f"{shown} | None", field in required))
        return found

    def methods(self, action: str, *, asynchronous: bool) -> Iterator[str]:
        """Yield the lines of an action's method."""
        arguments, results = self.arguments(action), self.replies.get(action, ())
        typed = bool(results) and all(map(self.reply_types.has_fields, results))
        reply = self.reply_types.reply(results, action) if typed else self.written.python("dict[str, Any]")
        yield self.head(self.name_of(action), arguments, reply, asynchronous=asynchronous)
        yield self.docstring(action, asynchronous=asynchronous)
        wait = "await " if asynchronous else ""
        if typed:
            yield f'        return {wait}self._ask({reply}, "{action}", locals())'
        else:
            yield f'        return {wait}self.call("{action}", **given(locals()))'

    def head(
        self,
        name: str,
        arguments: Sequence[Argument],
        returns: str,
        *,
        asynchronous: bool = False,
        by_name: bool = False,
        repeatable: bool = True,
    ) -> str:
        """Return the signature of a method: the first required argument by position, the others by name.

        Args:
            name: of the method.
            arguments: of the action.
            returns: the annotation.
            asynchronous: for a coroutine.
            by_name: all arguments are by name.
            repeatable: it takes a `request_id`.
        """
        first = next((each for each in arguments if each.required and not by_name), None)
        shown = ["self", *([f"{first.name}: {first.type}"] if first else []), "*"]
        shown += [
            f"{each.name}: {each.type}{'' if each.required else ' = None'}" for each in arguments if each != first
        ]
        shown.append(self.written.python("deadline_s: float | None = None"))
        if repeatable:
            shown.append(self.written.python("request_id: str | None = None"))
        start, end = f"    {'async ' if asynchronous else ''}def {name}(", f") -> {returns}:"
        whole = ", ".join(shown)
        if len(start + whole + end) <= self.written.width:
            return f"{start}{whole}{end}"
        if len(whole) + 8 <= self.written.width:
            return f"{start}\n        {whole}\n    {end}"
        return "\n".join([start, *(f"        {each}," for each in shown), f"    {end}"])

    def docstring(self, action: str, *, asynchronous: bool) -> str:
        """Return the docstring of an action's method."""
        name = self.name_of(action)
        paragraphs = paragraphs_of(self.requests.description(action), f"Call `{action}`.")
        if limits := list(self._limits(action)):
            paragraphs.append(f"Limits: {'; '.join(limits)}.")
        if asynchronous and paragraphs[1:]:
            paragraphs = [paragraphs[0], f"See `{self.agent}.{name}`."]
        return docstring(paragraphs, 2, self.written.width, self.example(name, asynchronous=asynchronous))

    def _limits(self, action: str) -> Iterator[str]:
        for field in self.requests.fields(action):
            default = "" if field.default in (None, msgspec.UNSET, "", [], ()) else f"{field.default!r} if omitted"
            bounds = "" if "one of" in field.bounds else field.bounds.replace("; ", " or ")
            words = ", ".join(filter(None, (bounds, default)))
            if words and "." not in field.path and field.path not in NOT_ARGUMENTS:
                yield f"`{field.path}` {words}"


def _results(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the types of an action's replies without that of errors, which `call` raises."""
    kinds: list[Mapping[str, Any]] = list(node.get("anyOf", [node]))
    return [each for each in kinds if resolved(definitions, each).get("title") != _REFUSAL]


def _without_added(
    definitions: Mapping[str, Any], replies: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Mapping[str, Any]:
    """Return the definitions without the fields that the dispatcher adds, as a reply may also be a part of another."""
    names = {each["$ref"].rpartition("/")[2] for kinds in replies.values() for each in kinds if "$ref" in each}
    found = dict(definitions)
    for name in names:
        fields, required = definitions[name].get("properties", {}), definitions[name].get("required", ())
        kept = {field: node for field, node in fields.items() if field in required or field not in _ADDED}
        found[name] = {**definitions[name], "properties": kept}
    return found
