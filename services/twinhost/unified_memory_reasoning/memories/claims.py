"""Which texts contradict each other, by rules on their words; pure, and the same whatever came first.

A text makes claims, sentence by sentence, in its first MAX_CHARACTERS; a question makes none:

- a subject: at least two significant words, then `is`, `are`, `will be`, `costs`, `ay`, `=`, or a colon, then a value.
  The claim has the words of the subject in any order, a preposition before the value, the kind of the value, and the
  word after a number: *The rent of the box room is now 340 a month*.
- a denial: `not`, `instead of`, `no longer`, `imbes na`, `huwag na` and the like before a value, or `any more` after
  it, in a text that states another value of that kind: *it comes to 355, not 340*.

Two texts contradict each other if they have the same subject with different values, or if one denies a value that the
other states and does not deny, and they share a significant word. A value is a number, a time, a date, a day of the
week, something with digits and punctuation such as an address or a version, or a name: words with capitals.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from twinhost.unified_memory_reasoning.search.words import STOP_WORDS

MAX_CHARACTERS = 4_096
MOST_VALUES = 24  # of a text
LEAST_SUBJECT, MOST_SUBJECT = 2, 8  # significant words

_sentence_end = re.compile(r"(?<=[.!?])\s+|\n+|;\s+")
_edges = "\"'()[]{}<>*_`.,;!\u2018\u2019\u201c\u201d\u2026"
_word = re.compile(r"[^\W_]+")
_number = re.compile(r"([$\u20ac\u00a3\u20b1]?)(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)(k|%)?", re.IGNORECASE)
_clock = re.compile(r"(\d{1,2}):(\d{2})(am|pm)?", re.IGNORECASE)
_digit = re.compile(r"\d")
_iso_date = re.compile(r"\d{4}-(\d{2})-(\d{2})")
_ordinal = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?", re.IGNORECASE)
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            *("january jan enero", "february feb pebrero", "march mar marso", "april apr abril", "may mayo"),
            *("june jun hunyo", "july jul hulyo", "august aug agosto", "september sep sept setyembre"),
            *("october oct oktubre", "november nov nobyembre", "december dec disyembre"),
        ),
        start=1,
    )
    for name in names.split()
}
_WEEKDAYS = {
    name: number
    for number, names in enumerate(
        (
            *("monday lunes", "tuesday martes", "wednesday miyerkules", "thursday huwebes", "friday biyernes"),
            *("saturday sabado", "sunday linggo"),
        )
    )
    for name in names.split()
}
_COPULAS = frozenset({"is", "are", "costs", "equals", "ay", "="})
_PREPOSITIONS = frozenset({"at", "on", "in", "by", "from", "to", "with", "for", "under", "near", "sa", "kay"})
_FILLERS = frozenset(
    {"now", "still", "currently", "only", "already", "then", "the", "about", "around", "ngayon", "ang"}
)
_UNSURE = frozenset({"not", "no", "never", "if", "when", "maybe", "hindi", "wala", "kung", "was", "were", "n't"})
_DENIALS = ("not", "instead of", "rather than", "no longer", "imbes na", "hindi na", "wag na", "huwag na")
_AFTER_DENIAL = _PREPOSITIONS | _FILLERS | {"a", "an", "yung", "si"}
_DENIAL_AFTER = ("any more", "anymore")


class Value(NamedTuple):
    """A value, as it compares with others of its kind."""

    kind: str
    text: str


class Subject(NamedTuple):
    """What a claim is about, and the kind and unit of its value."""

    text: str


class Claims(NamedTuple):
    """What a text claims."""

    subjects: dict[Subject, Value]
    stated: frozenset[Value]
    denied: frozenset[Value]
    words: frozenset[str]  # significant ones

    @property
    def marks(self) -> list[str]:
        """What other texts' claims are looked up by; each is matched by the mark that `opposite` returns."""
        subjects = [f"s {subject.text}" for subject in self.subjects]
        return [
            *subjects,
            *(f"v {value.kind} {value.text}" for value in self.stated - self.denied),
            *(f"d {value.kind} {value.text}" for value in self.denied),
        ]


def opposite(mark: str) -> str:
    """Return the mark of a text that may contradict the one with this mark."""
    return {"s": "s", "v": "d", "d": "v"}[mark[0]] + mark[1:]


def contradict(one: Claims, other: Claims) -> bool:
    """Return whether two texts contradict each other."""
    if any(value != other.subjects.get(subject, value) for subject, value in one.subjects.items()):
        return True
    return bool(one.words & other.words) and (_denies(one, other) or _denies(other, one))


def _denies(one: Claims, other: Claims) -> bool:
    return not one.denied.isdisjoint(other.stated - other.denied)


@lru_cache(maxsize=128)
def claims_of(text: str) -> Claims:
    """Return what a text claims."""
    subjects: dict[Subject, Value] = {}
    stated: dict[Value, None] = {}
    denied: set[Value] = set()
    words: set[str] = set()
    for sentence in _sentence_end.split(unicodedata.normalize("NFC", text[:MAX_CHARACTERS])):
        tokens = sentence.split()
        words.update(each for token in tokens for each in _significant(token))
        if sentence.rstrip().endswith("?"):
            continue
        found = list(_values(tokens))
        stated.update((value, None) for _, _, value in found)
        denied.update(value for begin, end, value in found if _is_denied(tokens, begin, end))
        if (claim := _claim(tokens, found)) is not None:
            subjects.setdefault(*claim)
    kept = frozenset(list(stated)[:MOST_VALUES])
    replaced = {value.kind for value in kept - denied}
    return Claims(
        subjects,
        kept,
        frozenset(value for value in denied & kept if value.kind in replaced),
        frozenset(words) - {value.text for value in kept},
    )


def _significant(token: str) -> list[str]:
    bare = token.casefold().replace("\u2019", "'").removesuffix("'s")
    return [word for word in _word.findall(bare) if word not in STOP_WORDS and len(word) > 1]


def _values(tokens: list[str]) -> Iterator[tuple[int, int, Value]]:
    """Yield the values of a sentence with their places."""
    place = 0
    while place < len(tokens):
        found = _value_at(tokens, place) if _may_begin_value(tokens[place]) else None
        if found is None:
            place += 1
            continue
        end, value = found
        yield place, end, value
        place = end


def _may_begin_value(token: str) -> bool:
    """Return whether a value may begin with a word; most words are none, and this is quick."""
    return not token.islower() or _digit.search(token) is not None or token.strip(_edges) in _WEEKDAYS


def _value_at(tokens: list[str], place: int) -> tuple[int, Value] | None:
    """Return the value that begins at a place, and where it ends."""
    bare = tokens[place].strip(_edges).removesuffix(":")
    following = tokens[place + 1].strip(_edges).casefold() if place + 1 < len(tokens) else ""
    if (date := _date(bare, following)) is not None:
        return place + 2, date
    if (value := _of_word(bare, following)) is not None:
        return place + 1, value
    return _name_at(tokens, place)


def _date(word: str, following: str) -> Value | None:
    """Return the day and month that two words name, in either order."""
    for day, month in ((word, following), (following, word.casefold() if word[:1].isupper() else "")):
        if month in _MONTHS and (number := _ordinal.fullmatch(day)):
            return Value("date", f"{_MONTHS[month]}-{int(number[1])}")
    return None


def _of_word(word: str, following: str) -> Value | None:
    value = None
    if date := _iso_date.fullmatch(word):
        value = Value("date", f"{int(date[1])}-{int(date[2])}")
    elif clock := _clock.fullmatch(word):
        half = (clock[3] or following).casefold().replace(".", "")
        later = 12 if half == "pm" and int(clock[1]) < 12 else 0
        value = Value("time", f"{int(clock[1]) + later}:{clock[2]}")
    elif word.casefold() in _WEEKDAYS:
        value = Value("weekday", str(_WEEKDAYS[word.casefold()]))
    elif number := _number.fullmatch(word):
        suffix = (number[3] or "").casefold()
        amount = float(number[2].replace(",", "")) * (1_000 if suffix == "k" else 1)
        value = Value("percent" if suffix == "%" else "number", f"{amount:g}")
    elif any(each.isdigit() for each in word) and len(_word.findall(word)) > 1:
        value = Value("code", word.casefold())
    return value


def _name_at(tokens: list[str], place: int) -> tuple[int, Value] | None:
    if place == 0 or tokens[place - 1][-1:] in ".!?:":
        return None  # the capital of a sentence
    end, name = place, list[str]()
    while end < len(tokens) and (bare := tokens[end].strip(_edges)) and bare[0].isupper():
        name += _significant(bare)
        end += 1
        if tokens[end - 1][-1:] in ",.!?;:":
            break
    return (end, Value("name", " ".join(name))) if name else None


def _is_denied(tokens: list[str], begin: int, end: int) -> bool:
    if " ".join(token.strip(_edges).casefold() for token in tokens[end : end + 2]).startswith(_DENIAL_AFTER):
        return True
    before = [token.strip(_edges).casefold() for token in tokens[max(0, begin - 4) : begin]]
    while before and before[-1] in _AFTER_DENIAL:
        before.pop()
    return " ".join(before).endswith(_DENIALS)


def _claim(tokens: list[str], values: list[tuple[int, int, Value]]) -> tuple[Subject, Value] | None:
    """Return the subject of a sentence and the value that it states of it."""
    lower = [token.strip(_edges).casefold() for token in tokens]
    copula = next(
        (
            place
            for place, word in enumerate(lower)
            if word in _COPULAS or tokens[place].endswith(":") or lower[place - 1 : place + 1] == ["will", "be"]
        ),
        None,
    )
    if copula is None or not _UNSURE.isdisjoint(lower[: copula + 2]):
        return None
    colon = tokens[copula].endswith(":")
    subject = {word for token in tokens[: copula + colon] for word in _significant(token)} - _FILLERS
    if not LEAST_SUBJECT <= len(subject) <= MOST_SUBJECT:
        return None
    place, preposition = copula + 1, ""
    while place < len(lower) and (lower[place] in _FILLERS or lower[place] in _PREPOSITIONS):
        preposition = lower[place] if lower[place] in _PREPOSITIONS else preposition
        place += 1
    found = next(((end, value) for begin, end, value in values if begin == place), None)
    if found is None:
        return None
    end, value = found
    unit = next(iter(_significant(tokens[end])), "") if value.kind == "number" and end < len(tokens) else ""
    return Subject(f"{value.kind} {preposition} {unit} {' '.join(sorted(subject))}"), value
