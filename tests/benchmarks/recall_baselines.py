"""The plainest ways to find a turn, which the memory's search is measured beside: two of words, one of meaning, both.

Each is what somebody would write in an hour, over whole turns and without a rule: FTS5 with all words of the question
joined by OR, the same with Porter's stems, the cosine of the builtin model, and the last two fused by their ranks.
"""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from tests.benchmarks.recall_set import Place, Question, Turn
from twinhost.unified_memory_reasoning.search.embedding import Builtin

Answer = tuple[list[Place], float]  # at most as many turns as were asked for, best first, and how well the first fits
Ask = Callable[[Question], Answer]

K = 10
FUSED = 60  # the constant of reciprocal rank fusion, as its authors chose it
_DEPTH = 100  # ranks of each way that are fused
_WORD = re.compile(r"[^\W_]+")
_QUERY = (
    "SELECT rowid, -bm25(plain) FROM plain WHERE plain MATCH ?1 AND (?2 IS NULL OR session_id = ?2) "
    "AND (?3 IS NULL OR lower(speaker) = lower(?3)) ORDER BY rank LIMIT ?4"
)
Ranked = Callable[[Question, int], Sequence[tuple[int, float]]]  # numbers of turns from 0 on, and their scores


def baselines(turns: Mapping[Place, Turn], *, meaning: bool) -> dict[str, Ask]:
    """Return the ways by their names.

    Args:
        turns: to search.
        meaning: whether the builtin model is installed, which two of them need.
    """
    ways = {"FTS5": _words(turns, "unicode61"), "porter": (porter := _words(turns, "porter unicode61"))}
    if meaning:
        cosine = _cosine(turns)
        ways |= {"cosine": cosine, "fusion": _fused(porter, cosine)}
    places = list(turns)
    return {name: _asked(ranked, places) for name, ranked in ways.items()}


def any_word_of(text: str) -> str:
    """Return what FTS5 is asked for all words of a text, joined by OR."""
    return " OR ".join(f'"{word}"' for word in dict.fromkeys(_WORD.findall(text)))


def _asked(ranked: Ranked, places: Sequence[Place]) -> Ask:
    def ask(question: Question) -> Answer:
        found = ranked(question, K)
        return [places[number] for number, _ in found], found[0][1] if found else 0.0

    return ask


def _words(turns: Mapping[Place, Turn], tokenizer: str) -> Ranked:
    database = sqlite3.connect(":memory:")
    tokens = f"tokenize = '{tokenizer} remove_diacritics 2'"
    database.execute(f"CREATE VIRTUAL TABLE plain USING fts5 (text, session_id UNINDEXED, speaker UNINDEXED, {tokens})")
    rows = ((turn.text, session_id, turn.speaker) for (session_id, _), turn in turns.items())
    database.executemany("INSERT INTO plain (text, session_id, speaker) VALUES (?, ?, ?)", rows)

    def ranked(question: Question, most: int) -> Sequence[tuple[int, float]]:
        match = any_word_of(question.question)
        found = database.execute(_QUERY, (match, question.session_id, question.speaker, most))
        return [(row - 1, score) for row, score in found]

    return ranked


def _cosine(turns: Mapping[Place, Turn]) -> Ranked:
    import numpy as np  # of the extra with the model

    model = Builtin()

    @cache
    def embedded(text: str, *, is_query: bool) -> Any:
        (vector,) = model.embed([text], is_query=is_query, within_s=60.0)
        return np.asarray(vector, np.float32) / np.linalg.norm(vector)

    said = [(session_id, turn.speaker) for (session_id, _), turn in turns.items()]
    matrix = np.stack([embedded(turn.text, is_query=False) for turn in turns.values()])

    def ranked(question: Question, most: int) -> Sequence[tuple[int, float]]:
        near = matrix @ embedded(question.question, is_query=True)
        order = map(int, np.argsort(-near, kind="stable"))
        fitting = (number for number in order if _fits(question, *said[number]))
        return [(number, float(near[number])) for number in islice(fitting, most)]

    return ranked


def _fits(question: Question, session_id: str, speaker: str) -> bool:
    speakers = ("", speaker.casefold())
    return question.session_id in (None, session_id) and (question.speaker or "").casefold() in speakers


def _fused(*ways: Ranked) -> Ranked:
    def ranked(question: Question, most: int) -> Sequence[tuple[int, float]]:
        scores: dict[int, float] = defaultdict(float)
        for way in ways:
            for place, (number, _) in enumerate(way(question, _DEPTH), 1):
                scores[number] += 1 / (FUSED + place)
        return sorted(scores.items(), key=lambda scored: -scored[1])[:most]

    return ranked
