r"""The shape of an error message: a regular expression in which what changes from message to message is a class.

It is made from the first line that is not blank, or the last one of a Python traceback. In this order, a UUID, quoted
text, a URL, a path, a hexadecimal number (`0x...`, or at least eight digits), and a number with its points, commas and
colons (also a time or an IPv4 address) each become a class; a run of blanks becomes `\s+`; every other character stays.
Messages that differ only in those have the same shape.

A library that finds templates, such as drain3, learns them from the messages before: it would give one message another
shape on each host and after a restart, and no pattern in RE2's syntax.

A shape ends with `$`, unless the pattern or the line would be too long: then it is cut.
"""

import re

_LONGEST_LINE = 500  # characters that are read
_LONGEST = 1_000  # characters of the pattern
_TRACEBACK = "Traceback (most recent call last)"
_WORD = r"[\w.@+~%-]"

_PARTS: tuple[tuple[str, str], ...] = (  # how Python finds it, and the class for it in RE2's syntax
    (r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])", "[0-9a-fA-F-]{36}"),
    (r'"[^"]*"', '"[^"]*"'),
    (r"(?<!\w)'[^']*'(?!\w)", "'[^']*'"),
    (r"`[^`]*`", "`[^`]*`"),
    (r"[a-z][a-z0-9+.-]{1,15}://[^ \t\"'`<>]+", r"[a-z][a-z0-9+.-]*://\S+"),
    (rf"(?<!\w)(?:[A-Za-z]:|~|\.{{1,2}})?(?:[/\\]{_WORD}+)+[/\\]?", r"\S+"),
    (r"0[xX][0-9a-fA-F]+", "0[xX][0-9a-fA-F]+"),
    (r"(?<![0-9A-Za-z])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}(?![0-9A-Za-z])", "[0-9a-fA-F]+"),
    (r"[0-9](?:[0-9.,:]*[0-9])?", "[0-9][0-9.,:]*"),
    (r"[ \t]+", r"\s+"),
)
_TOKEN = re.compile("|".join(f"({part})" for part, _ in _PARTS) + "|(.)", re.DOTALL)
_SPECIAL = frozenset(r"\.+*?()|[]{}^$")


def message_shape(message: str) -> str:
    """Return the shape of a message."""
    line = _significant_line(message)
    text = line[:_LONGEST_LINE]
    shape, whole = r"(?m)^\s*", len(line) <= _LONGEST_LINE
    for token in _TOKEN.finditer(text):
        part = _part(token)
        if len(shape) + len(part) > _LONGEST:
            whole = False
            break
        shape += part
    return shape + (r"\s*$" if whole else "")


def _significant_line(message: str) -> str:
    lines = [line.strip(" \t") for line in re.split(r"[\r\n]+", message)]
    lines = [line for line in lines if line] or [""]
    return lines[-1] if lines[0].startswith(_TRACEBACK) else lines[0]


def _part(token: re.Match[str]) -> str:
    number = token.lastindex or 0
    if number <= len(_PARTS):
        return _PARTS[number - 1][1]
    return f"\\{token[0]}" if token[0] in _SPECIAL else token[0]
