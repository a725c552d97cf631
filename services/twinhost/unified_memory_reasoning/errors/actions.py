"""Error patterns and proposals: requests, replies and handlers."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, NotRequired, TypedDict, cast

import msgspec

from twinhost.fence import Passage, fenced, new_tag
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.wire import NAME
from twinhost.unified_memory_reasoning import SUCCESS, page_of
from twinhost.unified_memory_reasoning.errors.matching import MAX_CHARACTERS, MAX_MESSAGE_BYTES, CpuBudget
from twinhost.unified_memory_reasoning.errors.patterns import (
    PATTERN_DETAILS,
    ErrorPatternDocument,
    ErrorPatterns,
    ScoreDocument,
    SpecificityDocument,
)
from twinhost.unified_memory_reasoning.errors.proposals import PatternProposals, ProposalDocument
from twinhost.unified_memory_reasoning.errors.similarity import SuggestionDocument
from twinhost.unified_memory_reasoning.fields import TAG
from twinhost.unified_memory_reasoning.provenance.quarantine import MAX_NUMBER
from twinhost.unified_memory_reasoning.spaces.access import InSpace

MAX_LIMIT = 200
PATTERN = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHARACTERS)]
MESSAGE = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MESSAGE_BYTES)]  # in characters, and in bytes
NOTE = Annotated[str, msgspec.Meta(max_length=1_024)]
NUMBER = Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


@PATTERN_DETAILS.stored_by
class _SentPattern(InSpace):
    error_type: NAME
    pattern: PATTERN


class AddErrorPattern(_SentPattern, tag="add_error_pattern"):
    """Store a regular expression (RE2) for an error and its solution; storing it again replaces your solution.

    The pattern ignores case, unless it begins with `(?-i)`.
    """


class GetErrorSolution(InSpace, tag="get_error_solution"):
    """Return the solution of the most specific pattern that matches an error message of at most 64 KiB.

    `suggestions` has the solutions of patterns that the message resembles without matching them. With `fenced`, the
    solutions are in `fenced` too, as one text for a model; `tag` is that of its first and last line, by default random.
    """

    error_message: MESSAGE
    fenced: bool = False
    tag: TAG | None = None

    def __post_init__(self) -> None:
        size = len(self.error_message.encode(errors="replace"))
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"Expected at most {MAX_MESSAGE_BYTES} bytes of UTF-8 in `error_message`, got {size}")


class ReportSolutionOutcome(InSpace, tag="report_solution_outcome"):
    """Report whether a pattern's solution helped."""

    pattern_id: NUMBER
    success: bool
    note: NOTE | None = None


class _GetPage(InSpace):
    limit: LIMIT = 50
    before: NUMBER | None = None


class ListErrorPatterns(_GetPage, tag="list_error_patterns"):
    """List the patterns, newest first; for the next page, set `before` to the last `pattern_id`."""


class DeleteErrorPattern(InSpace, tag="delete_error_pattern"):
    """Delete a pattern of your own; an operator may delete any."""

    pattern_id: NUMBER


class GetPatternProposals(_GetPage, tag="get_pattern_proposals"):
    """List proposed patterns for repeated errors that no pattern matches, newest first.

    For the next page, set `before` to the last `proposal_id`.
    """


class DismissPatternProposal(InSpace, tag="dismiss_pattern_proposal"):
    """Stop proposing a pattern.

    The grant `{dismiss_pattern_proposal: own}` limits that to errors that nobody but the caller reported.
    """

    proposal_id: NUMBER


class ErrorPatternAdded(TypedDict):
    """The pattern is stored; it is matched against a message's first `reads_bytes`, and settled some proposals."""

    status: Literal["ok"]
    pattern_id: int
    new: bool
    specificity: SpecificityDocument
    reads_bytes: int
    settled_proposals: int


@PATTERN_DETAILS.shown_by
class _Solved(TypedDict):
    status: Literal["ok"]


class ErrorSolution(_Solved):
    """The pattern that matches the error; if there is none, its fields are null, 0, or absent.

    `complete` is false if time ran out before every pattern was tried; `proposal_id` is null if no pattern is proposed
    for the error. `suggestions` are at most 3, the most similar first; they may not apply to the error. `fenced` has
    all solutions, each under its writer, between two lines with `tag`; it is in the reply to a request with `fenced`.
    """

    error_type: str | None
    pattern_id: int | None
    pattern: str | None
    ignores_case: NotRequired[bool]
    specificity: NotRequired[SpecificityDocument]
    occurrence_count: int
    last_seen: str | None
    created: NotRequired[str]
    updated: NotRequired[str]
    written_by: str | None
    success_rate: float | None
    successes: int
    failures: int
    complete: bool
    proposal_id: int | None
    suggestions: list[SuggestionDocument]
    fenced: NotRequired[str]
    tag: NotRequired[str]


class OutcomeReported(ScoreDocument):
    """The score of the pattern's solution."""

    status: Literal["ok"]
    pattern_id: int


class ErrorPatternPage(TypedDict):
    """Patterns, newest first; `more` is true if there are older ones."""

    status: Literal["ok"]
    patterns: list[ErrorPatternDocument]
    more: bool


class ErrorPatternDeleted(TypedDict):
    """The pattern is deleted."""

    status: Literal["ok"]
    pattern_id: int


class ProposalPage(TypedDict):
    """Proposals, newest first; `more` is true if there are older ones."""

    status: Literal["ok"]
    proposals: list[ProposalDocument]
    more: bool


class ProposalDismissed(TypedDict):
    """The pattern is no longer proposed."""

    status: Literal["ok"]
    proposal_id: int
    pattern: str


_NOTHING_KNOWN = {
    **dict.fromkeys((*PATTERN_DETAILS.nulls, "error_type", "pattern_id", "pattern", "written_by")),
    "occurrence_count": 0,
    "last_seen": None,
    "success_rate": None,
    "successes": 0,
    "failures": 0,
}


def _passages(known: ErrorPatternDocument | None, suggestions: Iterable[SuggestionDocument]) -> Iterator[Passage]:
    """Yield the solutions, that of the matching pattern first."""
    solution = None if known is None else known.get("solution")
    if known is not None and isinstance(solution, str):
        of = f"solution {known['pattern_id']}, {known['error_type']}"
        yield Passage(known["written_by"], known["updated"][:10], "", of, "solution", solution)
    for suggestion in suggestions:
        of = f"suggestion {suggestion['pattern_id']}, {suggestion['error_type']}"
        day = suggestion["updated"][:10]
        yield Passage(suggestion["written_by"], day, "", of, "suggestion", suggestion["solution"])


class ErrorPatternActions(Feature):
    """Stores error patterns, matches messages, and lists proposals."""

    def __init__(
        self,
        patterns: ErrorPatterns,
        proposals: PatternProposals,
        max_reply_bytes: int,
        budget: CpuBudget | None = None,
    ) -> None:
        self._patterns = patterns
        self._proposals = proposals
        self._budget = budget or CpuBudget()
        self._max_bytes = max_reply_bytes // 2  # of a page's entries; the rest of a reply is smaller

    @action(mutates=True)
    def add(self, request: AddErrorPattern, caller: Caller) -> ErrorPatternAdded:
        with self._budget.spending(caller.name):
            details = PATTERN_DETAILS.stored(request, self._patterns.clock)
            added = self._patterns.add(request.error_type, request.pattern, caller.name, **details)
            general = added.requirement.general
            settled = self._proposals.settle(request.pattern, caller, own_shape_alone=general)
        return {
            "status": SUCCESS,
            "pattern_id": added.pattern_id,
            "new": added.new,
            "specificity": cast(SpecificityDocument, added.requirement.specificity._asdict()),
            "reads_bytes": added.reads,
            "settled_proposals": settled,
        }

    @action(mutates=True, unowned="it counts a report of the caller's")
    def get_solution(self, request: GetErrorSolution, caller: Caller) -> ErrorSolution:
        # An error that only a general pattern matches counts towards a proposal too: `.*` matches every error.
        with self._budget.spending(caller.name):
            match = self._patterns.match(request.error_message)
            unknown = match.complete and (match.known is None or match.general)
            proposal_id = self._proposals.count(request.error_message, caller.name) if unknown else None
            suggestions = self._patterns.similar(request.error_message, match.known)
        reply = {
            "status": SUCCESS,
            **(match.known or _NOTHING_KNOWN),
            "complete": match.complete,
            "proposal_id": proposal_id,
            "suggestions": suggestions,
        }
        if request.fenced:
            tag = request.tag or new_tag()
            reply |= {"fenced": fenced(_passages(match.known, suggestions), tag), "tag": tag}
        return cast(ErrorSolution, reply)

    @action(mutates=True, unowned="each reporter has a row of its own")
    def report_outcome(self, request: ReportSolutionOutcome, caller: Caller) -> OutcomeReported:
        score = self._patterns.report(request.pattern_id, request.note, caller.name, success=request.success)
        return {"status": SUCCESS, "pattern_id": request.pattern_id, **score}

    @action()
    def list_patterns(self, request: ListErrorPatterns, _: Caller) -> ErrorPatternPage:
        patterns = self._patterns.newest(request.before, request.limit + 1)
        entries, more = page_of(patterns, request.limit, self._max_bytes)
        return {"status": SUCCESS, "patterns": entries, "more": more}

    @action(mutates=True, from_reserve=True)
    def delete(self, request: DeleteErrorPattern, caller: Caller) -> ErrorPatternDeleted:
        known = self._patterns.find(request.pattern_id, even_hidden=caller.operator)
        if caller.authenticated:  # on an open link everybody deletes everything
            caller.require_own(f"error pattern {request.pattern_id}", known["written_by"])
        self._patterns.remove(request.pattern_id)
        return {"status": SUCCESS, "pattern_id": request.pattern_id}

    @action()
    def get_proposals(self, request: GetPatternProposals, _: Caller) -> ProposalPage:
        proposals = self._proposals.newest(request.before, request.limit + 1)
        entries, more = page_of(proposals, request.limit, self._max_bytes)
        return {"status": SUCCESS, "proposals": entries, "more": more}

    @action(mutates=True)
    def dismiss(self, request: DismissPatternProposal, caller: Caller) -> ProposalDismissed:
        dismissed = self._proposals.dismiss(request.proposal_id, caller)
        return {"status": SUCCESS, "proposal_id": request.proposal_id, "pattern": dismissed["pattern"]}
