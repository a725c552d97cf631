"""The terms of the index, kept in memory, so that only those forms of a word are searched that some text has.

A lookup of a term takes as long if no text has it: without this, 50 forms of a word took most of a search's time. The
terms are read once, before the first search; a temporary index of the same kind has the words of texts that were
stored since, and is emptied by the next search. Terms that no text has any more stay: they cost a lookup each.

The index keeps what the English stemmer leaves of a word. Another temporary index stems the forms.
"""

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.search.index_tables import TOKENIZER
from twinhost.unified_memory_reasoning.search.words import is_spelt_like

_ALWAYS_RIGHT = 2  # letters of a misspelt word, the first ones
_MOST_SPELT_LIKE = 20  # terms
_TERMS = "SELECT term FROM recall_vocabulary WHERE term >= ? AND term < ?"
_MOST_STEMMED = 4_096  # words, whose forms' stems are kept
_TABLES = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_vocabulary USING fts5vocab (main, recall_words, row)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_added "
    f"USING fts5 (words, content = '', detail = none, {TOKENIZER})",
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_added_vocabulary USING fts5vocab (temp, recall_added, row)",
    f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_stemmed USING fts5 (words, content = '', {TOKENIZER})",
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_stems USING fts5vocab (temp, recall_stemmed, instance)",
)
_OF_MEMORY = "new.content || ' ' || CAST(new.keywords AS TEXT)"
_ADDING = (  # name, event, table, words
    ("interaction", "INSERT", "interactions", "new.content"),
    ("other_interaction", "UPDATE OF content", "interactions", "new.content"),
    ("memory", "INSERT", "memories", _OF_MEMORY),
    ("other_memory", "UPDATE OF content, keywords, forgotten", "memories", _OF_MEMORY),
)
_ADDED = "(SELECT coalesce(max(id), 0) FROM recall_added_docsize)"
MOST_ADDED = 50_000  # texts between two searches whose terms are kept; if there are more, all terms are read again


class Vocabulary:
    """The terms of `recall_words`."""

    def __init__(self, database: Database, most_added: int = MOST_ADDED) -> None:
        for statement in _TABLES:
            database.execute(statement)
        for name, event, table, words in _ADDING:
            database.execute(
                f"CREATE TEMP TRIGGER IF NOT EXISTS recall_terms_of_{name} AFTER {event} ON main.{table} "  # noqa: S608
                f"WHEN {_ADDED} < {most_added} BEGIN INSERT INTO recall_added (words) VALUES ({words}); END"
            )
        self._database, self._most_added = database, most_added
        self._known: set[str] | None = None
        self._stems: dict[tuple[str, ...], list[set[str]]] = {}

    def existing(self, forms: tuple[str, ...]) -> list[str]:
        """Return the forms that some text may have."""
        if not forms:
            return []
        known = self._read()
        return [form for form, terms in zip(forms, self._stemmed(forms), strict=True) if terms <= known]

    def spelt_like(self, word: str) -> list[str]:
        """Return terms that are spelt like a word."""
        beginning = word[:_ALWAYS_RIGHT]
        terms = self._database.execute(_TERMS, (beginning, f"{beginning}\U0010ffff")).fetchall()
        return [term for (term,) in terms if is_spelt_like(word, term)][:_MOST_SPELT_LIKE]

    def _read(self) -> set[str]:
        added = self._database.value(f"SELECT {_ADDED}")
        if self._known is None or added >= self._most_added:
            self._known = self._terms("recall_vocabulary")
        elif added:
            self._known |= self._terms("recall_added_vocabulary")
        if added:
            self._empty("recall_added")
        return self._known

    def _terms(self, table: str) -> set[str]:
        return {term for (term,) in self._database.execute(f"SELECT term FROM {table}")}  # noqa: S608 - of this module

    def _stemmed(self, forms: tuple[str, ...]) -> list[set[str]]:
        """Return the terms of each form; one with a hyphen has two."""
        if forms not in self._stems:
            if len(self._stems) == _MOST_STEMMED:
                self._stems.clear()
            self._database.execute_many("INSERT INTO recall_stemmed (rowid, words) VALUES (?, ?)", enumerate(forms))
            found: list[set[str]] = [set() for _ in forms]
            for number, term in self._database.execute("SELECT doc, term FROM recall_stems"):
                found[number].add(term)
            self._empty("recall_stemmed")
            self._stems[forms] = found
        return self._stems[forms]

    def _empty(self, table: str) -> None:
        self._database.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")  # noqa: S608 - of this module
