"""What an agent does beside its own work: it is registered and measured, tells mainpc what happens, and asks others."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from twinhost.agent.assembly import Companion, Foundation
from twinhost.agent.host_metrics.sampler import SamplerThread
from twinhost.agent.membership.addresses import addresses
from twinhost.agent.membership.audit_witness import AuditWitness
from twinhost.agent.membership.coordination import Coordinator
from twinhost.agent.membership.errands import Errand
from twinhost.agent.membership.faults import LINK_CHECK, Faults, status_of
from twinhost.agent.membership.mainpc_link import MainpcLink
from twinhost.agent.membership.outbox import MIGRATION, Outbox
from twinhost.agent.membership.witness_actions import witness_actions
from twinhost.agent.trust import TRUST_TOPIC, TrustFolder
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import TRUST_FOLDER
from twinhost.secure_zmq.client import Subscriber
from twinhost.secure_zmq.errors import RequestError
from twinhost.secure_zmq.wire import Reply

__all__ = ["MIGRATION", "Membership"]

MAINPC_AGENT = "SystemDigitalTwin"
HEADS_FILE = "audit-heads.json"  # after the agent's name, in its folder of state
_NORMAL = 5


@dataclass(frozen=True, slots=True)
class Description:
    """What an agent says of itself when it registers."""

    agent_type: str
    capabilities: Sequence[str] = ()
    dependencies: Sequence[str] = (MAINPC_AGENT,)


class Membership:
    """An agent's place in the system; `MIGRATION` is the table that it needs."""

    def __init__(self, foundation: Foundation, description: Description) -> None:
        """Prepare it; `companions` start it."""
        settings, limits = foundation.settings, foundation.settings.config.limits
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
            status_of(foundation.health),
            description.agent_type,
            description.capabilities,
            description.dependencies,
            self._witness,
        )
        sampler = SamplerThread(limits.metrics_interval_s, link.take)
        self._coordinator = Coordinator(mainpc, addresses(settings.config, foundation.keys), limits.max_payload_bytes)
        followers = [Subscriber(feed, [TRUST_TOPIC], lambda _: link.wake())] if trust and feed else []
        self.companions: list[Companion] = [link, sampler, self._coordinator, *followers]
        foundation.health.add(LINK_CHECK, lambda: link.fault, essential=False)
        foundation.health.add("metrics", lambda: sampler.fault, essential=False)
        foundation.health.add("audit_witness", lambda: self._witness.fault, essential=False)
        foundation.health.warn(self.outbox.queue.warnings)
        foundation.health.warn(self._witness.warnings)
        self.on_refusal: Callable[[Caller | None, str | None, RequestError], None] = Faults(self.outbox).on_refusal
        with foundation.database.transaction():
            self.outbox.tell("agent_started", {"host": settings.agent.host.name})

    def actions(self, success: Literal["ok", "success"]) -> list[Action[Any]]:
        """Return the operator's actions on what this host has seen of mainpc's audit log."""
        return witness_actions(self._witness, success)

    def tell(self, event_type: str, data: dict[str, Any]) -> None:
        """Owe mainpc an event: once what is under way is on disk, it will arrive, and once."""
        self.outbox.tell(event_type, data)

    def ask(self, agent: str, operation: str, caller: Caller, **fields: Any) -> "Future[Reply]":
        """Return another agent's answer to come, asked in the caller's name; a handler may return it as it is."""
        return self.send(Errand(agent, operation, fields, _NORMAL, caller.name, caller.authenticated, None))

    def send(self, errand: Errand) -> "Future[Reply]":
        """Return the answer to come of what is asked of another agent.

        Raises:
            LimitReached: too many wait, of this caller or of all.
            RequestIdReused: the same id is under way for something else.
        """
        return self._coordinator.send(errand)

    def on_tick(self) -> None:
        """Note what has arrived, and keep what other threads left."""
        self.outbox.tick()
