"""What UnifiedMemoryReasoningAgent is told and asked about errors: every field with its type and its bounds."""

from collections.abc import Iterable
from typing import Annotated, Literal, NotRequired, TypedDict, TypeVar

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.errors.matching import MAX_CHARACTERS, MAX_MESSAGE_BYTES, SearchAllowance
from twinhost.unified_memory_reasoning.errors.patterns import ErrorPattern, ErrorPatterns, Score
from twinhost.unified_memory_reasoning.errors.proposals import PatternProposals, Proposal
from twinhost.unified_memory_reasoning.errors.specificity import Specificity

MAX_LIMIT = 200
PATTERN = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHARACTERS)]
SOLUTION = Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
MESSAGE = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MESSAGE_BYTES)]  # and so many bytes
NOTE = Annotated[str, msgspec.Meta(max_length=1_024)]
NUMBER = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
LIMIT = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class AddErrorPattern(Request, tag="add_error_pattern"):
    """Store a regular expression (RE2) for an error, and what helps; once more by the same writer: the new solution."""

    error_type: NAME
    pattern: PATTERN
    solution: SOLUTION | None = None


class GetErrorSolution(Request, tag="get_error_solution"):
    """What is known of an error."""

    error_message: MESSAGE

    def __post_init__(self) -> None:
        size = len(self.error_message.encode(errors="replace"))
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"Expected at most {MAX_MESSAGE_BYTES} bytes of UTF-8 in `error_message`, got {size}")


class ReportSolutionOutcome(Request, tag="report_solution_outcome"):
    """Whether a pattern's solution helped."""

    pattern_id: NUMBER
    success: bool
    note: NOTE | None = None


class ListErrorPatterns(Request, tag="list_error_patterns"):
    """The patterns, newest first; `before` is a number: the next page."""

    limit: LIMIT = 50
    before: NUMBER | None = None


class DeleteErrorPattern(Request, tag="delete_error_pattern"):
    """Forget a pattern of the caller's own; an operator may name any."""

    pattern_id: NUMBER


class GetPatternProposals(Request, tag="get_pattern_proposals"):
    """Patterns for errors that were seen repeatedly and that none knows, newest first; `before`: the next page."""

    limit: LIMIT = 50
    before: NUMBER | None = None


class DismissPatternProposal(Request, tag="dismiss_pattern_proposal"):
    """Propose this one no more."""

    proposal_id: NUMBER


class SpecificityDocument(TypedDict):
    """How specific a pattern is: the characters, those of a named set, and the anchors that every match has."""

    literals: int
    classes: int
    anchors: int


class ScoreDocument(TypedDict):
    """How often a solution helped and how often not; `success_rate`, from 0 to 1, is 0.5 before the first report."""

    success_rate: float
    successes: int
    failures: int


class ErrorPatternDocument(ScoreDocument):
    """A pattern; `solution` is null where none was told, `last_seen` where it never answered."""

    pattern_id: int
    error_type: str
    pattern: str
    solution: str | None
    specificity: SpecificityDocument
    occurrence_count: int
    last_seen: str | None
    created: str
    updated: str
    written_by: str


class ErrorPatternAdded(TypedDict):
    """The pattern is stored; it is searched for in a message's first `reads_bytes`, and settled so many proposals."""

    status: Literal["ok"]
    pattern_id: int
    new: bool
    specificity: SpecificityDocument
    reads_bytes: int
    settled_proposals: int


class ErrorSolution(TypedDict):
    """The pattern that knows the error; where none does, its fields are null, counts 0, or absent.

    `complete` is false where time ran out before every pattern was tried; `proposal_id` is null where the error's
    shape is no proposal.
    """

    status: Literal["ok"]
    solution: str | None
    error_type: str | None
    pattern_id: int | None
    pattern: str | None
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


class OutcomeReported(ScoreDocument):
    """How the pattern's solution fared by now."""

    status: Literal["ok"]
    pattern_id: int


class ErrorPatternPage(TypedDict):
    """Patterns, newest first; `more` says that there are others before them."""

    status: Literal["ok"]
    patterns: list[ErrorPatternDocument]
    more: bool


class ErrorPatternDeleted(TypedDict):
    """The pattern is forgotten."""

    status: Literal["ok"]
    pattern_id: int


class ProposalDocument(TypedDict):
    """A pattern for an error that none knows: how often it was seen, when, by whom, and the newest such message."""

    proposal_id: int
    pattern: str
    seen: int
    first_seen: str
    last_seen: str
    written_by: list[str]
    example: str


class ProposalPage(TypedDict):
    """Proposals, newest first; `more` says that there are others before them."""

    status: Literal["ok"]
    proposals: list[ProposalDocument]
    more: bool


class ProposalDismissed(TypedDict):
    """The pattern that is proposed no more."""

    status: Literal["ok"]
    proposal_id: int
    pattern: str


D = TypeVar("D")


class ErrorPatternActions(Feature):
    """Error patterns and proposals as the wire has them."""

    def __init__(
        self,
        patterns: ErrorPatterns,
        proposals: PatternProposals,
        max_reply_bytes: int,
        allowance: SearchAllowance | None = None,
    ) -> None:
        self._patterns = patterns
        self._proposals = proposals
        self._allowance = allowance or SearchAllowance()
        self._max_bytes = max_reply_bytes // 2  # of a page's entries; the rest of a reply is less than that

    @action(mutates=True)
    def add(self, request: AddErrorPattern, caller: Caller) -> ErrorPatternAdded:
        with self._allowance.spending(caller.name):
            added = self._patterns.add(request.error_type, request.pattern, request.solution, caller.name)
            general = added.requirement.general
            settled = self._proposals.settle(request.pattern, caller.name, own_shape_alone=general)
        return {
            "status": SUCCESS,
            "pattern_id": added.pattern_id,
            "new": added.new,
            "specificity": _specificity(added.requirement.specificity),
            "reads_bytes": added.reads,
            "settled_proposals": settled,
        }

    @action(mutates=True)
    def get_solution(self, request: GetErrorSolution, caller: Caller) -> ErrorSolution:
        """Answer with the most specific pattern's solution; an error that none knows counts towards a proposal.

        One that only a pattern without a required text knows counts as well: `.*` tells no error from another.
        """
        with self._allowance.spending(caller.name):
            match = self._patterns.match(request.error_message)
            unknown = match.complete and (match.known is None or match.general)
            proposal_id = self._proposals.count(request.error_message, caller.name) if unknown else None
        known = match.known
        if known is None:
            return _nothing_known(proposal_id, complete=match.complete)
        return {"status": SUCCESS, **_document(known), "complete": match.complete, "proposal_id": proposal_id}

    @action(mutates=True)
    def report_outcome(self, request: ReportSolutionOutcome, caller: Caller) -> OutcomeReported:
        known = self._patterns.find(request.pattern_id)
        if known.solution is None:
            raise MalformedRequest(
                f"error pattern {known.pattern_id} has no solution that could help - at `$.pattern_id`; "
                "add_error_pattern gives it one"
            )
        self._patterns.outcomes.add(known.pattern_id, request.note, caller.name, success=request.success)
        score = self._patterns.outcomes.score(known.pattern_id)
        return {"status": SUCCESS, "pattern_id": known.pattern_id, **_scored(score)}

    @action()
    def list_patterns(self, request: ListErrorPatterns, _: Caller) -> ErrorPatternPage:
        patterns = self._patterns.newest(request.before, request.limit + 1)
        entries, more = self._fitting(request.limit, (_document(known) for known in patterns))
        return {"status": SUCCESS, "patterns": entries, "more": more}

    @action(mutates=True)
    def delete(self, request: DeleteErrorPattern, caller: Caller) -> ErrorPatternDeleted:
        known = self._patterns.find(request.pattern_id, even_hidden=caller.operator)
        if caller.authenticated and not caller.operator and caller.name != known.written_by:
            raise NotGranted(
                f"error pattern {known.pattern_id} is {known.written_by}'s and {caller.name} may not delete it; "
                "its writer or an operator may"
            )
        self._patterns.remove(known.pattern_id)
        return {"status": SUCCESS, "pattern_id": known.pattern_id}

    @action()
    def get_proposals(self, request: GetPatternProposals, _: Caller) -> ProposalPage:
        proposals = self._proposals.newest(request.before, request.limit + 1)
        entries, more = self._fitting(request.limit, (_proposal(proposal) for proposal in proposals))
        return {"status": SUCCESS, "proposals": entries, "more": more}

    @action(mutates=True)
    def dismiss(self, request: DismissPatternProposal, caller: Caller) -> ProposalDismissed:
        dismissed = self._proposals.dismiss(request.proposal_id, caller.name)
        return {"status": SUCCESS, "proposal_id": dismissed.proposal_id, "pattern": dismissed.pattern}

    def _fitting(self, limit: int, documents: Iterable[D]) -> tuple[list[D], bool]:
        """Return as many as were asked for and fit, at least one where there is one, and whether there are more."""
        entries: list[D] = []
        size = 0
        for document in documents:
            size += len(msgspec.json.encode(document))
            if len(entries) == limit or (entries and size > self._max_bytes):
                return entries, True
            entries.append(document)
        return entries, False


def _nothing_known(proposal_id: int | None, *, complete: bool) -> ErrorSolution:
    return {
        "status": SUCCESS,
        "solution": None,
        "error_type": None,
        "pattern_id": None,
        "pattern": None,
        "written_by": None,
        "occurrence_count": 0,
        "last_seen": None,
        "success_rate": None,
        "successes": 0,
        "failures": 0,
        "complete": complete,
        "proposal_id": proposal_id,
    }


def _document(known: ErrorPattern) -> ErrorPatternDocument:
    return {
        "pattern_id": known.pattern_id,
        "error_type": known.error_type,
        "pattern": known.pattern,
        "solution": known.solution,
        "specificity": _specificity(known.specificity),
        "occurrence_count": known.occurrence_count,
        "last_seen": _moment(known.last_seen),
        "created": iso_time(known.created),
        "updated": iso_time(known.updated),
        "written_by": known.written_by,
        **_scored(known.score),
    }


def _specificity(told: Specificity) -> SpecificityDocument:
    return {"literals": told.literals, "classes": told.classes, "anchors": told.anchors}


def _scored(score: Score) -> ScoreDocument:
    return {"success_rate": round(score.success_rate, 3), "successes": score.successes, "failures": score.failures}


def _proposal(proposal: Proposal) -> ProposalDocument:
    return {
        "proposal_id": proposal.proposal_id,
        "pattern": proposal.pattern,
        "seen": proposal.seen,
        "first_seen": iso_time(proposal.first_seen),
        "last_seen": iso_time(proposal.last_seen),
        "written_by": list(proposal.written_by),
        "example": proposal.example,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(seconds)
