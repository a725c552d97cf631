"""Error patterns without a socket: their actions on a real database, and what is published of proposals."""

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.unit.unified_memory_reasoning.bench import Bench
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import EVERY_ACTION, UNAUTHENTICATED, Caller, Grants
from twinhost.unified_memory_reasoning.errors.actions import ErrorPatternActions
from twinhost.unified_memory_reasoning.errors.matching import BURST_S, REFILL, CpuBudget
from twinhost.unified_memory_reasoning.errors.patterns import ErrorPatterns
from twinhost.unified_memory_reasoning.errors.proposals import PatternProposals
from twinhost.unified_memory_reasoning.provenance.quarantine import Quarantine

MAX_BYTES = 4_194_304
ENDLESS_S = 1e9  # of what one caller may take, for a test of something else
ALICE = Caller("Alice", "pc2", frozenset({"agent"}), "SHA256:of-alice")
BOB = Caller("Bob", "mainpc", frozenset({"agent"}), "SHA256:of-bob")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
NOBODY = UNAUTHENTICATED
FOR_EVERYBODY = Grants({role: frozenset({EVERY_ACTION}) for role in ("agent", "operator", "unauthenticated")})


class ErrorPatternBench(Bench):
    """The seven actions; `published` is what was published of proposals, type and data."""

    CALLER = ALICE

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        cpu_s: float = BURST_S,
        refill: float = REFILL,
        **bounds: Any,
    ) -> None:
        self.published: list[tuple[str, dict[str, Any]]] = []
        self._bounds = bounds
        self._budget = CpuBudget(cpu_s, refill)
        super().__init__(path, max_bytes)

    def make(self) -> Iterable[Action[Any]]:
        self.patterns = ErrorPatterns(self.database, **self._bounds)
        self.proposals = PatternProposals(self.database, self._publish)
        return ErrorPatternActions(self.patterns, self.proposals, self._max_bytes, self._budget).actions()

    def serve(self, actions: Iterable[Action[Any]], grants: Grants = FOR_EVERYBODY, **options: Any) -> None:
        super().serve(actions, grants, **options)

    def _publish(self, kind: str, data: dict[str, Any]) -> None:
        self.database.after_commit(lambda: self.published.append((kind, data)))  # as the outbox does

    def add(self, pattern: str, solution: str | None = None, caller: Caller = ALICE, **fields: Any) -> int:
        fields = {"error_type": "E", "pattern": pattern, "solution": solution, **fields}
        reply = self.ask("add_error_pattern", caller, **fields)
        assert reply["status"] == "ok", reply
        return int(reply["pattern_id"])

    def rows(self, table: str = "error_patterns") -> int:
        return super().rows(table)

    def look_up(self, message: str, caller: Caller = ALICE) -> dict[str, Any]:
        return self.ask("get_error_solution", caller, error_message=message)

    def report(self, pattern_id: int, caller: Caller = ALICE, *, success: bool, times: int = 1) -> dict[str, Any]:
        """Report an outcome, `times` over; return the last reply."""
        reply: dict[str, Any] = {}
        for _ in range(times):
            reply = self.ask("report_solution_outcome", caller, pattern_id=pattern_id, success=success)
        return reply

    def proposed(self) -> list[str]:
        """Return the patterns that are proposed, newest first."""
        return [proposal["pattern"] for proposal in self.ask("get_pattern_proposals")["proposals"]]

    def hide(self, caller: Caller) -> None:
        """Put what a caller wrote in quarantine."""
        with self.database.transaction():
            Quarantine(self.database).add(caller.name, OPERATOR.name)

    def show(self, caller: Caller) -> None:
        """Release what a caller wrote."""
        with self.database.transaction():
            Quarantine(self.database).lift(caller.name)


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
