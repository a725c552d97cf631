"""The actions on error patterns: told, looked up, scored by what helped, and proposed where none knows an error."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import MalformedRequest, NotGranted
from twinhost.unified_memory_reasoning.known_errors.error_pattern_messages import (
    AddErrorPattern,
    DeleteErrorPattern,
    DismissPatternProposal,
    GetErrorSolution,
    GetPatternProposals,
    ListErrorPatterns,
    ReportSolutionOutcome,
)
from twinhost.unified_memory_reasoning.known_errors.error_pattern_replies import (
    ErrorPatternAdded,
    ErrorPatternDeleted,
    ErrorPatternDocument,
    ErrorPatternPage,
    ErrorSolution,
    OutcomeReported,
    ProposalDismissed,
    ProposalDocument,
    ProposalPage,
    ScoreDocument,
    SpecificityDocument,
)
from twinhost.unified_memory_reasoning.known_errors.error_patterns import ErrorPattern, ErrorPatterns
from twinhost.unified_memory_reasoning.known_errors.pattern_proposals import PatternProposals, Proposal
from twinhost.unified_memory_reasoning.known_errors.pattern_specificity import Specificity
from twinhost.unified_memory_reasoning.known_errors.search_allowance import SearchAllowance
from twinhost.unified_memory_reasoning.known_errors.solution_outcomes import Score
from twinhost.unified_memory_reasoning.messages import SUCCESS

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
