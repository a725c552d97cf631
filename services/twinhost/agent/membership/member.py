"""An agent's membership: it registers, measures its host, sends events to mainpc, and asks other agents."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from twinhost.agent.assembly import Companion, Foundation
from twinhost.agent.health import Health
from twinhost.agent.host_sampler import SamplerThread
from twinhost.agent.membership.audit_witness import AuditWitness, WitnessActions
from twinhost.agent.membership.coordination import Coordinator, ForwardedRequest, find_addresses
from twinhost.agent.membership.mainpc_link import MainpcLink
from twinhost.agent.membership.outbox import Outbox
from twinhost.agent.trust import TRUST_TOPIC, TrustFolder
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import TRUST_FOLDER
from twinhost.secure_zmq.client import Subscriber
from twinhost.secure_zmq.errors import InternalError, RequestError
from twinhost.secure_zmq.wire import Reply

MAINPC_AGENT = "SystemDigitalTwin"
HEADS_FILE = "audit-heads.json"  # after the agent's name, in its state folder
LINK_CHECK = "mainpc_link"  # in the health document
_STATUSES: Mapping[str, str] = {"ok": "HEALTHY", "degraded": "DEGRADED", "error": "ERROR"}  # in the registry's words
_NORMAL_PRIORITY = 5


@dataclass(frozen=True, slots=True)
class Description:
    """What an agent says of itself when it registers."""

    agent_type: str
    capabilities: Sequence[str] = ()
    dependencies: Sequence[str] = (MAINPC_AGENT,)


class Membership:
    """An agent's membership; it needs the table `outbox.MIGRATION`."""

    def __init__(self, foundation: Foundation, description: Description) -> None:
        """Prepare it; `companions` run it."""
        settings, limits, health = foundation.settings, foundation.settings.config.limits, foundation.health
        mainpc_agent = settings.config.agent(MAINPC_AGENT)
        mainpc, feed = foundation.keys.address_of(mainpc_agent), foundation.keys.feed_address_of(mainpc_agent)
        trust = None
        if settings.certificates is not None:
            trust = TrustFolder(settings.certificates.folder / TRUST_FOLDER, foundation.keys.peers.reload)
        self.outbox = Outbox(foundation.database, settings.agent.name)
        self._witness = AuditWitness(settings.state / f"{settings.agent.name}.{HEADS_FILE}")
        link = MainpcLink(
            mainpc,
            settings.agent,
            limits.heartbeat_s,
            limits.max_payload_bytes,
            trust,
            self.outbox.queue,
            lambda: registry_status(health),
            description.agent_type,
            description.capabilities,
            description.dependencies,
            self._witness,
        )
        sampler = SamplerThread(limits.metrics_interval_s, link.report)
        addresses = find_addresses(settings.config, foundation.keys)
        self._coordinator = Coordinator(mainpc, addresses, limits.max_payload_bytes)
        followers = [Subscriber(feed, [TRUST_TOPIC], lambda _: link.wake())] if trust and feed else []
        self.companions: list[Companion] = [link, sampler, self._coordinator, *followers]
        health.add(LINK_CHECK, lambda: link.fault, essential=False)
        health.add("metrics", lambda: sampler.fault, essential=False)
        health.add("audit_witness", lambda: self._witness.fault, essential=False)
        health.warn(self.outbox.queue.warnings)
        health.warn(self._witness.warnings)
        self.on_refusal = FaultReports(self.outbox).on_refusal
        with foundation.database.transaction():
            self.publish("agent_started", {"host": settings.agent.host.name})

    def actions(self, success: Literal["ok", "success"]) -> list[Action[Any]]:
        """Return the operator's actions on what this host has seen of mainpc's audit log."""
        return WitnessActions(self._witness, success).actions()

    def publish(self, event_type: str, data: dict[str, Any]) -> None:
        """Send an event to mainpc: it arrives exactly once, if the transaction under way is committed."""
        self.outbox.publish(event_type, data)

    def ask(self, agent: str, operation: str, caller: Caller, **fields: Any) -> "Future[Reply]":
        """Ask another agent in the caller's name; return the future reply, which a handler may return as it is."""
        return self.send(
            ForwardedRequest(agent, operation, fields, _NORMAL_PRIORITY, caller.name, caller.authenticated, None)
        )

    def send(self, request: ForwardedRequest) -> "Future[Reply]":
        """Forward a request to another agent; return the future reply.

        Raises:
            LimitReached: too many requests wait, of this caller or in total.
            RequestIdReused: the same id is under way with another body.
        """
        return self._coordinator.send(request)

    def on_tick(self) -> None:
        """Write to disk what was delivered, and what other threads added."""
        self.outbox.tick()


class FaultReports:
    """Reports requests that failed because of a bug to mainpc's operators, each action's at a limited rate."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._budget = LogBudget()  # by action

    def on_refusal(self, caller: Caller | None, action: str | None, error: RequestError) -> None:
        """Report a refused request if a bug is the cause; on the thread that owns the database."""
        if not isinstance(error, InternalError):
            return
        left_out = self._budget.admit(action or "unknown")
        if left_out is None:
            return
        self._outbox.report_error(
            "InternalError",
            f"{action or 'a request'} failed; the agent's log has the traceback",
            context={"action": action, "caller": caller.name if caller else None, "not_reported_before": left_out},
        )


def registry_status(health: Health) -> str:
    """Return an agent's status in the registry's words; whether it is connected is seen by mainpc itself."""
    return _STATUSES[health.status(without=(LINK_CHECK,))]
