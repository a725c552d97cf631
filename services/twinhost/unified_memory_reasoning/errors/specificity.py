"""What a regular expression requires of a message: texts, and how specific it is; pure, for patterns RE2 accepted.

It reads the pattern itself, since RE2 doesn't show what it has parsed, its own filter of texts takes no new pattern
once it is made, and Python's `re` parses another syntax.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

_REPEAT = re.compile(r"\{(\d+)(,(\d*))?\}", re.ASCII)
_GROUP = re.compile(r"\(\?(?:P?<\w+>|([a-zA-Z]*)(?:-([a-zA-Z]*))?([:)]))")
_NAMED_SET = re.compile(
    r"\\[dswDSW]|\[:\^?(?:alpha|alnum|digit|space|word|punct):\]"
)  # has both cases of a letter, or none
_OCTAL = re.compile(r"[0-7]{1,3}")
_HEX = re.compile(r"x(?:\{([0-9a-fA-F]+)\}|([0-9a-fA-F]{2}))")
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Kind(Enum):
    """What a token is."""

    LITERAL = auto()  # one character, as it stands
    CLASS = auto()  # one character of a named set
    WIDE = auto()  # one character of nearly all, or something unknown
    START = auto()
    END = auto()
    BOUNDARY = auto()
    OPEN = auto()
    CLOSE = auto()
    OR = auto()
    FLAGS = auto()  # from here to the end of the group
    REPEAT = auto()


class Token(NamedTuple):
    """One token; `text`: its character, or what stands in brackets; `fold`: whether case is ignored from here on (None:
    unchanged); `most` None: unlimited.
    """

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
            at += 1  # lazy: the same text is required
        yield token


def _token(pattern: str, at: int) -> tuple[Token, int]:
    character = pattern[at]
    if character == "\\":
        return _escape(pattern, at)
    if character == "[":
        return _class(pattern, at)
    if character == "(":
        return _group(pattern, at)
    if character == "{" and (repeat := _REPEAT.match(pattern, at)):
        least = int(repeat[1])
        most = least if repeat[2] is None else int(repeat[3]) if repeat[3] else None
        return Token(Kind.REPEAT, least=least, most=most), repeat.end()
    return _PLAIN.get(character, Token(Kind.LITERAL, text=character)), at + 1


def _group(pattern: str, at: int) -> tuple[Token, int]:
    opened = _GROUP.match(pattern, at)
    if opened is None:
        return Token(Kind.OPEN), at + 1
    on, off, end = opened[1] or "", opened[2] or "", opened[3]
    fold = False if "i" in off else True if "i" in on else None
    return Token(Kind.FLAGS if end == ")" else Kind.OPEN, fold=fold), opened.end()


def _escape(pattern: str, at: int) -> tuple[Token, int]:
    after = pattern[at + 1 : at + 2]
    if after in ("p", "P"):
        end = pattern.find("}", at) if pattern.startswith("{", at + 2) else at + 2
        wide = after == "P" or pattern.startswith("{^", at + 2)
        return Token(Kind.WIDE if wide else Kind.CLASS), (end if end >= 0 else len(pattern)) + 1
    if number := _HEX.match(pattern, at + 1):
        code = int(number[1] or number[2], 16)
        return Token(Kind.LITERAL, text=chr(code)) if code <= 0x10FFFF else Token(Kind.WIDE), number.end()
    if number := _OCTAL.match(pattern, at + 1):
        return Token(Kind.LITERAL, text=chr(int(number[0], 8))), number.end()
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
    if len(members) == 1 and members[0] is not None and not negated:
        return Token(Kind.LITERAL, text=members[0]), at + 1
    letters = _NAMED_SET.sub("", pattern[start:at])
    return Token(Kind.WIDE if negated else Kind.CLASS, text=letters), at + 1


def _member(pattern: str, at: int) -> tuple[str | None, int]:
    if pattern[at] != "\\":
        return pattern[at], at + 1
    token, after = _escape(pattern, at)
    return token.text if token.kind is Kind.LITERAL else None, after


_OTHER_SCRIPTS = "\u0530"  # from here on, RE2 may treat letters as equal that this version of Python does not
SHORTEST_TEXT = 3  # characters; a shorter text occurs in too many messages
LONGEST_TEXT = 64  # characters; more would not distinguish more messages
_MOST_TEXTS = 32  # of which one must occur
_LONGEST_EXACT = 256


class Specificity(NamedTuple):
    """Greater is more specific."""

    literals: int
    classes: int
    anchors: int


@dataclass(frozen=True, slots=True)
class Requirement:
    """Every match contains one of `texts`, case-folded; empty: none is known.

    `ignores_case` is false if a part of the pattern has letters whose case counts.
    """

    texts: frozenset[str]
    specificity: Specificity
    ignores_case: bool

    @property
    def general(self) -> bool:
        """Whether it requires no text of three characters."""
        return not self.texts

    def may_match(self, folded: str) -> bool:
        """Return whether a message, `casefold()`ed, contains a required text."""
        return not self.texts or any(text in folded for text in self.texts)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What every match of a part contains; `exact` is the only text that it matches, if there is one."""

    exact: str | None = None
    one_of: frozenset[str] = frozenset()
    literals: int = 0
    classes: int = 0
    starts: bool = False
    ends: bool = False

    @property
    def texts(self) -> frozenset[str]:
        return frozenset({self.exact}) if self.exact else self.one_of


_UNKNOWN = _Piece()
_SIMPLE = {
    Kind.CLASS: _Piece(classes=1),
    Kind.START: _Piece(exact="", starts=True),
    Kind.END: _Piece(exact="", ends=True),
    Kind.BOUNDARY: _Piece(exact=""),
    Kind.WIDE: _UNKNOWN,
}


class _Group:
    """A group that is being parsed: its complete branches, and the pieces of the current one."""

    def __init__(self, *, fold: bool) -> None:
        self.fold = fold
        self.pieces: list[_Piece] = []
        self._branches: list[_Piece] = []

    def next_branch(self) -> None:
        self._branches.append(_joined(self.pieces))
        self.pieces = []

    def close(self) -> _Piece:
        self.next_branch()
        return _either(self._branches)


def requirement_of(pattern: str, *, ignores_case: bool = True) -> Requirement:
    """Return what a pattern, which RE2 has accepted, requires of a message."""
    groups = [_Group(fold=ignores_case)]
    case_counts = False
    for token in tokens_of(pattern):
        _take(token, groups)
        case_counts |= not groups[-1].fold and token.text.lower() != token.text.upper()
    while len(groups) > 1:  # RE2 accepts no pattern with an open group
        _close(groups)
    whole = groups[0].close()
    texts = frozenset(text[:LONGEST_TEXT] for text in whole.texts)
    if any(len(text) < SHORTEST_TEXT for text in texts):
        texts = frozenset()
    return Requirement(texts, Specificity(whole.literals, whole.classes, whole.starts + whole.ends), not case_counts)


def _take(token: Token, groups: list[_Group]) -> None:
    group = groups[-1]
    match token.kind:
        case Kind.OPEN:
            groups.append(_Group(fold=group.fold if token.fold is None else token.fold))
        case Kind.CLOSE:
            _close(groups)
        case Kind.FLAGS:
            group.fold = group.fold if token.fold is None else token.fold
        case Kind.OR:
            group.next_branch()
        case Kind.REPEAT:
            if group.pieces:
                group.pieces[-1] = _repeated(group.pieces[-1], token.least, token.most)
        case Kind.LITERAL:
            group.pieces.append(_literal(token.text, fold=group.fold))
        case kind:
            group.pieces.append(_SIMPLE[kind])


def _close(groups: list[_Group]) -> None:
    if len(groups) > 1:
        closed = groups.pop().close()
        groups[-1].pieces.append(closed)


def _literal(character: str, *, fold: bool) -> _Piece:
    if fold and character >= _OTHER_SCRIPTS and character.lower() != character.upper():
        return _Piece(literals=1)
    return _Piece(exact=character.casefold(), literals=1)


def _joined(pieces: list[_Piece]) -> _Piece:
    candidates: list[frozenset[str]] = []
    run = ""
    for piece in pieces:
        if piece.exact is not None:
            run += piece.exact
            continue
        candidates += [frozenset({run}), piece.one_of]
        run = ""
    whole = all(piece.exact is not None for piece in pieces) and len(run) <= _LONGEST_EXACT
    candidates.append(frozenset({run}))
    return _Piece(
        exact=run if whole else None,
        one_of=max(candidates, key=_selectivity),
        literals=sum(piece.literals for piece in pieces),
        classes=sum(piece.classes for piece in pieces),
        starts=any(piece.starts for piece in pieces),
        ends=any(piece.ends for piece in pieces),
    )


def _either(branches: list[_Piece]) -> _Piece:
    if len(branches) == 1:
        return branches[0]
    return _Piece(
        one_of=_union(branch.texts for branch in branches),
        literals=min(branch.literals for branch in branches),
        classes=min(branch.classes for branch in branches),
        starts=all(branch.starts for branch in branches),
        ends=all(branch.ends for branch in branches),
    )


def _repeated(piece: _Piece, least: int, most: int | None) -> _Piece:
    if least == 0:
        return _UNKNOWN
    exact, one_of = None, piece.one_of
    if piece.exact is not None:
        text = (piece.exact * min(least, _LONGEST_EXACT + 1))[: _LONGEST_EXACT + 1]
        one_of = frozenset({text}) if text else frozenset()
        exact = text if most == least and len(text) <= _LONGEST_EXACT else None
    return _Piece(
        exact=exact,
        one_of=one_of,
        literals=piece.literals * least,
        classes=piece.classes * least,
        starts=piece.starts,
        ends=piece.ends,
    )


def _selectivity(texts: frozenset[str]) -> tuple[int, int]:
    return min((len(text) for text in texts), default=0), -len(texts)


def _union(each: Iterable[frozenset[str]]) -> frozenset[str]:
    union: set[str] = set()
    for texts in each:
        if not texts or any(len(text) < SHORTEST_TEXT for text in texts):
            return frozenset()
        union.update(text[:LONGEST_TEXT] for text in texts)
    return frozenset(union) if len(union) <= _MOST_TEXTS else frozenset()
