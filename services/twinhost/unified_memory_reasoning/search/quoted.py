"""Which passage of a long text a query finds: the sentence that has most of what the search went by.

A temporary index of the same kind as the search's has the sentences of one text at a time, so that the expressions of a
search match in it what they matched in the text. A word counts more if fewer of the sentences have it (BM25).
"""

import re
from collections.abc import Sequence

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.index_tables import TOKENIZER

_MOST_CHARACTERS = 300  # of a sentence; a longer one is divided between words
_sentence = re.compile(
    rf"\S.{{0,{_MOST_CHARACTERS}}}?(?:[.!?\u2026](?=\s)|[\n\r]|$)|\S.{{0,{_MOST_CHARACTERS}}}(?=\s)|"
    rf"\S{{1,{_MOST_CHARACTERS}}}",
    re.DOTALL,
)
_TABLE = f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_passages USING fts5 (words, about, content = '', {TOKENIZER})"
_BEST = "SELECT rowid FROM recall_passages WHERE recall_passages MATCH ? ORDER BY rank, rowid LIMIT 1"


class Passages:
    """Finds passages in texts."""

    def __init__(self, database: Database) -> None:
        database.execute(_TABLE)
        self._database = database

    def best(self, text: str, expressions: Sequence[str]) -> int:
        """Return where the sentence begins that a search finds; 0 if it finds none.

        Args:
            text: any.
            expressions: those of the search, in FTS5's syntax.
        """
        if not expressions:
            return 0
        sentences = ((found.start(), found[0]) for found in _sentence.finditer(text))
        self._database.execute_many("INSERT INTO recall_passages (rowid, words) VALUES (?, ?)", sentences)
        match = " OR ".join(f"({each})" for each in expressions)
        begins = self._database.value(_BEST, (match,))
        self._database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('delete-all')")
        return int(begins or 0)
