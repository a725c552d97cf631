"""Findings as a table for people, as JSON for programs, and as JUnit XML for a build server."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree

from rich.console import RenderableType
from rich.text import Text

from twinhost.adversary.attack import Finding, Findings, Verdict, counted, failed
from twinhost.cli import output
from twinhost.cli.failures import Failure
from twinhost.cli.printable import printable

_STYLES: Mapping[Verdict, str] = {
    Verdict.OK: output.GOOD,
    Verdict.WARNING: output.WARN,
    Verdict.FAILED: output.BAD,
    Verdict.NOT_PLAYED: output.FAINT,
}


class Format(StrEnum):
    """How a report is written to stdout."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


def show_report(title: str, findings: Findings, form: Format) -> None:
    """Write a report to stdout."""
    if form is Format.JSON:
        output.show_value(as_document(findings), as_json=True)
    elif form is Format.JUNIT:
        output.show_line(as_junit(title, findings))
    else:
        places = dict.fromkeys(finding.where for finding in findings)
        tables = [_table([finding for finding in findings if finding.where == place]) for place in places]
        output.show(*tables, output.words(output.styled(f"{title}:", output.HEADING), told(findings)))


def told(findings: Findings) -> Text:
    """Return the sum of it, in one line."""
    parts = [output.styled(f"{count} {verdict}", _STYLES[verdict]) for verdict, count in counted(findings).items()]
    return Text(", ").join(parts)


def as_document(findings: Findings) -> dict[str, Any]:
    """Return a report as one object; its status is that of every answer: ok or error."""
    bad = failed(findings)
    verdict: dict[str, Any] = {"status": "ok"}
    if bad:
        sentences = "; ".join(f"{finding.check} on {finding.where}: {finding.sentence}" for finding in bad)
        verdict = Failure("examination_failed", sentences).as_reply()
    return {
        **verdict,
        "summary": {name.value.replace(" ", "_"): count for name, count in counted(findings).items()},
        "checks": [_entry(finding) for finding in findings],
    }


def as_junit(title: str, findings: Findings) -> str:
    """Return a report as JUnit XML: a suite for each place, a case for each check."""
    counts = counted(findings)
    root = ElementTree.Element(
        "testsuites",
        name=title,
        tests=str(len(findings)),
        failures=str(counts[Verdict.FAILED]),
        skipped=str(counts[Verdict.NOT_PLAYED]),
    )
    for where in dict.fromkeys(finding.where for finding in findings):
        here = [finding for finding in findings if finding.where == where]
        counts = counted(here)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=printable(where),
            tests=str(len(here)),
            failures=str(counts[Verdict.FAILED]),
            errors="0",
            skipped=str(counts[Verdict.NOT_PLAYED]),
            time=f"{sum(finding.took_s for finding in here):.3f}",
        )
        for finding in here:
            _add_case(suite, finding)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _table(findings: Findings) -> RenderableType:
    rows = [(each.check, output.styled(each.verdict.value, _STYLES[each.verdict]), each.sentence) for each in findings]
    return output.table(printable(findings[0].where), ("check", "verdict", "finding"), rows, whole=("finding",))


def _entry(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "check": finding.check,
        "where": finding.where,
        "verdict": finding.verdict.value,
        "sentence": finding.sentence,
    }
    if finding.proves:
        entry |= {"proves": finding.proves, "took_s": round(finding.took_s, 3)}
    return entry


def _add_case(suite: ElementTree.Element, finding: Finding) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=printable(finding.check),
        classname=printable(finding.where),
        time=f"{finding.took_s:.3f}",
    )
    sentence = printable(finding.sentence)
    if finding.verdict is Verdict.FAILED:
        ElementTree.SubElement(case, "failure", message=sentence)
    elif finding.verdict is Verdict.NOT_PLAYED:
        ElementTree.SubElement(case, "skipped", message=sentence)
    else:
        ElementTree.SubElement(case, "system-out").text = f"{finding.verdict.value}: {sentence}"
