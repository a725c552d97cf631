"""How important a text is, by a stated rule; pure.

0.5 to begin with; +0.2 for a keyword; +0.1 for a question mark; +0.1 for a request phrase; +0.1 for more
than 15 words. Each counts once, so that 1.0 is the most. Words and phrases are English and Filipino, and
are found as whole ones: `unimportant` has no `important` in it. `paki` is also a request before the 3 or more
letters of a verb (`pakibuksan`, `pakisara`), unless the word is one of another root (`Pakistan`, `pakinabang`) or
tells of doing something together (`pakikisama`).
"""

import re

from twinhost.unified_memory_reasoning.conversations.phrases import Phrases, plain

MANY_WORDS = 15  # more than these count; a word is what stands between white space

KEYWORDS = (
    "remember",
    "don't forget",
    "important",
    "critical",
    "essential",
    "alalahanin",
    "tandaan",
    "mahalaga",
    "importante",
    "kailangan",
)
REQUESTS = (
    "please",
    "paki",
    "pakiusap",
    "can you",
    "could you",
    "would you",
    "i want",
    "i need",
    "i would like",
    "gusto ko",
    "kailangan ko",
)

PAKI_OF_OTHER_WORDS = ("stan", "ki", "nabang", "ramdam", "alam", "wari", "lala", "tang", "nggan")  # after `paki`

_keywords = Phrases(KEYWORDS)
_requests = Phrases(REQUESTS)
_joined_paki = re.compile(rf"\bpaki(?!{'|'.join(PAKI_OF_OTHER_WORDS)})[^\W\d_]{{3}}")


def importance_of(text: str) -> float:
    """Return the importance of a text: 0.5 to 1.0, in steps of 0.1."""
    searched = plain(text)
    tenths = 5
    if _keywords.found_in(searched):
        tenths += 2
    tenths += "?" in text
    tenths += bool(_requests.found_in(searched)) or _joined_paki.search(searched) is not None
    tenths += len(text.split(maxsplit=MANY_WORDS)) > MANY_WORDS
    return min(tenths, 10) / 10
