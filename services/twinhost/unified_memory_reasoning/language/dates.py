"""The dates that a query names, in English and Filipino, as terms of the index: "March 14" is `y0314`.

By hand, since `dateparser` (0.3 s of import) returns one day for *in May*, none for *kamakalawa*, and dates for the
Filipino words *may* and *sa*.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta

from twinhost.unified_memory_reasoning.language.lexicon import FILIPINO_NUMBERS, MONTHS, NUMBERS, WEEKDAYS

_DAYS_AGO = {"two ago": 2, "yesterday": 1, "today": 0}
_COUNTS = NUMBERS | {  # also as they stand before `araw`: *tatlong araw*, *apat na araw*
    f"{name}ng" if name[-1] in "aou" else f"{name} na": number for name, number in FILIPINO_NUMBERS.items()
}
_MONTH, _WEEKDAY = "|".join(MONTHS), "|".join(WEEKDAYS)
_COUNT = rf"(?P<count>\d{{1,3}}|{'|'.join(_COUNTS)})"
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


@dataclass(frozen=True, slots=True)
class AskedDate:
    """A date that a query names: its terms, any of which will do."""

    terms: tuple[str, ...]


def dates_of(query: str, today: date) -> list[AskedDate]:
    """Return the dates that a query in lower case names, each once; MOST_DATES of them count."""
    dates: dict[AskedDate, None] = {}
    for name, expression in _EXPRESSIONS:
        for match in expression.finditer(query):
            dates[_asked(name, match.groupdict(), today)] = None
            query = query[: match.start()] + " " * len(match.group()) + query[match.end() :]
    return list(dates)[:MOST_DATES]


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
        terms = [_day(today, _COUNTS[count] if count in _COUNTS else int(count or _DAYS_AGO[name]))]
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
