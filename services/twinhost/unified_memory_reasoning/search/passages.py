"""Passages: the parts of a text that the index and the vectors are made of, a few whole sentences each. Pure.

A passage has at most SIZE characters, or somewhat more where a long sentence follows a short one. It begins with the
last sentence of the passage before it if that is short. A sentence ends with a mark before white space, or with the
line; a very long one is divided between words.

A NUL counts as a space, as the index has it. A passage's number is that of its text in the index, times MOST, and its
place in the text.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

SIZE = 400  # characters
MOST = 1_024  # passages of a text; the last one has the rest

_LONGEST = 300  # characters of a sentence
_MARKS = r"[.!?\u2026\n\r]"  # at the beginning of an expression: the search skips other characters
_ends = re.compile(rf"{_MARKS}(?:(?<=[\n\r])|(?=\s))")
_ends_backwards = re.compile(rf"{_MARKS}(?:(?<=[\n\r])|(?<=\s.))")


class Passage(NamedTuple):
    """Where a passage begins and ends, in characters of its text."""

    begins: int
    ends: int


def passages_of(text: str) -> list[Passage]:
    """Return the passages of a text, in their order, at least one."""
    return list(each_passage(text))


def each_passage(text: str) -> Iterator[Passage]:
    """Yield the passages of a text, in their order; the first ones of a long text cost no reading of the others."""
    begins = before = 0  # where the passage begins, and where the one before it ends
    bare = text if len(text) <= SIZE else _without_nul(text)
    for _ in range(MOST - 1):
        if len(bare) - begins <= SIZE:
            break
        end = _last_end(bare, before, begins + SIZE)
        end = end if end > before else _next_end(bare, before)
        if end == len(bare):
            break
        yield Passage(begins, end)
        last_begins = _last_end(bare, begins, end - 1)
        begins = last_begins if begins < last_begins and end - last_begins < SIZE // 2 else end
        before = end
    yield Passage(begins, len(bare))


def sentences_of(text: str) -> list[Passage]:
    """Return the sentences of a text, in their order."""
    ends = [0]
    while ends[-1] < len(text):
        ends.append(_next_end(text, ends[-1]))
    return [Passage(*sentence) for sentence in pairwise(ends)]


def _next_end(text: str, begins: int) -> int:
    """Return where a sentence ends, which begins before the end of the text."""
    mark = _ends.search(text, begins, begins + _LONGEST + 1)
    end = mark.end() if mark else len(text)
    if end - begins <= _LONGEST:
        return end
    space = text.rfind(" ", begins + 1, begins + _LONGEST)
    return begins + _LONGEST if space < 0 else space + 1


def _last_end(text: str, begins: int, most: int) -> int:
    """Return where the last sentence ends that does so up to a place before the end of the text.

    Args:
        text: the text.
        begins: where a sentence begins; returned if it ends later.
        most: the place.
    """
    backwards = text[begins : most + 1][::-1]  # the first character may follow the last sentence
    if (mark := _ends_backwards.search(backwards, 1)) is not None:
        begins = most + 1 - mark.start()
    while (end := _next_end(text, begins)) <= most:  # parts of a very long sentence
        begins = end
    return begins


def texts_of_passages(text: str) -> str:
    """Return the texts of the passages as JSON, for triggers; a NUL, which would end a text in SQLite, is a space."""
    bare = _without_nul(text)
    return msgspec.json.encode([bare[begins:ends] for begins, ends in passages_of(bare)]).decode()


def _without_nul(text: str) -> str:
    return text.replace("\0", " ")
