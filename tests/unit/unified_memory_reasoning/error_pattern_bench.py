"""Error patterns without a socket: their actions on a real database, and what would be told of proposals."""

import json
import string
from pathlib import Path
from types import TracebackType
from typing import Any

from hypothesis import strategies as st

from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller, Grants
from twinhost.secure_zmq.dispatch import Dispatcher, Inbound
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.reply_log import ReplyLog
from twinhost.unified_memory_reasoning.errors import patterns, proposals
from twinhost.unified_memory_reasoning.errors.actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.errors.matching import MOST_S, SearchAllowance
from twinhost.unified_memory_reasoning.errors.patterns import ErrorPatterns
from twinhost.unified_memory_reasoning.errors.proposals import PatternProposals
from twinhost.unified_memory_reasoning.provenance import quarantine
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

MAX_BYTES = 4_194_304
ENDLESS_S = 1e9  # of what one caller may take, for a test of something else
ALICE = Caller("Alice", "pc2", frozenset({"agent"}), "SHA256:of-alice")
BOB = Caller("Bob", "mainpc", frozenset({"agent"}), "SHA256:of-bob")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
NOBODY = UNAUTHENTICATED
MIGRATIONS = [REPLY_LOG_SCHEMA, quarantine.MIGRATION, patterns.MIGRATION, proposals.MIGRATION]


class ErrorPatternBench:
    """The seven actions; `told` is what was told of proposals, type and data."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, allowance_s: float = MOST_S, **bounds: Any) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._path, self._max_bytes, self._bounds = path, max_bytes, bounds
        self._allowance = SearchAllowance(allowance_s)
        self.open()

    def open(self) -> None:
        """Open the database, as a start of the agent does."""
        self.database = Database(self._path, MIGRATIONS)
        self.patterns = ErrorPatterns(self.database, **self._bounds)
        self.proposals = PatternProposals(self.database, self._tell)
        actions = ErrorPatternActions(self.patterns, self.proposals, self._max_bytes, self._allowance).actions()
        everything = frozenset({"*"})
        self._dispatcher = Dispatcher(
            actions,
            Grants({"agent": everything, "operator": everything, "unauthenticated": everything}),
            self.database,
            ReplyLog(self.database, keep_s=600, keep_per_caller=1_000),
            self._max_bytes,
        )

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        self.database.after_commit(lambda: self.told.append((kind, data)))  # as the outbox does

    def reopen(self) -> None:
        """Close the database and open it again, as a restart does."""
        self.database.close()
        self.open()

    def ask(self, action: str, caller: Caller = ALICE, **fields: Any) -> dict[str, Any]:
        """Return the reply to one request."""
        (reply,) = self.ask_together((action, caller, fields))
        return reply

    def ask_together(self, *requests: tuple[str, Caller, dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the replies to requests that were drained together."""
        batch = [Inbound(json.dumps({"action": action, **fields}).encode(), by) for action, by, fields in requests]
        return [json.loads(reply) for reply in self._dispatcher.answer(batch)]

    def add(self, pattern: str, solution: str | None = None, caller: Caller = ALICE, **fields: Any) -> int:
        """Add a pattern and return its number."""
        fields = {"error_type": "E", "pattern": pattern, "solution": solution, **fields}
        reply = self.ask("add_error_pattern", caller, **fields)
        assert reply["status"] == "ok", reply
        return int(reply["pattern_id"])

    def look_up(self, message: str, caller: Caller = ALICE) -> dict[str, Any]:
        """Return what is known of a message."""
        return self.ask("get_error_solution", caller, error_message=message)

    def report(self, pattern_id: int, caller: Caller = ALICE, *, success: bool, times: int = 1) -> dict[str, Any]:
        """Report an outcome, `times` over; return the last reply."""
        reply: dict[str, Any] = {}
        for _ in range(times):
            reply = self.ask("report_solution_outcome", caller, pattern_id=pattern_id, success=success)
        return reply

    def proposed(self) -> list[str]:
        """Return the patterns that are proposed, newest first."""
        return [each["pattern"] for each in self.ask("get_pattern_proposals")["proposals"]]

    def hide(self, caller: Caller) -> None:
        """Put what a caller wrote in quarantine."""
        with self.database.transaction():
            Quarantine(self.database).add(caller.name, OPERATOR.name)

    def show(self, caller: Caller) -> None:
        """Release what a caller wrote."""
        with self.database.transaction():
            Quarantine(self.database).lift(caller.name)

    def rows(self, table: str = "error_patterns") -> int:
        """Return how many rows of a table are on disk."""
        return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def __enter__(self) -> "ErrorPatternBench":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()


_LITERALS = st.sampled_from([*string.ascii_letters, *"0123456789 _-:/,=@é'ſKß"])
_SPECIAL = st.sampled_from(".+*?()|[]{}^$\\")
_SETS = st.sampled_from(
    [(r"\d", "4"), (r"\w", "z"), (r"\s", " "), (r"[a-c]", "b"), (r"[^x]", "Q"), (r"[]-]", "]"), (r"[[:alpha:]_]", "_"),
     (r"\S", "#"), (r".", "!"), (r"\pL", "ö"), (r"\p{Greek}", "λ"), (r"\PN", "x"), (r"[\d.]", "."), (r"\x41", "A"),
     (r"\x{e9}", "é"), (r"\101", "A"), (r"[.]", "."), (r"[a\]b]", "]"), (r"\Qa.*b\E", "a.*b"), (r"\t", "\t")]
)  # fmt: skip


@st.composite
def _joined(draw: st.DrawFn, inner: st.SearchStrategy[tuple[str, str]]) -> tuple[str, str]:
    parts = draw(st.lists(inner, max_size=6))
    return "".join(pattern for pattern, _ in parts), "".join(text for _, text in parts)


@st.composite
def _branches(draw: st.DrawFn, inner: st.SearchStrategy[tuple[str, str]]) -> tuple[str, str]:
    branches = draw(st.lists(inner, min_size=1, max_size=3))
    return f"({'|'.join(pattern for pattern, _ in branches)})", draw(st.sampled_from(branches))[1]


@st.composite
def _folded(draw: st.DrawFn, inner: st.SearchStrategy[tuple[str, str]]) -> tuple[str, str]:
    pattern, text = draw(inner)
    return f"(?i:{pattern})", draw(st.sampled_from([text, text.upper() if text.isascii() else text]))


@st.composite
def _repeated(draw: st.DrawFn, inner: st.SearchStrategy[tuple[str, str]]) -> tuple[str, str]:
    pattern, text = draw(inner)
    operator, least, most = draw(
        st.sampled_from([("*", 0, 3), ("+", 1, 3), ("?", 0, 1), ("{2}", 2, 2), ("{1,3}", 1, 3), ("{2,}?", 2, 4)])
    )
    return f"(?:{pattern}){operator}", text * draw(st.integers(least, most))


_LEAVES = _LITERALS.map(lambda it: (it, it)) | _SPECIAL.map(lambda it: (f"\\{it}", it)) | _SETS
PATTERNS_WITH_MATCHES: st.SearchStrategy[tuple[str, str]] = st.recursive(  # in RE2's syntax; a text that each matches
    _LEAVES, lambda inner: st.one_of(_joined(inner), _branches(inner), _folded(inner), _repeated(inner)), max_leaves=20
)
