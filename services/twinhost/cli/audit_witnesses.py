"""The audit log, verified and compared with what the agents on the other hosts have seen of it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from twinhost.cli.audit_pages import verify_over_the_wire
from twinhost.cli.connect import Settings
from twinhost.cli.documents import AuditHeads, read
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError, UnknownAction
from twinhost.store.audit_log.chain import LINE, hash_fits
from twinhost.store.audit_log.verify import Comparison, Findings, Restore, Seen, compare, restore_of

_SEQ = re.compile(r'\{"seq":([1-9][0-9]{0,17}),')
DEADLINE_S = 3.0  # for a witness's answer


class Verdict(StrEnum):
    """How the log stands to what a witness has seen."""

    AGREES = "agrees"
    CONTRADICTED = "contradicted"
    NOTHING_SEEN = "nothing_seen"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True)
class WitnessReport:
    """What became of the comparison with one agent; `restores` tells of lines that it saw and that are gone."""

    agent: str
    verdict: Verdict
    sentence: str
    restores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """A log that was read whole: its chain, its lines `restored`, and what the witnesses say."""

    findings: Findings
    restores: tuple[Restore, ...]
    witnesses: tuple[WitnessReport, ...]

    @property
    def whole(self) -> bool:
        """Whether the chain is whole, and extends what every witness has seen that could be asked."""
        return self.findings.whole and not self.contradictions

    @property
    def contradictions(self) -> list[WitnessReport]:
        return [report for report in self.witnesses if report.verdict is Verdict.CONTRADICTED]


def witnesses_of(settings: Settings) -> list[Agent]:
    """Return the agents on other hosts than the log's."""
    here = settings.registry_agent.host.name
    return [agent for agent in settings.config.agents.values() if agent.host.name != here]


def verify_with_witnesses(settings: Settings, client: Client) -> Verified:
    """Read the whole log, check it here, and compare it with what was seen elsewhere before it was read.

    Args:
        settings: how to ask the witnesses.
        client: of the agent that has the log.

    Raises:
        TwinhostError: the log can't be asked for, or is refused.
    """
    asked = [(agent.name, _heads_of(settings, agent)) for agent in witnesses_of(settings)]
    heads = [head for _, answer in asked if isinstance(answer, AuditHeads) for head in answer.heads]
    lines = _Lines(head.seq for head in heads)
    findings = verify_over_the_wire(client, lines.take)
    return Verified(findings, tuple(lines.restores), tuple(_report(name, each, lines) for name, each in asked))


class _Lines:
    """Notes, of the lines that pass, the hashes that are asked for and the restores."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self._wanted = frozenset(wanted)
        self.restores: list[Restore] = []
        self.hashes: dict[int, str] = {}
        self.first = 0  # the number of the oldest line
        self._read_one = False

    def take(self, line: str) -> None:
        restore = restore_of(line)
        if restore is not None:
            self.restores.append(restore)
        if not self._wanted:
            return
        number = _SEQ.match(line)
        seq = int(number[1]) if number else 0
        if not self._read_one:
            self.first = seq
        if seq not in self._wanted and (self._read_one or seq - 1 not in self._wanted):
            self._read_one = True
            return
        match = LINE.fullmatch(line)
        if match is not None and hash_fits(line):
            self.hashes[seq] = match["hash"]
            if not self._read_one:  # the oldest line that is kept
                self.hashes[seq - 1] = match["prev"]
        self._read_one = True


def _heads_of(settings: Settings, agent: Agent) -> AuditHeads | str:
    """Return what an agent has seen, or why that isn't known."""
    try:
        with settings.client(agent) as client:
            return read(client.call("get_audit_heads", deadline_s=DEADLINE_S), AuditHeads)
    except UnknownAction:
        return "it is of a version that keeps no heads; update it"
    except TwinhostError as error:
        return str(error)


def _report(name: str, answer: AuditHeads | str, lines: _Lines) -> WitnessReport:
    if isinstance(answer, str):
        return WitnessReport(name, Verdict.NOT_COMPARED, f"not compared with what {name} has seen: {answer}")
    gaps = tuple(
        f"{name} saw lines {gap.first} to {gap.last}, which are gone since "
        + (f"the restore of {gap.restored}" if gap.restored else "a log that does not extend them was accepted")
        + f" (noticed {gap.noticed}, "
        + (f"accepted by {gap.acknowledged})" if gap.acknowledged else "not acknowledged: run `cli audit accept`)")
        for gap in answer.gaps
    )
    if not answer.heads:
        why = answer.fault or "no head yet, so nothing shows here if the whole log was rewritten"
        return WitnessReport(name, Verdict.NOTHING_SEEN, f"{name} has seen {why}", gaps)
    heads = [Seen(head.seq, head.hash, head.restored) for head in answer.heads]
    # The oldest lines of a long log are dropped, file by file; what is left must still be as it was seen.
    kept = [seen for seen in heads if seen.seq >= lines.first - 1] or heads
    found = compare(kept, lines.hashes.get, lines.restores)
    gaps += tuple(
        f"{name} saw line {seen.seq}, which is gone since the restore of {restore.time} (line {restore.seq})"
        for seen, restore in found.replaced
    )
    verdict = Verdict.AGREES if found.missing is None else Verdict.CONTRADICTED
    return WitnessReport(name, verdict, _sentence(name, answer, kept, found), gaps)


def _sentence(name: str, answer: AuditHeads, kept: Sequence[Seen], found: Comparison) -> str:
    moments = {head.seq: head.seen_at for head in answer.heads}
    if found.missing is None:
        dropped = len(answer.heads) - len(kept)
        older = f"; {dropped} older ones are of lines that are dropped by now" if dropped else ""
        return f"it extends the {len(kept)} heads that {name} has seen, lines {kept[0].seq} to {kept[-1].seq}{older}"
    return (
        f"line {found.missing.seq} is not the one that {name} saw on {moments[found.missing.seq]}: the log "
        f"agrees up to line {found.agrees_to}; what follows was rewritten or cut off, or an older state was put back"
    )
