"""The types of a typed client as Python source, from the schemas of an agent's requests and replies.

A schema may come from the network. So every name that is written is checked or made here, and other text is escaped.
"""

import builtins
import inspect
import keyword
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from twinhost.cli.schemas.document import MAX_DEPTH
from twinhost.secure_zmq.errors import ConfigurationError

Node = Mapping[str, Any]
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
    """Return a name that may be written into a module.

    Args:
        name: the name.
        what: what has it, for the error's sentence.
        not_of: classes that must not have an attribute of this name.

    Raises:
        ConfigurationError: it may not.
    """
    why = ""
    if keyword.iskeyword(name):
        why = "is a keyword of Python"
    elif not _NAME.fullmatch(name):
        why = "is not a letter with at most 59 further letters, digits, and _"
    elif name in _OF_THE_MODULE or any(hasattr(each, name) for each in not_of):
        why = "is a name that a typed client uses itself"
    if why:
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        raise ConfigurationError(
            f"{what} {shown!r} {why}; rename it in the agent, or use twinhost.connect() and call()"
        )
    return name


class Written:
    """The types that were written so far, each before those that need it."""

    def __init__(self, *, reserved: Iterable[str] = (), width: int = 120) -> None:
        """Begin without any.

        Args:
            reserved: names of actions and fields, and of further classes of the module.
            width: of a line.
        """
        self.width = width
        self._hidden = _IN_ANNOTATIONS.intersection(reserved)
        self._reserved = {*_OF_THE_MODULE, *dir(builtins), *keyword.kwlist, *reserved}
        self._texts: dict[str, str] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    @property
    def source(self) -> str:
        """All types."""
        return "\n\n\n".join(self._texts.values())

    @property
    def names(self) -> set[str]:
        """The names of all types."""
        return set(self._texts)

    def python(self, text: str) -> str:
        """Return an annotation of ours, where the types of Python are not hidden by a field or a method."""
        for name in self._hidden:
            text = re.sub(rf"\b{name}\b", f"builtins.{name}", text)
        return text

    def annotation(self, text: str) -> str:
        """Return an annotation as it is written before the types that it names."""
        unfinished = set(self._names.values()) - set(self._texts)
        return literal(text) if unfinished.intersection(re.findall(r"\w+", text)) else text

    def write(self, kinds: Sequence[Node], base: str, default: str, lines: Lines) -> str:
        """Write a type, if it is not written yet; return its name.

        Args:
            kinds: the objects that it is for; it is named and described as the first one.
            base: with the arguments of a class.
            default: its docstring where the schema has none.
            lines: its fields.

        Raises:
            ConfigurationError: there are too many.
        """
        key = (base, *(msgspec.json.encode(each) for each in kinds))
        if key in self._names:
            return self._names[key]
        if len(self._names) >= MAX_TYPES or len(self._names) - len(self._texts) > MAX_DEPTH:
            raise ConfigurationError(
                f"a client of this agent would need more than {MAX_TYPES:,} types, or more than {MAX_DEPTH} in one "
                "another; make its schema smaller, or use twinhost.connect() and call()"
            )
        wanted = _class_name(str(kinds[0].get("title", ""))) + ("Fields" if base == "TypedDict" else "")
        taken, name, number = {*self._reserved, *self._names.values()}, wanted, 2
        while name in taken:
            name, number = f"{wanted}{number}", number + 1
        self._names[key] = name
        text = docstring(paragraphs_of(str(kinds[0].get("description", "")), default), 1, self.width)
        self._texts[name] = "\n".join([f"class {name}({base}):", text, "", *lines()])
        return name


class RequestTypes:
    """The types of the fields of requests; objects are TypedDicts."""

    def __init__(self, definitions: Node, written: Written) -> None:
        self._definitions = definitions
        self._written = written

    def shown(self, node: Node) -> str:
        """Return the annotation of a field."""
        return _union(self._kind(resolved(self._definitions, each)) for each in node.get("anyOf", [node]))

    def _kind(self, kind: Node) -> str:
        if "enum" in kind and not any(isinstance(each, float) for each in kind["enum"]):
            return f"Literal[{', '.join(map(literal, kind['enum']))}]"
        if "properties" in kind:
            return self._written.write([kind], "TypedDict", "An object in a request.", lambda: self._lines(kind))
        return _plain(kind, self.shown, self._written)

    def _lines(self, kind: Node) -> Iterator[str]:
        required = kind.get("required", ())
        for field, node in kind["properties"].items():
            name, shown = checked_name(field, "the field"), self.shown(node)
            text = shown if field in required else f"NotRequired[{shown}]"
            yield f"    {name}: {self._written.annotation(text)}"


class ReplyTypes:
    """The types of replies, and of objects in them; objects are Structs.

    Nothing in the JSON tells two kinds of objects apart: they are one type, where fields that not all have may be None.
    """

    def __init__(self, definitions: Node, written: Written) -> None:
        self.definitions = definitions
        self._written = written

    def reply(self, nodes: Sequence[Node], action: str) -> str:
        """Return the name of the type of a reply, which may be one of several kinds."""
        return self._part([resolved(self.definitions, each) for each in nodes], "Reply", f"The reply to `{action}`.")

    def part(self, node: Node) -> str:
        """Return the name of the type of an object."""
        return self._part([resolved(self.definitions, node)], "Part", "An object in a reply.")

    def has_fields(self, node: Node) -> bool:
        """Return whether a reply has fields of its own; one without is any object."""
        return not set(resolved(self.definitions, node).get("properties", ())) <= set(_OF_EVERY_REPLY)

    def _shown(self, *nodes: Node) -> str:
        kinds = [resolved(self.definitions, kind) for node in nodes for kind in node.get("anyOf", [node])]
        texts: dict[str, dict[str, None]] = {}  # by the JSON type
        for kind in kinds:
            for json_type, text in self._kind(kind, kinds):
                texts.setdefault(json_type, {})[text] = None
        if "" in texts or any(len(several) > 1 for several in texts.values()):
            return "Any"
        return _union(text for several in texts.values() for text in several)

    def _kind(self, kind: Node, kinds: Sequence[Node]) -> Iterator[tuple[str, str]]:
        """Yield the JSON type and the annotation of one kind of several; those that look alike have one annotation."""
        json_type = kind.get("type", "")
        if "enum" in kind:  # a later agent may reply with further words
            for each in map(_json_type, kind["enum"]):
                yield each, self._written.python(_PYTHON[each])
        elif "properties" in kind:
            objects = {msgspec.json.encode(each): each for each in kinds if "properties" in each}
            yield json_type, self._part(list(objects.values()), "Part", "An object in a reply.")
        elif json_type == "array":
            inner = self._shown(*(each.get("items", {}) for each in kinds if each.get("type") == "array"))
            yield json_type, f"{self._written.python('list')}[{inner}]"
        else:
            yield json_type, _plain(kind, self._shown, self._written)

    def _part(self, kinds: Sequence[Node], base: str, default: str) -> str:
        return self._written.write(kinds, f"{base}, frozen=True", default, lambda: self._lines(kinds, base))

    def _lines(self, kinds: Sequence[Node], base: str) -> Iterator[str]:
        for field in dict.fromkeys(field for kind in kinds for field in kind.get("properties", ())):
            if base == "Reply" and field in _OF_EVERY_REPLY:
                continue
            name = checked_name(field, "the field")
            shown = self._shown(*(kind["properties"][field] for kind in kinds if field in kind.get("properties", ())))
            always = all(field in kind.get("required", ()) for kind in kinds)
            if not always and "None" not in shown.split(" | "):
                shown = f"{shown} | None"
            yield f"    {name}: {self._written.annotation(shown)} = {'NOT_SENT' if always else 'None'}"


def _plain(kind: Node, shown: Callable[[Node], str], written: Written) -> str:
    """Return the annotation of what is neither an object with fields nor one of some words."""
    if "contentEncoding" in kind:
        return written.python("bytes")
    if kind.get("type") == "array":
        return f"{written.python('list')}[{shown(kind.get('items', {}))}]"
    if kind.get("type") == "object":
        return f"{written.python('dict[str')}, {shown(kind.get('additionalProperties', {}))}]"
    return written.python(_PYTHON.get(kind.get("type", ""), "Any"))


def resolved(definitions: Node, node: Node) -> Node:
    """Return a type, or what it is a reference to."""
    found: Node = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return found


def _union(annotations: Iterable[str]) -> str:
    found = dict.fromkeys(annotations)
    return "Any" if "Any" in found else " | ".join(sorted(found, key=lambda text: text == "None"))


def _json_type(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return names[type(value)]


def _class_name(title: str) -> str:
    """Return a title as the name of a class: `Page[Row]` is PageOfRow."""
    name = re.sub(r"\w*?([A-Z][a-z]+)\[(.*)\]", r"\1Of\2", title[:100])
    name = re.sub(r"\W", "", name, flags=re.ASCII).lstrip("_0123456789")
    return f"{name[:1].upper()}{name[1:50]}" or "Unnamed"


def literal(value: str | int | bool | None) -> str:
    """Return a value as it is written in Python."""
    if not isinstance(value, str):
        return repr(value)
    return '"{}"'.format(_escaped(value).replace('"', '\\"'))


def _escaped(text: str) -> str:
    """Return a text for inside quotes, which it has itself: backslashes and what can't be printed are escapes."""
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode() for each in text
    )


def paragraphs_of(text: str, default: str) -> list[str]:
    """Return the paragraphs of a description."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return [each for each in paragraphs if each.strip()] or [default]


def docstring(paragraphs: Sequence[str], level: int, width: int, example: str = "") -> str:
    """Return a docstring, wrapped for its place.

    Args:
        paragraphs: any text; none keeps a prompt, after which doctest would run what follows.
        level: of the indentation.
        width: of a line.
        example: of our own, which is written as it is.
    """
    indent = "    " * level
    several = len(paragraphs) > 1 or bool(example)
    texts = [_escaped(re.sub(">{3,}", ">", " ".join(each.split()))) for each in paragraphs]
    texts = [each.replace('"', '\\"') if '"""' in each or each.endswith('"') else each for each in texts]
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
