"""How well texts fit a query: what they and the turns around them have of it. Pure.

    relevance = sum over the parts of the query (weight x strength) x (1 + the gains)

A part is a word or a date; its weight is its inverse document frequency, and for a date DATE times that. Its strength
in a text is 1 for the word itself, less in other words (see `index`), that of a word divided by the root of the text's
length over the average, and at least LONGEST; or a share of its strength in a turn nearby, if that is more: AFTER_TURN
from the turns before, as an answer has what its question names, and BEFORE_TURN from the turns after. A gain is
QUESTION for a text that asks a question, QUANTITY for a text with a digit if the query asks for a number or a time, and
UPDATE for a text that says that something has changed, unless the query asks for what was.

Where texts have vectors (see `meaning`), the meaning of the query is one more part: its strength grows from 0 to 1
between a nearness of NEAR and SAME, and its weight is MEANING.

A text that gives a newer value of what an older one says takes the place just above it: see `updates`.

    similarity = relevance / (relevance + missing / 2 + ENOUGH)

Here a speaker's name has NAME of its weight, and a part weighs as among FEWEST texts if there are fewer. `missing` is
the weight of the parts that the text has no share of. 0 says that nothing of the query is there.
docs/explanation/recall.md has the figures that the constants were chosen by.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import log, sqrt
from types import MappingProxyType

from twinhost.unified_memory_reasoning.search.index import SEEDS, Neighbours, Part
from twinhost.unified_memory_reasoning.search.updates import (
    Kind,
    Statement,
    Text,
    asks_for_past,
    corrections,
    kind_asked,
    read,
)

DATE = 2.0  # times as much as a word
AFTER_TURN = (0.7, 0.5, 0.35, 0.25, 0.17)  # of the strength in the turn before, the second before, and so on
BEFORE_TURN = (0.3, 0.15)
ANSWER = 0.3  # more of the strength in the turn before if that is a question
LENGTH = 0.4  # how much the length counts
LONGEST = 0.75  # of the strength in a text, however long it is: more than the turns after it get from it
QUESTION, QUANTITY, UPDATE = -0.4, 0.2, 0.25
NAME = 0.25  # of a speaker: how much it counts for the similarity
FEWEST = 1_000  # texts, for the similarity: a word says no less in a new store
ENOUGH = 10.0  # relevance at which the similarity is a half if nothing is missing

MEANING = 6.0  # weight of the query's meaning; a word that one of a thousand texts has weighs as much
NEAR, SAME = 2.5, 5.0  # nearness (see `vectors`) from which a text has some of the meaning, and all of it

Shares = dict[int, float]  # of the parts of a query, by number


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
            query: says what kind of value it asks for.
            parts: of the query; those that were not searched count for nothing, unless no text has them.
            total: how many texts there are.
            nearness: the rows that are near to the query's meaning, which is then one more part.
        """
        self._parts = list(parts)
        self._weights = [_weight(part, total) for part in parts]
        telling = [_weight(part, max(total, FEWEST)) for part in parts]
        if nearness:
            self._parts.append(Part(is_date=False, rows=_as_strengths(nearness), searched=True))
            self._weights.append(MEANING)
            telling.append(MEANING)
        self._telling = _telling(self._parts, telling)
        self._query = query
        self._quantity = kind_asked(query) in (Kind.NUMBER, Kind.TIME)
        self._past = asks_for_past(query)
        self._present = not self._past and not any(part.is_date for part in parts)
        self._statements: dict[int, Statement] = {}

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
        others = scores.keys() - fitting
        mine = {row: score for row, score in scores.items() if row not in others} if others else scores
        seeds = _first(mine)
        return seeds if not others else _in_order([*seeds, *_first({row: scores[row] for row in others})], scores)

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
        for number, (part, weight) in enumerate(zip(self._parts, self._weights, strict=True)):
            if part.searched:
                strength_of = part.rows.get
                for row in scores:
                    strength = strength_of(row, 0.0)
                    if row in near:
                        strength = max(strength, near[row].get(number, 0.0))
                    if strength:
                        scores[row] += weight * strength
        return _in_order(scores, scores)[:most]

    def fits(self, texts: Sequence[Text], near: Mapping[int, Shares]) -> dict[int, Fit]:
        """Return how well each text fits, by row.

        Args:
            texts: that may be results.
            near: what they get of the query from the turns around them.
        """
        average = (sum(len(text.content) for text in texts) / len(texts) if texts else 0.0) or 1.0
        all_of_it = sum(self._telling)
        found = {}
        for text in texts:
            by_length = max(LONGEST, 1 / sqrt(1 - LENGTH + LENGTH * len(text.content) / average))
            own = {
                part: strength if self._parts[part].is_date else strength * by_length
                for part, strength in self.own(text.row).items()
            }
            shares = _more(own, near.get(text.row, {}))
            gain = self._gain(self._read(text))
            missing = all_of_it - sum([self._telling[part] for part in shares])
            telling = gain * _weighed(self._telling, shares)
            similarity = telling / (telling + missing / 2 + ENOUGH)
            found[text.row] = Fit(gain * _weighed(self._weights, shares), similarity)
        return found

    def corrected(self, texts: Sequence[Text], fits: Mapping[int, Fit]) -> dict[int, Fit]:
        """Return the fits after what corrects an older text was moved just above it."""
        found = dict(fits)
        if self._present:
            relevance = {row: fit.relevance for row, fit in fits.items()}
            moves = corrections(texts, {text.row: self._read(text) for text in texts}, relevance, self._query)
            for row, (old, moved) in moves.items():
                found[row] = Fit(moved, max(fits[row].similarity, fits[old].similarity))
        return found

    def _read(self, text: Text) -> Statement:
        if text.row not in self._statements:
            self._statements[text.row] = read(text.content)
        return self._statements[text.row]

    def _gain(self, text: Statement) -> float:
        gain = 1.0
        if text.question:
            gain += QUESTION
        if self._quantity and text.quantity:
            gain += QUANTITY
        return gain + UPDATE if text.updates and not self._past else gain


def _in_order(rows: Iterable[int], scores: Mapping[int, float]) -> list[int]:
    return sorted(rows, key=lambda row: (scores[row], row), reverse=True)


def _first(scores: Mapping[int, float]) -> list[int]:
    """Return the first SEEDS rows, best first; of thousands, only those are put in order that can be among them."""
    least = sorted(scores.values())[-SEEDS] if len(scores) > SEEDS else 0.0
    return _in_order([row for row, score in scores.items() if score >= least], scores)[:SEEDS]


def _weighed(weights: Sequence[float], shares: Shares) -> float:
    return sum([weights[part] * share for part, share in shares.items()])


def _telling(parts: Sequence[Part], weights: Sequence[float]) -> list[float]:
    """Return the weights for a similarity: names count less, as a speaker's name is in texts about anything."""
    if all(part.is_name for part in parts):
        return list(weights)
    return [weight * NAME if part.is_name else weight for part, weight in zip(parts, weights, strict=True)]


def _more(one: Shares, other: Shares) -> Shares:
    """Return the larger share of each part."""
    both = dict(one)
    for part, share in other.items():
        if both.get(part, 0.0) < share:
            both[part] = share
    return both


def _weight(part: Part, total: int) -> float:
    texts = max(len(part.rows), part.texts)
    if texts and not part.searched:
        return 0.0
    weight = log(1 + (max(total, texts) - texts + 0.5) / (texts + 0.5))
    return weight * DATE if part.is_date and texts else weight


def _as_strengths(nearness: Mapping[int, float]) -> dict[int, float]:
    return {row: min(1.0, (near - NEAR) / (SAME - NEAR)) for row, near in nearness.items() if near > NEAR}
