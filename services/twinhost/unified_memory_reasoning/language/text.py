"""Texts as the rules read them: sentences, words, and spellings that count as one."""

import re
import unicodedata

from twinhost.unified_memory_reasoning.language.lexicon import ABBREVIATIONS, STOP_WORDS

_WORD = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]")  # as NFD separates them
_NO_ABBREVIATION = "".join(rf"(?<!\b{word}\.)" for word in sorted(ABBREVIATIONS))
_SENTENCE_END = re.compile(rf"(?<=[.!?]){_NO_ABBREVIATION}\s+")


def plain(text: str) -> str:
    """Return a text as it is searched: in lower case, one space for any white space, `'` for `’`."""
    return " ".join(text.casefold().replace("\u2019", "'").split())


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text: they end with a mark before a space, or with the line."""
    parts = (part.strip() for line in text.splitlines() for part in _SENTENCE_END.split(line))
    return [sentence for sentence in parts if sentence]


def words_of(text: str) -> list[str]:
    """Return the words of a text in their order, in lower case: runs of letters and digits."""
    # And not the folded case, which FTS5 has of single letters alone.
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def names_of(text: str) -> list[str]:
    """Return the words of a name in their order, in lower case and without accents."""
    return words_of(without_accents(text.lower()))


def without_accents(text: str) -> str:
    """Return a text without accents, as the index compares it."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))


def is_stop_word(word: str) -> bool:
    """Return whether a word is too common in English or Filipino to say what a text is about."""
    return without_accents(word) in STOP_WORDS
