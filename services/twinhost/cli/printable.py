"""Text from the other side, made safe to show: nothing in it can steer a terminal.

Agents choose their names, statuses, and sentences. A control character among them could move
the cursor, set the window's title, or turn the reading direction of what follows.
"""

import json
import unicodedata
from typing import Any

# Control and format characters, lone surrogates, line and paragraph separators, unassigned code points.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return the text with each unsafe character as its escape, `\x1b` for one; one line results."""
    return "".join(_escaped(character) if _unsafe(character) else character for character in text)


def to_json(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    r"""Return a value as JSON that means the same and has each unsafe character as `\uXXXX`."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators)
    # Every line break here is json's own layout: inside a string it stands as \n already.
    return "".join(_json_escaped(c) if _unsafe(c) and c != "\n" else c for c in text)


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE_CATEGORIES


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if character > "\x7f" else f"\\x{ord(character):02x}"


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
