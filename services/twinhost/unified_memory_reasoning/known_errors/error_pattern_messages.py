"""What UnifiedMemoryReasoningAgent is told and asked about errors: every field with its type and its bounds."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning.known_errors.bounded_pattern import MAX_CHARACTERS, MAX_MESSAGE_BYTES

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
