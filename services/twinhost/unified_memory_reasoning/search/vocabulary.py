"""The terms of the index, noted in memory, so that only those forms of a word are searched that some text has.

A lookup of a term takes as long if no text has it: without this, 50 forms of a word took most of a search's time. The
terms are read once, before the first search; a temporary index of the same kind has the words of texts that were
stored since, and is emptied by the next search. If there are too many terms to read, every form is searched.

A term is a bit at the place of its hash, so all of them take 512 KiB, whoever writes how many. One that no text has any
more, or whose bit is another's (of 100,000 terms, 1 of 42 that don't occur), costs a lookup.

The index keeps what the English stemmer leaves of a word. Another temporary index stems the forms.

The names of speakers are kept too, so that a filter finds a name in whatever case it was written.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.memories.model import folded_key
from twinhost.unified_memory_reasoning.search.index_tables import NOT_INDEXED, TOKENIZER

_LONGEST_KEPT = 64  # bytes of a term; a form has fewer
_BITS = 1 << 22
_MOST_STEMMED = 50_000  # words whose stems are kept, of about 120 bytes each
_TABLES = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.recall_vocabulary USING fts5vocab (main, recall_passages, row)",
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
MOST_KNOWN = 500_000  # terms, which take 0.4 s to read
MOST_SPEAKERS = 100_000  # spellings of names
MOST_SPEAKERS_OF_A_WRITER = 25_000  # so that nobody ends for others that a name is found in whatever case
MOST_SPELLINGS = 16  # of one name, by which a filter looks


class Vocabulary:
    """The terms of `recall_passages`."""

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
        self._known: bytearray | None = None
        self._count = 0  # of the bits that are set, about as many as terms
        self._too_many = False
        self._stem_of: dict[str, str] = {}

    def existing(self, forms: tuple[str, ...]) -> list[str]:
        """Return the forms that some text may have; all of them if there are too many terms to keep."""
        if not forms:
            return []
        if (known := self._read()) is None:
            return list(forms)
        places = map(_place, self.stems(forms))
        return [form for form, (byte, bit) in zip(forms, places, strict=True) if known[byte] & bit]

    def stems(self, words: Sequence[str]) -> list[str]:
        """Return what the English stemmer leaves of each word, which has letters and digits alone."""
        if new := [word for word in words if word not in self._stem_of]:
            if len(self._stem_of) > _MOST_STEMMED:
                self._stem_of.clear()
                new = list(words)
            self._database.execute_many("INSERT INTO recall_stemmed (rowid, words) VALUES (?, ?)", enumerate(new))
            self._stem_of.update(dict.fromkeys(new, ""))
            for number, term in self._database.execute("SELECT doc, term FROM recall_stems"):
                self._stem_of[new[number]] = term
            self._empty("recall_stemmed")
        stems = [self._stem_of[word] for word in words]
        for word in new:
            if len(word) > _LONGEST_KEPT:  # which a caller chose, and nobody asks for again
                del self._stem_of[word]
        return stems

    def _read(self) -> bytearray | None:
        """Return the terms; None if there are too many to read, or if more are added than are noted (see `upkeep`)."""
        if self._too_many or self._database.value(NOT_INDEXED):
            return None
        added = self._database.value(f"SELECT {_ADDED}")
        if self._known is None or added >= self._most_added:
            self._known, self._count = bytearray(_BITS // 8), 0
            self._note("recall_vocabulary", self._known)
        elif added:
            self._note("recall_added_vocabulary", self._known)
        if added:
            self._empty("recall_added")
        if self._count > self._most_known:
            self._known, self._too_many = None, True
        return self._known

    def _note(self, table: str, known: bytearray) -> None:
        terms = self._database.execute(
            f"SELECT term FROM {table} WHERE length(CAST(term AS BLOB)) <= {_LONGEST_KEPT} "  # noqa: S608 - of this module
            f"LIMIT {self._most_known + 1}"
        )
        read = 0
        for (term,) in terms:
            read += 1
            byte, bit = _place(term)
            if not known[byte] & bit:
                known[byte] |= bit
                self._count += 1
        self._count = max(self._count, read)  # no term is unread that has another's bit

    def _empty(self, table: str) -> None:
        self._database.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")  # noqa: S608 - of this module


def _place(term: str) -> tuple[int, int]:
    """Return the byte of a term, and its bit in it; they differ by process, so that nobody can choose them."""
    place = hash(term) % _BITS
    return place >> 3, 1 << (place & 7)


class Speakers:
    """The spellings of the names of speakers; each search with one reads those that were stored since the last."""

    def __init__(
        self, database: Database, most: int = MOST_SPEAKERS, most_of_a_writer: int = MOST_SPEAKERS_OF_A_WRITER
    ) -> None:
        self._database, self._most, self._most_of_a_writer = database, most, most_of_a_writer
        self._of_writer = Counter[str]()  # spellings that each was the first to write
        self._spellings = defaultdict[str | None, set[str]](set)
        self._upto = 0  # the id of the newest interaction that was read
        self._too_many = False

    def spelt(self, name: str) -> tuple[str, ...]:
        """Return the spellings of a name that differ in case; only its own if there are too many names to keep."""
        if not self._too_many:
            self._read()
        others = self._spellings.get(folded_key(name), set()) - {name}
        return (name, *sorted(others)[: MOST_SPELLINGS - 1])

    def _read(self) -> None:
        newest = self._database.value("SELECT max(id) FROM interactions") or 0
        if newest <= self._upto:
            return
        self._database.on_rollback(setattr, self, "_upto", self._upto)  # the ids are given again
        added = "SELECT DISTINCT speaker, written_by FROM interactions WHERE id > ?"
        for speaker, writer in self._database.execute(added, (self._upto,)):
            name = folded_key(speaker)
            if self._of_writer[writer] < self._most_of_a_writer and speaker not in self._spellings.get(name, ()):
                self._of_writer[writer] += 1
                self._spellings[name].add(speaker)
        self._upto = newest
        if sum(map(len, self._spellings.values())) > self._most:
            self._too_many = True
            self._spellings.clear()
