"""What a search finds, in which order, and what nobody may find."""

from datetime import date
from math import log
from pathlib import Path

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.search_bench import SearchBench, filled
from twinhost.secure_zmq.actions import wholly
from twinhost.unified_memory_reasoning.language import asked_in
from twinhost.unified_memory_reasoning.search import index as search_index
from twinhost.unified_memory_reasoning.search.filters import EVERYTHING
from twinhost.unified_memory_reasoning.search.index import SearchIndex

MORE = 301  # texts than a search looks at


bench = bench_of(filled)


def test_a_better_word_match_comes_first(bench: SearchBench) -> None:
    one = bench.interaction("the gateway was restarted")
    both = bench.interaction("the gateway lost its certificate")
    assert bench.ids("certificate of the gateway?") == [both, one]


def test_interactions_and_memories_are_found_together(bench: SearchBench) -> None:
    """With the kind of each; a memory has no session and no speaker, and its id is a text."""
    number = bench.interaction("the gateway is red", session_id="s-1", speaker="Ana", importance=0.7)
    bench.memory("m-1", "the gateway is blue", strength=2.0)
    found = {result["id"]: result for result in bench.ask(query="gateway")["results"]}
    assert set(found) == {number, "m-1"}
    names = ("kind", "session_id", "speaker", "content", "importance", "strength", "written_by")
    assert [found[number][name] for name in names] == ["interaction", "s-1", "Ana", "the gateway is red", 0.7, 1.0, "A"]
    assert [found["m-1"][name] for name in names] == ["memory", None, None, "the gateway is blue", 0.5, 2.0, "A"]


def test_the_keywords_of_a_memory_are_found(bench: SearchBench) -> None:
    bench.memory("m", "it is in the second drawer", keywords=("spanner", "susì"))
    assert bench.ids("spanner") == bench.ids("susi") == ["m"]


def test_of_two_that_score_alike_the_newer_comes_first(bench: SearchBench) -> None:
    ages = (2, 1, 3)
    middle, newest, oldest = [bench.interaction("gateway", age_days=age) for age in ages]
    assert bench.ids("gateway") == [newest, middle, oldest]


def test_an_access_makes_no_memory_more_recent(bench: SearchBench) -> None:
    """A result is an access, and what was found once would come first from then on."""
    bench.memory("used", "gateway", age_days=90)
    bench.memory("newer", "gateway", age_days=89)
    bench.database.execute("UPDATE memories SET last_accessed = last_accessed + 90 * 86400 WHERE id = 'used'")
    assert bench.ids("gateway") == ["newer", "used"]


def test_a_quarantined_callers_texts_are_not_found(bench: SearchBench) -> None:
    """Nor does it take a place among the candidates, however well it fits."""
    kept = bench.interaction("the gateway has a door, and somebody wrote so")
    bench.fill(MORE, "gateway", written_by="Mallory")
    bench.memory("m", "gateway", written_by="Mallory")
    assert len(bench.ids("gateway", limit=100)) == 100
    bench.quarantine("Mallory")
    assert bench.ids("gateway", limit=100) == [kept]
    bench.database.execute("DELETE FROM quarantined")
    assert "m" in bench.ids("gateway", limit=100)


@pytest.mark.parametrize("others", [0, 15, 16, 300])
def test_any_number_of_writers_can_be_hidden(bench: SearchBench, others: int) -> None:
    """Few are part of the match and many are looked up by row; what is answered is the same."""
    kept = bench.interaction("gateway")
    bench.fill(MORE, "gateway gateway", written_by="Mallory")
    bench.quarantine("Mallory", *(f"other-{number}" for number in range(others)))
    assert bench.ids("gateway") == [kept]


def test_a_forgotten_memory_is_not_found_until_it_is_recovered(bench: SearchBench) -> None:
    bench.memory("gone", "gateway", forgotten=True)
    bench.memory("here", "gateway")
    assert bench.ids("gateway") == ["here"]
    bench.database.execute("UPDATE memories SET forgotten = 1 - forgotten")
    assert bench.ids("gateway") == ["gone"]


def test_forgotten_memories_take_no_place_among_the_candidates(bench: SearchBench) -> None:
    """However many there are, and however well they fit; those too that were forgotten after a while."""
    kept = bench.interaction("the gateway has a door, and somebody wrote so")
    for number in range(MORE):
        bench.memory(f"born-{number}", "gateway", forgotten=True)
        bench.memory(f"grown-{number}", "gateway")
    bench.database.execute("UPDATE memories SET forgotten = 1")
    assert bench.ids("gateway") == [kept]


def test_the_index_keeps_step_with_every_change(bench: SearchBench) -> None:
    """Of both tables; what only the ranking reads changes nothing in it."""
    number = bench.interaction("gateway", session_id="a", speaker="Ana")
    bench.memory("m", "gateway", keywords=("door",))
    bench.database.execute("UPDATE interactions SET strength = 2, tier = 1")
    bench.database.execute("UPDATE memories SET strength = 2, last_accessed = 0")
    assert len(bench.ids("gateway")) == 2
    bench.database.execute(
        "UPDATE interactions SET content = 'bridge', session_id = 'b', speaker = 'Ben' WHERE id = ?", (number,)
    )
    bench.database.execute("""UPDATE memories SET content = 'bridge', keywords = x'5b2277616c6c225d'""")
    assert (bench.ids("gateway"), bench.ids("door")) == ([], [])
    assert (bench.ids("wall"), len(bench.ids("bridge"))) == (["m"], 2)
    assert bench.ids("bridge", session_id="b") == bench.ids("bridge", speaker="Ben") == [number]
    assert bench.ids("bridge", session_id="a") == bench.ids("bridge", speaker="Ana") == []
    bench.database.execute("DELETE FROM memories")
    assert bench.ids("bridge") == [number]
    bench.database.execute("DELETE FROM interactions")
    assert bench.ids("bridge") == bench.ids("talk") == []
    bench.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def test_what_is_deleted_leaves_the_file(bench: SearchBench) -> None:
    """With its words: a backup made afterwards holds none of them."""

    def held(part: bytes) -> bool:
        blocks = bench.database.execute("SELECT block FROM recall_passages_data")
        return any(part in (block or b"") for (block,) in blocks)

    bench.interaction("the kumquat of the gateway")
    bench.memory("m", "pumpkin", keywords=("zebu",))
    parts = (b"umquat", b"umpkin", b"ebu")  # a first letter may belong to the word before
    assert all(held(part) for part in parts)
    bench.database.execute("DELETE FROM interactions WHERE content LIKE '%kumquat%'")
    bench.database.execute("DELETE FROM memories")
    assert not any(held(part) for part in parts)
    assert len(bench.ids("talk")) > 0
    bench.database.execute("INSERT INTO recall_passages (recall_passages) VALUES ('integrity-check')")


def test_a_rolled_back_addition_is_not_found(bench: SearchBench) -> None:
    bench.database.execute("BEGIN")
    bench.interaction("gateway")
    assert len(bench.ids("gateway")) == 1
    bench.database.execute("ROLLBACK")
    assert bench.ids("gateway") == []


def test_a_common_word_is_not_read_beside_a_rarer_one(bench: SearchBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many passages have it; the reply says so, and it counts in what the rarer one finds."""
    monkeypatch.setattr(search_index, "MOST_READ", 50)
    bench.fill(60, "common talk and other things")
    with_both = bench.interaction("rare thing with a common word")
    with_one = bench.interaction("rare thing and no other")
    reply = bench.ask(query="the common rare", limit=100)
    assert [result["id"] for result in reply["results"]] == [with_both, with_one]
    assert (reply["words"], reply["words_left_out"]) == (["rare"], ["the", "common"])
    assert bench.ask(query="common")["words"] == ["common"]


@pytest.mark.parametrize("size", [40, 2_000])
def test_a_common_word_weighs_about_as_often_as_it_occurs(tmp_path: Path, size: int) -> None:
    """Its frequency is estimated from the newest texts that have it, memories among them; of short and long texts."""
    count = 5_000 if size == 40 else 1_000
    with SearchBench(tmp_path / "db") as bench:
        sentence = "the weather is fine and we talk of it. "
        with bench.database.transaction():
            for number in range(count):
                text = sentence * (size // len(sentence)) + ("gateway" if number % 5 < 2 else "other")
                bench.interaction(text) if number % 3 else bench.memory(f"m{number}", text)
        total = bench.database.value("SELECT count(*) FROM recall_passages_docsize")
        true = bench.database.value("SELECT count(*) FROM recall_passages WHERE recall_passages MATCH 'gateway'")
        (term,) = wholly(SearchIndex(bench.database).find(asked_in("gateway", date(2026, 1, 1)), EVERYTHING, 10)).terms
        assert weight(total, min(2 * true, total)) < term.weight < weight(total, true / 2)


def weight(total: int, count: float) -> float:
    """Return the inverse document frequency of what so many of all passages have."""
    return log(1 + (total - count + 0.5) / (count + 0.5))


def test_words_count_in_a_store_of_one_long_text(tmp_path: Path) -> None:
    """Where every word is in more passages than there are texts."""
    others = "It was opened in the morning by Ana, who talked of the weather all day long. " * 12
    with SearchBench(tmp_path / "db") as bench:
        bench.interaction(f"The gateway is red today. {others}" * 10)
        (found,) = bench.ask(query="gateway unheard")["results"]
        assert found["similarity"] > 0.05


def test_a_long_text_leaves_room_for_others(bench: SearchBench) -> None:
    """However many of its passages fit better than theirs."""
    bench.interaction("The gateway is a gateway to another gateway. " * 1_400)
    other = bench.interaction("and so it was said of the gateway, among many other things. " * 6)
    assert other in bench.ids("gateway", limit=100)


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("nagpadala si Ana ng kontrata", "ipinadala"),
        ("lutuin mo ang isda", "nagluto"),
        ("aalis ang tren", "umalis"),
        ("bumili siya ng bigas", "binili"),
        ("ang bagong kontratang pinirmahan", "kontrata"),
        ("uminom siya ng gamot", "inumin"),
        ("ang señor ay nasa opisina", "SENOR"),
        ("sasabihin ko kay Ana", "sinabi"),
        ("binibili niya ang bahay", "bumili"),
    ],
)
def test_other_forms_of_a_filipino_word_are_found(bench: SearchBench, stored: str, asked: str) -> None:
    number = bench.interaction(stored)
    assert bench.ids(asked) == [number]


def test_other_forms_of_an_english_word_are_found(bench: SearchBench) -> None:
    number = bench.interaction("backups are running")
    assert bench.ids("the backup runs") == [number]
