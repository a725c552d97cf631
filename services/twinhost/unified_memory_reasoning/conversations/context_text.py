"""The text of a context, within its budget of tokens and bytes; pure.

A line begins with `[speaker]: `. A line break in the content continues on a line that begins with four spaces, so that
no content can start a line with `[`. A speaker contains no bracket and no line break. Characters that control a
terminal or change the reading direction are replaced by U+FFFD.

Lines are added in their order. Each takes at most half of the tokens, unless the lines after it leave it more or
nothing of it would fit. A line that doesn't fit is cut and ends with `…`; if not even its label and one token of its
content fit, it is dropped. White space at the end of a content is dropped. Further lines are added by the same rule
within what the first ones leave.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import msgspec

LETTERS_PER_TOKEN = 4
PREVIOUS_CHARACTERS = 500
LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # those of str.splitlines
INDENT = "    "
CUT = "\u2026"  # at the end of what was shortened
_JSON_ESCAPED = '"\\\n\t'  # one more byte each, in the JSON of the reply
_BREAK_BYTES = 2  # a line break in JSON

_piece = re.compile(rf"\r\n|[{LINE_BREAKS}]|[^\W_]+|\S")
_line_break = re.compile(rf"\r\n|[{LINE_BREAKS}]")
_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_controls = {
    code: "\ufffd"
    for code in (*range(0x20), *range(0x7F, 0xA0), *map(ord, _BIDIRECTIONAL))
    if chr(code) not in LINE_BREAKS and chr(code) != "\t"
}
_in_speaker = _controls | {ord(character): " " for character in f"{LINE_BREAKS}\t"} | {ord("["): "(", ord("]"): ")"}


class Utterance(msgspec.Struct, frozen=True):
    """One interaction, as far as texts and summaries need it.

    `kind` is code, user_query, system_response or error; `speaker` is empty if none was given; `importance` is 0 to 1.
    `previous` is the end of what another speaker said just before, where it matters. `at` is when it was said, in
    seconds since the epoch.
    """

    id: int
    kind: str
    speaker: str
    content: str
    importance: float
    previous: str = ""
    at: float = 0.0

    def after(self, before: "Utterance | None") -> "Utterance":
        """Return it with the end of the interaction before it, if that is another speaker's."""
        if before is None or (before.speaker or before.kind) == (self.speaker or self.kind):
            return self
        return msgspec.structs.replace(self, previous=before.content[-PREVIOUS_CHARACTERS:])


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of a text, and its number of tokens; `whole` if nothing was cut off."""

    text: str
    tokens: int
    whole: bool


def count(text: str) -> int:
    """Return the number of tokens of a text."""
    return sum(_tokens_of(piece[0]) for piece in _piece.finditer(text))


def beginning(text: str, most: int) -> Beginning:
    """Return the longest beginning of a text with at most `most` tokens, without reading the rest."""
    tokens = 0
    for piece in _piece.finditer(text):
        of_piece = _tokens_of(piece[0])
        if tokens + of_piece > most:
            letters = (most - tokens) * LETTERS_PER_TOKEN  # 0 if the piece is one character: it has one token
            return Beginning(text[: piece.start() + letters], most, whole=False)
        tokens += of_piece
    return Beginning(text, tokens, whole=True)


def _tokens_of(piece: str) -> int:
    return 1 if piece == "\r\n" else -(-len(piece) // LETTERS_PER_TOKEN)


def label(speaker: str, kind: str) -> str:
    """Return what a line begins with: the speaker, or the interaction's type if there is none."""
    return f"[{speaker.translate(_in_speaker) or kind}]: "


def lines_of(speaker: str, kind: str, content: str) -> str:
    """Return an interaction as one line and, if the content has line breaks, its continuations."""
    return label(speaker, kind) + _line_break.sub(f"\n{INDENT}", content.translate(_controls))


def one_line(content: str, most: int) -> str:
    """Return a content as one line of at most `most` characters, white space collapsed, `…` if it was cut."""
    text = " ".join(content[: most * 8].translate(_controls).split())
    return text if len(text) <= most and len(content) <= most * 8 else text[: most - 1] + CUT


@dataclass(frozen=True, slots=True)
class ContextText:
    """The text, its tokens, and the ids of the interactions that were cut and that were dropped."""

    text: str
    tokens: int
    cut: list[int]
    dropped: list[int]


def text_of(
    items: Iterable[Utterance], max_tokens: int, max_bytes: int, further: Iterable[Utterance] = ()
) -> ContextText:
    """Return the text of interactions.

    Args:
        items: the first interactions, in their order.
        max_tokens: the tokens of the whole text.
        max_bytes: its bytes as JSON in UTF-8.
        further: interactions for the space that is left.
    """
    first = _filled(items, max_tokens, max_bytes)
    if not first.text:
        rest = _filled(further, max_tokens, max_bytes)
        return ContextText(rest.text, rest.tokens, rest.cut, first.dropped + rest.dropped)
    bytes_left = max_bytes - _json_bytes(first.text) - _BREAK_BYTES
    rest = _filled(further, max_tokens - first.tokens - 1, bytes_left)
    return ContextText(
        f"{first.text}\n{rest.text}" if rest.text else first.text,
        first.tokens + rest.tokens + bool(rest.text),
        first.cut + rest.cut,
        first.dropped + rest.dropped,
    )


def _filled(items: Iterable[Utterance], max_tokens: int, max_bytes: int) -> ContextText:
    lines = [_Line(item, max_tokens, max_bytes) for item in items]
    texts: list[str] = []
    cut, dropped = [], []
    tokens, bytes_left = 0, max_bytes
    for place, line in enumerate(lines):
        room, of_bytes = max_tokens - tokens - bool(texts), bytes_left - _BREAK_BYTES
        fitted = line.fitted(min(room, max_tokens // 2), of_bytes)
        if fitted is None or not fitted.whole:
            unused = room - _needs(lines[place + 1 :], room)
            fitted = (line.fitted(unused, of_bytes) if unused > max_tokens // 2 else fitted) or line.fitted(
                room, of_bytes
            )
        if fitted is None:
            dropped.append(line.id)
            continue
        if not fitted.whole:
            cut.append(line.id)
        tokens += fitted.tokens + bool(texts)
        bytes_left -= _json_bytes(fitted.text) + _BREAK_BYTES
        texts.append(fitted.text)
    return ContextText("\n".join(texts), tokens, cut, dropped)


class _Line:
    """A line, rendered when it is first needed, and no longer than could fit."""

    def __init__(self, item: Utterance, max_tokens: int, max_bytes: int) -> None:
        self.id = item.id
        self._item, self._max_tokens, self._max_bytes = item, max_tokens, max(0, max_bytes)

    @cached_property
    def _text(self) -> Beginning:
        item = self._item
        stripped = item.content.rstrip()
        content = beginning(stripped[: self._max_bytes], self._max_tokens)
        text = lines_of(item.speaker, item.kind, content.text)
        return Beginning(text, 0, whole=content.whole and len(stripped) <= self._max_bytes)

    def tokens(self, most: int) -> int:
        """Return the tokens of the whole line, at most `most`, which is at most the budget."""
        return min(self._tokens, most) if self._text.whole else most

    @cached_property
    def _tokens(self) -> int:
        return beginning(self._text.text, self._max_tokens).tokens

    def fitted(self, most: int, max_bytes: int) -> Beginning | None:
        """Return as much of the line as fits; None if nothing of its content does."""
        if most <= 0 or max_bytes <= 0:
            return None
        whole = self._text.text
        small = _json_bytes(whole) <= max_bytes
        begun = beginning(whole, most)
        if begun.whole and small and self._text.whole:
            return begun
        # Escaped, a text has at most twice its bytes.
        short = whole if small else whole.encode()[: max(0, max_bytes // 2 - len(CUT.encode()))].decode(errors="ignore")
        text = beginning(short, most - 1).text.rstrip()
        begins = len(label(self._item.speaker, self._item.kind))
        return Beginning(text + CUT, count(text) + 1, whole=False) if len(text) > begins else None


def _needs(lines: list[_Line], most: int) -> int:
    """Return how many tokens lines take, with the line break before each, at most `most`."""
    needs = 0
    for line in lines:
        if needs >= most:
            break
        needs += line.tokens(most) + 1
    return min(needs, most)


def _json_bytes(text: str) -> int:
    return len(text.encode()) + sum(text.count(character) for character in _JSON_ESCAPED)
