"""The values that a sentence states: numbers, times, dates, days of the week, codes, and names; pure.

Numbers and times are also read in words: *three*, *half past seven*, *alas-otso*. Two times exclude each other if a
clock shows them differently, since many texts leave out whether it is morning.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from twinhost.unified_memory_reasoning.language.lexicon import MONTHS, NUMBERS, STOP_WORDS, TITLES, WEEKDAYS

EDGES = "\"'()[]{}<>*_`.,;!\u2018\u2019\u201c\u201d\u2026"
_word = re.compile(r"[^\W_]+")
_number = re.compile(r"([$\u20ac\u00a3\u20b1]?)(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)(k|%)?", re.IGNORECASE)
_clock = re.compile(r"(\d{1,2}):(\d{2})(am|pm)?", re.IGNORECASE)
_digit = re.compile(r"\d")
_iso_date = re.compile(r"\d{4}-(\d{2})-(\d{2})")
_year = re.compile(r"(?:19|20)\d\d")
_ordinal = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?", re.IGNORECASE)
_SPELLED = {word: number for word, number in NUMBERS.items() if word not in ("one", "isa")}  # which are articles too
_PART_OF_HOUR = {"half": 30, "quarter": 15}
_hour = re.compile(r"(?:alas?-)?(\d{1,2}|[a-z]+)(am|pm)?", re.IGNORECASE)
_HOURS = 12
_HALVES = frozenset({"am", "pm", "a.m", "p.m"})
_MOST_BEFORE = 4  # words without a significant one that a name may begin with


class StatedValue(NamedTuple):
    """A value, as it compares with others of its kind."""

    kind: str
    text: str

    @property
    def is_specific(self) -> bool:
        """Whether few texts have it, so that two with it are about the same thing."""
        return self.kind == "code" or "e-" in self.text or self.text.startswith("0.000")

    def excludes(self, other: "StatedValue") -> bool:
        """Return whether both can't be true: of names and words, one may be a part of the other."""
        if self.kind in ("name", "word"):
            one, two = set(self.text.split()), set(other.text.split())
            return not (one <= two or two <= one)
        if self.kind == other.kind == "time":
            return _on_a_clock(self.text) != _on_a_clock(other.text)
        return self != other


@lru_cache(maxsize=256)  # more than the words of a sentence, which are looked at several times
def significant(token: str) -> tuple[str, ...]:
    """Return the words of a token that say what a text is about."""
    bare = token.casefold().replace("\u2019", "'").removesuffix("'s")
    return tuple(word for word in _word.findall(bare) if word not in STOP_WORDS and len(word) > 1)


def values_of(tokens: list[str]) -> Iterator[tuple[int, int, StatedValue]]:
    """Yield the values of a sentence with their places."""
    place = 0
    while place < len(tokens):
        stated = _value_at(tokens, place) if _may_begin_value(tokens[place]) else None
        if stated is None:
            place += 1
            continue
        end, value = stated
        yield place, end, value
        place = end


def _may_begin_value(token: str) -> bool:
    """Return whether a value may begin with a word; most words are none, and this is quick."""
    bare = token.strip(EDGES)
    return (
        not token.islower()
        or _digit.search(token) is not None
        or bare in WEEKDAYS
        or bare.removesuffix("s") in WEEKDAYS
        or bare in _SPELLED
        or bare in _PART_OF_HOUR
        or bare.startswith("ala")
    )


def _value_at(tokens: list[str], place: int) -> tuple[int, StatedValue] | None:
    """Return the value that begins at a place, and where it ends."""
    bare = _bare(tokens, place)
    following, third = (_bare(tokens, place + step).casefold() for step in (1, 2))
    before = _bare(tokens, place - 1).casefold() if place else ""
    if (date := _date(bare, following)) is not None:
        return place + 2, date
    if bare.isdecimal() and following.isdecimal():
        end = next((at for at in range(place, len(tokens)) if not _bare(tokens, at).isdecimal()), len(tokens))
        return end, StatedValue("code", " ".join(_bare(tokens, at) for at in range(place, end)))
    if bare.casefold() in _PART_OF_HOUR and following == "past" and third in _SPELLED:
        return place + 3, _time(_SPELLED[third], _PART_OF_HOUR[bare.casefold()])
    if (hour := _hour.fullmatch(bare.casefold())) and 0 < (number := _spelled(hour[1])) <= _HOURS:
        marked = hour[2] or following in _HALVES or bare.casefold().startswith("ala")
        alone = tokens[place][-1:] in ",.;" or not following or following in STOP_WORDS
        if marked or (before == "at" and alone):
            return place + 1 + (following in _HALVES), _time(number, 0)
    if (value := _of_word(bare, following)) is not None:
        return place + 1, value
    return _name_at(tokens, place)


def _bare(tokens: list[str], place: int) -> str:
    """Return a word without what surrounds it, in lower case unless a value begins there; empty past the end."""
    return tokens[place].strip(EDGES).removesuffix(":") if place < len(tokens) else ""


def _spelled(word: str) -> int:
    return int(word) if word.isdecimal() else _SPELLED.get(word, 0)


def _time(hour: int, minute: int | str) -> StatedValue:
    return StatedValue("time", f"{hour}:{int(minute):02}")


def _on_a_clock(time: str) -> str:
    hour, minute = time.split(":")
    return f"{int(hour) % _HOURS}:{minute}"


def _date(word: str, following: str) -> StatedValue | None:
    """Return the day and month that two words name, in either order."""
    for day, month in ((word, following), (following, word.casefold() if word[:1].isupper() else "")):
        if month in MONTHS and (number := _ordinal.fullmatch(day)):
            return StatedValue("date", f"{MONTHS[month]}-{int(number[1])}")
        if month in MONTHS and _year.fullmatch(day):
            return StatedValue("month", f"{day}-{MONTHS[month]}")
    return None


def _of_word(word: str, following: str) -> StatedValue | None:
    value = None
    if date := _iso_date.fullmatch(word):
        value = StatedValue("date", f"{int(date[1])}-{int(date[2])}")
    elif clock := _clock.fullmatch(word):
        half = (clock[3] or following).replace(".", "")
        value = _time(int(clock[1]) + (_HOURS if half == "pm" and int(clock[1]) < _HOURS else 0), clock[2])
    elif (day := word.casefold().removesuffix("s")) in WEEKDAYS or (day := word.casefold()) in WEEKDAYS:
        value = StatedValue("weekday", str((WEEKDAYS[day] - 1) % 7))  # Monday is 0 in stored marks
    elif spelled := _SPELLED.get(word.casefold()):
        value = StatedValue("number", f"{spelled}")
    elif number := _number.fullmatch(word):
        suffix = (number[3] or "").casefold()
        amount = float(number[2].replace(",", "")) * (1_000 if suffix == "k" else 1)
        value = StatedValue("percent" if suffix == "%" else "number", f"{amount:g}")
    elif any(map(str.isdigit, word)) and len(_word.findall(word)) > 1:
        value = StatedValue("code", word.casefold())
    return value


def _name_at(tokens: list[str], place: int) -> tuple[int, StatedValue] | None:
    if place == 0 or tokens[place - 1][-1:] in ".!?:":
        return None  # the capital of a sentence
    end, name = place, list[str]()
    while end < len(tokens) and (name or end < place + _MOST_BEFORE):
        bare = tokens[end].strip(EDGES)
        if not bare[:1].isupper():
            break
        name += [word for word in significant(bare) if word not in TITLES]
        end += 1
        if tokens[end - 1][-1:] in ",.!?;:" and bare.casefold() not in TITLES:
            break
    return (end, StatedValue("name", " ".join(name))) if name else None
