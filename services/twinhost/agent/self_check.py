"""The health check that an agent makes by itself: every 10 s, and when it is well it touches a file.

The engine's health check tests the file's age, which costs a tenth of starting Python in the container.
"""

import os
from pathlib import Path

import structlog

from twinhost.agent.healthcheck import ask, can_serve
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

INTERVAL_S = 10.0
SUFFIX = ".healthy"
_RETRY_S = 1.0  # while it is not well


class HealthyFile:
    """`/tmp/AGENT.healthy` (in TMPDIR, if it is set), which is touched while the agent is well."""

    def __init__(self, agent_name: str) -> None:
        """Remove what an earlier process left."""
        self.fault: str | None = None
        self._path = Path(os.environ.get("TMPDIR") or "/tmp") / f"{agent_name}{SUFFIX}"  # noqa: S108 - a mount of its own
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._note(f"{self._path} can't be removed ({error.strerror})")

    def show(self, fault: str | None) -> None:
        """Touch it unless something is wrong, and log what has changed."""
        self._note(self._touched() if fault is None else fault)

    def _touched(self) -> str | None:
        try:
            # Not through a link that somebody else put there: outside a container the folder is for everybody.
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.utime(file)
            finally:
                os.close(file)
        except OSError as error:
            return f"{self._path} can't be written ({error.strerror})"
        return None

    def _note(self, fault: str | None) -> None:
        if fault is not None and self.fault is None:
            _log.error("health_check_failed", reason=fault, effect="the engine will count this agent as unhealthy")
        elif fault is None and self.fault is not None:
            _log.info("health_check_passed")
        self.fault = fault


class SelfCheck(Worker):
    """Touches the file whenever the agent has answered that it can serve."""

    def __init__(self, agent_name: str, port: int, interval_s: float = INTERVAL_S) -> None:
        """Check the agent that listens on a port."""
        # Its call waits for 2 s where the agent's loop has ended, and a standby takes over only after this process.
        super().__init__("health-check", self._run, join_timeout_s=0.1)
        self._port = port
        self._interval_s = interval_s
        self._file = HealthyFile(agent_name)

    def _run(self) -> None:
        wait_s = 0.0
        while not self.wait(wait_s):
            fault = self._fault()
            if self.stopping:
                return
            self._file.show(fault)
            wait_s = self._interval_s if self._file.fault is None else _RETRY_S

    def _fault(self) -> str | None:
        """Return what is wrong with the agent."""
        try:
            health = ask(self._port)
        except TwinhostError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - boundary: without this thread the agent ends
            return f"{type(error).__name__}: {error}"
        if can_serve(health):
            return None
        return "; ".join(check["detail"] for check in health["checks"].values() if not check["ok"])
