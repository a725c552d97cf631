"""Which texts give a newer value of what an older one says: the value that holds now comes first. Pure.

A newer text is compared with an older one that fits the query better. Its sign says whether it gives a newer value:

    sign = shared words + TAKEN_BACK x words taken back + VALUE or UNKNOWN + SPEAKER + UPDATES + ALIKE x share

A word weighs more if fewer of the texts have it; a shared one that the query has too counts OF_QUERY of that. Words are
taken back if they follow a denial closely: "not 340", "no Bohinj this year", "huwag na sa Baguio", "imbes na 500".
VALUE applies if the query asks for a number, a time or a name, both texts have one, and the newer has one that the
older doesn't have; UNKNOWN if the query asks for something else. Neither applies if it asks for what happened once.
SPEAKER applies if one speaker said both, UPDATES if the newer says that something has changed ("now", "moved",
"na lang"). The share is that of the older text's relevance that the newer has.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import nlargest
from itertools import islice
from math import log

from twinhost.unified_memory_reasoning.search.dates import MONTHS, WEEKDAYS
from twinhost.unified_memory_reasoning.search.words import STOP_WORDS

_UPDATES = re.compile(
    r"\b(?:now|instead|any ?more|no longer|actually|correction|take (?:that|it) back|turns? out|back to|make it|"
    r"after all|from now on|chang(?:e[ds]?|ing)|mov(?:ed?|ing)|switch(?:ed|ing)|replac(?:ed|ing)|scrap|"
    r"na la(?:ng|mang)|pala|imbes|sa halip|hindi na|wag na|ayoko na|ayaw na|mula ngayon|simula ngayon|gawing?)\b|"
    r"balik\b|\b(?:cancel|postpone|reschedul|updat|revis|reject)|"
    r"p(?:in)?alit|l(?:um|in)?ipat|k(?:in)?ansela|binago|nagbago|nabago|binabawi|binawi"
)
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
_BREAK = re.compile(r"[.,:!?;\n](?:\s|$)|\b(?:hindi|di) ba\b|\bno wait\b")  # where a denial ends, or is none
_TOKEN = re.compile(r"[^\W_]+(?:[.,:/-](?:(?<=\d.)|(?=\d))[^\W_]+)*")  # 8:30, 1,050 and 3e-4 are one each
_DIGIT = re.compile(r"\d")
_QUESTION = re.compile(r"\?(?:\s|$)")
_CLOCK = re.compile(r"\d+(?:st|nd|rd|th|am|pm)|\d\d?:\d\d|alas")
_PAST = re.compile(
    r"\b(originally|original|at first|initially|previously|formerly|used to|dati|dating|noong|nung una|orihinal)\b"
    r"|\b(before|earlier|dati)\s*\??\s*$"
)
_ONCE = re.compile(r"\b(?:was|were|had|who \w+ed)\b|\bdid\b(?!.*\b(?:decide|agree|settle|choose|pick)\b)")


class Kind(StrEnum):
    """What a query asks for."""

    NUMBER = "number"
    TIME = "time"
    NAME = "name"
    OTHER = "other"


_ASKED = {
    Kind.NUMBER: re.compile(
        r"\b(how (much|many|long|high|far|old|big|expensive|often)|what (price|number|amount)|number|code|pay|cost|"
        r"price|magkano|ilan|ilang|gaano|numero)\b"
    ),
    Kind.TIME: re.compile(
        r"\b(when|(what|which) (time|date|day)|date|deadline|kailan|kelan|petsa|(anong|mga) (oras|araw))\b"
    ),
    Kind.NAME: re.compile(r"\b(who|whom|whose|sino|sinong|kanino|kaninong)\b"),
}

MOST_CORRECTED = 10  # of the first texts
MOST_WORDS = 60  # of a text that are compared: the first ones, each once
NEEDED = 15.0  # of the sign
LEAST = 0.4  # of the older text's relevance that a newer one has which takes nothing of it back
VALUE, UNKNOWN, SPEAKER, UPDATES, ALIKE = 5.0, 4.0, 3.0, 4.0, 5.0
TAKEN_BACK = 2.0  # times the weight of a word, and as a shared one once more
OF_QUERY = 0.5  # how much a shared word counts that the query has too
FEW = 80  # texts: if fewer are found, a word weighs as if there were so many
JUST_ABOVE = 1.01  # times the relevance of the older text


@dataclass(frozen=True, slots=True)
class Text:
    """A text that may be a result; `speaker` is empty for a memory, and if nobody is named."""

    row: int
    speaker: str
    moment: float  # seconds since the epoch
    content: str  # its beginning


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text says by its form, and what it is about."""

    question: bool
    quantity: bool
    updates: bool
    words: frozenset[str]  # in lower case, MOST_WORDS; a number is one
    telling: frozenset[str]  # of these, without STOP_WORDS
    taken_back: frozenset[str]  # what a denial takes back, without STOP_WORDS
    content: str

    def values(self, kind: Kind) -> frozenset[str]:
        """Return the values of a kind."""
        if kind is Kind.NAME:
            names = (each.lower() for each in _TOKEN.findall(self.content) if each[0].isupper() and len(each) > 1)
            return _first(names) - STOP_WORDS
        days = self.words & _DAYS
        if kind is Kind.OTHER or (kind is Kind.TIME and not days and not any(map(_CLOCK.match, self.words))):
            return frozenset()
        numbers = self.words & _NUMBER_WORDS | {word for word in self.words if _DIGIT.search(word)}
        return numbers | days if kind is Kind.TIME else numbers


def read(content: str) -> Statement:
    """Return what a text says by its form."""
    lower = content.lower()
    tokens = _TOKEN.findall(lower)
    words = _first(tokens)
    return Statement(
        question=_QUESTION.search(content) is not None,
        quantity=_DIGIT.search(content) is not None,
        updates=_UPDATES.search(lower) is not None,
        words=words,
        telling=words - STOP_WORDS,
        taken_back=frozenset() if _DENIALS.isdisjoint(tokens) else frozenset(_taken_back(lower)),
        content=content,
    )


def _first(words: Iterable[str]) -> frozenset[str]:
    return frozenset(islice(dict.fromkeys(words), MOST_WORDS))


def _taken_back(lower: str) -> Iterator[str]:
    for sentence in _BREAK.split(lower):
        words = _TOKEN.findall(sentence)
        for place, word in enumerate(words):
            if word in _DENIALS:
                yield from (each for each in words[place + 1 : place + 1 + _DENIED] if each not in STOP_WORDS)


def asks_for_past(query: str) -> bool:
    """Return whether a query asks for what was, and not for what is."""
    return _PAST.search(query.casefold()) is not None


def kind_asked(query: str) -> Kind:
    """Return what a query asks for."""
    lower = query.casefold()
    return next((kind for kind, words in _ASKED.items() if words.search(lower)), Kind.OTHER)


def _takes_back(old: Statement, new: Statement) -> frozenset[str]:
    """Return what the newer text takes back of the older one."""
    return (old.telling & new.taken_back) - old.taken_back


def corrections(
    texts: Sequence[Text], read: Mapping[int, Statement], relevance: Mapping[int, float], query: str
) -> dict[int, tuple[int, float]]:
    """Return which texts come just above an older one that they correct: that one, and their relevance from then on.

    Older texts are gone through in the order of time, so that of three values of one fact the last comes first.

    Args:
        texts: that a search has found.
        read: what they say, by row.
        relevance: by row.
        query: what they were searched by.
    """
    now, moved = dict(relevance), dict[int, tuple[int, float]]()
    signs = _Signs([read[text.row] for text in texts], query)
    newer = [text for text in texts if not read[text.row].question]
    for old in sorted(nlargest(MOST_CORRECTED, texts, lambda text: relevance[text.row]), key=_age):
        found = {
            new.row: signs.of(read[old.row], read[new.row])
            + ALIKE * now[new.row] / now[old.row]
            + SPEAKER * (old.speaker == new.speaker != "")
            for new in newer
            if _age(new) > _age(old)
            and now[new.row] < now[old.row]
            and (now[new.row] >= LEAST * now[old.row] or _takes_back(read[old.row], read[new.row]))
        }
        best = max(found, key=found.__getitem__, default=0)
        if found and found[best] >= NEEDED:
            now[best] = now[old.row] * JUST_ABOVE
            moved[best] = old.row, now[best]
    return moved


def _age(text: Text) -> tuple[float, int]:
    return text.moment, text.row


class _Signs:
    """How much the wording of two texts says that the newer gives another value of the same thing."""

    def __init__(self, statements: Sequence[Statement], query: str) -> None:
        self._statements = statements
        self._kind, self._once = kind_asked(query), _ONCE.search(query.casefold()) is not None
        self._asked = frozenset(_TOKEN.findall(query.lower()))
        self._weights: dict[str, float] = {}
        self._found: dict[int, frozenset[str]] = {}  # by the id of a statement

    def of(self, old: Statement, new: Statement) -> float:
        sign = self._value(old, new) + UPDATES * new.updates
        if shared := old.telling & new.telling:
            sign += sum([self._weight(word) for word in shared])
            sign += TAKEN_BACK * sum([self._weight(word) for word in _takes_back(old, new)])
        return sign

    def _value(self, old: Statement, new: Statement) -> float:
        if self._once:
            return 0.0
        if self._kind is Kind.OTHER:
            return UNKNOWN
        before = self._values(old)
        return VALUE if before and not old.question and not self._values(new) <= before else 0.0

    def _values(self, statement: Statement) -> frozenset[str]:
        """Return the values of the kind that the query asks for."""
        if id(statement) not in self._found:
            self._found[id(statement)] = statement.values(self._kind)
        return self._found[id(statement)]

    def _weight(self, word: str) -> float:
        """Weigh a word: it counts more if fewer of the texts have it."""
        if word not in self._weights:
            count = sum([word in each.words for each in self._statements])
            weight = log(1 + max(len(self._statements), FEW) / count)
            self._weights[word] = weight * OF_QUERY if word in self._asked else weight
        return self._weights[word]
