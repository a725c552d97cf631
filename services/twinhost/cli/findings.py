"""What an examination comes to: one finding for each check, each with a verdict and a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended; one that could not be made says so, and is no success."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_PLAYED = "not played"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: of what, where, and a sentence that says what was seen and, where it is not well, what to do.

    `proves` is what an attack would have shown; `took_s` its duration in seconds.
    """

    check: str
    where: str
    verdict: Verdict
    sentence: str
    proves: str = ""
    took_s: float = 0.0


Findings = Sequence[Finding]


def counted(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """Return how many findings have each verdict."""
    counts = dict.fromkeys(Verdict, 0)
    for finding in findings:
        counts[finding.verdict] += 1
    return counts


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Return what has to be mended."""
    return [finding for finding in findings if finding.verdict is Verdict.FAILED]
