"""Dates as terms of the index, and the date words of texts and queries, in English and Filipino. Pure.

A text's row in the index has terms for its day (`d20260314`), its month (`m202603`), and both without the year
(`y0314`, `o03`), in UTC. Words in it that name a day by another, such as "yesterday" and "noong Lunes", add the terms
of that day. A query's date words name some of these terms: "March 14" is `y0314`, "yesterday" the day before now.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

_MONTHS = (
    *(
        ("january", "jan", "enero"),
        ("february", "feb", "pebrero"),
        ("march", "mar", "marso"),
        ("april", "apr", "abril"),
    ),
    *(("may", "mayo"), ("june", "jun", "hunyo"), ("july", "jul", "hulyo"), ("august", "aug", "agosto")),
    *(("september", "sept", "sep", "setyembre"), ("october", "oct", "oktubre"), ("november", "nov", "nobyembre")),
    ("december", "dec", "disyembre"),
)
_WEEKDAYS = (
    *(("sunday", "linggo"), ("monday", "lunes"), ("tuesday", "martes"), ("wednesday", "miyerkules", "miyerkoles")),
    *(("thursday", "huwebes"), ("friday", "biyernes"), ("saturday", "sabado")),
)
MONTHS = {name: number for number, names in enumerate(_MONTHS, 1) for name in names}
WEEKDAYS = {name: number for number, names in enumerate(_WEEKDAYS) for name in names}
_MONTH, _WEEKDAY = "|".join(MONTHS), "|".join(WEEKDAYS)
_DAYS_AGO = {"two ago": 2, "yesterday": 1, "today": 0}
_NUMBERS = {
    name: number
    for names in (
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        ("isang", "dalawang", "tatlong", "apat na", "limang", "anim na", "pitong", "walong", "siyam na", "sampung"),
    )
    for number, name in enumerate(names, 1)
}
_COUNT = rf"(?P<count>\d{{1,3}}|{'|'.join(_NUMBERS)})"
_YEAR = r"(?:,?\s+(?P<year>(?:19|20)\d\d))?"
_LAST = r"last|this past|noong nakaraang|nung nakaraang|nakaraang"
_EXPRESSIONS = [
    (name, re.compile(rf"\b(?:{pattern})\b"))
    for name, pattern in (
        ("iso", r"(?P<iso>\d{4}-\d\d-\d\d)"),
        ("day", rf"(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?{_YEAR}"),
        ("day", rf"(?:ika-?)?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:(?:of|ng)\s+)?(?P<month>{_MONTH}){_YEAR}"),
        ("ago", rf"{_COUNT}\s+days?\s+ago"),
        ("ago", rf"{_COUNT}\s+araw\s+(?:na\s+)?(?:ang\s+)?(?:nakalipas|nakaraan|nakararaan)"),
        ("two ago", r"day before yesterday|kamakalawa"),
        ("yesterday", r"yesterday|kahapon|last night|kagabi"),
        ("today", r"today|tonight|ngayong araw|ngayong gabi"),
        ("week", rf"(?:{_LAST}|noong isang)\s+(?:week|linggo)"),
        ("month", rf"(?:{_LAST}|noong isang)\s+(?:month|buwan)"),
        ("weekday", rf"(?:{_LAST}|on|this|noong|nung|sa)\s+(?P<weekday>{_WEEKDAY})"),
        ("month_name", rf"(?:in|during|since|of|noong|nung|ng)\s+(?P<month>{_MONTH}){_YEAR}"),
        ("month_name", rf"(?P<month>{_MONTH})\s+(?P<year>(?:19|20)\d\d)"),
    )
]


MOST_DATES = 8  # of a query; each costs a look into the index
_DAY = "d%Y%m%d y%m%d"
TERMS = f"strftime(' {_DAY} m%Y%m o%m', {{moment}}, 'unixepoch')"  # an SQL expression; {moment} in seconds since 1970
_MOST_CHARACTERS = 2_000  # of a text, the first ones, in which days are looked for


def relative_terms(text: str, moment: str) -> str:
    """Return an SQL expression: the terms of the days that a text names by their distance from its own.

    Args:
        text: an SQL expression.
        moment: an SQL expression, in seconds since the epoch.
    """
    values = ", ".join(f"('%{words}%', '{steps}', '{weekday}')" for words, steps, weekday in _days_by_distance())
    return (
        f"(SELECT coalesce(group_concat(strftime(' {_DAY}', {moment}, 'unixepoch', column2, column3)), '') "  # noqa: S608
        f"FROM (VALUES {values}) WHERE substr({text}, 1, {_MOST_CHARACTERS}) LIKE column1)"
    )


def _days_by_distance() -> Iterator[tuple[str, str, str]]:
    """Yield words, and the modifiers of SQLite's date functions that lead to the day that they mean."""
    yield from ((words, "-1 day", "+0 days") for words in ("yesterday", "last night", "kahapon", "kagabi"))
    yield from ((words, "-2 days", "+0 days") for words in ("day before yesterday", "kamakalawa"))
    yield from ((words, "+1 day", "+0 days") for words in ("tomorrow", "bukas"))
    for name, number in WEEKDAYS.items():
        yield from ((f"{word} {name}", "-7 days", f"weekday {number}") for word in ("last", "noong", "nung"))
        yield from ((f"{word} {name}", "+1 day", f"weekday {number}") for word in ("next", "on", "this", "sa"))


@dataclass(frozen=True, slots=True)
class AskedDate:
    """A date that a query names: its terms, any of which will do."""

    terms: tuple[str, ...]


def dates_of(query: str, today: date) -> list[AskedDate]:
    """Return the dates that a query names, each once; MOST_DATES of them count.

    Args:
        query: in lower case.
        today: what "yesterday" counts from.
    """
    found: dict[AskedDate, None] = {}
    for name, expression in _EXPRESSIONS:
        for match in expression.finditer(query):
            found[_asked(name, match.groupdict(), today)] = None
            query = query[: match.start()] + " " * len(match.group()) + query[match.end() :]
    return list(found)[:MOST_DATES]


def _asked(name: str, groups: dict[str, str], today: date) -> AskedDate:
    if name in {"month_name", "day"}:
        return _of_month(name, groups)
    monday = today.isoweekday() - 1  # days since
    if name == "weekday":
        number = WEEKDAYS[groups["weekday"]]
        return AskedDate((_day(today, (monday - number) % 7 + 1),))
    if name == "iso":
        terms = [f"d{groups['iso'].replace('-', '')}"]
    elif name == "month":
        terms = [f"{today.replace(day=1) - timedelta(days=1):m%Y%m}"]
    elif name == "week":
        terms = [_day(today, monday + back) for back in range(1, 8)]
    else:
        count = groups.get("count", "")
        terms = [_day(today, _NUMBERS[count] if count in _NUMBERS else int(count or _DAYS_AGO[name]))]
    return AskedDate(tuple(terms))


def _of_month(name: str, groups: dict[str, str]) -> AskedDate:
    """Return a month, or a day of a month, of a year or of any."""
    number, year = MONTHS[groups["month"]], groups.get("year")
    if name == "month_name":
        return AskedDate((f"m{year}{number:02}" if year else f"o{number:02}",))
    day = int(groups["day"])
    return AskedDate((f"d{year}{number:02}{day:02}" if year else f"y{number:02}{day:02}",))


def _day(today: date, back: int) -> str:
    return f"{today - timedelta(days=back):d%Y%m%d}"
