"""How what was said is written as lines that nobody can forge; pure.

A line begins with `[speaker]: `. A line break in the content continues on a line that begins with four
spaces, so that no content starts a line with `[`. A speaker has no bracket and no line break in it.
Characters that steer a terminal or turn the reading direction stand as U+FFFD.
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


INDENT = "    "
CUT = "\u2026"  # at the end of what was shortened

_line_break = re.compile(rf"\r\n|[{LINE_BREAKS}]")
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the bidirectional controls
_steering = {
    code: "\ufffd"
    for code in (*range(0x20), *range(0x7F, 0xA0), *map(ord, _TURNING))
    if chr(code) not in LINE_BREAKS and chr(code) != "\t"
}
_in_speaker = _steering | {ord(character): " " for character in f"{LINE_BREAKS}\t"} | {ord("["): "(", ord("]"): ")"}


def label(speaker: str, kind: str) -> str:
    """Return what a line begins with; the interaction's type stands where no speaker was told."""
    return f"[{speaker.translate(_in_speaker) or kind}]: "


def lines_of(speaker: str, kind: str, content: str) -> str:
    """Return what was said as one line and, where the content has line breaks, its continuations."""
    return label(speaker, kind) + _line_break.sub(f"\n{INDENT}", content.translate(_steering))


def one_line(content: str, most: int) -> str:
    """Return a content as one line of at most `most` characters, white space together, `…` where it was cut."""
    text = " ".join(content[: most * 8].translate(_steering).split())
    return text if len(text) <= most and len(content) <= most * 8 else text[: most - 1] + CUT
