"""Passages: the parts of a text that the index and the vectors are made of, a few whole sentences each. Pure.

A passage has at most SIZE characters, or somewhat more where a long sentence follows a short one. It begins with the
last sentence of the passage before it if that is short. A sentence ends with a mark before white space, or with the
line; a very long one is divided between words.

A NUL counts as a space, as the index has it. A passage's number is that of its text in the index, times MOST, and its
place in the text.
"""

import re
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import NamedTuple

import msgspec

SIZE = 400  # characters
MOST = 1_024  # passages of a text; the last one has the rest

_LONGEST = 300  # characters of a sentence
_ends = re.compile(r"[.!?\u2026](?=\s)|[\n\r]")


class Passage(NamedTuple):
    """Where a passage begins and ends, in characters of its text."""

    begins: int
    ends: int


def passages_of(text: str) -> list[Passage]:
    """Return the passages of a text, in their order, at least one."""
    return list(each_passage(text))


def each_passage(text: str) -> Iterator[Passage]:
    """Yield the passages of a text, in their order; the first ones of a long text cost no reading of the others."""
    if len(text) <= SIZE:
        yield Passage(0, len(text))
        return
    begins = last_begins = count = 0  # where the passage so far begins, and its last sentence; the passages before it
    for sentence_begins, sentence_ends in pairwise(_breaks(_without_nul(text))):
        if sentence_ends - begins > SIZE and sentence_begins > begins and count < MOST - 1:
            yield Passage(begins, sentence_begins)
            count += 1
            is_short = last_begins > begins and sentence_begins - last_begins < SIZE // 2
            begins = last_begins if is_short else sentence_begins
        last_begins = sentence_begins
    yield Passage(begins, len(text))


def sentences_of(text: str) -> list[Passage]:
    """Return the sentences of a text, in their order."""
    return [Passage(*sentence) for sentence in pairwise(_breaks(text))]


def _breaks(text: str) -> Iterator[int]:
    """Yield where a text begins, where its sentences end, and where it ends."""
    yield (begins := 0)
    for end in chain((mark.end() for mark in _ends.finditer(text)), [len(text)]):
        while end - begins > _LONGEST:
            space = text.rfind(" ", begins + 1, begins + _LONGEST)
            yield (begins := begins + _LONGEST if space < 0 else space + 1)
        if end > begins:
            yield (begins := end)


def texts_of_passages(text: str) -> str:
    """Return the texts of the passages as JSON, for triggers; a NUL, which would end a text in SQLite, is a space."""
    bare = _without_nul(text)
    return msgspec.json.encode([bare[begins:ends] for begins, ends in passages_of(bare)]).decode()


def _without_nul(text: str) -> str:
    return text.replace("\0", " ")
