"""The recall benchmark runs and reports every row, and `search_memory` finds more in it than plain BM25 does."""

import csv
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.recall_questions import make_question_set

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 1_000


def test_every_row_is_produced() -> None:
    """As a table and as CSV, from the documented command; the joined search has the better recall.

    The set is of one seed, so that the recalls are the same every time; of the times nothing is required.
    """
    command = [sys.executable, "-m", "tests.benchmarks.bench_recall", "--interactions", str(SIZE), "--seed", "3"]
    environment = {"PYTHONPATH": "services"}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    table, _, text = ran.stdout.partition("\nmeasure,")
    rows = list(csv.DictReader(f"measure,{text}".splitlines()))
    ways = ("plain BM25", "candidates, BM25 alone", "without Filipino forms", "search_memory")
    measures = ("questions, all", "questions, english", "questions, filipino", "common words")
    sizes = [str(size) for size in (0, SIZE)]
    assert {(row["measure"], row["way"], row["texts"]) for row in rows} == {
        *((measure, way, str(SIZE)) for measure in measures for way in ways),
        *(("adding one", way, size) for size in sizes for way in ("with the index", "without the index")),
    }
    for row in rows:
        assert float(row["p95_ms"]) >= float(row["p50_ms"]) > 0
        assert (row["recall_at_10"] != "") == row["measure"].startswith("questions")
        assert row["way"] in table
    recall = {row["way"]: float(row["recall_at_10"]) for row in rows if row["measure"] == "questions, all"}
    assert recall["search_memory"] > recall["plain BM25"] > 0


def test_a_seed_makes_one_set() -> None:
    """Of the size that was asked for, with one text for the fact of every question."""
    now = time.time()
    made = make_question_set(SIZE, 3, now)
    assert made == make_question_set(SIZE, 3, now) != make_question_set(SIZE, 4, now)
    assert len(made.texts) == SIZE
    told = sorted(text.fact for text in made.texts if text.fact is not None)
    assert told == [question.fact for question in made.questions] == list(range(20))
    assert all(text.created <= now for text in made.texts)
