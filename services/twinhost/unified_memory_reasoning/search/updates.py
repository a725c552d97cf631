"""Which texts correct older ones: the order of an older value and the one that holds now. Pure.

A text *updates* if it says that something has changed ("now", "moved to", "pala", "na lang"). It *takes back* the words
that follow a denial closely: "not 340", "no Bohinj this year", "huwag na sa Baguio", "imbes na 500".

A text corrects an older one if it takes back a value of it, or if it updates and is about the same thing. A value is a
number, in digits or as a word, or a name; of two texts that a search has found already, any word that says something.
Texts that were not found are looked up by the values of the best ones (`values_of`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import nlargest
from math import log

from twinhost.unified_memory_reasoning.search.dates import MONTHS, WEEKDAYS
from twinhost.unified_memory_reasoning.search.words import STOP_WORDS

_UPDATES = """
now instead anymore actually correction changed change moved move cancelled canceled wait updated update rather
nalang pala imbes palit palitan pinalitan lipat lilipat inilipat lumipat binago nagbago
switched switching replaced postponed rescheduled delayed corrected revised rejected
scrap scrapped forget withdraw withdrew withdrawn
papalitan ipinalit nailipat nalipat lumilipat babaguhin nabago kanselado kinansela nakansela iniurong inurong iniusog
balik ibalik ibabalik nireject gawing binabawi babawiin binawi bawiin
"""
_UPDATE_WORDS = frozenset(_UPDATES.split())
_UPDATE_PHRASES = (
    *("no longer", "any more", "scratch that", "hindi na", "wag na", "ayoko na", "ayaw na", "na lang", "na lamang"),
    *(
        "sa halip",
        "turns out",
        "back to",
        "from now on",
        "take that back",
        "take it back",
        "thought better",
        "make it",
        "is off",
        "no more",
        "mula ngayon",
        "simula ngayon",
        "gawin na",
    ),
)
_BEGIN_PHRASES = frozenset(phrase.split()[0] for phrase in _UPDATE_PHRASES)
_DENYING = """
no not instead never without cancel cancelled canceled scrap drop dropped forget reject rejected
hindi di huwag wag imbes kanselado kanselahin nireject
"""
_DENIALS = frozenset(_DENYING.split())
_DENIED = 4  # words after a denial
_NUMBERS = """
one two three four five six seven eight nine ten eleven twelve half
isa dalawa tatlo apat lima anim pito walo siyam sampu uno dos tres kuwatro singko sais siyete otso nuwebe diyes
"""
_NUMBER_WORDS = frozenset(_NUMBERS.split())
_DAYS = MONTHS.keys() | WEEKDAYS.keys()
_BREAK = re.compile(r"[.,:!?;\n]+(?:\s|$)|\b(?:hindi|di) ba\b|\bno wait\b")  # where a denial ends, or is none
_TOKEN = re.compile(r"[^\W_]+(?:[.,:/-](?:(?<=\d.)|(?=\d))[^\W_]+)*")  # 8:30, 1,050 and 3e-4 are one each
_DIGIT = re.compile(r"\d")
_PAST = re.compile(
    r"\b(originally|original|at first|initially|previously|formerly|used to|dati|dating|noong una|nung una|orihinal)\b"
    r"|\b(before|earlier|dati)\s*\??\s*$"
)


MOST_CORRECTED = 10  # of the first texts
ALIKE = 0.4  # share of the older text's relevance that an update has at least
SAME_TOPIC = 6.0  # weight of the words that a correction shares with an older text
SAME_SESSION = 3.0  # counts as that much
SAME_KIND = 3.0  # the same, if the query asks for a quantity and both texts have one
TAKEN_BACK = 3.0  # weight of the words of an older text that a correction takes back, at least; they count twice
FEW = 50  # texts: if fewer are found, what is taken back weighs as if there were so many
JUST_ABOVE = 1.01  # times the relevance of the older text


@dataclass(frozen=True, slots=True)
class Text:
    """A text that may be a result; `session_id` is empty for a memory."""

    row: int
    session_id: str
    moment: float  # seconds since the epoch
    content: str  # its beginning


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text says by its form, and what it is about."""

    question: bool
    quantity: bool
    updates: bool
    words: frozenset[str]  # in lower case; a number is one
    taken_back: frozenset[str]  # of these

    @property
    def corrects(self) -> bool:
        """Whether it may correct an older text."""
        return not self.question and (self.updates or bool(self.taken_back))


def read(content: str) -> Statement:
    """Return what a text says by its form."""
    lower = content.lower()
    words = frozenset(_TOKEN.findall(lower))
    return Statement(
        question=content.rstrip().endswith("?"),
        quantity=_DIGIT.search(content) is not None,
        updates=not _UPDATE_WORDS.isdisjoint(words) or _has_update_phrase(lower, words),
        words=words,
        taken_back=frozenset() if _DENIALS.isdisjoint(words) else frozenset(_taken_back(lower)),
    )


def _has_update_phrase(lower: str, words: Set[str]) -> bool:
    return not _BEGIN_PHRASES.isdisjoint(words) and any(phrase in lower for phrase in _UPDATE_PHRASES)


def values_of(content: str) -> list[str]:
    """Return the values of a text in their order: numbers, names, and days."""
    return list(dict.fromkeys(token.lower() for token in _TOKEN.findall(content) if _is_value(token)))


def _is_value(token: str) -> bool:
    lower = token.lower()
    if not token.isalpha():
        return True
    return (
        (token[0].isupper() or lower in _NUMBER_WORDS or lower in _DAYS) and len(token) > 1 and lower not in STOP_WORDS
    )


def _taken_back(lower: str) -> Iterator[str]:
    for sentence in _BREAK.split(lower):
        words = _TOKEN.findall(sentence)
        for place, word in enumerate(words):
            if word in _DENIALS:
                yield from (each for each in words[place + 1 : place + 1 + _DENIED] if each not in STOP_WORDS)


def asks_for_past(query: str) -> bool:
    """Return whether a query asks for what was, and not for what is."""
    return _PAST.search(query.casefold()) is not None


def corrections(
    texts: Sequence[Text], read: Mapping[int, Statement], relevance: Mapping[int, float], quantity: bool
) -> dict[int, tuple[int, float]]:
    """Return which texts come just above an older one that they correct: that one, and their relevance from then on.

    Older texts are gone through in the order of time, so that of three values of one fact the last comes first.

    Args:
        texts: that a search has found.
        read: what they say, by row.
        relevance: by row.
        quantity: whether the query asks for one.
    """
    now, moved = dict(relevance), dict[int, tuple[int, float]]()
    weigh = _Weigh([read[text.row] for text in texts])
    newer = [text for text in texts if read[text.row].corrects]
    for old in sorted(nlargest(MOST_CORRECTED, texts, lambda text: relevance[text.row]), key=_age):
        pair = _Pairs(old, read, weigh, quantity)
        signs = {
            new.row: pair.sign(new, now[new.row] >= ALIKE * now[old.row])
            for new in newer
            if _age(new) > _age(old) and now[new.row] < now[old.row]
        }
        best = max(signs, key=signs.__getitem__, default=0)
        if signs and signs[best] >= SAME_TOPIC:
            now[best] = now[old.row] * JUST_ABOVE
            moved[best] = old.row, now[best]
    return moved


def _age(text: Text) -> tuple[float, int]:
    return text.moment, text.row


class _Weigh:
    """Weighs words: one counts more if fewer of the texts have it."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self._statements = statements
        self._counts: dict[str, int] = {}

    def word(self, word: str) -> float:
        return log(1 + len(self._statements) / self._count(word))

    def value(self, word: str) -> float:
        """Weigh what was taken back, in few texts as if there were FEW: it says more than that both have a word."""
        return log(1 + max(len(self._statements), FEW) / self._count(word))

    def _count(self, word: str) -> int:
        if word not in self._counts:
            self._counts[word] = sum([word in each.words for each in self._statements])
        return self._counts[word]


class _Pairs:
    """An older text, and how much says that others correct it."""

    def __init__(self, old: Text, read: Mapping[int, Statement], weigh: _Weigh, quantity: bool) -> None:
        self._old, self._read, self._weigh, self._quantity = old, read, weigh, quantity
        self._words = read[old.row].words - STOP_WORDS
        self._values = self._words.intersection(values_of(old.content))

    def sign(self, new: Text, alike: bool) -> float:
        """Return the weight of what both share; 0 if nothing says that something has changed."""
        before, after = self._read[self._old.row], self._read[new.row]
        in_session = self._old.session_id == new.session_id != ""
        taken_back = (self._words if in_session else self._values) & after.taken_back - before.taken_back
        taken = sum(map(self._weigh.value, taken_back))
        if not (after.updates and alike) and taken < TAKEN_BACK:
            return 0.0
        shared = 2 * taken + sum(map(self._weigh.word, self._words & after.words - taken_back))
        if in_session:
            shared += SAME_SESSION + SAME_KIND * (self._quantity and before.quantity and after.quantity)
        return shared
