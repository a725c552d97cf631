"""The terms of the index, kept in memory, so that only those forms of a word are searched that some text has.

A lookup of a term takes as long if no text has it: without this, 50 forms of a word took most of a search's time. The
terms are read once, before the first search; a temporary index of the same kind has the words of texts that were
stored since, and is emptied by the next search. Terms that no text has any more stay: they cost a lookup each. If there
are too many terms to keep, every form is searched.

The index keeps what the English stemmer leaves of a word. Another temporary index stems the forms.

The names of speakers are kept too, so that a filter finds a name in whatever case it was written.
"""

from collections import defaultdict

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.model import folded_key
from twinhost.unified_memory_reasoning.search.index_tables import TOKENIZER
from twinhost.unified_memory_reasoning.search.words import is_spelt_like, lengths_spelt_like

_ALWAYS_RIGHT = 2  # letters of a misspelt word, the first ones
_MOST_SPELT_LIKE = 20  # terms
_MOST_READ = 50_000  # terms with the first letters of a misspelt word, in the order of the alphabet
_MOST_COMPARED = 5_000  # of these, the first ones with about as many letters as the word
_TERMS = (
    "SELECT term FROM (SELECT term FROM recall_vocabulary WHERE term >= ? AND term < ? "  # noqa: S608 - of this module
    f"LIMIT {_MOST_READ}) WHERE length(term) BETWEEN ? AND ? LIMIT {_MOST_COMPARED}"
)
_LONGEST_KEPT = 64  # bytes of a term; a form has fewer
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
    ("interaction", "INSERT", "interactions", "new.speaker || ' ' || new.content"),
    ("other_interaction", "UPDATE OF content, speaker", "interactions", "new.speaker || ' ' || new.content"),
    ("memory", "INSERT", "memories", _OF_MEMORY),
    ("other_memory", "UPDATE OF content, keywords, forgotten", "memories", _OF_MEMORY),
)
_ADDED = "(SELECT coalesce(max(id), 0) FROM recall_added_docsize)"
_COUNTED_AS_ONE = 256  # bytes of a text; a longer one counts as several
MOST_ADDED = 50_000  # texts between two searches whose terms are kept; if there are more, all terms are read again
MOST_KNOWN = 500_000  # terms, of about 105 bytes each
MOST_SPEAKERS = 100_000  # spellings of names
MOST_SPELLINGS = 16  # of one name, by which a filter looks
_SPEAKERS = "CREATE TABLE IF NOT EXISTS temp.recall_speakers (number INTEGER PRIMARY KEY, speaker TEXT UNIQUE)"
_MOST_NUMBER = "(SELECT coalesce(max(number), 0) FROM recall_speakers)"


class Vocabulary:
    """The terms of `recall_words`."""

    def __init__(self, database: Database, most_added: int = MOST_ADDED, most_known: int = MOST_KNOWN) -> None:
        for statement in _TABLES:
            database.execute(statement)
        for name, event, table, words in _ADDING:
            database.execute(
                f"CREATE TEMP TRIGGER IF NOT EXISTS recall_terms_of_{name} AFTER {event} ON main.{table} "  # noqa: S608
                f"WHEN {_ADDED} < {most_added} BEGIN INSERT INTO recall_added (rowid, words) "
                f"VALUES ({_ADDED} + 1 + length(CAST({words} AS BLOB)) / {_COUNTED_AS_ONE}, {words}); END"
            )
        self._database, self._most_added, self._most_known = database, most_added, most_known
        self._known: set[str] | None = None
        self._too_many = False
        self._stems: dict[tuple[str, ...], list[set[str]]] = {}

    def existing(self, forms: tuple[str, ...]) -> list[str]:
        """Return the forms that some text may have; all of them if there are too many terms to keep."""
        if not forms:
            return []
        if (known := self._read()) is None:
            return list(forms)
        return [form for form, terms in zip(forms, self._stemmed(forms), strict=True) if terms <= known]

    def spelt_like(self, word: str) -> list[str]:
        """Return terms that are spelt like a word, of the first ones that may be."""
        beginning = word[:_ALWAYS_RIGHT]
        parameters = (beginning, f"{beginning}\U0010ffff", *lengths_spelt_like(word))
        terms = self._database.execute(_TERMS, parameters).fetchall()
        return [term for (term,) in terms if is_spelt_like(word, term)][:_MOST_SPELT_LIKE]

    def _read(self) -> set[str] | None:
        """Return the terms; None if there are too many to keep."""
        if self._too_many:
            return None
        added = self._database.value(f"SELECT {_ADDED}")
        if self._known is None or added >= self._most_added:
            self._known = self._terms("recall_vocabulary")
        elif added:
            self._known |= self._terms("recall_added_vocabulary")
        if added:
            self._empty("recall_added")
        if len(self._known) > self._most_known:
            self._known, self._too_many = None, True
        return self._known

    def _terms(self, table: str) -> set[str]:
        found = self._database.execute(
            f"SELECT term FROM {table} WHERE length(CAST(term AS BLOB)) <= {_LONGEST_KEPT} "  # noqa: S608 - of this module
            f"LIMIT {self._most_known + 1}"
        )
        return {term for (term,) in found}

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


class Speakers:
    """The spellings of the names of speakers.

    They are read once, before the first search with a speaker; a temporary table has those that were stored since. If
    it is full, all are read again.
    """

    def __init__(self, database: Database, most: int = MOST_SPEAKERS) -> None:
        database.execute(_SPEAKERS)
        for name, event in (("recall_new_speaker", "INSERT"), ("recall_other_speaker", "UPDATE OF speaker")):
            database.execute(
                f"CREATE TEMP TRIGGER IF NOT EXISTS {name} AFTER {event} ON main.interactions "  # noqa: S608 - constants
                f"WHEN {_MOST_NUMBER} < {most} BEGIN "
                "INSERT OR IGNORE INTO recall_speakers (speaker) VALUES (new.speaker); END"
            )
        self._database, self._most = database, most
        self._known: dict[str | None, set[str]] | None = None
        self._too_many = False

    def spelt(self, name: str) -> tuple[str, ...]:
        """Return the spellings of a name that differ in case; only its own if there are too many names to keep."""
        if self._too_many:
            return (name,)
        added = [each for (each,) in self._database.execute("SELECT speaker FROM recall_speakers")]
        if self._known is None or len(added) >= self._most:
            self._known = defaultdict(set)
            added = [each for (each,) in self._database.execute("SELECT DISTINCT speaker FROM interactions")]
        for speaker in added:
            self._known[folded_key(speaker)].add(speaker)
        if added:
            self._database.execute("DELETE FROM recall_speakers")
            self._too_many = sum(map(len, self._known.values())) > self._most
        others = self._known.get(folded_key(name), set()) - {name}
        if self._too_many:
            self._known, others = None, set()
        return (name, *sorted(others)[: MOST_SPELLINGS - 1])
