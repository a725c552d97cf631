"""The written sets for recall: sessions, questions about them, labels of turns, and error messages.

The folder `recall` has them as JSON Lines, one object a line: `sessions_*`, `questions_*` and `labels_*`, and `errors`.
A session and what refers to it belong to one half of the set, `tune` or `held out`, by the hash of its id. Weights are
chosen on `tune` alone: where they fit it too closely, the figures of `held out` are worse.

`recall_second` is a smaller set. It shows what the rules are worth on other material: its sessions are by somebody who
had seen neither the first one nor the code, and its error messages are those of well-known programs, written after the
phrases of the kinds of error.

`recall_assistant` has long conversations of a person with an assistant, whose replies have 800 to 4,000 characters:
code, lists, tables, plans, corrections. `recall_friends` has ordinary long talk between friends. Their writers had seen
neither code nor rules nor the other sets; they have no labels and no error messages.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

SETS = ("recall", "recall_second", "recall_assistant", "recall_friends")
FOLDERS = [Path(__file__).with_name(name) for name in SETS]
HALVES = ("tune", "held out")
Kind = Literal[
    "single_fact",
    "paraphrase",
    "cross_lingual",
    "temporal",
    "updated_fact",
    "follow_up",
    "speaker",
    "several",
    "unanswerable",
]
Place = tuple[str, int]  # a session's id and the number of a turn
T = TypeVar("T")


class Turn(msgspec.Struct, frozen=True):
    """What somebody said, and when."""

    turn: int
    speaker: str
    at: datetime
    text: str


class Session(msgspec.Struct, frozen=True):
    """One conversation; `language` is en, fil, or mix."""

    session_id: str
    language: str
    domain: str
    turns: list[Turn]


class Question(msgspec.Struct, frozen=True):
    """A question: any turn of `evidence` answers it, those of `outdated` have older values; without evidence, nothing.

    Of the kind `several`, all turns of `evidence` are needed. `session_id` and `speaker` are the filters to ask with.
    """

    id: str
    kind: Kind
    question: str
    asked_at: datetime
    evidence: list[Place]
    session_id: str | None = None
    speaker: str | None = None
    outdated: list[Place] = []
    answer: str = ""

    @property
    def half(self) -> str:
        return half_of(self.evidence[0][0] if self.evidence else self.session_id or self.id)


class Label(msgspec.Struct, frozen=True):
    """What a turn is; `replaces` is the decision that it takes back."""

    session_id: str
    turn: int
    label: Literal["decision", "fact", "withdrawn", "request", "question", "chatter", "negation"]
    replaces: Place | None = None


class ErrorKind(msgspec.Struct, frozen=True):
    """One problem as logs have it; with no `pattern` of the user's own, the agent's proposal is stored.

    The messages of `exact` differ in numbers, ids, paths and hosts; those of `reworded` are another program's.
    """

    kind: str
    pattern: str | None
    solution: str
    exact: list[str]
    reworded: list[str]


class RecallSet(msgspec.Struct, frozen=True):
    """The whole set; `unrelated` are error messages that no solution fits."""

    sessions: list[Session]
    questions: list[Question]
    labels: list[Label]
    errors: list[ErrorKind]
    unrelated: list[str]

    def turns(self) -> dict[Place, Turn]:
        """Return every turn, in the order of time."""
        turns = [((session.session_id, turn.turn), turn) for session in self.sessions for turn in session.turns]
        return dict(sorted(turns, key=lambda turn: turn[1].at))


def half_of(name: str) -> str:
    """Return the half that a session, or whatever else has a name, belongs to."""
    return HALVES[hashlib.sha256(name.encode()).digest()[0] % 2]


def load(folder: Path = FOLDERS[0]) -> RecallSet:
    """Read the set.

    Raises:
        ValueError: a line doesn't follow the format, or there are no sessions.
    """
    sessions = _read(folder, "sessions_*.jsonl", Session)
    if not sessions:
        raise ValueError(f"{folder} has no sessions_*.jsonl; give the folder of a set with --set")
    messages = _read(folder, "errors.jsonl", dict[str, Any])
    return RecallSet(
        sessions,
        _read(folder, "questions_*.jsonl", Question),
        _read(folder, "labels_*.jsonl", Label),
        msgspec.convert([message for message in messages if "kind" in message], list[ErrorKind]),
        [message["unrelated"] for message in messages if "kind" not in message],
    )


def _read(folder: Path, names: str, row_type: type[T]) -> list[T]:
    decoder, rows = msgspec.json.Decoder(row_type), list[T]()
    for path in sorted(folder.glob(names)):
        try:
            rows += decoder.decode_lines(path.read_bytes())
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}: {error}; correct that line") from None
    return rows
