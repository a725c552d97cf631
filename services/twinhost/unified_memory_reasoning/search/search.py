"""Search over all that is remembered: the words first, then importance, recency, and strength.

    score = (bm25 x B + importance x I + recency x R + strength x S) / (bm25 + importance + recency + strength)

The small letters are the weights of `recall:` in the network configuration. The parts go from 0 to 1:

    B   BM25 of the text, as a share of that of the best candidate (k1 = 1.2, b = 0.75, as FTS5 has it)
    I   the importance of an interaction; NEUTRAL_IMPORTANCE for a memory, which has none
    R   0.5 ** (age / recency_half_life_days); the age of an interaction counts from when it was stored,
        that of a memory from when it was last accessed
    S   strength / MOST_STRENGTH, at most 1

The formula orders the CANDIDATES best by BM25 (see `search_index`). Of two with one score, the newer comes first.
"""

import json
import time
from dataclasses import dataclass
from typing import Literal

from twinhost.network_config.model import Recall
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.index import MEMORY_ROWS, SearchIndex
from twinhost.unified_memory_reasoning.search.words import Forms, forms_of

NEUTRAL_IMPORTANCE = 0.5  # that of an interaction which no rule makes more or less important
MOST_STRENGTH = 5.0  # reinforcing a memory leads no further
_DAY_S = 86_400.0

_SIGNALS = (
    "SELECT id, importance, strength, created FROM visible_interactions "  # noqa: S608 - of this module's constants alone
    "WHERE id IN (SELECT value FROM json_each(?1)) "
    f"AND (?2 IS NULL OR session_id = ?2) AND (?3 IS NULL OR speaker = ?3) UNION ALL "
    f"SELECT number + {MEMORY_ROWS}, {NEUTRAL_IMPORTANCE}, strength, last_accessed FROM visible_memories "
    f"WHERE number IN (SELECT value - {MEMORY_ROWS} FROM json_each(?1)) AND forgotten = 0 "
    f"AND ?2 IS NULL AND ?3 IS NULL"
)
_TOLD = "importance, strength, created, written_by"
_CONTENT = "length(CAST(content AS BLOB)), substr(CAST(content AS BLOB), 1, ?)"  # as bytes: a NUL ends no content
_INTERACTION = f"SELECT id, session_id, speaker, {_TOLD}, {_CONTENT} FROM interactions WHERE id = ?"  # noqa: S608 - the same
_MEMORY = f"SELECT id, NULL, '', {NEUTRAL_IMPORTANCE} AS {_TOLD}, {_CONTENT} FROM memories WHERE number = ?"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Found:
    """One result; `created` in seconds since the epoch, `size` that of the whole content in bytes."""

    id: int | str
    session_id: str | None
    speaker: str | None
    content: str
    size: int
    importance: float
    strength: float
    created: float
    score: float
    written_by: str

    @property
    def kind(self) -> Literal["interaction", "memory"]:
        return "interaction" if isinstance(self.id, int) else "memory"


@dataclass(frozen=True, slots=True)
class Findings:
    """The best results, best first, of `candidates`; the words that were looked for, and those that were left out."""

    results: list[Found]
    candidates: int
    words: list[str]
    left_out: list[str]


class Search:
    """Interactions and memories as a query finds them; what nobody may see is not among them.

    Left out are what a quarantined caller wrote, and memories that are forgotten.
    """

    def __init__(self, database: Database, weights: Recall, forms: Forms = forms_of) -> None:
        self._database = database
        self._weights = weights
        self._index = SearchIndex(database, forms)

    def find(
        self,
        query: str,
        *,
        session_id: str | None = None,
        speaker: str | None = None,
        limit: int,
        max_content_bytes: int,
    ) -> Findings:
        """Return the best results.

        Args:
            query: any text; it is words, never syntax.
            session_id, speaker: interactions of these alone; memories have neither.
            limit: at most so many.
            max_content_bytes: of each content; a longer one is cut.
        """
        candidates = self._index.candidates(query, session_id, speaker)
        ranked = self._ranked(candidates.fits, session_id, speaker)
        best = [self._found(row, score, max_content_bytes) for score, _, row in ranked[:limit]]
        return Findings(best, len(ranked), candidates.words, candidates.left_out)

    def _ranked(
        self, fits: dict[int, float], session_id: str | None, speaker: str | None
    ) -> list[tuple[float, float, int]]:
        """Return score, moment, and row of each that may be seen, best first."""
        now, weights = time.time(), self._weights
        whole = weights.bm25 + weights.importance + weights.recency + weights.strength
        half_life_s = weights.recency_half_life_days * _DAY_S
        signals = self._database.execute(_SIGNALS, (json.dumps(list(fits)), session_id, speaker))
        ranked = [
            (
                (
                    weights.bm25 * fits[row]
                    + weights.importance * importance
                    + weights.recency * 0.5 ** (max(0.0, now - moment) / half_life_s)
                    + weights.strength * min(1.0, strength / MOST_STRENGTH)
                )
                / whole,
                moment,
                row,
            )
            for row, importance, strength, moment in signals
        ]
        return sorted(ranked, reverse=True)

    def _found(self, row: int, score: float, max_bytes: int) -> Found:
        memory = row >= MEMORY_ROWS
        found = self._database.execute(
            _MEMORY if memory else _INTERACTION, (max_bytes, row - MEMORY_ROWS if memory else row)
        ).fetchone()
        name, session_id, speaker, importance, strength, created, written_by, size, content = found
        return Found(
            id=name,
            session_id=session_id,
            speaker=speaker or None,
            content=content.decode(errors="ignore"),  # the cut may go through a character
            size=size,
            importance=importance,
            strength=strength,
            created=created,
            score=score,
            written_by=written_by,
        )
