"""How important a text is, by a stated rule; pure.

0.5 to begin with; 0.2 more if it states a decision (see `decisions`), 0.2 for a keyword, and 0.1 if it states a fact: a
number, a date, or a day. Each counts once, so that 1.0 is the maximum. The first 4,096 characters are read. Sentences
that ask or request count nothing: those with a question mark or a request phrase. Words and phrases are English and
Filipino, and only whole words match: `unimportant` has no `important` in it. `paki` is also a request before the 3 or
more letters of a verb (`pakibuksan`, `pakisara`), unless the word has another root (`Pakistan`, `pakinabang`) or means
doing something together (`pakikisama`).
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from twinhost.unified_memory_reasoning.conversations.decisions import DECIDING_CHARACTERS, decisions_in
from twinhost.unified_memory_reasoning.conversations.wording import any_of, plain, sentences_of


class Phrases:
    """Some phrases; what `plain` returns is searched."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = tuple(plain(phrase) for phrase in phrases)

    def found_in(self, plain_text: str) -> "Phrases":
        """Return those that occur in a text as whole words."""
        return Phrases(each for each in self._phrases if any(_places(each, plain_text)))

    def __bool__(self) -> bool:
        return bool(self._phrases)


def _places(phrase: str, text: str) -> Iterator[int]:
    """Yield where a phrase ends, each time that it occurs as whole words."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if not (_of_word(text[start - 1 : start]) or _of_word(text[end : end + 1])):
            yield end
        start = text.find(phrase, end)


def _phrases_of(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split(";"))


def _of_word(character: str) -> bool:
    return character.isalnum() or character == "_"


ErrorKind = Literal["timeout", "connection", "permission", "other"]

# The first that is found; `connection timed out` is a timeout. Parts of words count: `SocketTimeoutException`.
_KINDS: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
    ("timeout", ("timeout", "time-out", "time out", "timed out", "timedout", "deadline exceeded")),
    ("connection", ("connect", "econn", "unreachable", "broken pipe", "koneksyon", "konekta")),
    (
        "permission",
        (
            *("permission", "denied", "forbidden", "unauthorized", "unauthorised", "not authorized", "not authorised"),
            *("not granted", "not permitted", "not allowed", "eacces", "eperm", "pahintulot"),
        ),
    ),
)
_TRACEBACK = "Traceback (most recent call last)"  # as Python begins one


def error_kind(text: str) -> ErrorKind:
    """Return the kind of error that a text describes."""
    searched = plain(text)
    return next((kind for kind, words in _KINDS if any(word in searched for word in words)), "other")


def error_message(text: str) -> str:
    """Return what an error says: the last line of a Python traceback, else the whole text."""
    if not text.lstrip().startswith(_TRACEBACK):
        return text
    return text.rstrip().splitlines()[-1]


KEYWORDS = _phrases_of("""
remember; don't forget; important; critical; essential; alalahanin; tandaan; mahalaga; importante; kailangan
""")
REQUESTS = _phrases_of("""
please; paki; pakiusap; can you; could you; would you; i want; i need; i would like; gusto ko; kailangan ko
""")

PAKI_OF_OTHER_WORDS = ("stan", "ki", "nabang", "ramdam", "alam", "wari", "lala", "tang", "nggan")  # after `paki`

_FACT = any_of(r"\d|\b(?:<day>|<month>)\b")
_keywords = Phrases(KEYWORDS)
_requests = Phrases(REQUESTS)
_joined_paki = re.compile(rf"\bpaki(?!{'|'.join(PAKI_OF_OTHER_WORDS)})[^\W\d_]{{3}}")


def importance_of(text: str, previous: str = "") -> float:
    """Return the importance of a text: 0.5 to 1.0, in steps of 0.1.

    Args:
        text: what somebody says.
        previous: what somebody else said just before, as `decisions_in` reads it.
    """
    text = text[:DECIDING_CHARACTERS]
    statements = [each for each in map(plain, sentences_of(text)) if not _asks(each)]
    tenths = 5
    if decisions_in(text, previous):
        tenths += 2
    if any(_keywords.found_in(each) for each in statements):
        tenths += 2
    tenths += any(_FACT.search(each) for each in statements)
    return tenths / 10


def _asks(sentence: str) -> bool:
    return "?" in sentence or bool(_requests.found_in(sentence)) or _joined_paki.search(sentence) is not None
