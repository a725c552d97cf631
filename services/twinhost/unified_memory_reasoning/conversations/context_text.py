"""The text of a context: turns in a fence, within a budget of tokens and bytes; pure. `fence` has the form.

Turns are in the order of time. A heading with the day (UTC) and the caller that wrote them precedes them where one of
these changes, and in a context of several sessions where the session does, which it names then. Memories are passages
among the turns, with `memories` in place of the session.

A turn takes at most half of the tokens, unless nothing else needs them. Of a longer one, the beginning is quoted; `…`
stands for what is left out. White space at the end of a content is dropped.
"""

from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from twinhost.fence import (
    CUT,
    MEMORIES,
    closing,
    enclosed,
    heading,
    indented,
    label,
    new_tag,
    opening,
    session_named,
    without_fence,
)

if TYPE_CHECKING:
    from twinhost.secure_zmq.actions import InParts
    from twinhost.unified_memory_reasoning.conversations.tokens import Tokens

PREVIOUS_CHARACTERS = 500
_JSON_ESCAPED = '"\\\n\t'  # one more byte each, in the JSON of the reply
_BREAK_BYTES = 2  # a line break in JSON
_FIRST_DAY, _DAY_S = date(1970, 1, 1), 86_400
_SMALLEST_TOKENS = 8  # of a turn; with less left, nothing more is tried
_LEAST_SHARE = 4  # a turn is cut to what is left of the tokens if that is a quarter of them
_CHARACTERS_PER_TOKEN = 16  # at most
_MOST_MISSES = 12  # turns that don't fit, one after the other, until no more are tried
_MOST_COUNTED = 200_000  # tokens of what is tried, about 15 ms; then nothing more is tried


class Utterance(msgspec.Struct, frozen=True):
    """One interaction, as far as texts and summaries need it.

    `kind` is code, user_query, system_response or error; `speaker` is empty if none was given; `importance` is 0 to 1.
    `previous` is the end of what another speaker said just before, where it matters, and `previous_id` its id. `at` is
    when it was said, in seconds since the epoch.
    """

    id: int
    kind: str
    speaker: str
    content: str
    importance: float
    previous: str = ""
    at: float = 0.0
    previous_id: int = 0

    def after(self, before: "Utterance | None") -> "Utterance":
        """Return it with the end of the interaction before it, if that is another speaker's."""
        if before is None or (before.speaker or before.kind) == (self.speaker or self.kind):
            return self
        end = before.content[-PREVIOUS_CHARACTERS:]
        return msgspec.structs.replace(self, previous=end, previous_id=before.id)


class Turn(msgspec.Struct, frozen=True):
    """One interaction, as a context quotes it; `at` in seconds.

    `longer` if `content` is only a part, and `follows` if that is not its beginning. A memory has its `memory_id`, no
    session, and its row in the index as the `id`.
    """

    id: int
    session_id: str
    kind: str
    speaker: str
    content: str
    longer: bool
    written_by: str
    at: float
    memory_id: str = ""
    follows: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    turn: Turn
    text: str
    whole: bool
    more: bool = False  # of what was read could be shown


class ContextText:
    """A text to which turns are added, the most important first, as long as they fit."""

    def __init__(
        self,
        tokens: "Tokens",
        max_tokens: int,
        max_bytes: int,
        *,
        names_sessions: bool = False,
        tag: str | None = None,
    ) -> None:
        self.tag = tag or new_tag()
        self.max_tokens, self._max_bytes, self._tokens = max_tokens, max_bytes, tokens
        self._names_sessions = names_sessions
        self._lines: list[_Line] = []  # in the order of time
        self._added: dict[int, _Line] = {}  # by id, the most important first
        self._refused: dict[int, Turn] = {}  # the same
        self._costs: dict[str, tuple[int, int]] = {"": (0, 0)}
        self._counted = 0
        self._text: str | None = ""  # None: to be made of the lines
        self._settled = "", 0  # the text that was counted as a whole last, and its tokens
        self._used, self._bytes = self._fence = self._cost(f"{opening(self.tag)}\n{closing(self.tag)}")

    def __contains__(self, number: int) -> bool:
        return number in self._added

    @property
    def turns(self) -> list[Turn]:
        """The turns in the text, in its order."""
        return [line.turn for line in self._lines]

    @property
    def by_importance(self) -> list[Turn]:
        """The turns in the text, the most important first."""
        return [line.turn for line in self._added.values()]

    @property
    def cut(self) -> list[int]:
        """The ids of the interactions that are not whole."""
        return [line.turn.id for line in self._lines if not line.whole and not line.turn.memory_id]

    @property
    def used(self) -> int:
        """The tokens so far, those of the fence included."""
        return self._used

    @property
    def text(self) -> str:
        """The whole text; empty if it has no turn."""
        if self._text is None:
            parts: list[str] = []
            for before, line in zip([None, *self.turns], self._lines, strict=False):
                header = self._header(before, line.turn)
                parts += [header, line.text] if header else [line.text]
            self._text = enclosed("\n".join(parts), self.tag) if parts else ""
        return self._text

    def fill(self, turns: Iterable[Turn], most: int, *, in_part: bool = False) -> "InParts[None]":
        """Add turns, the first ones first, skipping those with which the text would have more than `most` tokens.

        Each turn is a part.

        Args:
            turns: whatever has most to do with what the text is for comes first.
            most: tokens of the whole text.
            in_part: whether a turn is cut to what is left, if that is much, instead of being skipped.
        """
        most, misses = min(most, self.max_tokens), 0
        for turn in turns:
            if most - self._used < _SMALLEST_TOKENS or misses == _MOST_MISSES or self._counted > _MOST_COUNTED:
                break
            yield
            if turn.id in self._added:
                continue
            half = self.max_tokens // 2
            if self._add(turn, most, half) or (
                in_part and most - self._used >= self.max_tokens // _LEAST_SHARE and self._add(turn, most)
            ):
                misses = 0
            else:
                misses += 1
                refused = self._refused.get(turn.id)
                if refused is None or len(refused.content) < len(turn.content):
                    self._refused[turn.id] = turn

    def settle(self) -> int:
        """Count the text as a whole; remove the least important turns while it has too many tokens.

        Returns:
            its tokens.
        """
        while (tokens := self._count_whole(text := self.text)) > self.max_tokens:
            self._remove(self._added.popitem()[1])
        ids = sum(map(_id_bytes, self.turns))
        self._used, self._bytes = (tokens, _json_bytes(text) + ids) if text else self._fence
        return tokens

    def complete(self) -> "InParts[int]":
        """Use up what is left for turns that were cut, then for those that didn't fit; return the text's tokens."""
        self.settle()
        yield
        for line in [line for line in self._added.values() if line.more]:
            if self.max_tokens - self._used < _SMALLEST_TOKENS or self._counted > _MOST_COUNTED:
                break
            self._remove(line)
            self.settle()
            if not self._add(line.turn, self.max_tokens):
                self._insert(bisect(self._lines, _place(line), key=_place), line)
            self.settle()
            yield
        for turn in self._refused.values():
            if self._counted > _MOST_COUNTED:
                break
            if turn.id not in self._added and self.max_tokens - self._used >= _SMALLEST_TOKENS:
                self._add(turn, self.max_tokens)
                yield
        return self.settle()

    def _insert(self, place: int, line: _Line) -> None:
        self._lines.insert(place, line)
        self._text = None

    def _remove(self, line: _Line) -> None:
        self._lines.remove(line)
        self._text = None

    def _count_whole(self, text: str) -> int:
        if text != self._settled[0]:
            self._settled = text, self._tokens.count(text)
        return self._settled[1]

    def _add(self, turn: Turn, most: int, cut_to: int | None = None) -> bool:
        """Add a turn if the text then has at most `most` tokens; cut it to `cut_to`, or to what is left."""
        place = bisect(self._lines, (turn.at, turn.id), key=_place)
        before = self._lines[place - 1].turn if place else None
        after = self._lines[place].turn if place < len(self._lines) else None
        new, following = self._cost(self._header(before, turn)), self._cost(self._header(turn, after))
        old = self._cost(self._header(before, after))
        left = most - self._used - new[0] - following[0] + old[0]
        bytes_left = self._max_bytes - self._bytes - new[1] - following[1] + old[1]
        line = self._line(turn, left - 1 if cut_to is None else cut_to, bytes_left)
        if line is None:
            return False
        tokens, size = self._cost(line.text)
        size += _id_bytes(turn)
        if tokens > left or size > bytes_left:
            return False
        self._insert(place, line)
        self._added[turn.id] = line
        self._used, self._bytes = most - left + tokens, self._max_bytes - bytes_left + size
        return True

    def _line(self, turn: Turn, most: int, max_bytes: int) -> _Line | None:
        """Return as much of a turn as fits; None if nothing of its content does."""
        content = turn.content.rstrip()
        name = label(turn.speaker, turn.kind) + (CUT if turn.follows else "")
        end = max(0, most) * _CHARACTERS_PER_TOKEN
        if len(content) <= end:
            text = without_fence(name + indented(content)) + (CUT if turn.longer else "")
            tokens, size = self._cost(text)
            if tokens <= most + 1 and size <= max_bytes:
                return _Line(turn, text, whole=not (turn.longer or turn.follows))
        part = self._beginning(name, indented(content[:end]), most, max_bytes)
        if not part.strip():
            return None
        return _Line(turn, without_fence(f"{name}{part}".rstrip() + CUT), whole=False, more=True)

    def _beginning(self, name: str, content: str, most: int, max_bytes: int) -> str:
        """Return as much of a content as fits beside a name."""
        size = max(0, max_bytes // 2 - _BREAK_BYTES - len(f"{name}{CUT}".encode()))  # escaped, it is at most twice
        most -= self._tokens.count(name) + self._tokens.count(CUT)
        self._counted += max(0, most)
        return self._tokens.beginning(_first_bytes(content, size), max(0, most))

    def _header(self, before: Turn | None, turn: Turn | None) -> str:
        """Return the line between two turns, empty if there is none."""
        if turn is None:
            return ""
        line = self._heading(turn)
        return "" if before is not None and self._heading(before) == line else line

    def _heading(self, turn: Turn) -> str:
        place = MEMORIES if turn.memory_id else session_named(turn.session_id)
        return heading(turn.written_by, day_of(turn.at), place if self._names_sessions else "")

    def _cost(self, text: str) -> tuple[int, int]:
        """Return the tokens and the bytes of a line, with the line break after it; none if it is empty."""
        if text not in self._costs:
            self._costs[text] = self._tokens.count(text) + 1, _json_bytes(text) + _BREAK_BYTES
            self._counted += self._costs[text][0]
        return self._costs[text]


def _place(line: _Line) -> tuple[float, int]:
    return line.turn.at, line.turn.id


def day_of(at: float) -> str:
    """Return the day (UTC) of a time in seconds since the epoch."""
    return _date(int(at // _DAY_S))


@lru_cache(maxsize=4_096)
def _date(days: int) -> str:
    return (_FIRST_DAY + timedelta(days)).isoformat()


def _first_bytes(text: str, most: int) -> str:
    return text.encode()[: max(0, most)].decode(errors="ignore")


def _id_bytes(turn: Turn) -> int:
    """Return the bytes of a memory's id, which the reply names beside the text."""
    return len(msgspec.json.encode(turn.memory_id)) + 1 if turn.memory_id else 0


def _json_bytes(text: str) -> int:
    return len(text.encode()) + sum(text.count(character) for character in _JSON_ESCAPED)
