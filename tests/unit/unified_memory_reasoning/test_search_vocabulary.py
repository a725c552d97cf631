"""Forms of words that some text has, as the search knows them from memory; and the days of memories."""

import itertools
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import MIGRATIONS, bench_of
from tests.unit.unified_memory_reasoning.memory_model_bench import SearchedBench, SetableClock
from tests.unit.unified_memory_reasoning.search_bench import SearchBench, filled
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.language.terms import _counterparts_of, counterparts_of, related_forms
from twinhost.unified_memory_reasoning.search.index_tables import define_passages
from twinhost.unified_memory_reasoning.search.vocabulary import MOST_SPELLINGS, Speakers, Vocabulary

MAY, JUNE = "2026-05-04T10:00:00+00:00", "2026-06-09T10:00:00+00:00"


bench = bench_of(filled)


@pytest.fixture
def memories(tmp_path: Path) -> Iterator[SearchedBench]:
    with SearchedBench(tmp_path / "memories", SetableClock()) as bench:
        yield bench


def tell(database: Database, *contents: str) -> None:
    """Put interactions in."""
    define_passages(database)
    for content in contents:
        database.execute(
            "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, created, "
            "tier, written_by) VALUES ('s', '', 'code', ?, x'7b7d', 0.5, 1.0, 0, 0, 'A')",
            (content,),
        )


def ids(bench: SearchedBench, query: str) -> list[str]:
    """Return the memories that a search finds; fail if the index isn't what it was made of."""
    found = [each["id"] for each in bench.search(query)]
    bench.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")
    return found


def test_a_form_is_found_that_came_after_a_search(bench: SearchBench) -> None:
    """Of a stored text and of a changed one; one that came before, too, after a restart."""
    assert bench.ids("ipinadala") == []
    stored = bench.interaction("nagpadala ako ng pera")
    assert bench.ids("ipinadala") == [stored]
    changed = bench.interaction("wala")
    assert bench.ids("niluto") == []
    bench.database.execute("UPDATE interactions SET content = 'nagluto ako' WHERE id = ?", (changed,))
    assert bench.ids("niluto") == [changed]
    bench.serve(bench.make())
    assert bench.ids("niluto") == [changed]


def test_a_form_of_a_memory_is_found(memories: SearchedBench) -> None:
    """Also once the memory was changed, and in its keywords."""
    assert ids(memories, "ipinadala") == []
    memories.store("m", "nagpadala ako ng pera")
    assert ids(memories, "ipinadala") == ["m"]
    memories.store("m", content="wala", keywords=["nagluto"])
    assert (ids(memories, "ipinadala"), ids(memories, "niluto")) == ([], ["m"])


def test_only_forms_that_occur_are_searched(bench: SearchBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup of one that doesn't occur takes as long; the word itself is always looked up."""
    bench.interaction("nagpadala ako")
    searched: list[str] = []
    execute = Database.execute

    def noted(self: Database, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        searched.extend(str(parameter) for parameter in tuple(parameters)[:1] if "words :" in str(parameter))
        return execute(self, sql, parameters)

    monkeypatch.setattr(Database, "execute", noted)
    bench.ids("ipinadala")
    assert searched[0] == 'words : ("nagpadala" OR "ipinadala")'


def test_after_many_texts_all_terms_are_read_again(tmp_path: Path) -> None:
    """So that what waits for the next search stays small."""
    with closing(Database(tmp_path / "many", MIGRATIONS)) as database:
        vocabulary = Vocabulary(database, most_added=2)
        assert vocabulary.existing(("niluto", "nagpadala")) == []
        tell(database, "wala", "niluto", "wala", "nagpadala")
        assert database.value("SELECT count(*) FROM recall_added") == 2
        assert vocabulary.existing(("niluto", "nagpadala")) == ["niluto", "nagpadala"]
        assert database.value("SELECT count(*) FROM recall_added") == 0


def test_long_texts_count_as_several(tmp_path: Path) -> None:
    """So that what waits for the next search is bounded in bytes too."""
    with closing(Database(tmp_path / "long", MIGRATIONS)) as database:
        vocabulary = Vocabulary(database, most_added=4)
        assert vocabulary.existing(("niluto", "nagpadala")) == []
        tell(database, "wala " * 200, "niluto " * 200, "nagpadala")
        assert database.value("SELECT count(*) FROM recall_added") == 1
        assert vocabulary.existing(("niluto", "nagpadala")) == ["niluto", "nagpadala"]


def test_every_form_is_searched_if_there_are_too_many_terms(tmp_path: Path) -> None:
    """Whether they were there at the start or came later."""
    with closing(Database(tmp_path / "later", MIGRATIONS)) as database:
        vocabulary = Vocabulary(database, most_known=100)
        tell(database, "niluto")
        assert vocabulary.existing(("niluto", "nagpadala")) == ["niluto"]
        tell(database, " ".join(f"w{number}" for number in range(110)))
        assert vocabulary.existing(("niluto", "nagpadala")) == ["niluto", "nagpadala"]
    with closing(Database(tmp_path / "later", MIGRATIONS)) as database:
        assert Vocabulary(database, most_known=100).existing(("nagpadala",)) == ["nagpadala"]
        assert Vocabulary(database).existing(("nagpadala",)) == []


def test_many_terms_take_as_much_memory_as_few(tmp_path: Path) -> None:
    """50,000 took 5 MB, and one writer could have 500,000 kept."""
    with closing(Database(tmp_path / "many", MIGRATIONS)) as database:
        vocabulary = Vocabulary(database)
        tell(database, *(" ".join(f"w{number}{of}" for number in range(1_000)) for of in range(100, 150)))
        tracemalloc.start()
        try:
            assert vocabulary.existing(("w7120",)) == ["w7120"]
            used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert used < 1_000_000


def test_terms_too_long_for_a_form_are_not_kept(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "long", MIGRATIONS)) as database:
        vocabulary = Vocabulary(database, most_known=100)
        tell(database, "niluto " + " ".join(f"{number:065}" for number in range(200)))
        assert vocabulary.existing(("niluto", "nagpadala")) == ["niluto"]


def test_a_hyphen_in_a_counterpart_is_no_obstacle(bench: SearchBench) -> None:
    number = bench.interaction("may mag-aaral sa labas")
    assert bench.ids("student") == [number]


def test_a_memory_is_found_by_the_day_it_occurred(memories: SearchedBench) -> None:
    """And no longer by another once that day was changed; a removed one leaves the index whole."""
    memories.store("m", "the gateway is open", occurred_at=MAY)
    memories.store("other", "talk of the day")
    assert (ids(memories, "what was on May 4?"), ids(memories, "on June 9")) == (["m"], [])
    memories.store("m", content="the gateway is shut", occurred_at=JUNE)
    assert (ids(memories, "what was on May 4?"), ids(memories, "on June 9")) == ([], ["m"])
    assert memories.ask("delete_memory", memory_id="m")["status"] == "ok"
    assert ids(memories, "on June 9") == ids(memories, "gateway") == []
    left = memories.database.execute("SELECT term FROM recall_vocabulary WHERE term GLOB 'd*' AND cnt > 0").fetchall()
    assert len(left) == 2  # of the other memory: its day, and `day`


def test_since_and_until_bound_when_a_memory_occurred(memories: SearchedBench) -> None:
    memories.store("m", "the gateway is open", occurred_at=MAY)

    def found(**fields: Any) -> list[str]:
        return [result["id"] for result in memories.ask("search_memory", query="gateway", **fields)["results"]]

    assert (found(until="2026-05-05"), found(since="2026-05-05")) == (["m"], [])


def test_the_spellings_of_names_are_bounded(bench: SearchBench) -> None:
    """Of one name, the given one first; of all names, above which a name is as it is given."""
    speakers = Speakers(bench.database, most=40)
    for letters in itertools.product("aA", repeat=5):
        bench.interaction("gateway", speaker="".join(letters))
    spelt = speakers.spelt("aaaaa")
    assert (spelt[0], len(spelt)) == ("aaaaa", MOST_SPELLINGS)
    for number in range(9):
        bench.interaction("gateway", speaker=f"name {number}")
    assert speakers.spelt("aaaaa") == ("aaaaa",)
    assert len(Speakers(bench.database).spelt("aaaaa")) == MOST_SPELLINGS


def test_one_writers_names_leave_room_for_others(bench: SearchBench) -> None:
    """Without a share, one agent with many speakers ended for everybody that a filter ignores case."""
    speakers = Speakers(bench.database, most=40, most_of_a_writer=20)
    for number in range(60):
        bench.interaction("gateway", speaker=f"name {number}", written_by="B")
    bench.interaction("gateway", speaker="Ana")
    assert speakers.spelt("ANA") == ("ANA", "Ana")
    assert speakers.spelt("NAME 0") == ("NAME 0", "name 0")
    assert speakers.spelt("NAME 59") == ("NAME 59",)


def test_words_of_a_query_that_are_too_long_are_not_kept(tmp_path: Path) -> None:
    """A caller chooses them, of 4 KiB, and up to 50,000 are kept."""
    with closing(Database(tmp_path / "long", MIGRATIONS)) as database:
        vocabulary = Vocabulary(database)
        _counterparts_of.cache_clear()
        assert vocabulary.stems(["waters", "x" * 4_000]) == ["water", "x" * 4_000]
        assert set(vocabulary._stem_of) == {"waters"}
        assert counterparts_of("x" * 4_000) == related_forms("x" * 4_000) == ()
        assert _counterparts_of.cache_info().currsize == 0


def test_a_name_is_known_once_it_is_stored(bench: SearchBench) -> None:
    """Also if what was stored before it was rolled back, whose id it has."""
    speakers = Speakers(bench.database)
    bench.interaction("gateway", speaker="Ana")
    assert speakers.spelt("ANA") == ("ANA", "Ana")
    with suppress(ZeroDivisionError), bench.database.transaction():
        bench.interaction("gateway", speaker="Ben")
        assert speakers.spelt("ana") == ("ana", "Ana")
        raise ZeroDivisionError
    bench.interaction("gateway", speaker="ANA")
    assert speakers.spelt("ana") == ("ana", "ANA", "Ana")
