"""How many tokens a text has: by a tokenizer's file, else by an estimate that is an upper bound in practice.

The estimate counts, for byte-level and SentencePiece vocabularies of 32,000 tokens and more:

* an English stop word: 1;
* another word of ASCII letters: 1 for 2.5 letters, rounded up; a part in capitals: 1 for 1.5 letters; a capital begins
  a part (`camelCase` has two);
* letters and digits without a gap, with a digit among them: 1 each, and 1 for a space before them;
* another visible ASCII character, a line break, a tab: 1; a run of two and more spaces: 1 each, a single space nothing;
* anything else: its bytes in UTF-8, which no such vocabulary exceeds.

tests/benchmarks/NOTES.md has what was measured with public tokenizers.
"""

import importlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.unified_memory_reasoning.language import ENGLISH_STOP_WORDS

_LONGEST = 32  # characters of a piece, which the cache keeps; a longer run is several pieces
_piece = re.compile(rf" ?[A-Za-z0-9]{{1,{_LONGEST}}}| {{1,{_LONGEST}}}|[^ A-Za-z0-9]{{1,{_LONGEST}}}")
_part = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


class Tokens(Protocol):
    """Counts tokens."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""

    def beginning(self, text: str, most: int) -> str:
        """Return a beginning of a text with at most `most` tokens, as long as can be."""


class Estimate:
    """Counts by the rule of this module."""

    def count(self, text: str) -> int:
        return sum(map(_tokens_of, _piece.findall(text)))

    def beginning(self, text: str, most: int) -> str:
        for piece in _piece.finditer(text):
            tokens = _tokens_of(piece[0])
            if tokens > most:
                end = piece.start()
                for character in "" if _is_one(piece[0]) else piece[0]:
                    most -= _tokens_of(character)
                    if most < 0:
                        break
                    end += 1
                return text[:end]
            most -= tokens
        return text


def _is_one(piece: str) -> bool:
    """Return whether a piece is a word or a gap, and not a run of characters that count by themselves."""
    return piece[0] == " " or (piece[0].isascii() and piece[0].isalnum())


@lru_cache(maxsize=16_384)
def _tokens_of(piece: str) -> int:
    if not piece.isascii():
        return len(piece.encode(errors="surrogatepass"))
    word = piece.lstrip(" ")
    if not word.isalpha():
        return 0 if piece == " " else len(piece)
    return 1 if word.lower() in ENGLISH_STOP_WORDS else sum(map(_tokens_of_part, _part.findall(word)))


def _tokens_of_part(part: str) -> int:
    return -(-2 * len(part) // (3 if len(part) > 1 and part.isupper() else 5))


class Tokenizer:
    """Counts by a `tokenizer.json`, with the `tokenizers` library."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def count(self, text: str) -> int:
        return len(self._encoded(text).ids)

    def beginning(self, text: str, most: int) -> str:
        """Cut where a token ends; what is cut may have another division, so it is counted again."""
        while True:
            offsets = self._encoded(text).offsets
            if len(offsets) <= most:
                return text
            text = text[: min(offsets[most][0], len(text) - 1)]

    def _encoded(self, text: str) -> Any:
        return self._library.encode(text, add_special_tokens=False)


def tokens_by(file: Path | None) -> Tokens:
    """Return what counts tokens: by a tokenizer's file, or by the estimate if none is given.

    Raises:
        ConfigurationError: the file is not readable as a tokenizer, or the library is not installed.
    """
    if file is None:
        return Estimate()
    try:
        library = importlib.import_module("tokenizers").Tokenizer
    except ImportError:
        raise ConfigurationError(
            f"recall.tokenizer names {file}, but the library `tokenizers` is not installed; in the project's folder, "
            "`pip install '.[tokenizer]'` installs it; without that line in the configuration, tokens are estimated"
        ) from None
    try:
        tokenizer = library.from_str(file.read_text("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except Exception as error:  # noqa: BLE001 - the library raises no narrower one
        raise ConfigurationError(
            f"recall.tokenizer names {file}, which can't be read as a tokenizer.json: {error}; "
            "give the path of a file in that format, or remove the line: tokens are then estimated"
        ) from None
    return Tokenizer(tokenizer)
