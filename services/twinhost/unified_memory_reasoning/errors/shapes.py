r"""Shapes of error messages: patterns that match all messages that differ in numbers and names alone; pure.

A message's own shape is that of `agent.message_shape`.

Host names and bare words become `\S+` after several messages. Three messages that differ only in the same few words get
one shape if those words are names (with a dot, a hyphen, or a digit), or if each message has different ones. A shape
that was seen three times by itself, and so is proposed already, stays.

Programs word one error differently (*429 Too Many Requests*, *rate limit exceeded*). Shapes that name the same kinds of
error, of different writers, become one that matches any of them, once they were seen three times together.

Log parsers such as Drain find templates too, with state of their own; these rows are the only state here, and hide with
their writers.
"""

import re
from typing import NamedTuple

from twinhost.agent.message_shape import message_shape
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.unified_memory_reasoning.errors.matching import accept, matches
from twinhost.unified_memory_reasoning.errors.specificity import requirement_of

_LINES, _BEGIN, _END, BLANKS, _ANY_WORD = "(?m)", r"^\s*", r"\s*$", r"\s+", r"\S+"
_START = _LINES + _BEGIN
OR = "|^"  # between the shapes of a united one; a shape of a message has neither character unescaped after its start
_name = re.compile(r"\\\.|[-_@]|\[0-9]")  # in the shape of a word that is a name, such as a host's
_MOST_VARIABLES = 3  # words of a shape in which messages may differ, and at most a third of its words
_MOST_PLACES = 12  # sets of words, each alone and with another
FEWEST_LITERALS = 8  # a shape with fewer characters of its own is too general


def shape_of(message: str) -> str | None:
    """Return the shape of a message, a pattern that matches it; None if the shape is too general."""
    shape = message_shape(message)
    return shape if is_specific(shape, message) else None


def is_specific(shape: str, message: str) -> bool:
    """Return whether a shape is a pattern that would be accepted, matches a message, and requires enough of it."""
    try:
        accept(shape)
    except MalformedRequest:
        return False
    requirement = requirement_of(shape)
    if requirement.general or requirement.specificity.literals < FEWEST_LITERALS:
        return False
    return matches(shape, message.encode(errors="replace"))


class SeenShape(NamedTuple):
    """A stored shape, and how often visible writers saw it; 0 if it is dismissed."""

    id: int
    pattern: str
    seen: int


def _words(shape: str) -> list[str]:
    return shape.removeprefix(_START).removesuffix(_END).split(BLANKS)


def _differences(words: list[str], known: str) -> frozenset[int]:
    """Return the places in which words differ from those of another shape; its variables match any word."""
    pairs = enumerate(zip(words, _words(known), strict=True))
    return frozenset(place for place, (word, other) in pairs if other not in (word, _ANY_WORD))


def generalised(shape: str, stored: list[SeenShape], enough: int) -> tuple[str, list[int]]:
    """Return the shape under which a message is counted, and the ids of the shapes that it replaces.

    Args:
        shape: the message's own.
        stored: the stored shapes with as many words.
        enough: how many messages make a word a variable.
    """
    words, end = _words(shape), _END * shape.endswith(_END)
    most = min(_MOST_VARIABLES, len(words) // 3)
    near = {
        known: places
        for known in stored
        if known.pattern.endswith(_END) == bool(end) and len(places := _differences(words, known.pattern)) <= most
    }
    covering = [known for known, places in near.items() if not places]
    if any(known.pattern == shape and not known.seen for known in covering):
        return shape, []
    if general := [known.pattern for known in covering if known.pattern != shape]:
        return min(general, key=lambda pattern: pattern.count(_ANY_WORD)), []
    few = sorted(set(near.values()), key=lambda places: (len(places), sorted(places)))[:_MOST_PLACES]
    together = {one | other for one in few for other in few if 0 < len(one | other) <= most}
    for places in sorted(together, key=lambda places: (len(places), sorted(places))):
        alike = [known for known, differ in near.items() if 0 < known.seen < enough and differ <= places]
        values = {
            tuple(_words(text)[place] for place in places) for text in (shape, *(known.pattern for known in alike))
        }
        names = all(_name.search(word) for value in values for word in value)
        if len(values) >= (2 if names else enough) and sum(known.seen for known in alike) + 1 >= enough:
            words_and_variables = BLANKS.join(
                _ANY_WORD if place in places else word for place, word in enumerate(words)
            )
            return f"{_START}{words_and_variables}{end}", [known.id for known in alike]
    return shape, []


def branch_of(shape: str) -> str:
    """Return a shape as a united one contains it."""
    return shape.removeprefix(_LINES)


def united(shape: str, missing: int, others: list[SeenShape]) -> tuple[str, list[int]]:
    """Return a shape that also matches what others do, and their ids; the shape itself if they don't suffice.

    Args:
        shape: the message's own.
        missing: how often the others must have been seen together.
        others: shapes of the same error in other words, the most similar first; as few as suffice are taken.
    """
    taken: list[SeenShape] = []
    for other in others:
        if sum(known.seen for known in taken) >= missing:
            break
        taken.append(other)
    if sum(known.seen for known in taken) < missing:
        return shape, []
    branches = sorted(branch_of(branch) for branch in (shape, *(known.pattern for known in taken)))
    return _LINES + "|".join(branches), [known.id for known in taken]
