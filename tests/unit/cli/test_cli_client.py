"""`client` and `explain` with schemas that no honest agent returns: one sentence, and never code in the module."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.bare_agents import bare_router
from twinhost.cli import program
from twinhost.cli.schemas.client import module_of
from twinhost.cli.schemas.document import MAX_ACTIONS, MAX_DEPTH
from twinhost.clients.typed import actions_of
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError, UnexpectedReply

REFERENCE = "#/$defs/"
REQUEST = {"title": "Greet", "type": "object", "properties": {"guest": {"type": "string"}}, "required": ["guest"]}
BREAKOUTS = (
    '"""',
    '""""',
    '\\"""',
    '"',
    "\\",
    "'''",
    "\n",
    "\r",
    "\u2028",
    "\x00",
    "]",
    ")",
    "#",
    ">>> ",
    ">>",
    "\n    ",
)
LIGATURE = "\ufb01eld"  # an identifier, which Python reads as `field`
TEXTS = st.lists(st.sampled_from([*BREAKOUTS, "raise SystemExit(9)", "word "]), max_size=8).map("".join)


def reply(
    request: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    *,
    action: str = "greet",
    others: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a reply to `get_schema`, of an agent with one action."""
    definitions = {"Greet": request or REQUEST, **(others or {})}
    results = {"Greeted": result or {"title": "Greeted", "type": "object", "properties": {}}, **(others or {})}
    return {
        "requests": {"$defs": definitions, "discriminator": {"mapping": {action: f"{REFERENCE}Greet"}}},
        "replies": {"$defs": results, "properties": {action: {"anyOf": [{"$ref": f"{REFERENCE}Greeted"}]}}},
    }


def having(**fields: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields."""
    return {"title": "Greet", "type": "object", "properties": fields}


def other_statements(module: str) -> list[str]:
    """Return what a module has besides imports, and classes with docstrings, fields, and methods of one call."""
    found = []
    for node in ast.parse(module).body:
        for each in node.body if isinstance(node, ast.ClassDef) else [node]:
            body = each.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) else [each]
            kept = (ast.Import, ast.ImportFrom, ast.AnnAssign, ast.Return)
            found += [
                ast.unparse(inner)
                for inner in body
                if not isinstance(inner, kept)
                and not (isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant))
            ]
    return found


@given(text=TEXTS, words=st.lists(TEXTS, min_size=1, max_size=3))
def test_no_text_of_a_schema_becomes_code(text: str, words: list[str]) -> None:
    """In every place where a schema has any text; what it says is still there, and doctest finds nothing to run."""
    field = {"enum": words, "title": text, "description": text, "default": text, "examples": [text]}
    bytes_field = {"type": "string", "contentEncoding": text, "default": words}
    inner = {"title": text, "description": text, "type": "object", "properties": {"mood": field}}
    nested = {"inner": {"$ref": f"{REFERENCE}Inner"}, "mood": field, "data": bytes_field}
    described = {**having(**nested), "title": text, "description": text}
    module = module_of("Greeter", reply(described, described, others={"Inner": inner}))
    name = "_agent_name = 'Greeter'"
    assert other_statements(module) == [name, name, "greet = awaited(Greeter.greet)"]
    names: dict[str, Any] = {"__name__": "greeter_client"}
    exec(compile(module, "greeter_client", "exec"), names)
    words_of = next(
        node
        for node in ast.walk(ast.parse(module))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    )
    assert ast.literal_eval(words_of.slice) in (tuple(words), words[0])
    assert ">>>" not in "".join(names["Greeter"].greet.__doc__ + names["Greeter"].__doc__)


@pytest.mark.parametrize(
    ("words", "schema"),
    [
        ("'import' is a keyword", reply(action="import")),
        ("'class' is a keyword", reply(having(**{"class": {}}))),
        ("'class' is a keyword", reply(result=having(**{"class": {}}))),
        ("is not a letter", reply(action="greet(self): pass\n    def x")),
        ("is not a letter", reply(having(**{"guest: str = exit()": {}}))),
        ("is not a letter", reply(result=having(**{"x = exit()\n    y": {}}))),
        ("is not a letter", reply(having(__class__={}))),
        ("is not a letter", reply(result=having(__struct_config__={}))),
        ("is not a letter", reply(having(**{LIGATURE: {}}))),
        ("is not a letter", reply(having(**{"x" * 100_000: {}}))),
        ("is a name that a typed client uses", reply(action="call")),
        ("is a name that a typed client uses", reply(action="close")),
        ("is a name that a typed client uses", reply(having(self={}))),
        ("is a name that a typed client uses", reply(having(deadline_s={}))),
        ("is a name that a typed client uses", reply(result=having(NOT_SENT={}))),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.replace(" ", "-"),
)
def test_a_name_that_python_does_not_take_is_refused(words: str, schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        module_of("Greeter", schema)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def chain(length: int, *, branches: str = "a") -> dict[str, Any]:
    """Return types of which each has the next one in each of some fields."""
    following = {
        f"D{number}": having(**{name: {"$ref": f"{REFERENCE}D{number + 1}"} for name in branches})
        for number in range(length)
    }
    return {**following, f"D{length}": having(end={})}


def nested(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        node = {"type": "array", "items": node}
    return node


FIRST = {"$ref": f"{REFERENCE}D0"}
HOSTILE = {
    "no object": {"requests": [1, 2], "replies": "x"},
    "nothing": {},
    "no fields": reply({"type": "object"}),
    "another type": reply(having(guest={"type": "date"})),
    "a bound that is a text": reply(having(guest={"type": "string", "maxLength": "9"})),
    "a bound of 300 digits": reply(having(guest={"type": "number", "maximum": 1e300})),
    "an empty enumeration": reply(having(guest={"enum": []})),
    "an enumeration of objects": reply(having(guest={"enum": [{}]})),
    "no examples": reply(having(guest={"examples": []})),
    "a reference to nothing": reply(having(guest=FIRST)),
    "a list of itself": reply(having(guest=FIRST), others={"D0": {"type": "array", "items": FIRST}}),
    "a reference to itself": reply(having(guest=FIRST), others={"D0": FIRST}),
    "a long chain": reply(having(guest=FIRST), others=chain(2_000)),
    "a chain of one too many": reply(having(guest=FIRST), others=chain(MAX_DEPTH - 2)),
    "four to the fourteenth": reply(having(guest=FIRST), others=chain(14, branches="abcd")),
    "deep lists": reply(having(guest=nested(MAX_DEPTH))),
    "deep JSON": reply(having(guest={"default": nested(900)})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_schema_that_is_not_valid_is_one_sentence(name: str) -> None:
    with pytest.raises(UnexpectedReply, match="Greeter returned a schema that is not valid: ") as raised:
        module_of("Greeter", HOSTILE[name])
    assert len(str(raised.value)) < 400


def test_replies_that_make_ever_further_types_are_refused() -> None:
    """Two objects of one field are one type: objects in circles of 2, 3, 5, 7 and 11 make 2,310 such types."""
    circles = {
        f"C{size}{place}": having(n={"$ref": f"{REFERENCE}C{size}{(place + 1) % size}"}, **{f"m{size}{place}": {}})
        for size in (2, 3, 5, 7, 11)
        for place in range(size)
    }
    each = {"anyOf": [{"$ref": f"{REFERENCE}C{size}0"} for size in (2, 3, 5, 7, 11)]}
    with pytest.raises(ConfigurationError, match="more than 1,000 types, or more than 32 in one another"):
        module_of("Greeter", reply(result=having(first=each), others=circles))


def test_too_many_actions_are_refused() -> None:
    schema = reply()
    schema["requests"]["discriminator"]["mapping"] |= {
        f"a{number}": f"{REFERENCE}Greet" for number in range(MAX_ACTIONS)
    }
    with pytest.raises(UnexpectedReply, match="more than 1,000 actions"):
        module_of("Greeter", schema)


def test_a_type_within_itself_is_written() -> None:
    tree = having(
        children={"type": "array", "items": {"$ref": f"{REFERENCE}Greet"}}, parent={"$ref": f"{REFERENCE}Greet"}
    )
    names: dict[str, Any] = {"__name__": __name__}
    module = module_of(
        "Greeter", reply({**tree, "required": ["children"]}, having(tree=FIRST), others={"D0": having(inner=FIRST)})
    )
    exec(compile(module, "greeter_client", "exec"), names)
    assert "class Greet2(Part, frozen=True):" in module
    assert 'inner: "Greet2 | None" = None' in module


def test_fields_named_as_types_of_python_hide_none() -> None:
    """`list` is an action, or a field, also of an object within an object; the annotations after it mean the type."""
    lists = {name: {"type": "array", "items": {"type": "string"}} for name in ("list", "str", "others")}
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(module_of("Greeter", reply(having(**lists), action="list")), "greeter_client", "exec"), names)
    assert names["Greeter"].list.__annotations__["others"] == list[str] | None
    exec(compile(module_of("Greeter", reply(result=having(inner=having(**lists)))), "greeter_client", "exec"), names)
    assert names["Greet2"].__annotations__["others"] == list[str] | None


@pytest.mark.parametrize("name", ["Greeter", "awaited"])
def test_an_action_named_as_what_is_used_hides_it_from_none(name: str) -> None:
    schema = reply(action=name)
    schema["requests"]["discriminator"]["mapping"]["zoom"] = f"{REFERENCE}Greet"
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(module_of("Greeter", schema), "greeter_client", "exec"), names)
    assert set(actions_of(names["AsyncGreeter"])) == {name, "zoom"}


@pytest.fixture
def agent_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """An agent on an open link, which returns what is put into this dict for any request."""
    answer: dict[str, Any] = {}
    with bare_router(lambda _: answer) as port:
        document = yaml.safe_load(DEFAULT_PATH.read_text())
        document["hosts"]["greeter"] = {"address": "127.0.0.1"}
        document["agents"]["Greeter"] = {"host": "greeter", "key": "greeter", "ports": {"zmq": port, "http": port + 1}}
        (tmp_path / "network_config.yaml").write_text(json.dumps(document))
        monkeypatch.setenv("NETWORK_CONFIG_PATH", str(tmp_path / "network_config.yaml"))
        monkeypatch.setenv("SECURE_ZMQ", "0")
        yield answer


@pytest.mark.parametrize("name", ["a list of itself", "four to the fourteenth", "a long chain", "another type"])
def test_explain_says_what_is_wrong_with_a_schema(
    agent_of: dict[str, Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_of.update({"status": "ok", **HOSTILE[name]})
    assert program.run(["explain", "Greeter", "greet"]) == 1
    error = capsys.readouterr().err
    assert "Greeter returned a schema that is not valid" in error
    assert "Traceback" not in error


def test_explain_shows_a_required_field_of_its_own_type(
    agent_of: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {**having(children={"type": "array", "items": {"$ref": f"{REFERENCE}Greet"}}), "required": ["children"]}
    agent_of.update({"status": "ok", **reply(tree)})
    assert program.run(["explain", "Greeter", "greet"]) == 0
    assert "greet 'children=[]'" in capsys.readouterr().out


def test_call_needs_no_valid_schema(agent_of: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    agent_of.update({"status": "ok", **HOSTILE["a long chain"]})
    assert program.run(["call", "Greeter", "greet", "guest=Ana"]) == 0
    assert "the fields are sent as they are: Greeter returned a schema" in " ".join(capsys.readouterr().err.split())


def test_a_file_of_somebody_else_is_kept(
    agent_of: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The module is written over an earlier one, and over nothing else."""
    agent_of.update({"status": "ok", **reply()})
    mine = tmp_path / "mine.py"
    assert program.run(["client", "Greeter", "--out", str(mine)]) == 0
    assert program.run(["client", "Greeter", "--out", str(mine)]) == 0
    capsys.readouterr()
    assert program.run(["client", "Greeter"]) == 0
    assert capsys.readouterr().out == mine.read_text()
    mine.write_text("mine")
    assert program.run(["client", "Greeter", "--out", str(mine)]) == 1
    assert mine.read_text() == "mine"
    assert program.run(["client", "Greeter", "--out", str(tmp_path / "none" / "x.py")]) == 1
