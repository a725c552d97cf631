"""How important a text is, by a stated rule; pure.

0.5 to begin with; 0.2 more if it states a decision (see `decisions`), 0.2 for a keyword, and 0.1 if it states a fact: a
number, a date, or a day. Each counts once, so that 1.0 is the maximum. The first 4,096 characters are read. Sentences
that ask or request count nothing: those with a question mark or a request phrase. Words and phrases are English and
Filipino, and only whole words match: `unimportant` has no `important` in it. `paki` is also a request before the 3 or
more letters of a verb (`pakibuksan`, `pakisara`), unless the word has another root (`Pakistan`, `pakinabang`) or means
doing something together (`pakikisama`).
"""

import re
from typing import Literal

from twinhost.unified_memory_reasoning.language.decisions import DECIDING_CHARACTERS, decisions_in
from twinhost.unified_memory_reasoning.language.lexicon import phrases
from twinhost.unified_memory_reasoning.language.patterns import any_of
from twinhost.unified_memory_reasoning.language.text import plain, sentences_of

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


KEYWORDS = phrases("""
remember; don't forget; important; critical; essential; alalahanin; tandaan; mahalaga; importante; kailangan
""")
REQUESTS = phrases("""
please; paki; pakiusap; can you; could you; would you; i want; i need; i would like; gusto ko; kailangan ko
""")

PAKI_OF_OTHER_WORDS = ("stan", "ki", "nabang", "ramdam", "alam", "wari", "lala", "tang", "nggan")  # after `paki`

_FACT = any_of(r"\d|\b(?:<day>|<month>)\b")
_KEYWORD, _REQUEST = (re.compile(rf"\b(?:{'|'.join(map(re.escape, of))})\b") for of in (KEYWORDS, REQUESTS))
_joined_paki = re.compile(rf"\bpaki(?!{'|'.join(PAKI_OF_OTHER_WORDS)})[^\W\d_]{{3}}")


def importance_of(text: str, previous: str = "") -> float:
    """Return the importance of what is said after something else: 0.5 to 1.0, in steps of 0.1."""
    text = text[:DECIDING_CHARACTERS]
    statements = [sentence for sentence in map(plain, sentences_of(text)) if not _asks(sentence)]
    tenths = 5
    if decisions_in(text, previous):
        tenths += 2
    if any(map(_KEYWORD.search, statements)):
        tenths += 2
    tenths += any(map(_FACT.search, statements))
    return tenths / 10


def _asks(sentence: str) -> bool:
    return "?" in sentence or bool(_REQUEST.search(sentence) or _joined_paki.search(sentence))
