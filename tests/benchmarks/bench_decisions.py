"""Precision and recall of the decisions in summaries, on the labelled turns of `recall`, by half and language.

The rules were written with the half `tuned` in view; `held out` was seen in part (recall.md).
A labelled turn counts as decided if the summary lists one of its sentences, or did until a later turn replaced it.
`PYTHONPATH=services:. .venv/bin/python -m tests.benchmarks.bench_decisions` prints the table.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from twinhost.unified_memory_reasoning.conversations.context_text import Utterance
from twinhost.unified_memory_reasoning.conversations.summary import Part

FOLDER = Path(__file__).with_name("recall")
HALVES = ("tuned", "held out")
LANGUAGES = ("en", "fil", "mix", "all")


def half_of(session_id: str) -> str:
    """Return the half that a session belongs to, by the parity of its CRC-32."""
    return HALVES[zlib.crc32(session_id.encode()) % 2]


def rows_of(folder: Path, names: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of the files of a set."""
    for path in sorted(folder.glob(names)):
        yield from msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())


def decided_turns(session: dict[str, Any]) -> tuple[set[int], set[int]]:
    """Return the turns in which a session's summary notes a decision, and those of them that it lists at the end."""
    part, before = Part(), None
    for turn in session["turns"]:
        said = Utterance(turn["turn"], "user_query", turn["speaker"], turn["text"], 0.5)
        part, before = part.noted(said.after(before)), said
    listed = part.document()["key_decisions"]
    return {each.id for each in part.decisions}, {each.id for each in part.decisions if each.text in listed}


def measured(folder: Path = FOLDER) -> Counter[tuple[str, str, str]]:
    """Count right, wrong and missed decisions, and replaced ones that are still listed, by half and language."""
    counts: Counter[tuple[str, str, str]] = Counter()
    sessions = {each["session_id"]: each for each in rows_of(folder, "sessions_*.jsonl")}
    turns = {name: decided_turns(session) for name, session in sessions.items()}
    for label in rows_of(folder, "labels_*.jsonl"):
        name, number = label["session_id"], label["turn"]
        found, is_one = number in turns[name][0], label["label"] == "decision"
        counted = ["right" if is_one else "wrong"] if found else ["missed"] if is_one else []
        replaced = label.get("replaces")
        if replaced and replaced[0] == name and replaced[1] in turns[name][0]:
            counted.append("listed still" if replaced[1] in turns[name][1] else "withdrawn")
        for outcome in counted:
            for language in (sessions[name]["language"], "all"):
                counts[half_of(name), language, outcome] += 1
    return counts


def table(counts: Counter[tuple[str, str, str]]) -> str:
    """Return the figures as a table of Markdown."""
    lines = ["| half | language | decisions | precision | recall | replaced, withdrawn |", "|---|---|---|---|---|---|"]
    for half in HALVES:
        for language in LANGUAGES:
            right, wrong, missed, gone, still = (
                counts[half, language, each] for each in ("right", "wrong", "missed", "withdrawn", "listed still")
            )
            if right + missed:
                precision, recall = right / max(1, right + wrong), right / (right + missed)
                figures = f"{right + missed} | {precision:.2f} | {recall:.2f} | {gone} of {gone + still}"
                lines.append(f"| {half} | {language} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measured()))
