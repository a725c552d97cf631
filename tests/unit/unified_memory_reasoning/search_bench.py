"""`search_memory` without a socket: the action on a real database, whose rows a test puts in."""

import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from tests.unit.unified_memory_reasoning.bench import MAX_REPLY_BYTES, Bench
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.unified_memory_reasoning.search.actions import SearchActions
from twinhost.unified_memory_reasoning.search.search import Search

DAY_S = 86_400.0


class SearchBench(Bench):
    """The action, and rows as the stores would have written them."""

    def __init__(self, path: Path, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._word_pairs = True
        self._sessions = itertools.count()
        super().__init__(path, max_reply_bytes)

    def make(self) -> Iterable[Action[Any]]:
        return SearchActions(Search(self.database, word_pairs=self._word_pairs), self._max_bytes).actions()

    def configure(self, *, word_pairs: bool = True, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        """Search with other settings from now on."""
        self._word_pairs, self._max_bytes = word_pairs, max_reply_bytes
        self.serve(self.make())

    def ask(self, action: str = "search_memory", caller: Caller | None = None, **fields: Any) -> dict[str, Any]:
        reply = super().ask(action, caller, **fields)
        assert len(json.dumps(reply, ensure_ascii=False, separators=(",", ":")).encode()) <= MAX_REPLY_BYTES
        return reply

    def ids(self, query: str, **fields: Any) -> list[int | str]:
        """Return the ids that a search answers with, best first."""
        reply = self.ask(query=query, **fields)
        assert reply["status"] == "ok", reply
        return [result["id"] for result in reply["results"]]

    def interaction(
        self,
        content: str,
        *,
        session_id: str | None = None,
        speaker: str = "",
        kind: str = "code",
        importance: float = 0.5,
        strength: float = 1.0,
        age_days: float = 0.0,
        written_by: str = "A",
    ) -> int:
        """Put an interaction in, in a session of its own if none is given; return its id."""
        session_id = f"s{next(self._sessions)}" if session_id is None else session_id
        return int(
            self.database.execute(
                "INSERT INTO interactions (session_id, speaker, type, content, metadata, importance, strength, "
                "created, tier, written_by) VALUES (?, ?, ?, ?, x'7b7d', ?, ?, ?, 0, ?)",
                (session_id, speaker, kind, content, importance, strength, time.time() - age_days * DAY_S, written_by),
            ).lastrowid
            or 0
        )

    def memory(
        self,
        name: str,
        content: str,
        *,
        keywords: tuple[str, ...] = (),
        strength: float = 1.0,
        age_days: float = 0.0,
        forgotten: bool = False,
        written_by: str = "A",
    ) -> str:
        """Put a memory in; return its id."""
        moment = time.time() - age_days * DAY_S
        self.database.execute(
            "INSERT INTO memories (id, content, keywords, source, strength, created, last_accessed, forgotten, "
            "written_by) VALUES (?, ?, ?, '', ?, ?, ?, ?, ?)",
            (name, content, msgspec.json.encode(keywords), strength, moment, moment, forgotten, written_by),
        )
        self.database.execute_many(
            "INSERT INTO memory_keywords SELECT ?, number FROM memories WHERE id = ?",
            [(keyword.casefold(), name) for keyword in keywords],
        )
        return name

    def quarantine(self, *names: str) -> None:
        """Hide what these wrote."""
        self.database.execute_many("INSERT INTO quarantined VALUES (?, 0, 'operator')", [(name,) for name in names])

    def fill(self, count: int, content: str = "talk of the day", **fields: Any) -> None:
        """Put many interactions in that are not asked for, so that no word of a test is in most of the texts."""
        with self.database.transaction():
            for _ in range(count):
                self.interaction(content, **fields)


def filled(path: Path) -> SearchBench:
    """Return a bench with twenty texts."""
    bench = SearchBench(path)
    bench.fill(20)
    return bench
