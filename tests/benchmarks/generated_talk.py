"""Conversations without an end, in the words of the written sets and as often as these have them.

What a search costs depends on how many texts have a word. So a text is a chain of words, each one that follows the one
before somewhere in the sets, and a quarter of them any word; and where the sets have a word only once, it stands for
the names and rare words that never end: it is drawn with an ending of its own, more often a new one than a known one.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

from tests.benchmarks.recall_set import RecallSet, Turn

TURNS = 200  # of a session
LONG = 800  # characters; one of ten turns has at least so many
_LONG_SHARE = 0.1
_ANY_WORD_SHARE = 0.25
_ENDINGS = str.maketrans("0123456789", "aeioulnrst")
_FIRST_WORD = re.compile(r"[\W_]*[^\W_]+")

T = TypeVar("T")


class _Chain:
    """Texts as long as some written ones, of their words."""

    def __init__(self, chance: random.Random, texts: Sequence[str]) -> None:
        self._random = chance.random
        self._lengths = [len(text) for text in texts]
        divided = [text.split() for text in texts]
        self._words = [word for words in divided for word in words]
        self._firsts, self._lasts = [words[0] for words in divided], [words[-1] for words in divided]
        self._next: dict[str, list[str]] = defaultdict(list)
        for words in divided:
            for word, following in pairwise(words):
                self._next[word].append(following)
        self._rare = {
            word: (found[0], word[found.end() :])
            for word, times in Counter(self._words).items()
            if times == 1 and (found := _FIRST_WORD.match(word))
        }

    def text(self) -> str:
        most, size, words = self._any(self._lengths), 0, list[str]()
        word, last = self._any(self._firsts), self._any(self._lasts)
        while size + len(last) < most:
            words.append(self._spelt(word))
            size += len(word) + 1
            following = self._next.get(word)
            word = self._any(self._words if following is None or self._random() < _ANY_WORD_SHARE else following)
        return " ".join([*words, last])

    def _any(self, values: Sequence[T]) -> T:
        return values[int(self._random() * len(values))]  # a tenth of the time of random.choice

    def _spelt(self, word: str) -> str:
        if (parts := self._rare.get(word)) is None or (number := int(1 / (1 - self._random()))) == 1:
            return word
        return f"{parts[0]}{str(number).translate(_ENDINGS)}{parts[1]}"


def talk(sets: Sequence[RecallSet], turns: int, seed: int) -> Iterator[tuple[str, Turn]]:
    """Yield turns and their sessions, one session after the other, in the time that the sets have.

    Args:
        sets: whose words, lengths, speakers and time they have.
        turns: how many.
        seed: of the choices.
    """
    chance = random.Random(seed)
    sessions = [session for of in sets for session in of.sessions]
    written = sorted((turn for session in sessions for turn in session.turns), key=lambda turn: turn.at)
    short = _Chain(chance, [turn.text for turn in written if len(turn.text) < LONG])
    long = _Chain(chance, [turn.text for turn in written if len(turn.text) >= LONG] or [turn.text for turn in written])
    step: timedelta = (written[-1].at - written[0].at) / turns
    for number in range(turns):
        if number % TURNS == 0:
            speakers = [turn.speaker for turn in chance.choice(sessions).turns]
        chain = long if chance.random() < _LONG_SHARE else short
        turn = Turn(number % TURNS, chance.choice(speakers), written[0].at + number * step, chain.text())
        yield f"session {number // TURNS}", turn
