"""The summary of a session: what is noted when something is said, and what remains as it ages; pure.

A part is what one writer contributed, so that it can be hidden as a whole; each entry names its interaction and its
speaker. The entries of each kind are bounded:

* decisions (see `decisions`) in the first 4,096 characters, and errors, are noted at once and stay at every tier: the
  newest 32 of each; a decision that a later interaction takes back or replaces is left out of the document; a short
  answer that decides is listed after the proposal that it answers, `Shall we take the bus? → Yes.`, if that is one of
  its writer's newest 16 and visible;
* code is noted at once, by its beginning: the newest 8;
* a line of the conversation is folded in when its interaction moves to tier 1 (the 24 most important), is shortened
  when it moves to tier 2 (the 12 most important), and is evicted when it moves to tier 3.

So lines are evicted first, and decisions and errors last. Noting or folding an interaction again changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypedDict, TypeVar

import msgspec

from twinhost.fence import CUT, clean, label, one_line
from twinhost.unified_memory_reasoning.conversations.context_text import Utterance
from twinhost.unified_memory_reasoning.language import (
    DECIDING_CHARACTERS,
    decisions_in,
    error_kind,
    error_message,
    needs_question,
    proposal_in,
    rejects,
    replaced_by,
    withdrawal_in,
)

MOST_DECISIONS = 32
MOST_PROPOSALS = 16
MOST_ERRORS = 32
MOST_CODE = 8
MOST_LINES = 24  # of tier 1
MOST_OLDER_LINES = 12  # of tier 2
MOST_OF_ONE = 4  # decisions of one interaction
DECISION_CHARACTERS = 240
ERROR_CHARACTERS = 240
CODE_CHARACTERS = 400
LINE_CHARACTERS = 160
OLDER_LINE_CHARACTERS = 60
SPEAKER_CHARACTERS = 64  # in the document


class ErrorDocument(TypedDict):
    """An error that occurred in the session: its message and its type."""

    type: str
    message: str


class SummaryDocument(TypedDict):
    """The summary of a session: lines of code and conversation, errors, and decisions, oldest first."""

    code_context: str
    conversation_summary: str
    errors_encountered: list[ErrorDocument]
    key_decisions: list[str]


_DECIDING = frozenset({"user_query", "system_response"})


class SummaryEntry(msgspec.Struct, frozen=True, array_like=True):
    """One entry about an interaction; `kind` is that of the interaction, or of the error.

    `about` is the interaction whose proposal it answers or rejects; 0 if it needs none.
    """

    id: int
    speaker: str
    kind: str
    text: str
    importance: float = 0.0
    about: int = 0


Entries = tuple[SummaryEntry, ...]
E = TypeVar("E", SummaryEntry, Utterance)


class SummaryPart(msgspec.Struct, frozen=True, array_like=True):
    """What one writer, or several together, contributed; every list is ordered by the id of the interaction."""

    lines: Entries = ()
    older_lines: Entries = ()
    code: Entries = ()
    errors: Entries = ()
    decisions: Entries = ()
    withdrawals: Entries = ()
    proposals: Entries = ()

    def noted(self, utterance: Utterance) -> "SummaryPart":
        """Return the part after something was said; the same part if there is nothing to note."""
        return self.with_notes(notes_of(utterance))

    def with_notes(self, notes: "SummaryPart") -> "SummaryPart":
        """Return the part after something was said of which these are the notes."""
        if notes == _NOTHING:
            return self
        return msgspec.structs.replace(
            self,
            code=_newest((*self.code, *notes.code), MOST_CODE),
            errors=_newest((*self.errors, *notes.errors), MOST_ERRORS),
            decisions=_newest((*self.decisions, *notes.decisions), MOST_DECISIONS),
            withdrawals=_newest((*self.withdrawals, *notes.withdrawals), MOST_DECISIONS),
            proposals=_newest((*self.proposals, *notes.proposals), MOST_PROPOSALS),
        )

    def folded(self, utterance: Utterance, tier: int) -> "SummaryPart":
        """Return the part after an interaction moved to a tier, 1 to 3."""
        lines = tuple(line for line in self.lines if line.id != utterance.id)
        older = tuple(line for line in self.older_lines if line.id != utterance.id)
        if tier == 1:
            lines = _most_important((*lines, _line(utterance, LINE_CHARACTERS)), MOST_LINES)
        elif tier == 2:
            older = _most_important((*older, _line(utterance, OLDER_LINE_CHARACTERS)), MOST_OLDER_LINES)
        return msgspec.structs.replace(self, lines=lines, older_lines=older)

    def only(self, speaker: str) -> "SummaryPart":
        """Return the entries of a speaker, and what anybody took back or proposed."""
        own = self._where(lambda entry: entry.speaker == speaker)
        return msgspec.structs.replace(own, withdrawals=self.withdrawals, proposals=self.proposals)

    def without(self, removed: "Callable[[SummaryEntry], bool]") -> "SummaryPart":
        """Return the entries that are not removed."""
        return self._where(lambda entry: not removed(entry))

    def with_lines(
        self, lines: Iterable[Utterance], older: Iterable[Utterance], whole: Callable[[Utterance], Utterance]
    ) -> "SummaryPart":
        """Return the part with the lines that interactions of tiers 1 and 2 come to, in place of its own.

        Args:
            lines: those of tier 1, without their texts.
            older: those of tier 2, likewise.
            whole: returns one of them with its text.
        """

        def most(of: Iterable[Utterance], number: int, characters: int) -> Entries:
            return tuple(_line(whole(said), characters) for said in _most_important(of, number))

        return msgspec.structs.replace(
            self,
            lines=most(lines, MOST_LINES, LINE_CHARACTERS),
            older_lines=most(older, MOST_OLDER_LINES, OLDER_LINE_CHARACTERS),
        )

    def document(self) -> SummaryDocument:
        """Return the summary as a reply has it; of repeated errors and decisions only the last is listed."""
        return {
            "code_context": "\n".join(_labelled(entry) for entry in self.code),
            "conversation_summary": "\n".join(_labelled(entry) for entry in (*self.older_lines, *self.lines)),
            "errors_encountered": [
                {"type": entry.kind, "message": clean(entry.text)} for entry in _distinct(self.errors)
            ],
            "key_decisions": [clean(self._stated(entry)) for entry in _distinct(self._standing())],
        }

    def entries(self) -> Iterator[tuple[SummaryEntry, str]]:
        """Yield what the document has, one by one, each with what it is; a proposal is before what answers it."""
        for entry in (*self.older_lines, *self.lines):
            yield entry, ""
        for what, listed in (("code", self.code), ("error", _distinct(self.errors))):
            for entry in listed:
                yield entry, what
        for decision in _distinct(self._standing()):
            for proposal in self.proposals:
                if proposal.id == decision.about:
                    yield proposal, "proposal"
            yield decision, "decision"

    def excerpts(self) -> dict[int, str]:
        """Return what a context quotes of which interaction: decisions first, and of each kind the newest."""
        texts: dict[int, str] = {}
        decisions = _distinct(self._standing())
        for entries in (decisions, _distinct(self.errors), self.code, self.lines, self.older_lines):
            of_kind: dict[int, list[str]] = {}
            for entry in entries:
                of_kind.setdefault(entry.id, []).append(entry.text.removesuffix(CUT))
            for number in reversed(of_kind):
                texts.setdefault(number, " ".join(of_kind[number]))
        return texts

    def _standing(self) -> list[SummaryEntry]:
        """Return the decisions without those that a withdrawal is about: of the earlier ones the most similar one.

        All sentences that one interaction decided go together. A rejection is about the proposal before it alone.
        """
        standing = list(self.decisions)
        for withdrawal in self.withdrawals:
            if withdrawal.about:
                standing = [entry for entry in standing if entry.id != withdrawal.about]
                continue
            earlier = [entry for entry in standing if entry.id < withdrawal.id]
            about = replaced_by(withdrawal.text, [self._stated(entry) for entry in earlier])
            if about is not None:
                standing = [entry for entry in standing if entry.id != earlier[about].id]
        return standing

    def _stated(self, decision: SummaryEntry) -> str:
        proposal = next((entry.text for entry in self.proposals if entry.id == decision.about), "")
        return f"{proposal} → {decision.text}" if proposal else decision.text

    def _where(self, matches: Callable[[SummaryEntry], bool]) -> "SummaryPart":
        lists = msgspec.structs.astuple(self)
        return SummaryPart(*(tuple(entry for entry in entries if matches(entry)) for entries in lists))


_NOTHING = SummaryPart()


def notes_of(utterance: Utterance) -> SummaryPart:
    """Return what is noted when something is said; it takes up to 10 ms, and depends on nothing else."""
    if utterance.kind == "error":
        text = one_line(error_message(utterance.content), ERROR_CHARACTERS)
        return SummaryPart(errors=(SummaryEntry(utterance.id, utterance.speaker, error_kind(utterance.content), text),))
    if utterance.kind == "code":
        text = one_line(utterance.content, CODE_CHARACTERS)
        return SummaryPart(code=(SummaryEntry(utterance.id, utterance.speaker, utterance.kind, text),))
    if utterance.kind not in _DECIDING:
        return _NOTHING
    content = utterance.content[:DECIDING_CHARACTERS]
    decided = islice(decisions_in(content, utterance.previous), MOST_OF_ONE)
    decisions = tuple(
        _decision(utterance, text, utterance.previous_id if needs_question(text, utterance.previous) else 0)
        for text in decided
    )
    withdrawals = tuple(_decision(utterance, text) for text in (withdrawal_in(content),) if text)
    if rejects(content, utterance.previous):
        withdrawals += (_decision(utterance, content, utterance.previous_id),)
    proposals = tuple(_decision(utterance, text) for text in (proposal_in(content),) if text)
    return SummaryPart(decisions=decisions, withdrawals=withdrawals, proposals=proposals)


def merged(parts: Iterable[SummaryPart]) -> SummaryPart:
    """Return the parts of several writers as one, with the bounds of one."""
    all_parts = list(parts)
    return SummaryPart(
        _most_important((entry for part in all_parts for entry in part.lines), MOST_LINES),
        _most_important((entry for part in all_parts for entry in part.older_lines), MOST_OLDER_LINES),
        _newest((entry for part in all_parts for entry in part.code), MOST_CODE),
        _newest((entry for part in all_parts for entry in part.errors), MOST_ERRORS),
        _newest((entry for part in all_parts for entry in part.decisions), MOST_DECISIONS),
        _newest((entry for part in all_parts for entry in part.withdrawals), MOST_DECISIONS),
        _newest((entry for part in all_parts for entry in part.proposals), len(all_parts) * MOST_PROPOSALS),
    )


def _decision(utterance: Utterance, text: str, about: int = 0) -> SummaryEntry:
    text = one_line(text, DECISION_CHARACTERS)
    return SummaryEntry(utterance.id, utterance.speaker, utterance.kind, text, about=about)


def _line(utterance: Utterance, characters: int) -> SummaryEntry:
    return SummaryEntry(
        utterance.id, utterance.speaker, utterance.kind, one_line(utterance.content, characters), utterance.importance
    )


def _newest(entries: Iterable[SummaryEntry], most: int) -> Entries:
    """Return the newest; of a speaker's entries with the same text only the newest is kept."""
    by_text = {(entry.speaker, entry.kind, entry.text, entry.about): entry for entry in sorted(entries, key=_number)}
    return tuple(sorted(by_text.values(), key=_number)[-most:])


def _most_important(entries: Iterable[E], most: int) -> tuple[E, ...]:
    best = sorted(entries, key=lambda entry: (-entry.importance, -entry.id))[:most]
    return tuple(sorted(best, key=_number))


def _number(entry: SummaryEntry | Utterance) -> int:
    return entry.id


def _distinct(entries: Iterable[SummaryEntry]) -> list[SummaryEntry]:
    by_text = {(entry.kind, entry.text, entry.about): entry for entry in entries}
    return sorted(by_text.values(), key=_number)


def _labelled(entry: SummaryEntry) -> str:
    return f"{label(entry.speaker[:SPEAKER_CHARACTERS], entry.kind)}{clean(entry.text)}"
