"""Which turns a context quotes: the newest, those that a search finds, and those of the summary.

A search in all sessions finds memories too, which are quoted as turns are.

The newest turns have a share of the budget, and so have the entries of the summary. Between them come the turns that
fit the question best; each brings the turn before it if that is a question, and if it is one itself, what follows it,
unless that is long. Of a long one that fits, its best passage is quoted, within a small budget from the sentence on
that fits best. What is left is filled with further ones of these, then with the newest.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import chain, tee

import msgspec

from twinhost.secure_zmq.actions import InParts
from twinhost.unified_memory_reasoning.conversations.context_text import ContextText, Turn
from twinhost.unified_memory_reasoning.conversations.interactions import ANY_BYTES, Interactions
from twinhost.unified_memory_reasoning.conversations.summary import SummaryPart
from twinhost.unified_memory_reasoning.memories.details import DETAILS
from twinhost.unified_memory_reasoning.search.filters import Filters
from twinhost.unified_memory_reasoning.search.index_tables import MEMORY_ROWS
from twinhost.unified_memory_reasoning.search.passages import passages_of, sentences_of
from twinhost.unified_memory_reasoning.search.search import Ranked, Ranking, Search
from twinhost.unified_memory_reasoning.search.vectors import NOTHING_NEAR, Nearness

NEWEST_SHARE = 0.1  # of the budget, if there is a question
SUMMARY_SHARE = 0.1  # half of it if there is a question
_BESIDE_CHARACTERS = 200  # of a turn that is quoted for the one that fits, at most
_BYTES_PER_TOKEN = 16  # of a content that is read
_MOST_RESULTS = 100
_TOKENS_OF_RESULT = 30
_TOGETHER = 16  # results whose neighbours are read together


def filters_of(session_id: str, speakers: tuple[str, ...] | None, *, everywhere: bool) -> Filters:
    """Return where the turns that fit a question are searched."""
    return Filters(session_id=None if everywhere else session_id, speakers=speakers)


class Recollection:
    """Fills the text of a context from the memory of one session, or of all."""

    def __init__(self, interactions: Interactions, search: Search) -> None:
        self._interactions = interactions
        self._search = search

    def fill(
        self,
        text: ContextText,
        summary: SummaryPart,
        session_id: str,
        *,
        speaker: str | None = None,
        query: str | None = None,
        everywhere: bool = False,
        nearness: Nearness = NOTHING_NEAR,
    ) -> InParts[int]:
        """Fill a text, and return its tokens.

        Args:
            text: an empty one.
            summary: the session's.
            session_id: the session.
            speaker: only what this speaker said.
            query: the question; without one, the newest turns and the summary alone.
            everywhere: whether the search is in all sessions, and in the memories.
            nearness: how near passages are to the question's meaning.
        """
        max_tokens = text.max_tokens
        most_bytes = max_tokens * _BYTES_PER_TOKEN
        newest, newest_again = tee(self._interactions.newest(session_id, speaker, most_bytes))
        of_summary = int(SUMMARY_SHARE * max_tokens / (1 if query is None else 2))
        if query is None:
            yield from text.fill(newest, max_tokens - of_summary)
            further: Iterator[Turn] = iter(())
        else:
            yield from text.fill(newest, int(NEWEST_SHARE * max_tokens))
            filters = filters_of(session_id, self._search.speakers(speaker), everywhere=everywhere)
            most = min(_MOST_RESULTS, max_tokens // _TOKENS_OF_RESULT)
            ranking = yield from self._search.rank(query, filters, nearness=nearness, most=most)
            ranked = [of_row for of_row in ranking.rows if of_row.row < MEMORY_ROWS or everywhere]
            results = self._results(ranked, ranking, speaker, max_tokens)
            best = next(results, [])
            yield from text.fill(best, max_tokens - of_summary, in_part=True)
            hits, further = tee(chain(best, chain.from_iterable(results)))
            yield from text.fill(hits, max_tokens - of_summary)
        yield from text.fill(self._excerpts(summary, most_bytes), text.used + of_summary)
        rest, rest_again = tee(chain(further, newest_again))
        yield from text.fill(rest, max_tokens)
        yield
        before = text.used
        text.settle()
        if text.used < before:  # as a whole, it has fewer tokens than its lines
            yield from text.fill(rest_again, max_tokens)
        yield
        return (yield from text.complete())

    def _results(
        self, ranked: list[Ranked], ranking: Ranking, speaker: str | None, max_tokens: int
    ) -> Iterator[list[Turn]]:
        """Yield what a search has found, each turn with its neighbours after it if they are short."""
        for start in range(0, len(ranked), _TOGETHER):
            together = ranked[start : start + _TOGETHER]
            rows = [of_row.row for of_row in together if of_row.row < MEMORY_ROWS]
            beside = self._interactions.beside(rows, speaker)
            wanted = {row: [number for number in (row, *beside.get(row, ())) if number is not None] for row in rows}
            turns = {turn.id: turn for turn in self._interactions.turns(chain.from_iterable(wanted.values()))}
            for of_row in together:
                if of_row.row >= MEMORY_ROWS:
                    if (memory := self._memory(of_row)) is not None:
                        yield [_quoted(memory, of_row, ranking, max_tokens)]
                elif of_row.row in turns:
                    first, *others = [turns[number] for number in wanted[of_row.row] if number in turns]
                    short = (turn for turn in others if len(turn.content) <= _BESIDE_CHARACTERS)
                    yield [_quoted(first, of_row, ranking, max_tokens), *short]

    def _memory(self, ranked: Ranked) -> Turn | None:
        """Return a memory as a line of the text; one that is not valid yet, or ceases to be, says when."""
        if (found := self._search.read(ranked, ANY_BYTES)) is None:
            return None
        return Turn(
            id=ranked.row,
            session_id="",
            kind=", ".join(["memory", *DETAILS.described(found)]),
            speaker="",
            content=found["content"],
            longer=found["cut"],
            written_by=found["written_by"],
            at=datetime.fromisoformat(found["timestamp"]).timestamp(),
            memory_id=str(found["id"]),
        )

    def _excerpts(self, summary: SummaryPart, most_bytes: int) -> Iterator[Turn]:
        """Yield the turns of a summary, each cut to what the summary has of it."""
        texts = summary.excerpts()
        for turn in self._interactions.turns(texts, most_bytes):
            text = texts[turn.id]
            short = len(turn.content) <= len(text)
            yield turn if short else msgspec.structs.replace(turn, content=text, longer=True)


def _quoted(turn: Turn, ranked: Ranked, ranking: Ranking, max_tokens: int) -> Turn:
    """Return a turn that a search has found: its best passage, or all of it if it has one alone.

    If that may have more than half of the tokens: from the sentence on that has most of the query's words.
    """
    content = turn.content
    passages = passages_of(content)
    if ranked.passage >= len(passages):
        return turn  # it has changed since
    begins, ends = passages[ranked.passage]
    if ends - begins > max_tokens:
        sentences = sentences_of(content[begins:ends])
        shares = ranking.shares([content[begins + first : begins + last] for first, last in sentences])
        begins += sentences[shares.index(max(shares))].begins
    longer = turn.longer or bool(content[ends:].strip())
    return msgspec.structs.replace(turn, content=content[begins:ends], longer=longer, follows=begins > 0)
