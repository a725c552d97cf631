"""The written sets for recall are consistent: every reference resolves, and every filter admits its evidence."""

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.benchmarks.recall_set import FOLDERS, Kind

KINDS = {*get_args(Kind)} - {"unanswerable"}
LABELS = {"decision", "fact", "withdrawn", "request", "question", "chatter", "negation"}
each_set = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of the files of a name, of every part."""
    paths = sorted(folder.glob(f"{name}_*.jsonl"))
    assert paths or name == "labels"
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def time(row: dict[str, Any], field: str = "at") -> datetime:
    return datetime.fromisoformat(row[field])  # one without a time zone can't be compared with the others


def all_turns(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the turns of all sessions, by session and number."""
    return {(row["session_id"], turn["turn"]): turn for row in rows(folder, "sessions") for turn in row["turns"]}


@each_set
def test_turns_are_numbered_and_in_order_of_time(folder: Path) -> None:
    assert max(Counter(row["session_id"] for row in rows(folder, "sessions")).values()) == 1
    for row in rows(folder, "sessions"):
        assert [turn["turn"] for turn in row["turns"]] == list(range(len(row["turns"]))), row["session_id"]
        assert all(time(earlier) < time(later) for earlier, later in pairwise(row["turns"])), row["session_id"]


@each_set
def test_questions_fit_their_evidence_and_filters(folder: Path) -> None:
    assert max(Counter(row["id"] for row in rows(folder, "questions")).values()) == 1
    turns = all_turns(folder)
    for row in rows(folder, "questions"):
        evidence, outdated = ({(s, n): turns[s, n] for s, n in row[field]} for field in ("evidence", "outdated"))
        session, speaker = row["session_id"], row["speaker"]
        fit = [at for at in turns if session in (None, at[0]) and speaker in (None, turns[at]["speaker"])]
        assert fit and evidence.keys() <= set(fit), row["id"]  # noqa: PT018
        assert row["kind"] in KINDS if evidence else row["kind"] == "unanswerable", row["id"]
        assert outdated or row["kind"] != "updated_fact", row["id"]
        assert all(time(old) < max(map(time, evidence.values())) for old in outdated.values()), row["id"]
        assert all(time(turn) < time(row, "asked_at") for turn in evidence.values()), row["id"]


@each_set
def test_labels_name_turns_once_and_replace_decisions(folder: Path) -> None:
    turns, labels = all_turns(folder), {(row["session_id"], row["turn"]): row for row in rows(folder, "labels")}
    assert len(labels) == len(rows(folder, "labels"))
    for at, row in labels.items():
        assert row["label"] in LABELS, row
        old = tuple(row.get("replaces", ()))
        assert not old or (labels[old]["label"] == "decision" and time(turns[old]) < time(turns[at])), row
    assert labels.keys() <= turns.keys()
