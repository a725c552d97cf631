"""A regular expression in RE2's syntax, as a run of tokens; pure, and only for what RE2 has accepted."""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

_REPEAT = re.compile(r"\{(\d+)(,(\d*))?\}", re.ASCII)
_GROUP = re.compile(r"\(\?(?:P?<\w+>|([a-zA-Z]*)(?:-([a-zA-Z]*))?([:)]))")
_OCTAL = re.compile(r"[0-7]{1,3}")
_HEX = re.compile(r"x(?:\{([0-9a-fA-F]+)\}|([0-9a-fA-F]{2}))")
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Kind(Enum):
    """What a token is."""

    LITERAL = auto()  # one character, as it stands
    CLASS = auto()  # one character of a named set
    WIDE = auto()  # one character of nearly all, or something that is not understood
    START = auto()
    END = auto()
    BOUNDARY = auto()
    OPEN = auto()
    CLOSE = auto()
    OR = auto()
    FLAGS = auto()  # from here to the end of the group
    REPEAT = auto()


class Token(NamedTuple):
    """One token; `fold`: whether case is ignored from here on, None: as before. `most` None: without end."""

    kind: Kind
    text: str = ""
    fold: bool | None = None
    least: int = 0
    most: int | None = None


_PLAIN = {
    ".": Token(Kind.WIDE),
    "^": Token(Kind.START),
    "$": Token(Kind.END),
    "|": Token(Kind.OR),
    ")": Token(Kind.CLOSE),
    "*": Token(Kind.REPEAT),
    "+": Token(Kind.REPEAT, least=1),
    "?": Token(Kind.REPEAT, most=1),
}
_ESCAPED = {
    **dict.fromkeys("dsw", Token(Kind.CLASS)),
    **dict.fromkeys("DSWC", Token(Kind.WIDE)),
    **dict.fromkeys("bB", Token(Kind.BOUNDARY)),
    "A": Token(Kind.START),
    "z": Token(Kind.END),
    **{letter: Token(Kind.LITERAL, text=control) for letter, control in _CONTROLS.items()},
}


def tokens_of(pattern: str) -> Iterator[Token]:
    """Yield the tokens of a pattern, in its order."""
    at = 0
    while at < len(pattern):
        if pattern.startswith("\\Q", at):
            end = pattern.find("\\E", at + 2)
            end = len(pattern) if end < 0 else end
            yield from (Token(Kind.LITERAL, text=character) for character in pattern[at + 2 : end])
            at = end + 2
            continue
        token, at = _token(pattern, at)
        if token.kind is Kind.REPEAT and pattern.startswith("?", at):
            at += 1  # as few as will do: the same text is required
        yield token


def _token(pattern: str, at: int) -> tuple[Token, int]:
    character = pattern[at]
    if character == "\\":
        return _escape(pattern, at)
    if character == "[":
        return _class(pattern, at)
    if character == "(":
        return _group(pattern, at)
    if character == "{" and (found := _REPEAT.match(pattern, at)):
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        return Token(Kind.REPEAT, least=least, most=most), found.end()
    return _PLAIN.get(character, Token(Kind.LITERAL, text=character)), at + 1


def _group(pattern: str, at: int) -> tuple[Token, int]:
    found = _GROUP.match(pattern, at)
    if found is None:
        return Token(Kind.OPEN), at + 1
    on, off, end = found[1] or "", found[2] or "", found[3]
    fold = False if "i" in off else True if "i" in on else None
    return Token(Kind.FLAGS if end == ")" else Kind.OPEN, fold=fold), found.end()


def _escape(pattern: str, at: int) -> tuple[Token, int]:
    after = pattern[at + 1 : at + 2]
    if after in ("p", "P"):
        end = pattern.find("}", at) if pattern.startswith("{", at + 2) else at + 2
        wide = after == "P" or pattern.startswith("{^", at + 2)
        return Token(Kind.WIDE if wide else Kind.CLASS), (end if end >= 0 else len(pattern)) + 1
    if found := _HEX.match(pattern, at + 1):
        code = int(found[1] or found[2], 16)
        return Token(Kind.LITERAL, text=chr(code)) if code <= 0x10FFFF else Token(Kind.WIDE), found.end()
    if found := _OCTAL.match(pattern, at + 1):
        return Token(Kind.LITERAL, text=chr(int(found[0], 8))), found.end()
    if after in _ESCAPED:
        return _ESCAPED[after], at + 2
    if after.isascii() and after.isalnum():
        return Token(Kind.WIDE), at + 2
    return Token(Kind.LITERAL, text=after), at + 2


def _class(pattern: str, at: int) -> tuple[Token, int]:
    """Return a set in brackets; one of a single character is that character."""
    start = at + 1
    negated = pattern.startswith("^", start)
    at = first = start + negated
    members: list[str | None] = []  # None: more than one character
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        posix_end = pattern.find(":]", at + 2) if pattern.startswith("[:", at) else -1
        if posix_end >= 0:
            members.append(None)
            at = posix_end + 2
            continue
        member, at = _member(pattern, at)
        if pattern.startswith("-", at) and not pattern.startswith("-]", at) and at + 1 < len(pattern):
            _, at = _member(pattern, at + 1)
            member = None
        members.append(member)
    if negated:
        return Token(Kind.WIDE), at + 1
    if len(members) == 1 and members[0] is not None:
        return Token(Kind.LITERAL, text=members[0]), at + 1
    return Token(Kind.CLASS), at + 1


def _member(pattern: str, at: int) -> tuple[str | None, int]:
    if pattern[at] != "\\":
        return pattern[at], at + 1
    token, after = _escape(pattern, at)
    return token.text if token.kind is Kind.LITERAL else None, after
