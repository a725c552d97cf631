"""What `cli audit verify` makes of a witness's heads, where the log's oldest lines are dropped by now."""

import hashlib
import json

import pytest

from twinhost.cli.audit import WitnessReport, WitnessVerdict, _report, _SeenLines
from twinhost.clients.memory_replies import AuditHeads, SeenHeadDocument
from twinhost.store.audit_log.chain import NO_HASH


def log(count: int) -> list[str]:
    """Return so many lines, chained."""
    prev, lines = NO_HASH, []
    for number in range(1, count + 1):
        record = {"seq": number, "time": "2026-11-27T00:00:00.000Z", "event": "started", "prev": prev}
        body = json.dumps(record, separators=(",", ":"))
        prev = hashlib.sha256(body.encode()).hexdigest()
        lines.append(f'{body[:-1]},"hash":"{prev}"}}')
    return lines


def compared(lines: list[str], seen: dict[int, str]) -> WitnessReport:
    """Compare a log with the hashes that a witness saw, by the lines' numbers."""
    taken = _SeenLines(seen)
    for line in lines:
        taken.take(line)
    heads = [SeenHeadDocument(number, line_hash, None, "2026-11-27") for number, line_hash in seen.items()]
    return _report("pc2", AuditHeads(heads=heads, gaps=[], fault=None), taken)


def hashes(lines: list[str], *numbers: int) -> dict[int, str]:
    return {number: str(json.loads(lines[number - 1])["hash"]) for number in numbers}


@pytest.mark.parametrize("dropped", [3, 5])
def test_lines_that_are_dropped_contradict_nothing(dropped: int) -> None:
    """Files of a long log are removed from its beginning; what is left is as it was seen, and that is said."""
    lines = log(12)
    report = compared(lines[dropped:], hashes(lines, 2, 5, 9))
    assert report.verdict is WitnessVerdict.AGREES
    assert report.sentence == "it extends the 2 heads that pc2 has seen, lines 5 to 9; 1 older heads are of lines " + (
        "that are deleted by now"
    )


def test_what_is_left_must_be_as_it_was_seen() -> None:
    """One that was rewritten behind the dropped lines is found, and so is a log that has none of what was seen."""
    lines = log(12)
    rewritten = {**hashes(lines, 2, 5), 9: "f" * 64}
    assert compared(lines[3:], rewritten).verdict is WitnessVerdict.CONTRADICTED
    assert compared(lines[:7], hashes(lines, 2, 9)).verdict is WitnessVerdict.CONTRADICTED
    assert compared(lines[10:], hashes(lines, 2, 5)).verdict is WitnessVerdict.CONTRADICTED
