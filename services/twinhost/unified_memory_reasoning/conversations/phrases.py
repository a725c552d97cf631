"""Words and phrases found in a text: whole ones, in any case, whatever white space or apostrophe is between; pure.

It takes time in proportion to the text, whatever is in it.
"""

from collections.abc import Iterable, Iterator


def plain(text: str) -> str:
    """Return a text for the search: in lower case, one space for any white space, `'` for `’`."""
    return " ".join(text.casefold().replace("\u2019", "'").split())


class Phrases:
    """Some phrases; what `plain` returns is searched."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = tuple(plain(phrase) for phrase in phrases)

    def found_in(self, plain_text: str) -> "Phrases":
        """Return those that stand in a text as whole words."""
        return Phrases(each for each in self._phrases if any(_places(each, plain_text)))

    def places_in(self, plain_text: str) -> Iterator[int]:
        """Yield where any of them begins, phrase by phrase."""
        for phrase in self._phrases:
            yield from (end - len(phrase) for end in _places(phrase, plain_text))

    def __bool__(self) -> bool:
        return bool(self._phrases)


def _places(phrase: str, text: str) -> Iterator[int]:
    """Yield where a phrase ends, each time that it stands there as whole words."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if not (_of_word(text[start - 1 : start]) or _of_word(text[end : end + 1])):
            yield end
        start = text.find(phrase, end)


def _of_word(character: str) -> bool:
    return character.isalnum() or character == "_"
