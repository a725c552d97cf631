"""How specific a regular expression is, and which text every match of it contains; pure.

Specific beats general, by these counts in this order, the greater first:

1. characters that every match contains as they stand (of `a|bcd`: one; of `(abc)?`: none; of `ab{3}`: four);
2. characters that every match takes from a named set (`\\d`, `[a-f]`, `\\pL`; not `.`, `\\S`, `[^x]`);
3. anchors that every match keeps: one for `^` or `\\A`, one for `$` or `\\z`.

It reads what RE2 has accepted, without recursion, and where it understands less than RE2 it counts less:
a text that it says is required is in every match, with case folded on both sides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from twinhost.unified_memory_reasoning.known_errors.pattern_tokens import Kind, Token, tokens_of

SHORTEST_TEXT = 3  # characters; a shorter text is in too many messages to tell them apart
LONGEST_TEXT = 64  # characters; more of it would tell no more apart
_MOST_TEXTS = 32  # of which one must be there
_LONGEST_EXACT = 256


class Specificity(NamedTuple):
    """Greater is more specific."""

    literals: int
    classes: int
    anchors: int


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a pattern asks of a message: one of `texts`, case-folded, is in whatever matches; empty: none is known."""

    texts: frozenset[str]
    specificity: Specificity

    @property
    def general(self) -> bool:
        """Whether no text of three characters tells its messages from others."""
        return not self.texts

    def may_match(self, folded: str) -> bool:
        """Return whether a message, `casefold()`ed, has a text that is required."""
        return not self.texts or any(text in folded for text in self.texts)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What every match of a part contains; `exact` is the one text that it matches, where there is one."""

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
    """A group that is being read: the branches before, and the pieces of the one under way."""

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


def requirement_of(pattern: str) -> Requirement:
    """Return what a pattern, which RE2 has accepted, asks of a message."""
    groups = [_Group(fold=False)]
    for token in tokens_of(pattern):
        _take(token, groups)
    while len(groups) > 1:  # nothing that RE2 accepts leaves one open
        _close(groups)
    whole = groups[0].close()
    texts = frozenset(text[:LONGEST_TEXT] for text in whole.texts)
    if any(len(text) < SHORTEST_TEXT for text in texts):
        texts = frozenset()
    return Requirement(texts, Specificity(whole.literals, whole.classes, whole.starts + whole.ends))


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
    if fold and not character.isascii():  # which letters RE2 takes for the same is for it alone to say
        return _Piece(literals=1)
    return _Piece(exact=character.casefold(), literals=1)


def _joined(pieces: list[_Piece]) -> _Piece:
    found: list[frozenset[str]] = []
    run = ""
    for piece in pieces:
        if piece.exact is not None:
            run += piece.exact
            continue
        found += [frozenset({run}), piece.one_of]
        run = ""
    whole = all(piece.exact is not None for piece in pieces) and len(run) <= _LONGEST_EXACT
    found.append(frozenset({run}))
    return _Piece(
        exact=run if whole else None,
        one_of=max(found, key=_how_telling),
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


def _how_telling(texts: frozenset[str]) -> tuple[int, int]:
    return min((len(text) for text in texts), default=0), -len(texts)


def _union(each: Iterable[frozenset[str]]) -> frozenset[str]:
    union: set[str] = set()
    for texts in each:
        if not texts or any(len(text) < SHORTEST_TEXT for text in texts):
            return frozenset()
        union.update(text[:LONGEST_TEXT] for text in texts)
    return frozenset(union) if len(union) <= _MOST_TEXTS else frozenset()
