"""The text of a context within its budget: never more tokens than it may have, and what was left out; pure.

The lines go in by their order. One of them takes half of the tokens at most, unless the lines after it leave it
more, or nothing of it would fit. What does not fit whole is cut and ends with `…`; where not even its label and a
token of its content fit, it is left out. White space at the end of a content is not told.

Further lines go in after these by the same rule, as if the tokens and bytes that are left were all: they take
nothing from the first ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from twinhost.unified_memory_reasoning.conversations.rendering import CUT, Beginning, beginning, count, label, lines_of

_JSON_ESCAPED = '"\\\n\t'  # one more byte each, in the JSON of the reply
_BREAK_BYTES = 2  # a line break as JSON has it


@dataclass(frozen=True, slots=True)
class Line:
    """One interaction to be told."""

    id: int
    speaker: str
    kind: str
    content: str


@dataclass(frozen=True, slots=True)
class ContextText:
    """The text, its tokens, the interactions that are told in part, and those that are not told."""

    text: str
    tokens: int
    cut: list[int]
    dropped: list[int]


def text_of(lines: Iterable[Line], max_tokens: int, max_bytes: int, further: Iterable[Line] = ()) -> ContextText:
    """Return the text of the lines.

    Args:
        max_tokens: as `tokens.count` counts the whole text.
        max_bytes: of the text as JSON in UTF-8; what is over it is left out like what is over the tokens.
        further: lines for what is left then.
    """
    first = _filled(lines, max_tokens, max_bytes)
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


def _filled(lines: Iterable[Line], max_tokens: int, max_bytes: int) -> ContextText:
    rendered = [_Rendered(line, max_tokens, max_bytes) for line in lines]
    told: list[str] = []
    cut, dropped = [], []
    tokens, bytes_left = 0, max_bytes
    for place, line in enumerate(rendered):
        room, of_bytes = max_tokens - tokens - bool(told), bytes_left - _BREAK_BYTES
        fitted = line.fitted(min(room, max_tokens // 2), of_bytes)
        if fitted is None or not fitted.whole:
            unused = room - _needs(rendered[place + 1 :], room)
            fitted = (line.fitted(unused, of_bytes) if unused > max_tokens // 2 else fitted) or line.fitted(
                room, of_bytes
            )
        if fitted is None:
            dropped.append(line.id)
            continue
        if not fitted.whole:
            cut.append(line.id)
        tokens += fitted.tokens + bool(told)
        bytes_left -= _json_bytes(fitted.text) + _BREAK_BYTES
        told.append(fitted.text)
    return ContextText("\n".join(told), tokens, cut, dropped)


class _Rendered:
    """A line as it is written, made when it is first needed, and no longer than could fit."""

    def __init__(self, line: Line, max_tokens: int, max_bytes: int) -> None:
        self.id = line.id
        self._line, self._max_tokens, self._max_bytes = line, max_tokens, max(0, max_bytes)

    @cached_property
    def _text(self) -> Beginning:
        line = self._line
        said = line.content.rstrip()
        content = beginning(said[: self._max_bytes], self._max_tokens)
        text = lines_of(line.speaker, line.kind, content.text)
        return Beginning(text, 0, whole=content.whole and len(said) <= self._max_bytes)

    def tokens(self, most: int) -> int:
        """Return how many tokens the whole line has; `most`, which is no more than there may be, where it has more."""
        return min(self._tokens, most) if self._text.whole else most

    @cached_property
    def _tokens(self) -> int:
        return beginning(self._text.text, self._max_tokens).tokens

    def fitted(self, most: int, max_bytes: int) -> Beginning | None:
        """Return the line as far as it fits; None where nothing of its content does."""
        if most <= 0 or max_bytes <= 0:
            return None
        whole = self._text.text
        small = _json_bytes(whole) <= max_bytes
        begun = beginning(whole, most)
        if begun.whole and small and self._text.whole:
            return begun
        # Escaped, a text has no more than twice its bytes.
        short = whole if small else whole.encode()[: max(0, max_bytes // 2 - len(CUT.encode()))].decode(errors="ignore")
        text = beginning(short, most - 1).text.rstrip()
        begins = len(label(self._line.speaker, self._line.kind))
        return Beginning(text + CUT, count(text) + 1, whole=False) if len(text) > begins else None


def _needs(lines: list[_Rendered], most: int) -> int:
    """Return how many tokens lines take, with the line break before each; `most` where they take more."""
    needs = 0
    for line in lines:
        if needs >= most:
            break
        needs += line.tokens(most) + 1
    return min(needs, most)


def _json_bytes(text: str) -> int:
    return len(text.encode()) + sum(text.count(character) for character in _JSON_ESCAPED)
