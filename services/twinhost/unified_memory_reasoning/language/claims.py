"""Which texts contradict each other, by rules on their words; pure, and the same whatever came first.

A text makes claims, sentence by sentence, in its first 4,096 characters. A question, what is supposed, or a sentence of
more than MOST_WORDS, such as a line of metrics, makes none:

- a value of a subject: significant words, then a relation that has one value (`is`, `costs`, `lives`, `opens`, `moved
  to`, `ay`, `=`, a colon ...), then the value: *The rent of the box room is now 340 a month*, *Ben lives in Cebu*. In
  Filipino the value or the relation may be first: *Sa Lunes ang pulong*, *Nakatira si Ben sa Cebu*. The claim has the
  words of the subject in any order, the relation, a preposition, the kind of the value, and the word after a number.
- the only number, time, or day of a sentence in the present, with its other words: *The choir sings on Tuesdays*.
- a word of a subject that has one, such as a colour: *Lea's favourite colour is blue*.
- whether something is so: a sentence of few significant words, with or without a negation.
- a denial: `not`, `instead of`, `no longer`, `imbes na`, `huwag na` and the like before a value, in a text that
  states another value of that kind: *it comes to 355, not 340*.

Two texts contradict each other if they have the same subject with values that exclude each other, or if one denies a
value that the other states and does not deny, and they share a significant word or the value is rare. See `values`.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice
from typing import NamedTuple, TypeVar

from twinhost.unified_memory_reasoning.language.lexicon import DENIALS, NEGATIONS, words
from twinhost.unified_memory_reasoning.language.text import sentences_of
from twinhost.unified_memory_reasoning.language.values import EDGES, StatedValue, significant, values_of

MAX_CLAIMING_CHARACTERS = 4_096
MOST_COMPARED = 20  # texts, each with each other
MOST_PAIRS = 20  # that are named: a reply has room for them
COMPARED_CHARACTERS = 1_000  # of each: more than a passage has
MOST_VALUES = 24  # of a text
MOST_WORDS = 64  # of a sentence
LEAST_SUBJECT, MOST_SUBJECT = 2, 8  # significant words
MOST_OF_A_NAME = 4  # words of a person's name in Filipino
LEAST_STEM = 3  # characters that a final s follows
Id = TypeVar("Id")
Stated = tuple[int, int, StatedValue]  # where a value begins and ends
At = Mapping[int, tuple[int, StatedValue]]  # by where a value begins: where it ends, and the value

_clause_end = re.compile(r";\s+")
# What a subject has one value of, and the name that its forms share: *Ben lives in Cebu*, *Nakatira si Ben sa Davao*.
_RELATIONS = {
    form: forms.split()[0]
    for forms in (
        *("is are costs equals ay = moved changed went rose fell raised lowered becomes became naging",),
        *("lives live living resides stays nakatira tumitira", "works work working nagtatrabaho", "born ipinanganak"),
        *("opens open nagbubukas", "closes close nagsasara", "starts start begins begin nagsisimula", "ends end"),
        *(
            "leaves departs umaalis",
            "arrives dumarating",
            "weighs",
            "has have may",
            "runs",
            "drives",
            "married kasal",
            "studies",
        ),
        *("earns", "pays", "prefers", "reports"),
    )
    for form in forms.split()
}
_CHANGES = frozenset({"moved", "changed", "went", "rose", "fell", "raised", "lowered"})  # *to* a value
_COPULA = "is"
# What has one value, in whatever words: *the favourite colour is blue*.
_SINGLE = words(
    "colour color favourite favorite password passcode wifi status language hometown nickname size brand flavour "
    "flavor breed religion profession job occupation model theme kulay paborito paboritong pangalan trabaho"
)
_PREPOSITIONS = words("at on in by from to with for under near sa kay")
_FILLERS = words("up down back now still currently only already then the about around again called named ngayon ang")
_AUXILIARY = words("can do does is are will did don doesn isn aren won didn may meron")
_UNSURE = words(
    "no if when maybe kung used formerly previously dati might could would should wants baka siguro sana "
    "thinks think hopes said says unless"
)
_PAST = frozenset({"was", "were"})
_WHEN = frozenset({"date", "month", "time", "weekday"})
_LINKS = words("wag huwag mula hanggang each month day time imbes instead")  # not what a text is about
_SAME_PREPOSITION = {"at": "", "on": "", "in": "in", "to": "", "sa": "", "with": "", "for": ""}
_PARTICLES = frozenset({"na", "po", "pa", "rin", "lang", "nga", "ang", "yung", "si", "sa", "kay", "nasa"})
_AFTER_DENIAL = _PREPOSITIONS | _FILLERS | {"a", "an", "yung", "si"}


class Subject(NamedTuple):
    """What a claim is about, and the kind and unit of its value."""

    text: str


class Claims(NamedTuple):
    """What a text claims."""

    subjects: dict[Subject, StatedValue]
    stated: frozenset[StatedValue]
    denied: frozenset[StatedValue]
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
    if any(value.excludes(other.subjects.get(subject, value)) for subject, value in one.subjects.items()):
        return True
    denied = _denied(one, other) | _denied(other, one)
    return any(value.is_specific for value in denied) or bool(denied and (one.words & other.words))


def contradictions(texts: Sequence[tuple[Id, str]]) -> list[list[Id]]:
    """Return the pairs of the first MOST_COMPARED texts, by their ids, that contradict each other: MOST_PAIRS."""
    claims = [(of, claims_of(text[:COMPARED_CHARACTERS])) for of, text in texts[:MOST_COMPARED]]
    pairs = ([one, other] for (one, says), (other, denies) in combinations(claims, 2) if contradict(says, denies))
    return list(islice(pairs, MOST_PAIRS))


def _denied(one: Claims, other: Claims) -> frozenset[StatedValue]:
    """Return what one text denies and the other states."""
    return one.denied & (other.stated - other.denied)


def claims_of(text: str) -> Claims:
    """Return what the beginning of a text claims."""
    return _claims_of(text[:MAX_CLAIMING_CHARACTERS])


@lru_cache(maxsize=128)
def _claims_of(text: str) -> Claims:
    subjects: dict[Subject, StatedValue] = {}
    stated: dict[StatedValue, None] = {}
    denied: set[StatedValue] = set()
    about: set[str] = set()
    for sentence in _clauses(unicodedata.normalize("NFC", text)):
        if len(tokens := sentence.split()) > MOST_WORDS:
            continue
        values = list(values_of(tokens))
        of_values = {place for begin, end, value in values if value.kind != "name" for place in range(begin, end)}
        about.update(
            word for place, token in enumerate(tokens) if place not in of_values for word in significant(token)
        )
        if sentence.rstrip().endswith("?"):
            continue
        stated.update((value, None) for _, _, value in values)
        denied.update(value for begin, _, value in values if _is_denied(tokens, begin))
        for subject, value in _claims(tokens, values):
            if len(subjects) < MOST_VALUES:
                subjects.setdefault(subject, value)
    kept = frozenset(list(stated)[:MOST_VALUES])
    replaced = {value.kind for value in kept - denied}
    return Claims(
        subjects,
        kept,
        frozenset(value for value in denied & kept if value.kind in replaced),
        frozenset(about) - _LINKS - {value.text for value in denied},
    )


def _clauses(text: str) -> Iterator[str]:
    return (clause for sentence in sentences_of(text) for clause in _clause_end.split(sentence))


def _is_denied(tokens: list[str], begin: int) -> bool:
    before = [token.strip(EDGES).casefold() for token in tokens[max(0, begin - 4) : begin]]
    while before and before[-1] in _AFTER_DENIAL:
        before.pop()
    return " ".join(before).endswith(DENIALS)


def _claims(tokens: list[str], values: list[Stated]) -> Iterator[tuple[Subject, StatedValue]]:
    """Yield what a sentence claims: the value of a subject, and that the whole is so or not."""
    lower = [token.strip(EDGES).casefold().replace("\u2019", "'") for token in tokens]
    if not _UNSURE.isdisjoint(lower) or "may" in [token.strip(EDGES) for token in tokens[1:]]:  # not the month
        return
    negated = [word in NEGATIONS or word.endswith("n't") for word in lower]
    if not any(negated):
        at = {begin: (end, value) for begin, end, value in values}
        related = filter(None, (_of_relation(tokens, lower, at, place) for place in range(len(tokens))))
        claim = next(related, None) or _value_first(tokens, lower, values)
        if claim is not None:
            yield claim
        if (framed := _framed(tokens, lower, values)) is not None:
            yield framed
    if _PAST.isdisjoint(lower) and sum(negated) <= 1:
        words = {_stem(word) for token in tokens for word in significant(token)} - _AUXILIARY - NEGATIONS - _FILLERS
        if LEAST_SUBJECT <= len(words) <= MOST_SUBJECT:
            yield Subject(f"whether {' '.join(sorted(words))}"), StatedValue("whether", "no" if any(negated) else "yes")


def _framed(tokens: list[str], lower: list[str], values: list[Stated]) -> tuple[Subject, StatedValue] | None:
    """Return the only value of a sentence in the present, names apart, as that of its other words."""
    measured = [stated for stated in values if stated[2].kind != "name"]
    if len(measured) != 1 or any(word.endswith("ed") or word in _PAST for word in lower):
        return None
    begin, end, value = measured[0]
    before = lower[begin - 1] if begin and lower[begin - 1] in _PREPOSITIONS else ""
    words = {_stem(word) for token in (*tokens[:begin], *tokens[end:]) for word in significant(token)} - _FILLERS
    if not LEAST_SUBJECT <= len(words) <= MOST_SUBJECT:
        return None
    return Subject(f"{value.kind} {before} of {' '.join(sorted(words))}"), value


def _of_relation(tokens: list[str], lower: list[str], values: At, place: int) -> tuple[Subject, StatedValue] | None:
    """Return the subject before a relation and the value after it; in Filipino the subject may follow."""
    relation, colon = _RELATIONS.get(lower[place], ""), tokens[place].endswith(":")
    if lower[place - 1 : place + 1] == ["will", "be"] or (colon and not relation):
        relation = _COPULA
    if not relation:
        return None
    change = lower[place] in _CHANGES
    if not (change or relation == "born") and not _PAST.isdisjoint(lower[:place]):
        return None
    about = tokens[: place + colon]
    place += 1
    if not about and lower[place : place + 1] == ["si"]:
        name, place = place + 1, place + 2  # of one word, or of several before a preposition
        following = enumerate(lower[place : name + MOST_OF_A_NAME + 1], place)
        place = next((at for at, word in following if word in _PREPOSITIONS), place)
        about = tokens[name:place]
    preposition = ""
    while place < len(lower) and (
        lower[place] in _FILLERS or lower[place] in _PREPOSITIONS or lower[place] in ("a", "an", "si")
    ):
        preposition = lower[place] if lower[place] in _PREPOSITIONS else preposition
        place += 1
    if change and preposition != "to":
        return None
    stated = values.get(place)
    is_name = stated is not None and stated[1].kind == "name"
    if relation == _COPULA and (stated is None or is_name) and not _SINGLE.isdisjoint(subject := _subject(about)):
        said = [word for token in tokens[place : place + 2] for word in significant(token)]
        return (Subject(f"word {' '.join(sorted(subject))}"), StatedValue("word", " ".join(said))) if said else None
    if stated is None:
        return None
    return _stated(_subject(about), relation, preposition, stated, tokens)


def _value_first(tokens: list[str], lower: list[str], values: list[Stated]) -> tuple[Subject, StatedValue] | None:
    """Return the claim of a Filipino sentence that begins with the value: *Sa Lunes ang pulong*."""
    begin, end, value = values[0] if values else (0, 0, None)
    if value is None or not _PARTICLES.issuperset(lower[:begin]):
        return None
    place = end
    while place < len(lower) and lower[place] in _PARTICLES:
        place += 1
    if not {"ang", "yung"} & set(lower[end:place]):
        return None
    return _stated(_subject(tokens[place:]), _COPULA, "", (len(tokens), value), tokens)


def _stated(
    subject: set[str], relation: str, preposition: str, stated: tuple[int, StatedValue], tokens: list[str]
) -> tuple[Subject, StatedValue] | None:
    end, value = stated
    least = LEAST_SUBJECT if relation == _COPULA and value.kind not in _WHEN else 1
    if not least <= len(subject) <= MOST_SUBJECT:
        return None
    unit = next(iter(significant(tokens[end])), "") if value.kind == "number" and end < len(tokens) else ""
    how = "" if relation != _COPULA else _SAME_PREPOSITION.get(preposition, preposition)
    return Subject(f"{value.kind} {how} {relation} {unit} {' '.join(sorted(subject))}"), value


def _subject(tokens: list[str]) -> set[str]:
    return {word for token in tokens for word in significant(token)} - _FILLERS


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > LEAST_STEM else word
