"""The shape of an error message: a regular expression in which what changes from one to the next is a class.

The first line that is not blank counts; of a Python traceback, the last one. In it, in this order: a UUID,
quoted text, a URL, a path, a hexadecimal number (`0x...`, or eight digits and more), and a number with its
points, commas and colons (so a time and an IPv4 address, too) each become a class; a run of blanks becomes
`\\s+`; every other character stands as it is. Messages that differ in those alone have one shape.

A shape ends with `$`, unless it would be longer than a pattern may be, or the line is: then it ends where there
is room.
"""

import re

from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.unified_memory_reasoning.known_errors.bounded_pattern import accept, found
from twinhost.unified_memory_reasoning.known_errors.pattern_specificity import requirement_of

FEWEST_LITERALS = 8  # a shape with fewer characters of its own would fit too much
_LONGEST_LINE = 500  # characters that are read
_LONGEST = 1_000  # characters of the pattern
_TRACEBACK = "Traceback (most recent call last)"
_WORD = r"[\w.@+~%-]"

_PARTS: tuple[tuple[str, str], ...] = (  # how Python finds it; what stands for it, in RE2's syntax
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


def shape_of(message: str) -> str | None:
    """Return the shape of a message, a pattern that is found in it; None where it would fit too much."""
    line = _telling_line(message)
    text = line[:_LONGEST_LINE]
    shape, whole = r"(?m)^\s*", len(line) <= _LONGEST_LINE
    for token in _TOKEN.finditer(text):
        part = _part(token)
        if len(shape) + len(part) > _LONGEST:
            whole = False
            break
        shape += part
    shape += r"\s*$" if whole else ""
    return shape if _is_telling(shape, message) else None


def _telling_line(message: str) -> str:
    lines = [line.strip(" \t") for line in re.split(r"[\r\n]+", message)]
    lines = [line for line in lines if line] or [""]
    return lines[-1] if lines[0].startswith(_TRACEBACK) else lines[0]


def _part(token: re.Match[str]) -> str:
    number = token.lastindex or 0
    if number <= len(_PARTS):
        return _PARTS[number - 1][1]
    return f"\\{token[0]}" if token[0] in _SPECIAL else token[0]


def _is_telling(shape: str, message: str) -> bool:
    try:
        accept(shape)
    except MalformedRequest:
        return False
    requirement = requirement_of(shape)
    if requirement.general or requirement.specificity.literals < FEWEST_LITERALS:
        return False
    return found(shape, message.encode(errors="replace"))
