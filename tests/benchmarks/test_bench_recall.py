"""The recall benchmark prints every figure, right ones on a small set, and the written set refers to what is in it."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_recall import Figures, auc, steps_back
from tests.benchmarks.recall_set import Turn, load

REPOSITORY = Path(__file__).resolve().parents[2]
TUNE, HELD_OUT = "pond", "stall"  # two sessions, one of each half
SESSIONS = {
    TUNE: (
        ("Ana", "The pump for the pond costs 40 euros."),
        ("Ben", "We decided to plant beans behind the shed."),
        ("Ana", "The pump for the pond is cheaper in the shop beside the station: there it costs 35 euros now."),
    ),
    HELD_OUT: (
        ("Ana", "Nobody ordered flour for Saturday."),
        ("Ben", "We decided to open the stall at nine."),
        ("Ana", "No, at ten, I can't be there before."),
    ),
}
QUESTIONS: tuple[tuple[Any, ...], ...] = (  # kind, question, evidence, outdated
    ("single_fact", "Where are the beans?", [(TUNE, 1)], []),
    ("paraphrase", "Which vegetable grows there?", [(TUNE, 1)], []),
    ("updated_fact", "What does the pump for the pond cost?", [(TUNE, 2)], [(TUNE, 0)]),
    ("follow_up", "When does the stall open?", [(HELD_OUT, 2), (HELD_OUT, 1)], []),
    ("unanswerable", "Who repaired the bicycle?", [], []),
)
LABELS: tuple[tuple[Any, ...], ...] = (  # session, turn, label, what it replaces
    (TUNE, 1, "decision", None),
    (HELD_OUT, 1, "decision", None),
    (HELD_OUT, 2, "decision", (HELD_OUT, 1)),
)
ERRORS: tuple[dict[str, Any], ...] = (
    {
        "kind": "valve",
        "pattern": None,
        "solution": "Open the valve.",
        "exact": [f"valve {number} is shut, no water" for number in (3, 17, 240)],
        "reworded": ["tap closed, nothing flows", "valve 5 was left shut"],
    },
    {"unrelated": "valve 3 is shut, no water pressure"},
)


def test_every_figure_is_printed_and_right(tmp_path: Path) -> None:
    """As `make bench-recall` prints them, for all questions and each half; counted by hand.

    Of the agent, only what no better version changes.
    """
    _write_set(tmp_path)
    command = [sys.executable, "-m", "tests.benchmarks.bench_recall", "--set", str(tmp_path)]
    environment = {"PYTHONPATH": "services:."}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    matches = [re.match(r"(\S.*?)\s{2,}(\d.*)", line) for line in ran.stdout.splitlines()]
    rows = {match[1]: match[2].split() for match in matches if match}
    # The columns of FTS5 and of that with stems: all, and the halves.
    plain = {name: row[2:4] + row[8:10] + row[14:16] for name, row in rows.items()}
    assert rows["search recall@1 single_fact"][:4] == ["1", "1.000", "1.000", "1.000"]
    assert rows["search recall@1 single_fact"][12:] == ["0", "-", "-", "-", "-", "-"]
    assert plain["search recall@10 paraphrase"] == ["0.000"] * 4 + ["-"] * 2
    assert plain["search recall@1 updated_fact"] == ["0.000"] * 4 + ["-"] * 2
    assert plain["search recall@5 updated_fact"] == ["1.000"] * 4 + ["-"] * 2
    assert plain["search recall@10"] == ["0.750", "0.750", "0.667", "0.667", "1.000", "1.000"]
    assert plain["search outdated above current"] == ["1.000"] * 4 + ["-"] * 2
    assert rows["search outdated and current@10"][2:4] == ["1.000", "1.000"]
    assert rows["search recall@10 paraphrase"][4] == "1.000"  # by its meaning, among six turns
    assert rows["context 500, own session: has the answer"] == ["4", "1.000", "3", "1.000", "1", "1.000"]
    assert rows["context 500, own session: has evidence"] == ["4", "1.000", "3", "1.000", "1", "1.000"]
    assert rows["context 2000, one session: back in time"][0] == str(4 * 5)
    assert rows["decisions: precision"][2:4] == ["1", "1.000"]
    assert rows["decisions: recall"][:1] + rows["decisions: recall"][2:4] == ["2", "1", "1.000"]
    assert rows["decisions: replaced, listed"][0] == "1"
    assert rows["errors: kinds proposed"][:2] == ["1", "1"]
    assert rows["errors: exact, right"][:2] == ["3", "3"]
    assert rows["errors: reworded, right"][:2] == ["2", "0"]
    assert rows["errors: reworded, right or top 3"][0] == "2"
    assert rows["errors: unrelated, answered"][:2] == ["1", "0"]
    assert rows["errors: unrelated, with suggestions"][:2] == ["1", "1"]
    assert rows["errors: two wordings, proposed"][:2] == ["1", "0"]  # "shut" and "closed" are no kind of error
    for row in (rows["search p50 ms"], rows["context 500, one session: p95 ms"]):
        assert float(row[1]) > 0


def test_the_floor_is_the_best_plain_way() -> None:
    """The difference and its interval are over the same questions; where all are right, nothing differs."""
    figures = Figures()
    for way, rights in (("twinhost", (0, 0, 0, 0)), ("FTS5", (1, 1, 1, 1)), ("porter", (1, 0, 0, 0))):
        for right in rights:
            figures.add("search recall@5", "tune", bool(right), way)
            figures.add("search recall@10", "tune", sample=True, way=way)
    assert figures.floor("search recall@5") == "search recall@5: -1.000 [-1.000, -1.000], below FTS5"
    assert figures.floor("search recall@10").startswith("search recall@10: +0.000 [+0.000, +0.000], within ")


def test_lines_of_a_context_that_go_back_in_time_are_counted() -> None:
    """Of two neighbours, whatever is around them; a text that is there twice has no place."""
    texts = ("first", "second one", "third", "twice")
    turns = [Turn(hour, "Ana", datetime(2026, 3, 2, hour, tzinfo=UTC), text) for hour, text in enumerate(texts)]
    text = "[Ana]: second one twice [Ana]: first [Ben]: other [Ana]: third twice"
    assert steps_back(text, turns) == [True, False]


def test_auc_is_half_if_scores_say_nothing() -> None:
    """One if every answerable question has the higher score, none if there is nothing to compare."""
    assert auc([(True, 0.5), (False, 0.5)]) == 0.5
    assert auc([(True, 0.6), (True, 0.7), (False, 0.5)]) == 1
    assert auc([(True, 0.6)]) is None


def test_the_written_set_refers_to_its_own_turns() -> None:
    """No id is there twice, and every turn, speaker and session that a question or a label names is in the set."""
    written = load()
    turns = written.turns()
    names = [session.session_id for session in written.sessions] + [question.id for question in written.questions]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert len(turns) == sum(len(session.turns) for session in written.sessions)
    referred = {place for question in written.questions for place in (*question.evidence, *question.outdated)}
    referred |= {(label.session_id, label.turn) for label in written.labels}
    referred |= {label.replaces for label in written.labels if label.replaces}
    assert referred - turns.keys() == set()
    for question in written.questions:
        assert bool(question.evidence) == (question.kind != "unanswerable"), question.id
        assert question.outdated or question.kind != "updated_fact", question.id
        for session_id, turn in question.evidence:
            assert question.session_id in (None, session_id), question.id
            assert question.speaker in (None, turns[session_id, turn].speaker), question.id
            assert turns[session_id, turn].at < question.asked_at, question.id
    assert len(written.errors) == 25
    assert len(written.unrelated) == 50


def _write_set(folder: Path) -> None:
    def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")

    def turn(number: int, speaker: str, text: str) -> dict[str, Any]:
        return {"turn": number, "speaker": speaker, "at": f"2026-03-02T09:{number:02}:00+00:00", "text": text}

    sessions = {name: [turn(number, *said) for number, said in enumerate(turns)] for name, turns in SESSIONS.items()}
    named = {"language": "en", "domain": "home"}
    write("sessions_small.jsonl", [{"session_id": name, **named, "turns": each} for name, each in sessions.items()])
    fields, at = ("kind", "question", "evidence", "outdated"), "2026-10-01T10:00:00+00:00"
    asked = [
        {**dict(zip(fields, question, strict=True)), "id": f"q-{question[0]}", "asked_at": at} for question in QUESTIONS
    ]
    write("questions_small.jsonl", asked)
    label_fields = ("session_id", "turn", "label", "replaces")
    write("labels_small.jsonl", (dict(zip(label_fields, label, strict=True)) for label in LABELS))
    write("errors.jsonl", ERRORS)
