"""How well texts fit a query: by words, by meaning, and by the turns around them. Pure.

    own       = words + MEANING x meaning + TERM x (dates and speakers)
    relevance = own + what the turns around it lend, if it is short

`words` is the BM25 of a text's best passage, divided by the most that the words of the query could give: 0 to 1. A stop
word counts half. `meaning` is by how many standard deviations the cosine of its best passage exceeds the mean of all,
at least 0: what a cosine says by itself differs by model. A date of the query that the text is of, or a speaker whom it
names, counts as a share of the weight of the rarest word. The turn before lends BEFORE of its own, as an answer has not
what its question names, the turn after AFTER, and each further one half of that; not the date, which the turns of a day
have themselves. A turn that is nothing but a short question loses QUESTION.
tests/benchmarks/NOTES.md has the figures that the constants were chosen by.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from twinhost.secure_zmq.actions import InParts, wholly
from twinhost.unified_memory_reasoning.language import names_of, words_of
from twinhost.unified_memory_reasoning.search.index import Date, Term

MEANING = 0.04
BEFORE, AFTER = 0.4, 0.2
TURNS_BEFORE, TURNS_AFTER = 3, 2  # that lend something
SHORT = 600  # characters of a turn that gets something from the turns around it
TERM = 0.2
QUESTION = 0.15
SATURATION, LENGTH = 1.2, 0.75  # k1 and b of BM25
_LONGEST_QUESTION = 200  # characters
_QUESTION = re.compile(r"[^.!?]*\?+\s*")
_ALIKE = 3  # letters, the first ones, that a word shares with its stem


@dataclass(frozen=True, slots=True)
class SeenPassage:
    """A passage that is looked at: its number, its words, and how near it is to the query's meaning.

    Near: by how many standard deviations the cosine exceeds the mean.
    """

    number: int
    text: str
    nearness: float


@dataclass(frozen=True, slots=True)
class SeenText:
    """A text that may be a result, or lend something to one; `speaker` is empty for a memory."""

    row: int
    speaker: str
    length: int  # characters
    dates: frozenset[str]  # terms
    parts: Sequence[SeenPassage]


class Words:
    """Which words of texts are those of a query."""

    def __init__(self, terms: Sequence[Term], stems_of: Callable[[list[str]], list[str]]) -> None:
        """Prepare a comparison with the terms of the query; `stems_of` returns the stems of words."""
        self._weights = [term.weight for term in terms]
        self._terms = defaultdict[str, list[int]](list)
        for number, term in enumerate(terms):
            for stem in term.stems:
                self._terms[stem].append(number)
        self._beginnings = tuple({stem[: max(1, min(_ALIKE, len(stem) - 1))] for stem in self._terms})
        self._stems_of = stems_of

    def shares(self, texts: Sequence[str]) -> list[float]:
        """Return the BM25 of some texts, divided by the most that the words could give."""
        return wholly(self.shares_of_many(texts))

    def shares_of_many(self, texts: Sequence[str]) -> InParts[list[float]]:
        """Return what `shares` does."""
        tokens = list[list[str]]()
        for text in texts:
            tokens.append(words_of(text))
            yield
        alike = [token for token in set().union(*tokens) if token.startswith(self._beginnings) or not token.isascii()]
        stem_of = dict(zip(alike, self._stems_of(alike), strict=True))
        stem_of = {token: stem for token, stem in stem_of.items() if stem in self._terms}
        average = sum(map(len, tokens)) / max(1, len(tokens)) or 1.0
        most = sum(self._weights) * (SATURATION + 1) or 1.0
        shares = list[float]()
        for words in tokens:
            yield
            stems = [stem_of[token] for token in words if token in stem_of]
            shares.append(self._bm25(stems, len(words) / average) / most)
        return shares

    def _bm25(self, stems: Sequence[str], length: float) -> float:
        if not stems:
            return 0.0
        frequencies = [0.0] * len(self._weights)
        for stem in stems:
            for number in self._terms[stem]:
                frequencies[number] += 1.0
        by_length = SATURATION * (1 - LENGTH + LENGTH * length)
        return sum(
            weight * frequency * (SATURATION + 1) / (frequency + by_length)
            for weight, frequency in zip(self._weights, frequencies, strict=True)
            if frequency
        )


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a text fits by itself, what of that it lends to the turns around it, and its best passage."""

    relevance: float
    lent: float
    passage: int


class Ranker:
    """Scores texts for one query."""

    def __init__(self, words: Words, dates: Sequence[Date], speakers: Mapping[str, float], passages: int) -> None:
        """Prepare; `speakers` has the weight of each word that names one, `passages` is how many there are."""
        self._words, self._dates, self._speakers = words, dates, speakers
        self._most = log(1 + max(passages, 1))

    def own(self, seen: Sequence[SeenText]) -> InParts[dict[int, Fit]]:
        """Return how well each text fits by itself, by row."""
        shares = iter((yield from self._words.shares_of_many([part.text for text in seen for part in text.parts])))
        return {text.row: self._fit(text, [next(shares) for _ in text.parts]) for text in seen}

    def _fit(self, text: SeenText, shares: Sequence[float]) -> Fit:
        nearness = [MEANING * max(0.0, part.nearness) for part in text.parts]
        whole = [share + near for share, near in zip(shares, nearness, strict=True)]
        best = max(range(len(whole)), key=whole.__getitem__, default=None)
        if best is None:
            return Fit(0.0, 0.0, 0)
        dates = sum(date.weight for date in self._dates if not text.dates.isdisjoint(date.terms))
        speakers = 0.0
        if self._speakers:
            speakers = sum(self._speakers.get(word, 0.0) for word in set(names_of(text.speaker)))
        lent = max(shares) + max(nearness) + TERM * speakers / self._most
        return Fit(lent + TERM * dates / self._most, lent, text.parts[best].number)


def relevance_of(text: SeenText, own: Mapping[int, Fit], before: Mapping[int, int], after: Mapping[int, int]) -> float:
    """Return how well a text fits with what the turns lend that are so many turns before and after it, by row."""
    relevance = own[text.row].relevance
    if text.length <= SHORT:
        for share, around in ((BEFORE, before), (AFTER, after)):
            relevance += sum(share * 0.5 ** (away - 1) * own[row].lent for row, away in around.items())
    if text.length < _LONGEST_QUESTION and text.parts and _QUESTION.fullmatch(text.parts[0].text):
        relevance -= QUESTION
    return relevance


def around(runs: Iterable[Sequence[int]]) -> tuple[dict[int, dict[int, int]], dict[int, dict[int, int]]]:
    """Return how far the turns before and after each turn in some runs are, for those that lend it something."""
    before, after = defaultdict[int, dict[int, int]](dict), defaultdict[int, dict[int, int]](dict)
    for run in runs:
        for place, row in enumerate(run):
            for away, earlier in enumerate(reversed(run[max(0, place - TURNS_BEFORE) : place]), 1):
                before[row][earlier] = away
            for away, later in enumerate(run[place + 1 : place + 1 + TURNS_AFTER], 1):
                after[row][later] = away
    return before, after
