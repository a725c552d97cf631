"""What texts say, by stated rules on their words, in English and Filipino: pure functions over one lexicon.

A text is read as `terms` (what a query asks for, in which words and dates), as `decisions` (what it decides, proposes
and takes back), as `claims` (what it states, and whether two texts contradict each other) and by its `importance`.
Other packages ask here, and not the modules.
"""

from twinhost.unified_memory_reasoning.language.claims import (
    MAX_CLAIMING_CHARACTERS,
    claims_of,
    contradict,
    contradictions,
    opposite,
)
from twinhost.unified_memory_reasoning.language.decisions import (
    DECIDING_CHARACTERS,
    decisions_in,
    needs_question,
    proposal_in,
    rejects,
    replaced_by,
    withdrawal_in,
)
from twinhost.unified_memory_reasoning.language.importance import error_kind, error_message, importance_of
from twinhost.unified_memory_reasoning.language.lexicon import (
    BEFORE_LAST_WEEKDAY,
    BEFORE_NEXT_WEEKDAY,
    DAYS_AWAY,
    ENGLISH_STOP_WORDS,
    WEEKDAYS,
)
from twinhost.unified_memory_reasoning.language.terms import AskedWord, Question, asked_in
from twinhost.unified_memory_reasoning.language.text import names_of, sentences_of, words_of

__all__ = [
    "BEFORE_LAST_WEEKDAY",
    "BEFORE_NEXT_WEEKDAY",
    "DAYS_AWAY",
    "DECIDING_CHARACTERS",
    "ENGLISH_STOP_WORDS",
    "MAX_CLAIMING_CHARACTERS",
    "WEEKDAYS",
    "AskedWord",
    "Question",
    "asked_in",
    "claims_of",
    "contradict",
    "contradictions",
    "decisions_in",
    "error_kind",
    "error_message",
    "importance_of",
    "names_of",
    "needs_question",
    "opposite",
    "proposal_in",
    "rejects",
    "replaced_by",
    "sentences_of",
    "withdrawal_in",
    "words_of",
]
