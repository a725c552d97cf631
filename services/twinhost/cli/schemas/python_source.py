"""The typed client of an agent as Python source, from its schemas: types, and a class with a method for each action.

It stays beside the libraries that make models of a schema, as those write no methods, and are no part of the package:
the command `client` runs where twinhost alone is installed. A schema may come from the network. So every name that is
written is checked or made here, and other text is escaped.
"""

import builtins
import inspect
import keyword
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from twinhost.cli.schemas.document import MAX_DEPTH, Node, Replies, Schema, shown
from twinhost.cli.schemas.requests import RequestSchema
from twinhost.clients.aio import AsyncTypedClient
from twinhost.clients.typed import TypedClient
from twinhost.secure_zmq.errors import ConfigurationError

PARAGRAPHS = (
    "A method takes the action's first required field by position and all others by name. A field that is not given, "
    "or is None, is not sent, so that the agent's default holds. `deadline_s` is in seconds, by default 5 after "
    "`wait_s`; `request_id` is only to repeat an earlier call.",
    "Raises UnexpectedReply for a reply that does not fit this version, and what `call` raises.",
)
AWAITED = "awaited"  # of twinhost.clients.aio: makes a method for asyncio of a blocking one
NOT_ARGUMENTS = ("request_id", "on_behalf_of", "accepts", "traceparent")  # of every request
_ADDED = ("request_id", "ignored_fields", "accepts")  # to every reply, by the dispatcher
_REFUSAL = "Refusal"  # the title of the error reply, which every action has
Lines = Callable[[], Iterable[str]]

MAX_TYPES = 1_000  # that are written; several replies of one action may make further ones
_PYTHON = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_OF_EVERY_REPLY = ("status", "request_id", "ignored_fields", "accepts")
_IN_ANNOTATIONS = {"str", "int", "float", "bool", "bytes", "list", "dict"}
_OF_THE_MODULE = {  # names that it imports or uses, which a field or a method would hide
    *("Any", "AsyncTypedClient", "Literal", "NOT_SENT", "NotRequired", "Part", "Reply"),
    *("TypedClient", "TypedDict", "builtins", "deadline_s", "given", "locals", "self"),
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")


def checked_name(name: str, what: str, *, not_of: Iterable[type] = ()) -> str:
    """Return a name that may be written into a module, and that these classes don't have as an attribute.

    Raises:
        ConfigurationError: it may not; the sentence begins with `what` has it.
    """
    why = ""
    if keyword.iskeyword(name):
        why = "is a keyword of Python"
    elif not _NAME.fullmatch(name):
        why = "is not a letter with at most 59 further letters, digits, and _"
    elif name in _OF_THE_MODULE or any(hasattr(kind, name) for kind in not_of):
        why = "is a name that a typed client uses itself"
    if why:
        raise ConfigurationError(
            f"{what} {shown(name)} {why}; rename it in the agent, or use twinhost.connect() and call()"
        )
    return name


class WrittenTypes:
    """The types that were written so far, each before those that need it."""

    def __init__(self, *, reserved: Iterable[str] = (), width: int = 120) -> None:
        """Begin without any; `reserved` are names of actions and fields, and of further classes of the module."""
        self.width = width
        self._hidden = _IN_ANNOTATIONS.intersection(reserved)
        self._reserved = {*_OF_THE_MODULE, *dir(builtins), *keyword.kwlist, *reserved}
        self.texts: dict[str, str] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    @property
    def source(self) -> str:
        """All types."""
        return "\n\n\n".join(self.texts.values())

    def python(self, text: str) -> str:
        """Return an annotation of ours, where the types of Python are not hidden by a field or a method."""
        for name in self._hidden:
            text = re.sub(rf"\b{name}\b", f"builtins.{name}", text)
        return text

    def annotation(self, text: str) -> str:
        """Return an annotation as it is written before the types that it names."""
        unfinished = set(self._names.values()) - set(self.texts)
        return literal(text) if unfinished.intersection(re.findall(r"\w+", text)) else text

    def write(self, kinds: Sequence[Node], base: str, default: str, lines: Lines) -> str:
        """Write a type, if it is not written yet; return its name. It is named and described as the first of `kinds`.

        Raises:
            ConfigurationError: there are too many.
        """
        key = (base, *map(msgspec.json.encode, kinds))
        if key in self._names:
            return self._names[key]
        if len(self._names) >= MAX_TYPES or len(self._names) - len(self.texts) > MAX_DEPTH:
            raise ConfigurationError(
                f"a client of this agent would need more than {MAX_TYPES:,} types, or more than {MAX_DEPTH} in one "
                "another; make its schema smaller, or use twinhost.connect() and call()"
            )
        wanted = _class_name(kinds[0].title or "") + ("Fields" if base == "TypedDict" else "")
        taken, name, number = {*self._reserved, *self._names.values()}, wanted, 2
        while name in taken:
            name, number = f"{wanted}{number}", number + 1
        self._names[key] = name
        text = docstring(paragraphs_of(kinds[0].description or "", default), 1, self.width)
        self.texts[name] = "\n".join([f"class {name}({base}):", text, "", *lines()])
        return name


class RequestTypes:
    """The types of the fields of requests; objects are TypedDicts."""

    def __init__(self, schema: RequestSchema, written: WrittenTypes) -> None:
        self._schema = schema
        self._written = written

    def annotation(self, node: Node) -> str:
        """Return the annotation of a field."""
        return _union(map(self._kind, self._schema.kinds(node)))

    def _kind(self, kind: Node) -> str:
        if kind.enum and not any(isinstance(value, float) for value in kind.enum):
            return f"Literal[{', '.join(map(literal, kind.enum))}]"
        if kind.properties is not UNSET:
            return self._written.write([kind], "TypedDict", "An object in a request.", lambda: self._lines(kind))
        return _plain(kind, self.annotation, self._written)

    def _lines(self, kind: Node) -> Iterator[str]:
        required = kind.required or ()
        for field, node in (kind.properties or {}).items():
            name, annotation = checked_name(field, "the field"), self.annotation(node)
            text = annotation if field in required else f"NotRequired[{annotation}]"
            yield f"    {name}: {self._written.annotation(text)}"


class ReplyTypes:
    """The types of replies, and of objects in them; objects are Structs.

    Nothing in the JSON tells two kinds of objects apart: they are one type, where fields that not all have may be None.
    """

    def __init__(self, schema: Schema, written: WrittenTypes) -> None:
        self._schema = schema
        self._written = written

    def reply(self, nodes: Sequence[Node], action: str) -> str:
        """Return the name of the type of a reply, which may be one of several kinds."""
        return self._part([self._schema.resolved(node) for node in nodes], "Reply", f"The reply to `{action}`.")

    def part(self, node: Node) -> str:
        """Return the name of the type of an object."""
        return self._part([self._schema.resolved(node)], "Part", "An object in a reply.")

    def has_fields(self, node: Node) -> bool:
        """Return whether a reply has fields of its own; one without is any object."""
        return not set(self._schema.resolved(node).properties or ()) <= set(_OF_EVERY_REPLY)

    def _annotation(self, *nodes: Node) -> str:
        kinds = [kind for node in nodes for kind in self._schema.kinds(node)]
        texts: dict[str, dict[str, None]] = {}  # by the JSON type
        for kind in kinds:
            for json_type, text in self._kind(kind, kinds):
                texts.setdefault(json_type, {})[text] = None
        if "" in texts or any(len(several) > 1 for several in texts.values()):
            return "Any"
        return _union(text for several in texts.values() for text in several)

    def _kind(self, kind: Node, kinds: Sequence[Node]) -> Iterator[tuple[str, str]]:
        """Yield the JSON type and the annotation of one kind of several; those that look alike have one annotation."""
        json_type = kind.type or ""
        if kind.enum:  # a later agent may reply with further words
            for word in map(_json_type, kind.enum):
                yield word, self._written.python(_PYTHON[word])
        elif kind.properties is not UNSET:
            objects = {msgspec.json.encode(other): other for other in kinds if other.properties is not UNSET}
            yield json_type, self._part(list(objects.values()), "Part", "An object in a reply.")
        elif json_type == "array":
            inner = self._annotation(*(other.element or Node() for other in kinds if other.type == "array"))
            yield json_type, f"{self._written.python('list')}[{inner}]"
        else:
            yield json_type, _plain(kind, self._annotation, self._written)

    def _part(self, kinds: Sequence[Node], base: str, default: str) -> str:
        return self._written.write(kinds, f"{base}, frozen=True", default, lambda: self._lines(kinds, base))

    def _lines(self, kinds: Sequence[Node], base: str) -> Iterator[str]:
        fields = [kind.properties or {} for kind in kinds]
        for field in dict.fromkeys(name for properties in fields for name in properties):
            if base == "Reply" and field in _OF_EVERY_REPLY:
                continue
            name = checked_name(field, "the field")
            text = self._annotation(*(properties[field] for properties in fields if field in properties))
            always = all(field in (kind.required or ()) for kind in kinds)
            if not always and "None" not in text.split(" | "):
                text = f"{text} | None"
            yield f"    {name}: {self._written.annotation(text)} = {'NOT_SENT' if always else 'None'}"


def _plain(kind: Node, annotation: Callable[[Node], str], written: WrittenTypes) -> str:
    """Return the annotation of what is neither an object with fields nor one of some words."""
    if kind.content_encoding:
        return written.python("bytes")
    if kind.type == "array":
        return f"{written.python('list')}[{annotation(kind.element or Node())}]"
    if kind.type == "object":
        return f"{written.python('dict[str')}, {annotation(kind.value or Node())}]"
    return written.python(_PYTHON.get(kind.type or "", "Any"))


def _union(annotations: Iterable[str]) -> str:
    texts = dict.fromkeys(annotations)
    return "Any" if "Any" in texts else " | ".join(sorted(texts, key=lambda text: text == "None"))


def _json_type(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return names[type(value)]


def _class_name(title: str) -> str:
    """Return a title as the name of a class: `Page[Row]` is PageOfRow."""
    name = re.sub(r"\w*?([A-Z][a-z]+)\[(.*)\]", r"\1Of\2", title[:100])
    name = re.sub(r"\W", "", name, flags=re.ASCII).lstrip("_0123456789")
    return f"{name[:1].upper()}{name[1:50]}" or "Unnamed"


def literal(value: str | float | None) -> str:
    """Return a value as it is written in Python."""
    if not isinstance(value, str):
        return repr(value)
    return '"{}"'.format(_escaped(value).replace('"', '\\"'))


def _escaped(text: str) -> str:
    """Return a text for inside quotes, which it has itself: backslashes and what can't be printed are escapes."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def paragraphs_of(text: str, default: str) -> list[str]:
    """Return the paragraphs of a description."""
    return [paragraph for paragraph in inspect.cleandoc(text).split("\n\n") if paragraph.strip()] or [default]


def docstring(paragraphs: Sequence[str], level: int, width: int, example: str = "") -> str:
    """Return a docstring, wrapped for its place; the example is our own, and is written as it is.

    No paragraph keeps a prompt, after which doctest would run what follows.
    """
    indent = "    " * level
    several = len(paragraphs) > 1 or bool(example)
    texts = [_escaped(re.sub(">{3,}", ">", " ".join(paragraph.split()))) for paragraph in paragraphs]
    texts = [text.replace('"', '\\"') if '"""' in text or text.endswith('"') else text for text in texts]
    filled = [
        textwrap.fill(
            text if number else f'"""{text}',
            width - (0 if several else 3),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, text in enumerate(texts)
    ]
    text = "\n\n".join([*filled, *([textwrap.indent(example, indent)] if example else [])])
    return f'{text}\n{indent}"""' if "\n" in text else f'{text}"""'


@dataclass(frozen=True)
class Argument:
    """An argument of a method; without `required` it is by name, and None if omitted."""

    name: str
    type: str
    required: bool = False


class Classes:
    """The two classes of one agent; that for asyncio has the methods of the blocking one, and awaits them."""

    base = "TypedClient"

    def __init__(self, agent: str, requests: RequestSchema, replies: Replies, written: WrittenTypes) -> None:
        """Begin with an agent's schemas; the types that the methods need are written with them."""
        self.agent = agent
        self.requests = requests
        self.written = written
        self.replies = {
            action: [kind for kind in node.any_of or [node] if replies.resolved(kind).title != _REFUSAL]
            for action, node in replies.properties.items()
        }
        self.reply_types = ReplyTypes(self._without_added(replies), written)
        self.request_types = RequestTypes(requests, written)

    def _without_added(self, replies: Replies) -> Replies:
        """Return the schema without the fields that the dispatcher adds, as a reply may also be a part of another."""
        definitions = dict(replies.definitions)
        for name in {kind.name for kinds in self.replies.values() for kind in kinds if kind.ref}:
            node = definitions[name]
            kept = {
                field: inner
                for field, inner in (node.properties or {}).items()
                if field in (node.required or ()) or field not in _ADDED
            }
            definitions[name] = msgspec.structs.replace(node, properties=kept)
        return Replies(definitions, replies.properties)

    def source(self, *, asynchronous: bool) -> str:
        """Return one of the classes.

        Raises:
            ConfigurationError: a name in the schema can't be one in Python.
        """
        name, base = (f"Async{self.agent}", f"Async{self.base}") if asynchronous else (self.agent, self.base)
        lines = [
            f"class {name}({base}):",
            docstring(self.paragraphs(asynchronous=asynchronous), 1, self.written.width, self.example(name)),
            "",
            f"    _agent_name = {literal(self.agent)}",
        ]
        if renamed := {name: action for action in self.requests.actions if (name := self.name_of(action)) != action}:
            lines.append(f"    _renamed = {tuple(renamed.items())!r}  # methods, and their actions")
        if asynchronous:
            names_used = (AWAITED, self.agent)  # a method of such a name comes after those whose lines need it
            lines.append("")
            for action in sorted(self.requests.actions, key=names_used.__contains__):
                lines += self.awaited(action)
            return "\n".join(lines)
        for action in self.requests.actions:
            lines += ["", *self.methods(action)]
        return "\n".join(lines)

    def paragraphs(self, *, asynchronous: bool) -> Sequence[str]:
        """Return the paragraphs of the docstring of a class."""
        if asynchronous:
            return [f"Calls {self.agent} from asyncio: the methods of `{self.agent}`, awaited."]
        return [f"Calls {self.agent}: a method for each action.", *PARAGRAPHS]

    def example(self, name: str) -> str:
        """Return the example of a class; by default there is none."""
        return ""

    def name_of(self, action: str) -> str:
        """Return the name of an action's method."""
        return checked_name(action, f"the action of {self.agent}", not_of=(TypedClient, AsyncTypedClient))

    def arguments(self, action: str) -> list[Argument]:
        """Return the arguments of an action's method; None is a field that is not sent."""
        required, arguments = self.requests.required(action), []
        for field, node in self.requests.properties_of(action).items():
            if field not in NOT_ARGUMENTS:
                name = checked_name(field, f"the field of {self.agent}'s {action},")
                text = self.request_types.annotation(node).removesuffix(" | None")
                arguments.append(Argument(name, text if field in required else f"{text} | None", field in required))
        return arguments

    def awaited(self, action: str) -> Iterator[str]:
        """Yield the lines of an action's method for asyncio."""
        name = self.name_of(action)
        yield f"    {name} = {AWAITED}({self.agent}.{name})"

    def methods(self, action: str) -> Iterator[str]:
        """Yield the lines of an action's method."""
        arguments, results = self.arguments(action), self.replies.get(action, ())
        typed = bool(results) and all(map(self.reply_types.has_fields, results))
        reply = self.reply_types.reply(results, action) if typed else self.written.python("dict[str, Any]")
        yield self.head(self.name_of(action), arguments, reply)
        yield self.docstring(action)
        if typed:
            yield f'        return self._ask({reply}, "{action}", locals())'
        else:
            yield f'        return self.call("{action}", **given(locals()))'

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

        All are by name with `by_name`; one that is `repeatable` takes a `request_id`.
        """
        first = next((argument for argument in arguments if argument.required and not by_name), None)
        texts = ["self", *([f"{first.name}: {first.type}"] if first else []), "*"]
        texts += [
            f"{argument.name}: {argument.type}{'' if argument.required else ' = None'}"
            for argument in arguments
            if argument != first
        ]
        texts.append(self.written.python("deadline_s: float | None = None"))
        if repeatable:
            texts.append(self.written.python("request_id: str | None = None"))
        start, end = f"    {'async ' if asynchronous else ''}def {name}(", f") -> {returns}:"
        whole = ", ".join(texts)
        if len(start + whole + end) <= self.written.width:
            return f"{start}{whole}{end}"
        if len(whole) + 8 <= self.written.width:
            return f"{start}\n        {whole}\n    {end}"
        return "\n".join([start, *(f"        {text}," for text in texts), f"    {end}"])

    def docstring(self, action: str) -> str:
        """Return the docstring of an action's method."""
        paragraphs = paragraphs_of(self.requests.description(action), f"Call `{action}`.")
        if limits := list(self._limits(action)):
            paragraphs.append(f"Limits: {'; '.join(limits)}.")
        return docstring(paragraphs, 2, self.written.width, self.example(f"{self.agent}.{self.name_of(action)}"))

    def _limits(self, action: str) -> Iterator[str]:
        for field in self.requests.fields(action):
            default = "" if field.default in (None, msgspec.UNSET, "", [], ()) else f"{field.default!r} if omitted"
            bounds = "" if "one of" in field.bounds else field.bounds.replace("; ", " or ")
            words = ", ".join(filter(None, (bounds, default)))
            if words and "." not in field.path and field.path not in NOT_ARGUMENTS:
                yield f"`{field.path}` {words}"
