"""`audit tail`, `verify` and `accept`: events about keys, and whether the log is intact.

The log is read over the wire, page by page, and verified here, so that the host that writes it need not be trusted.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.output import Failure, printable, read, to_json
from twinhost.clients.memory_replies import AuditHeads, AuditLogAccepted
from twinhost.deployment import Settings, load_settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import MessageTooLarge, ServerUnreachable, TwinhostError, UnknownAction
from twinhost.store.audit_log.chain import LINE, Anchor, Head, hash_fits
from twinhost.store.audit_log.verify import ChainFindings, Comparison, Restore, Seen, Verifier, compare, restore_of
from twinhost.system_digital_twin.trust.audit import AuditPage

audit = typer.Typer(help="The audit log of mainpc, read with the operator's key.")

DEFAULT_LINES = 20
MAX_LINES = 100_000
MAX_PAGE_LINES = 2_000
MAX_VALUE_CHARACTERS = 72  # shown to people; a fingerprint has 50
_WITNESS_DEADLINE_S = 3.0
_POLL_EVERY_S = 1.0
_POLL_DEADLINE_S = 2.0  # short, because the next poll follows anyway
_NOT_SHOWN = frozenset({"seq", "time", "event", "prev", "hash"})
_SEQ = re.compile(r'\{"seq":([1-9][0-9]{0,17}),')


class WitnessVerdict(StrEnum):
    """How the log compares with what a witness has seen."""

    AGREES = "agrees"
    CONTRADICTED = "contradicted"
    NOTHING_SEEN = "nothing_seen"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True)
class WitnessReport:
    """The comparison with one agent; `restores` are sentences about lines that it saw and that are gone."""

    agent: str
    verdict: WitnessVerdict
    sentence: str
    restores: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """The result for a whole log: its chain, its lines `restored`, and the witnesses' reports."""

    findings: ChainFindings
    restores: tuple[Restore, ...]
    witnesses: tuple[WitnessReport, ...]

    @property
    def whole(self) -> bool:
        """Whether the chain is intact, and no witness that could be asked contradicts it."""
        return self.findings.whole and not self.contradictions

    @property
    def contradictions(self) -> list[WitnessReport]:
        return [report for report in self.witnesses if report.verdict is WitnessVerdict.CONTRADICTED]


@audit.command("tail")
def tail(
    lines: Annotated[
        int, typer.Option("-n", "--lines", metavar="N", min=0, max=MAX_LINES, help="How many of the newest lines.")
    ] = DEFAULT_LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the newest lines of the audit log.

    Each has its number, time, event, and fields, long values truncated. With --json it is whole, as it is in the log.
    """
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reader = AuditReader(client)
        position = _show_newest(reader, lines, as_json=as_json)
        reader.deadline_s = _POLL_DEADLINE_S
        while follow:
            time.sleep(_POLL_EVERY_S)
            position = _show_more(reader, position, as_json=as_json)
    return 0


@audit.command("verify")
def verify(as_json: AsJson = False) -> int:
    """Check that the audit log is intact.

    No line may be removed, reordered, edited, inserted, or cut off. The log is read over the wire and checked here,
    and compared with what the agents on other hosts have seen of it.

    Exit status 1 if anything is wrong with it.
    """
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        verified = verify_with_witnesses(settings, client)
    findings = verified.findings
    if as_json:
        output.show_value(_verified_document(verified), as_json=True)
    else:
        restored = [
            f"line {restore.seq}: restored on {restore.time} from a backup that ended with line {restore.backup.seq}"
            for restore in verified.restores
        ]
        witnessed = [line for report in verified.witnesses for line in (report.sentence, *report.restores)]
        for line in (summary(findings), *restored, *witnessed):
            output.show_line(printable(line))
    for finding in findings.findings:
        output.say(f"line {finding.seq}:", output.BAD, finding.sentence)
    if findings.more:
        output.say("and", output.BAD, f"{findings.more} more")
    for report in verified.contradictions:
        output.say("witness:", output.BAD, report.sentence)
    return 0 if verified.whole else 1


@audit.command("accept")
def accept(as_json: AsJson = False) -> int:
    """Accept the audit log as it is now, on every other host.

    Do this after a restore, or an alarm, was explained. What those hosts saw before stays listed by `audit verify`,
    with who accepted the log.
    """
    settings = load_settings()
    accepted: dict[str, list[str]] = {}
    for agent in _witnesses_of(settings):
        with settings.client(agent) as client:
            accepted[agent.name] = read(client.call("accept_audit_log"), AuditLogAccepted).accepted
    if as_json:
        output.show_value({"status": "ok", "accepted": accepted}, as_json=True)
    else:
        for name, phrases in accepted.items():
            output.show_line(printable(f"{name}: {'; '.join(phrases) or 'nothing to accept'}"))
    return 0


class AuditReader:
    """Reads pages of one agent's log, smaller ones if a page is too large for a reply."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.deadline_s: float | None = None
        self._limit = MAX_PAGE_LINES

    def page(self, after_seq: int = 0, position: str | None = None) -> AuditPage:
        """Return the lines after a number, or from the `position` of the page before.

        Raises:
            TwinhostError: the agent can't be asked, or refuses.
        """
        where = {"after_seq": after_seq} if position is None else {"position": position}
        while True:
            try:
                reply = self._client.call("get_audit", deadline_s=self.deadline_s, limit=self._limit, **where)
                return read(reply, AuditPage)
            except MessageTooLarge:
                if self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 4)

    def pages(self, after_seq: int = 0) -> Iterator[AuditPage]:
        """Return pages up to and including the first one without lines."""
        page = self.page(after_seq)
        yield page
        while page["lines"]:
            page = self.page(position=page["position"])
            yield page


def verify_with_witnesses(settings: Settings, client: Client) -> Verified:
    """Read and check the whole log, and compare it with what other hosts had seen before it was read.

    Raises:
        TwinhostError: the agent can't be asked, or refuses.
    """
    asked = [(agent.name, _ask_witness(settings, agent)) for agent in _witnesses_of(settings)]
    heads = [head for _, answer in asked if not isinstance(answer, str) for head in answer.heads]
    seen = _SeenLines(head.seq for head in heads)
    findings = _verify_over_the_wire(client, seen.take)
    return Verified(findings, tuple(seen.restores), tuple(_report(name, answer, seen) for name, answer in asked))


def summary(findings: ChainFindings) -> str:
    """Return how many lines were read, from which to which, and the result."""
    lines = "1 line was" if findings.lines == 1 else f"{findings.lines} lines were"
    return f"{lines} checked, from {findings.starts_at} to {findings.head.seq}: {findings.summary()}"


def _verify_over_the_wire(client: Client, also: Callable[[str], None]) -> ChainFindings:
    verifier: Verifier | None = None
    for page in AuditReader(client).pages():
        if verifier is None:
            verifier = Verifier(Anchor(page["anchor"]["seq"], page["anchor"]["prev"]))
        for line in page["lines"]:
            verifier.feed(line)
            also(line)
    assert verifier is not None  # there is always a first page
    return verifier.finish(Head(page["head"]["seq"], page["head"]["hash"]))


class _SeenLines:
    """Collects the restores, and the hashes of the lines that witnesses have seen, from the lines that pass."""

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
        oldest, self._read_one = not self._read_one, True
        if oldest:
            self.first = seq
        if seq not in self._wanted and not (oldest and seq - 1 in self._wanted):
            return
        match = LINE.fullmatch(line)
        if match is not None and hash_fits(line):
            self.hashes[seq] = match["hash"]
            if oldest:
                self.hashes[seq - 1] = match["prev"]


def _witnesses_of(settings: Settings) -> list[Agent]:
    """Return the agents on other hosts than the log's."""
    here = settings.registry_agent.host.name
    return [agent for agent in settings.config.agents.values() if agent.host.name != here]


def _ask_witness(settings: Settings, agent: Agent) -> AuditHeads | str:
    """Return what an agent has seen, or why that is unknown."""
    try:
        with settings.client(agent) as client:
            return read(client.call("get_audit_heads", deadline_s=_WITNESS_DEADLINE_S), AuditHeads)
    except UnknownAction:
        return "its version keeps no heads of the log; update it"
    except TwinhostError as error:
        return str(error)


def _report(name: str, answer: AuditHeads | str, lines: _SeenLines) -> WitnessReport:
    if isinstance(answer, str):
        return WitnessReport(name, WitnessVerdict.NOT_COMPARED, f"not compared with what {name} has seen: {answer}")
    gaps = tuple(
        f"{name} saw lines {gap.first} to {gap.last}, which are gone since "
        + (f"the restore of {gap.restored}" if gap.restored else "a log that does not extend them was accepted")
        + f" (noticed {gap.noticed}, "
        + (f"accepted by {gap.acknowledged})" if gap.acknowledged else "not accepted yet: run ./twinhost audit accept)")
        for gap in answer.gaps
    )
    if not answer.heads:
        why = answer.fault or "no head yet, so a log that was rewritten as a whole would not be detected"
        return WitnessReport(name, WitnessVerdict.NOTHING_SEEN, f"{name} has seen {why}", gaps)
    heads = [Seen(head.seq, head.hash, head.restored) for head in answer.heads]
    # The oldest lines of a long log are deleted, file by file; the rest must still be as it was seen.
    kept = [seen for seen in heads if seen.seq >= lines.first - 1] or heads
    comparison = compare(kept, lines.hashes.get, lines.restores)
    gaps += tuple(
        f"{name} saw line {seen.seq}, which is gone since the restore of {restore.time} (line {restore.seq})"
        for seen, restore in comparison.replaced
    )
    verdict = WitnessVerdict.AGREES if comparison.missing is None else WitnessVerdict.CONTRADICTED
    return WitnessReport(name, verdict, _compared(name, answer, kept, comparison), gaps)


def _compared(name: str, answer: AuditHeads, kept: Sequence[Seen], comparison: Comparison) -> str:
    missing = comparison.missing
    if missing is None:
        deleted = len(answer.heads) - len(kept)
        older = f"; {deleted} older heads are of lines that are deleted by now" if deleted else ""
        return f"it extends the {len(kept)} heads that {name} has seen, lines {kept[0].seq} to {kept[-1].seq}{older}"
    moments = {head.seq: head.seen_at for head in answer.heads}
    return (
        f"line {missing.seq} is not the line that {name} saw on {moments[missing.seq]}: the log agrees up to line "
        f"{comparison.agrees_to}; what follows was rewritten or cut off, or an older state was restored"
    )


def _verified_document(verified: Verified) -> dict[str, Any]:
    findings = verified.findings
    verdict: dict[str, Any] = {"status": "ok"}
    if not findings.whole:
        verdict = Failure("audit_log_broken", findings.summary()).as_reply()
    elif verified.contradictions:
        verdict = Failure("audit_log_contradicted", verified.contradictions[0].sentence).as_reply()
    return {
        **verdict,
        "lines": findings.lines,
        "first_seq": findings.starts_at,
        "last_seq": findings.head.seq,
        "findings": msgspec.to_builtins(findings.findings),
        "more_findings": findings.more,
        "restores": [
            {"seq": line.seq, "time": line.time, "backup_seq": line.backup.seq, "backup_hash": line.backup.hash}
            for line in verified.restores
        ],
        "witnesses": msgspec.to_builtins(verified.witnesses),
    }


def _show_newest(reader: AuditReader, count: int, *, as_json: bool) -> str:
    head = reader.page()["head"]["seq"]
    newest: deque[str] = deque(maxlen=count)
    position = ""
    for page in reader.pages(max(0, head - count)):
        newest.extend(page["lines"])
        position = page["position"]
    _show(newest, as_json=as_json)
    return position


def _show_more(reader: AuditReader, position: str, *, as_json: bool) -> str:
    """Show new lines; if the agent can't be reached for a while, continue at the same place."""
    try:
        page = reader.page(position=position)
    except ServerUnreachable as error:
        output.say("waiting:", output.FAINT, str(error))
        return position
    _show(page["lines"], as_json=as_json)
    return page["position"]


def _show(lines: Iterable[str], *, as_json: bool) -> None:
    for line in lines:
        output.show_line(_as_json(line) if as_json else _as_text(line))


def _record(line: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return None


def _as_json(line: str) -> str:
    """Return a line as it is in the log, unless it is not JSON, as where the files were edited."""
    if _record(line) is not None and line.isascii() and line.isprintable():
        return line
    return to_json({"unreadable": line}, ascii_only=True)


def _as_text(line: str) -> str:
    record = _record(line)
    if record is None:
        return printable(f"not an audit log line: {_value(line)}")
    fields = " ".join(f"{name}={_value(value)}" for name, value in record.items() if name not in _NOT_SHOWN)
    return printable(f"{record.get('seq')}  {record.get('time')}  {record.get('event')}  {fields}".rstrip())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_value(item) for item in value)
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARACTERS:
        value = value[: MAX_VALUE_CHARACTERS - 1] + "\u2026"
    return to_json(value) if not isinstance(value, str) or " " in value or not value else value
