"""Faults of this agent that its operators should see where they look: error reports to mainpc."""

from collections.abc import Callable, Mapping

from twinhost.agent.health import Health
from twinhost.agent.membership.outbox import Outbox
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import InternalError, RequestError
from twinhost.secure_zmq.rate_limit import LogBudget

LINK_CHECK = "mainpc_link"  # of health: what mainpc sees by itself, and is told nothing of
_STATUSES: Mapping[str, str] = {"ok": "HEALTHY", "degraded": "DEGRADED", "error": "ERROR"}


def status_of(health: Health) -> Callable[[], str]:
    """Return what tells how this agent is, in the registry's words; whether it is in touch is not its own word."""
    return lambda: _STATUSES[health.status(without=(LINK_CHECK,))]


class Faults:
    """Reports faults that callers meet, the same one now and then, however often it comes."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._budget = LogBudget()  # by action

    def on_refusal(self, caller: Caller | None, action: str | None, error: RequestError) -> None:
        """Report a request that failed by a fault of this program, on the thread that owns the database."""
        if not isinstance(error, InternalError):
            return
        left_out = self._budget.admit(action or "unknown")
        if left_out is None:
            return
        self._outbox.tell_error(
            "InternalError",
            f"{action or 'a request'} failed; the agent's log has the traceback",
            context={"action": action, "caller": caller.name if caller else None, "not_reported_before": left_out},
        )
