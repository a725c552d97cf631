"""The question set: a store of any size with facts in it, and a question for each, all of one seed.

What is in it, as shares of the store or of the facts:

- One text in 250 is a fact, at least 20; the language of its kind decides its own (6 kinds English, 5 Filipino).
- Each fact has 4 to 24 touching texts: they name its subject and its matter and state nothing. A third of the facts
was stated before with another value; the newest is the answer and the older ones count as wrong.
- Half of the facts are stressed by their speaker (`Remember: ...`). One in 20 touching texts is stressed as well. The
  importance of every text is what the agent's own rule makes of it, never set by hand.
- One fact in five is a memory, the others are interactions. A memory was reinforced 0 to 8 times, last accessed
  between its making and now. An interaction has strength 1.
- The rest is talk: 4 to 40 words of the everyday words of one language, the frequent ones more often (Zipf), a name
  of a service or a person in one text of four.
- The age of every text but a memory's last access is even over 180 days. Sessions: one for every 50 texts.

A question has its subject, and other words or other forms than its fact in part.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.benchmarks import recall_phrases as phrases
from tests.benchmarks.recall_phrases import KINDS, Kind
from twinhost.unified_memory_reasoning.conversations.importance import importance_of

DAY_S = 86_400.0
AGES_DAYS = 180
TEXTS_PER_FACT = 250
FEWEST_FACTS = 20
TEXTS_PER_SESSION = 50


@dataclass(frozen=True, slots=True)
class Text:
    """A text of the store; `fact` is the number of the fact that it states, and the answer to that question."""

    content: str
    session_id: str
    speaker: str
    importance: float
    created: float
    fact: int | None = None
    memory: bool = False
    strength: float = 1.0
    last_accessed: float = 0.0


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the number of the fact that answers it."""

    query: str
    language: str
    fact: int


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Texts in the order of their making, and the questions."""

    texts: Sequence[Text]
    questions: Sequence[Question]


class _Maker:
    def __init__(self, size: int, seed: int, now: float) -> None:
        self._random = random.Random(seed)
        self._size, self._now = size, now
        services = [f"{one}-{two}" for one in phrases.ADJECTIVES for two in phrases.ANIMALS]
        people = [f"{one} {two}" for one in phrases.FIRST_NAMES for two in phrases.LAST_NAMES]
        self._names = {"service": services, "person": people}
        self._unused = {kind: self._random.sample(names, len(names)) for kind, names in self._names.items()}
        self._talk = [
            (words, list(itertools.accumulate(1 / (rank + 2) for rank in range(len(words)))))
            for words in (phrases.ENGLISH_TALK, phrases.FILIPINO_TALK)
        ]

    def make(self) -> QuestionSet:
        texts: list[Text] = []
        questions: list[Question] = []
        for fact in range(max(FEWEST_FACTS, self._size // TEXTS_PER_FACT)):
            kind = KINDS[fact % len(KINDS)]
            subject = self._unused[kind.subject].pop()
            texts += self._of_fact(fact, kind, subject)
            questions.append(Question(self._random.choice(kind.asked).format(s=subject), kind.language, fact))
        texts += (self._text(self._small_talk()) for _ in range(self._size - len(texts)))
        return QuestionSet(sorted(texts, key=lambda text: text.created), questions)

    def _of_fact(self, fact: int, kind: Kind, subject: str) -> Iterator[Text]:
        told = self._random.choice(kind.told)
        created = self._moment()
        stressed = self._random.random() < 0.5
        content = self._stressed(kind, told.format(s=subject, v=self._value(kind.value)), stressed)
        if self._random.random() < 1 / 3:
            before = told.format(s=subject, v=self._value(kind.value))
            yield self._text(self._stressed(kind, before, stressed), self._random.uniform(self._oldest, created))
            content = phrases.CHANGES[kind.language].format(content)
        if self._random.random() < 0.2:
            strength = min(5.0, 1.2 ** self._random.randrange(9))
            accessed = self._random.uniform(created, self._now)
            yield Text(content, "", "", 0.5, created, fact, memory=True, strength=strength, last_accessed=accessed)
        else:
            yield self._text(content, created, fact)
        for _ in range(self._random.randint(4, 24)):
            touched = self._random.choice(kind.touched).format(s=subject)
            if self._random.random() < 0.5:
                touched = f"{touched} {self._words(self._random.randint(1, 8))}"
            yield self._text(self._stressed(kind, touched, self._random.random() < 0.05))

    def _text(self, content: str, created: float | None = None, fact: int | None = None) -> Text:
        session = self._random.randrange(max(1, self._size // TEXTS_PER_SESSION))
        moment = self._moment() if created is None else created
        return Text(content, f"session-{session}", f"speaker-{session % 7}", importance_of(content), moment, fact)

    def _stressed(self, kind: Kind, content: str, stressed: bool) -> str:
        return self._random.choice(phrases.STRESSES[kind.language]).format(content) if stressed else content

    def _small_talk(self) -> str:
        content = self._words(self._random.randint(4, 40))
        if self._random.random() < 0.25:
            content = f"{content} {self._random.choice(self._names[self._random.choice(('service', 'person'))])}"
        return content + self._random.choices(("", "?", ", please"), (80, 15, 5))[0]

    def _words(self, count: int) -> str:
        words, weights = self._random.choice(self._talk)
        return " ".join(self._random.choices(words, cum_weights=weights, k=count))

    def _value(self, pool: str) -> str:
        if pool == "port":
            return str(self._random.randint(1_024, 65_535))
        if pool == "version":
            return ".".join(str(self._random.randint(0, 30)) for _ in range(3))
        if pool == "person":
            return self._random.choice(self._names["person"])
        pools = {
            "window": phrases.WINDOWS,
            "cause": phrases.CAUSES,
            "preference": phrases.PREFERENCES,
            "place": phrases.PLACES,
        }
        return self._random.choice(pools[pool])

    @property
    def _oldest(self) -> float:
        return self._now - AGES_DAYS * DAY_S

    def _moment(self) -> float:
        return self._random.uniform(self._oldest, self._now)


def make_question_set(size: int, seed: int, now: float) -> QuestionSet:
    """Return the set.

    Args:
        size: how many texts; with less than some 400, the facts and what touches them are more than asked for.
        seed: two sets of one size, seed, and moment are the same.
        now: the moment of asking, in seconds since the epoch.
    """
    return _Maker(size, seed, now).make()
