"""The health document: what was checked, not what is hoped."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from twinhost.agent.replies import HealthDocument
from twinhost.version import versions

OPEN_LINK = "SECURE_ZMQ=0: the link is open, nobody is authenticated and nothing is encrypted"
Probe = Callable[[], str | None]  # what is wrong, or None


def iso_time(seconds: float) -> str:
    """Return seconds since the epoch as ISO-8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class _Check:
    probe: Probe
    essential: bool


class Health:
    """An agent's checks.

    `status` is `error` where an essential check fails, `degraded` where another does, else `ok`;
    `ready` says that all of them pass.
    """

    def __init__(self, agent: str, secure: bool) -> None:
        self._agent = agent
        self._secure = secure
        self._started = time.monotonic()
        self._checks: dict[str, _Check] = {}
        self._warnings: list[Callable[[], Iterable[str]]] = []

    def add(self, name: str, probe: Probe, *, essential: bool) -> None:
        """Add a check; without an essential one the agent can't serve."""
        self._checks[name] = _Check(probe, essential)

    def warn(self, probe: Callable[[], Iterable[str]]) -> None:
        """Add what to tell of beside the checks: the agent serves, and somebody should do something in time."""
        self._warnings.append(probe)

    def status(self, *, without: Collection[str] = ()) -> str:
        """Run the checks but some, and return `ok`, `degraded`, or `error`."""
        looked_at = [check for name, check in self._checks.items() if name not in without]
        return _status([check for check in looked_at if check.probe() is not None])

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
