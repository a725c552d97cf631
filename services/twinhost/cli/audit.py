"""`audit tail | verify | accept`: what happened to keys, and whether the log is whole and the one seen elsewhere."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.audit_pages import AuditReader
from twinhost.cli.audit_witnesses import Verified, verify_with_witnesses, witnesses_of
from twinhost.cli.connect import load_settings
from twinhost.cli.documents import AuditAccepted, read
from twinhost.cli.failures import Failure
from twinhost.cli.printable import printable, to_json
from twinhost.secure_zmq.errors import ServerUnreachable
from twinhost.store.audit_log.verify import Findings

audit = typer.Typer(help="The audit log of mainpc, read with the operator's key.")

DEFAULT_LINES = 20
MAX_LINES = 100_000
MAX_VALUE_CHARACTERS = 72  # shown to people; a fingerprint has 50
CUT = "\u2026"
_LOOK_EVERY_S = 1.0
_LOOK_DEADLINE_S = 2.0  # the next look comes anyway
_NOT_SHOWN = frozenset({"seq", "time", "event", "prev", "hash"})


@audit.command("tail")
def tail(
    lines: Annotated[
        int, typer.Option("-n", "--lines", metavar="N", min=0, max=MAX_LINES, help="How many of the newest lines.")
    ] = DEFAULT_LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are added, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the newest lines of the audit log: number, time, event, and what belongs to it, long values cut short.

    With --json each line stands whole, as it is in the log.
    """
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reader = AuditReader(client)
        position = _show_newest(reader, lines, as_json=as_json)
        reader.deadline_s = _LOOK_DEADLINE_S
        while follow:
            time.sleep(_LOOK_EVERY_S)
            position = _show_more(reader, position, as_json=as_json)
    return 0


@audit.command("verify")
def verify(as_json: AsJson = False) -> int:
    """Check the whole audit log: nothing removed, reordered, edited, put in, or cut off.

    It is read over the wire and checked here, and compared with what the agents on other hosts have seen of it. Exit
    status 1 if anything is wrong with it.
    """
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        verified = verify_with_witnesses(settings, client)
    findings = verified.findings
    if as_json:
        output.show_value(verified_document(verified), as_json=True)
    else:
        for line in (told(findings), *_restores(verified), *_witnesses(verified)):
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
    """Take the audit log as it is on every other host: a restore, or an alarm about it, is explained.

    What those hosts saw before stays listed by `audit verify`, with who accepted it.
    """
    settings = load_settings()
    accepted: dict[str, list[str]] = {}
    for agent in witnesses_of(settings):
        with settings.client(agent) as client:
            accepted[agent.name] = list(read(client.call("accept_audit_log"), AuditAccepted).accepted)
    if as_json:
        output.show_value({"status": "ok", "accepted": accepted}, as_json=True)
    else:
        for name, phrases in accepted.items():
            output.show_line(printable(f"{name}: {'; '.join(phrases) or 'nothing to accept'}"))
    return 0


def told(findings: Findings) -> str:
    """Return how many lines were read, from which to which, and what came of it."""
    read_lines = "1 line was" if findings.lines == 1 else f"{findings.lines} lines were"
    return f"{read_lines} checked, from {findings.starts_at} to {findings.head.seq}: {findings.summary()}"


def verified_document(verified: Verified) -> dict[str, Any]:
    """Return a verification's result for programs."""
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
        "findings": [{"seq": finding.seq, "sentence": finding.sentence} for finding in findings.findings],
        "more_findings": findings.more,
        "restores": [
            {"seq": each.seq, "time": each.time, "backup_seq": each.backup.seq, "backup_hash": each.backup.hash}
            for each in verified.restores
        ],
        "witnesses": [
            {"agent": each.agent, "verdict": each.verdict, "sentence": each.sentence, "restores": list(each.restores)}
            for each in verified.witnesses
        ],
    }


def _restores(verified: Verified) -> list[str]:
    return [
        f"line {each.seq}: restored on {each.time} from a backup that ended with line {each.backup.seq}"
        for each in verified.restores
    ]


def _witnesses(verified: Verified) -> list[str]:
    return [line for each in verified.witnesses for line in (each.sentence, *each.restores)]


def _show_newest(reader: AuditReader, count: int, *, as_json: bool) -> str:
    head = reader.page().head.seq
    newest: deque[str] = deque(maxlen=count)
    position = ""
    for page in reader.pages(max(0, head - count)):
        newest.extend(page.lines)
        position = page.position
    _show(newest, as_json=as_json)
    return position


def _show_more(reader: AuditReader, position: str, *, as_json: bool) -> str:
    """Show what was added; an agent that is away for a while comes back to the same place."""
    try:
        page = reader.page(position=position)
    except ServerUnreachable as error:
        output.say("waiting:", output.FAINT, str(error))
        return position
    _show(page.lines, as_json=as_json)
    return page.position


def _show(lines: Iterable[str], *, as_json: bool) -> None:
    for line in lines:
        output.show_line(_as_json(line) if as_json else _as_text(line))


def _record(line: str) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return None


def _as_json(line: str) -> str:
    """Return a line as it stands in the log, if it is one; somebody may have written others into the files."""
    if _record(line) is not None and line.isascii() and line.isprintable():
        return line
    return to_json({"unreadable": line}, ascii_only=True)


def _as_text(line: str) -> str:
    record = _record(line)
    if record is None:
        return printable(f"no line of a log: {_value(line)}")
    fields = " ".join(f"{name}={_value(value)}" for name, value in record.items() if name not in _NOT_SHOWN)
    return printable(f"{record.get('seq')}  {record.get('time')}  {record.get('event')}  {fields}".rstrip())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_value(item) for item in value)
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARACTERS:
        value = value[: MAX_VALUE_CHARACTERS - 1] + CUT
    return to_json(value) if not isinstance(value, str) or " " in value or not value else value
