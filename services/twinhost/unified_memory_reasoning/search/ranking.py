"""How well texts fit a query: what they and the turns around them have of it. Pure.

    relevance = sum over the parts of the query (weight x strength) x (1 + the gains)

A part is a word or a date; its weight is its inverse document frequency, and for a date DATE times that. Its strength
in a text is 1 for the word itself, less in other words (see `index`), divided by the root of the text's length over the
average; or a share of its strength in a turn nearby, if that is more: AFTER_TURN from the turns before, as an answer
has what its question names, and BEFORE_TURN from the turns after. A gain is QUESTION for a question, QUANTITY for a
text with a digit if the query asks for a quantity, and UPDATE for a text that says that something has changed.

Where texts have vectors (see `meaning`), the meaning of the query is one more part: its strength grows from 0 to 1
between a nearness of NEAR and SAME, and its weight is MEANING.

A text that says so also takes the place just above an older one about the same thing: see `_promote_updates`.

    similarity = relevance / (relevance + missing / 2 + ENOUGH)

`missing` is the weight of the parts that the text has no share of. It doesn't depend on other texts: 0 says that
nothing of the query is there. docs/explanation/recall.md has the figures that the constants were chosen by.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import nlargest
from math import log, sqrt
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

from twinhost.unified_memory_reasoning.search.index import SEEDS, Neighbours, Part
from twinhost.unified_memory_reasoning.search.words import STOP_WORDS, words_in

DATE = 2.0  # times as much as a word
AFTER_TURN = (0.7, 0.5, 0.35, 0.25, 0.17)  # of the strength in the turn before, the second before, and so on
BEFORE_TURN = (0.3, 0.15)
ANSWER = 0.3  # more of the strength in the turn before if that is a question
LENGTH = 0.4  # how much the length counts
QUESTION, QUANTITY, UPDATE = -0.3, 0.2, 0.25
ENOUGH = 10.0  # relevance at which the similarity is a half if nothing is missing

MEANING = 6.0  # weight of the query's meaning; a word that one of a thousand texts has weighs as much
NEAR, SAME = 2.5, 5.0  # nearness (see `vectors`) from which a text has some of the meaning, and all of it

MOST_PROMOTED_OVER = 10  # of the first texts
ALIKE = 0.4  # share of the older text's relevance that an update has at least
SAME_TOPIC = 6.0  # weight of the words that an update shares with an older text
SAME_SESSION = 3.0  # counts as that much

_QUANTITY = re.compile(
    r"\b(how (much|many|long|high|far|old|big|expensive|often)|what (time|price|number|amount)|number|code|"
    r"magkano|ilan|ilang|gaano|anong oras|numero)\b"
)
_DIGIT = re.compile(r"\d")
_UPDATES = """
now instead anymore actually correction changed change moved move cancelled canceled wait updated update rather
nalang pala imbes palit palitan pinalitan lipat lilipat inilipat lumipat binago nagbago
"""
_UPDATE_WORDS = frozenset(_UPDATES.split())
_UPDATE_PHRASES = (
    *("no longer", "any more", "scratch that", "hindi na", "wag na", "ayoko na", "ayaw na", "na lang", "na lamang"),
    "sa halip",
)

Shares = dict[int, float]  # of the parts of a query, by number


@dataclass(frozen=True, slots=True)
class Text:
    """A text that may be a result; `session_id` is empty for a memory."""

    row: int
    session_id: str
    moment: float  # seconds since the epoch
    content: str  # its beginning


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a text fits: `relevance` orders the texts of one query, `similarity` goes from 0 to 1."""

    relevance: float
    similarity: float


class Ranker:
    """The parts of one query with their weights."""

    def __init__(
        self, query: str, parts: Sequence[Part], total: int, nearness: Mapping[int, float] = MappingProxyType({})
    ) -> None:
        """Weigh the parts.

        Args:
            query: asks for a quantity or not.
            parts: of the query; those that were not searched count for nothing, unless no text has them.
            total: how many texts there are.
            nearness: the rows that are near to the query's meaning, which is then one more part.
        """
        self._parts = list(parts)
        self._weights = [_weight(part, total) for part in parts]
        if nearness:
            self._parts.append(Part(is_date=False, rows=_as_strengths(nearness), searched=True))
            self._weights.append(MEANING)
        self._quantity = _QUANTITY.search(query.casefold()) is not None
        self._dated = any(part.is_date for part in parts)

    def seeds(self, fitting: Set[int]) -> list[int]:
        """Return the rows that have most of the query by themselves: the best that may be results, and of the others.

        Args:
            fitting: rows that may be results.
        """
        scores: dict[int, float] = {}
        for part, weight in zip(self._parts, self._weights, strict=True):
            if part.searched:
                for row, strength in part.rows.items():
                    scores[row] = scores.get(row, 0.0) + weight * strength
        ordered = sorted(scores.items(), key=itemgetter(1, 0), reverse=True)
        left = {True: SEEDS, False: SEEDS}
        seeds = []
        for row, _ in ordered:
            if left[row in fitting]:
                left[row in fitting] -= 1
                seeds.append(row)
        return seeds

    def own(self, row: int) -> Shares:
        """Return what a text has of the query."""
        parts = enumerate(self._parts)
        return {number: part.rows[row] for number, part in parts if part.searched and row in part.rows}

    def near(self, seeds: Iterable[Neighbours]) -> dict[int, Shares]:
        """Return what turns get of the query from the best turns around them, by row."""
        near: dict[int, Shares] = {}
        for seed in seeds:
            own = self.own(seed.id)
            first = AFTER_TURN[0] + (ANSWER if seed.question else 0.0)
            after = zip(seed.after, (first, *AFTER_TURN[1:]), strict=False)
            for row, share in (*after, *zip(seed.before, BEFORE_TURN, strict=False)):
                shares = near.setdefault(row, {})
                for part, strength in own.items():
                    if shares.get(part, 0.0) < strength * share:
                        shares[part] = strength * share
        return near

    def best(self, rows: Iterable[int], near: Mapping[int, Shares], most: int) -> list[int]:
        """Return the rows that have most of the query, by themselves or from the turns around them."""
        scores: dict[int, float] = dict.fromkeys(rows, 0.0)
        nothing: Shares = {}
        for number, (part, weight) in enumerate(zip(self._parts, self._weights, strict=True)):
            if part.searched:
                for row in scores:
                    scores[row] += weight * max(part.rows.get(row, 0.0), near.get(row, nothing).get(number, 0.0))
        return nlargest(most, scores, lambda row: (scores[row], row))

    def fits(self, texts: Sequence[Text], near: Mapping[int, Shares]) -> dict[int, Fit]:
        """Return how well each text fits, by row.

        Args:
            texts: that may be results.
            near: what they get of the query from the turns around them.
        """
        average = (sum(len(text.content) for text in texts) / len(texts) if texts else 0.0) or 1.0
        read = {text.row: _read(text.content) for text in texts}
        all_of_it = sum(self._weights)
        relevance: dict[int, float] = {}
        missing: dict[int, float] = {}
        for text in texts:
            by_length = 1 / sqrt(1 - LENGTH + LENGTH * len(text.content) / average)
            own = {part: strength * by_length for part, strength in self.own(text.row).items()}
            shares = _more(own, near.get(text.row, {}))
            relevance[text.row] = self._weigh(shares) * self._gain(read[text.row])
            missing[text.row] = all_of_it - sum(self._weights[part] for part in shares)
        if not self._dated:
            _promote_updates(texts, read, relevance)
        return {row: Fit(fit, fit / (fit + missing[row] / 2 + ENOUGH)) for row, fit in relevance.items()}

    def _weigh(self, shares: Shares) -> float:
        return sum([self._weights[part] * share for part, share in shares.items()])

    def _gain(self, text: "_Read") -> float:
        gain = 1.0
        if text.question:
            gain += QUESTION
        if self._quantity and text.quantity:
            gain += QUANTITY
        return gain + UPDATE if text.update else gain


class _Read(NamedTuple):
    """What a text says by its form, and what it is about."""

    question: bool
    quantity: bool
    update: bool
    words: frozenset[str]


def _read(content: str) -> _Read:
    words = words_in(content)
    lower = content.lower()
    update = not _UPDATE_WORDS.isdisjoint(words) or any(phrase in lower for phrase in _UPDATE_PHRASES)
    return _Read(content.rstrip().endswith("?"), _DIGIT.search(content) is not None, update, words - STOP_WORDS)


def _more(one: Shares, other: Shares) -> Shares:
    """Return the larger share of each part."""
    both = dict(one)
    for part, share in other.items():
        if both.get(part, 0.0) < share:
            both[part] = share
    return both


def _weight(part: Part, total: int) -> float:
    texts = len(part.rows)
    if texts and not part.searched:
        return 0.0
    weight = log(1 + (max(total, texts) - texts + 0.5) / (texts + 0.5))
    return weight * DATE if part.is_date and texts else weight


def _as_strengths(nearness: Mapping[int, float]) -> dict[int, float]:
    return {row: min(1.0, (near - NEAR) / (SAME - NEAR)) for row, near in nearness.items() if near > NEAR}


def _promote_updates(texts: Sequence[Text], read: Mapping[int, _Read], relevance: dict[int, float]) -> None:
    """Raise a text that says that something has changed just above an older text about the same thing.

    About the same thing are texts that share rare words, fewer if they are in one session.
    """
    ordered = sorted(texts, key=lambda text: -relevance[text.row])
    updates = [text for text in ordered if read[text.row].update and not read[text.row].question]
    counts = Counter(word for each in read.values() for word in each.words)
    weights = {word: log(1 + len(texts) / count) for word, count in counts.items()}
    for old in ordered[:MOST_PROMOTED_OVER]:
        about = read[old.row].words
        best, row = SAME_TOPIC, None
        for new in updates:
            if new.moment > old.moment and ALIKE * relevance[old.row] <= relevance[new.row] < relevance[old.row]:
                shared = sum([weights[word] for word in about & read[new.row].words])
                if new.session_id == old.session_id != "":
                    shared += SAME_SESSION
                if shared >= best:
                    best, row = shared, new.row
        if row is not None:
            relevance[row] = relevance[old.row] * 1.01
