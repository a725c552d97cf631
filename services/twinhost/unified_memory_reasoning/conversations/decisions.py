"""The decisions in a text, by a stated rule, in English and Filipino; pure.

A sentence ends at `.`, `!` or `?` before white space, and at a line break. It is a decision if one of the
phrases below stands in it as whole words, unless it is a question, or a word that denies it stands among
the three words before the phrase (`we have not decided`, `hindi pa napagkasunduan`).
"""

import re
from collections.abc import Iterator

from twinhost.unified_memory_reasoning.conversations.phrases import Phrases, plain
from twinhost.unified_memory_reasoning.conversations.tokens import LINE_BREAKS

PHRASES = (
    "we decided",
    "we've decided",
    "we have decided",
    "i decided",
    "i've decided",
    "it was decided",
    "decided to",
    "decided on",
    "the decision is",
    "our decision",
    "final decision",
    "agreed",
    "we agree",
    "settled on",
    "we chose",
    "we will use",
    "we'll use",
    "we will go with",
    "we'll go with",
    "we are going with",
    "we're going with",
    "let's use",
    "let us use",
    "let's go with",
    "napagkasunduan",
    "nagkasundo",
    "napagpasyahan",
    "napagdesisyunan",
    "nagpasya",
    "nagdesisyon",
    "pinagpasyahan",
    "ang desisyon",
    "desisyon natin",
    "desisyon namin",
    "gagamitin natin",
    "gagamitin namin",
    "gamitin natin",
    "gamitin na natin",
    "pinili natin",
    "pinili namin",
    "piliin natin",
)
DENIALS = (
    "not",
    "never",
    "haven't",
    "hasn't",
    "hadn't",
    "didn't",
    "don't",
    "won't",
    "hindi",
    "wala",
    "walang",
    "huwag",
)
_WORDS_BEFORE = 3
_BEFORE_CHARACTERS = 96  # of what stands before a phrase; three words fit

_phrases = Phrases(PHRASES)
_denials = Phrases(DENIALS)
_end = re.compile(rf"(?<=[.!?])\s+|[{LINE_BREAKS}]+")


def decisions_in(text: str) -> Iterator[str]:
    """Yield the sentences of a text that tell of a decision, in their order."""
    phrases = _phrases.found_in(plain(text))
    if not phrases:
        return
    for sentence in _end.split(text):
        if _decides(plain(sentence), phrases):
            yield sentence.strip()


def _decides(sentence: str, phrases: Phrases) -> bool:
    if sentence.endswith("?"):
        return False
    return any(not _denied(sentence, start) for start in phrases.places_in(sentence))


def _denied(sentence: str, start: int) -> bool:
    before = sentence[max(0, start - _BEFORE_CHARACTERS) : start].split()[-_WORDS_BEFORE:]
    return next(_denials.places_in(" ".join(before)), None) is not None
