"""What UnifiedMemoryReasoningAgent answers of errors and what helps; moments are in ISO-8601."""

from typing import Literal, NotRequired, TypedDict


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
