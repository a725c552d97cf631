"""How many tokens a text has, by a rule that needs no model and no network; pure.

A run of n letters or digits counts ceil(n / 4) tokens. A line break counts 1; so does a carriage return
with its line feed. Other white space counts nothing. Every other character, visible or not, counts 1:
punctuation, underscores, combining marks, control characters. Letters and digits are those of Unicode.

A longer text never has fewer tokens than its beginning, and two texts that are put together never have more
than both had.
"""

import re
from dataclasses import dataclass

LETTERS_PER_TOKEN = 4
LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # those of str.splitlines

_piece = re.compile(rf"\r\n|[{LINE_BREAKS}]|[^\W_]+|\S")


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of a text, and how many tokens it has; `whole` where nothing was cut off."""

    text: str
    tokens: int
    whole: bool


def count(text: str) -> int:
    """Return the number of tokens of a text."""
    return sum(_tokens_of(piece[0]) for piece in _piece.finditer(text))


def beginning(text: str, most: int) -> Beginning:
    """Return the longest beginning of a text that has at most `most` tokens; what comes after is not looked at."""
    tokens = 0
    for piece in _piece.finditer(text):
        of_piece = _tokens_of(piece[0])
        if tokens + of_piece > most:
            letters = (most - tokens) * LETTERS_PER_TOKEN  # 0 where the piece is one character: it has one token
            return Beginning(text[: piece.start() + letters], most, whole=False)
        tokens += of_piece
    return Beginning(text, tokens, whole=True)


def _tokens_of(piece: str) -> int:
    return 1 if piece == "\r\n" else -(-len(piece) // LETTERS_PER_TOKEN)
