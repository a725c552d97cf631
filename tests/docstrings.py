"""Runs the examples in docstrings, as doctest does, and awaits what is to be awaited."""

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import re
from typing import Any

_PARSER, _CHECKER = doctest.DocTestParser(), doctest.OutputChecker()


def documented(*objects: Any) -> dict[str, str]:
    """Return the docstrings of functions, and of classes and their own public methods, by name."""
    found: dict[str, str] = {}
    for each in objects:
        found[each.__name__] = inspect.getdoc(each) or ""
        for name, method in vars(each).items() if inspect.isclass(each) else ():
            if not name.startswith("_") and (callable(method) or isinstance(method, property)):
                found[f"{each.__name__}.{name}"] = inspect.getdoc(method) or ""
    return found


def has_example(docstring: str) -> bool:
    return bool(_PARSER.get_examples(docstring))


def failures_of(docstring: str, names: dict[str, Any], loop: asyncio.AbstractEventLoop) -> list[str]:
    """Run the examples of one docstring; return what each printed that does not print what it says.

    Args:
        docstring: the text.
        names: the names that an example may use; it may add others.
        loop: runs what is awaited.
    """
    found = []
    for example in _PARSER.get_examples(docstring):
        printed, expected = _printed(example.source, names, loop), example.want
        if example.exc_msg is not None:
            expected = example.exc_msg
        if not _CHECKER.check_output(expected, printed, doctest.ELLIPSIS):
            found.append(f">>> {example.source}{printed}")
    return found


def _printed(source: str, names: dict[str, Any], loop: asyncio.AbstractEventLoop) -> str:
    code = compile(source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            if inspect.iscoroutine(result := eval(code, names)):
                loop.run_until_complete(result)
        except Exception as error:  # noqa: BLE001 - an example may show an error
            return f"{type(error).__module__}.{type(error).__qualname__}: {error}\n"
    return printed.getvalue()


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
    source = re.sub(rf"\blist\(({variable}\.(iter_|events)\w*\(.*\))\)", r"[row async for row in \1]", source)
    try:
        tree = ast.parse(source if prompt == ">>> " else source.strip())
    except SyntaxError:  # the head of a block
        return prompt + source
    shift = len(source) - len(source.lstrip()) if prompt == "... " else 0
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == variable
        and not node.func.attr.startswith(("iter_", "events", "close"))
    ]
    whole = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.Expr)]
    for call in sorted(calls, key=lambda call: -call.col_offset):
        start, end = call.col_offset + shift, (call.end_col_offset or 0) + shift
        awaited = f"await {source[start:end]}"
        source = source[:start] + (awaited if call in whole else f"({awaited})") + source[end:]
    return prompt + source
