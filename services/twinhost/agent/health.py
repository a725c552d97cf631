"""Health checks, the health document, and the reply types that every agent has.

A reply repeats the request's `request_id` if it had one, and lists in `ignored_fields` the names of the request's
fields that its action doesn't know, if any; the dispatcher adds both, so no type has them.
"""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NotRequired, TypedDict

from twinhost.version import versions

OPEN_LINK = "SECURE_ZMQ=0: the link is open, nobody is authenticated and nothing is encrypted"
Probe = Callable[[], str | None]  # what is wrong, or None


class Refusal(TypedDict):
    """The error reply of any request: `code` for programs, a sentence for people, which pc2 repeats as `reason`."""

    status: Literal["error"]
    code: str
    error: str
    reason: NotRequired[str]


class Pong(TypedDict):
    """The agent runs."""

    status: Literal["ok"]
    message: Literal["pong"]
    timestamp: str


class CheckDocument(TypedDict):
    """The result of one check; `detail` is `ok`, or what is wrong."""

    ok: bool
    detail: str


class HealthDocument(TypedDict):
    """The results of an agent's checks; `warning` is present on an open link."""

    status: Literal["ok", "degraded", "error"]
    ready: bool
    agent: str
    version: dict[str, str]
    timestamp: str
    uptime_s: float
    secure: bool
    checks: dict[str, CheckDocument]
    warnings: list[str]
    warning: NotRequired[str]


def iso_time(seconds: float) -> str:
    """Return seconds since the epoch as ISO-8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class _Check:
    probe: Probe
    essential: bool


class Health:
    """An agent's checks: `error` if an essential one fails, `degraded` if another does, else `ok`."""

    def __init__(self, agent: str, secure: bool) -> None:
        self._agent = agent
        self._secure = secure
        self._started = time.monotonic()
        self._checks: dict[str, _Check] = {}
        self._warnings: list[Callable[[], Iterable[str]]] = []

    def add(self, name: str, probe: Probe, *, essential: bool) -> None:
        """Add a check; the agent can't serve while an essential one fails."""
        self._checks[name] = _Check(probe, essential)

    def warn(self, probe: Callable[[], Iterable[str]]) -> None:
        """Add warnings: the agent serves, but needs attention in time."""
        self._warnings.append(probe)

    def status(self, *, without: Collection[str] = ()) -> str:
        """Run the checks except some, and return `ok`, `degraded`, or `error`."""
        checks = [check for name, check in self._checks.items() if name not in without]
        return _status([check for check in checks if check.probe() is not None])

    def checks(self) -> dict[str, bool]:
        """Run the checks and return which of them pass."""
        return {name: check.probe() is None for name, check in self._checks.items()}

    def document(self) -> HealthDocument:
        """Run the checks and return the document."""
        faults = {name: check.probe() for name, check in self._checks.items()}
        failed = [self._checks[name] for name, fault in faults.items() if fault is not None]
        document: HealthDocument = {
            "status": _status(failed),
            "ready": not failed,
            "agent": self._agent,
            "version": versions(),
            "timestamp": iso_time(time.time()),
            "uptime_s": round(time.monotonic() - self._started, 3),
            "secure": self._secure,
            "checks": {name: {"ok": fault is None, "detail": fault or "ok"} for name, fault in faults.items()},
            "warnings": [sentence for probe in self._warnings for sentence in probe()],
        }
        if not self._secure:
            document["warning"] = OPEN_LINK
            document["warnings"].insert(0, OPEN_LINK)
        return document


def _status(failed: Collection[_Check]) -> Literal["ok", "degraded", "error"]:
    return "error" if any(check.essential for check in failed) else "degraded" if failed else "ok"
