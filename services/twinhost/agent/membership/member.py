"""An agent's membership: it registers, measures its host, sends events to mainpc, and asks other agents."""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import structlog

from twinhost.agent.assembly import Companion, Foundation
from twinhost.agent.clocks import ClockReport, SetClock, report_of
from twinhost.agent.conditions import (
    AUDIT_RESTORED,
    KINDS,
    LINK_CHECK,
    WITNESS_CHECK,
    Condition,
    bounded,
    troubles_of,
)
from twinhost.agent.health import Health
from twinhost.agent.host_metrics import HostSample
from twinhost.agent.host_sampler import SamplerThread
from twinhost.agent.live_config import MAINPC_AGENT
from twinhost.agent.log_troubles import log_troubles
from twinhost.agent.membership.audit_witness import AuditWitness, WitnessActions
from twinhost.agent.membership.coordination import Coordinator, ForwardedRequest, find_addresses
from twinhost.agent.membership.delivery import CALL_DEADLINE_S, TRANSIENT, DeliveryQueue, Kind, Sender
from twinhost.agent.membership.gauges import outbox_metrics
from twinhost.agent.membership.outbox import Outbox
from twinhost.agent.membership.watch import MainpcWatch, WatchActions
from twinhost.agent.memory_figures import MemoryFigures
from twinhost.agent.troubles import Trouble
from twinhost.agent.trust import TRUST_TOPIC, TrustFolder
from twinhost.moments import SYSTEM_CLOCK, Clock, parse_time
from twinhost.network_config import Agent
from twinhost.rate_limit import LogBudget
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import CHECK_SUBSCRIPTION, Caller
from twinhost.secure_zmq.certificates import TRUST_FOLDER
from twinhost.secure_zmq.client import Client, Subscriber
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    InternalError,
    NotFound,
    NotGranted,
    RequestError,
    ServerUnreachable,
    UnknownAction,
)
from twinhost.secure_zmq.server_address import ServerAddress
from twinhost.secure_zmq.wire import Reply
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

_RETRY_S = 1.0  # with jitter, so that many agents don't reconnect at one moment
_GOODBYE_S = 0.5  # for the last heartbeat, which delays the agent's end
_REFUSAL_LASTS_S = 10.0  # a few attempts
_ATTENTION_EVERY_S = 2.0  # at most
_REFUSED_ATTENTION_S = 600.0  # until it is asked for again
_MAX_SAMPLES = 1_000  # that wait for the thread


class MainpcLink(Worker):
    """Keeps one agent registered with SystemDigitalTwin, on a thread of its own."""

    def __init__(
        self,
        server: ServerAddress,
        agent: Agent,
        heartbeat_s: float,
        max_payload_bytes: int,
        trust: TrustFolder | None,
        queue: DeliveryQueue | None = None,
        status: Callable[[], str] = lambda: "HEALTHY",
        description: "Description | None" = None,
        witness: AuditWitness | None = None,
        conditions: Callable[[], Iterable[Condition]] = tuple,
        watch: MainpcWatch | None = None,
        metadata: Mapping[str, Any] = MappingProxyType({}),
        feed: ServerAddress | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Keep `agent` registered with mainpc's agent at `server`.

        Args:
            trust: the folder that follows mainpc's list of keys.
            status: returns the status that a heartbeat reports.
            conditions: returns what is wrong with the agent, which a heartbeat reports too.
            watch: keeps mainpc's attention list, and learns when mainpc answers.
            metadata: what it registers with, besides its location.
            feed: mainpc's event feed, which announces a change of its list of keys.
        """
        super().__init__("mainpc-link", self._run, join_timeout_s=CALL_DEADLINE_S + _GOODBYE_S + 0.5)
        described = description or Description("agent", dependencies=())
        self._registration_data = {
            "agent_id": agent.name,
            "agent_type": described.agent_type,
            "capabilities": list(described.capabilities),
            "dependencies": list(described.dependencies),
            "host": agent.host.address,
            "port": agent.zmq_port,
            "health_check_port": agent.http_port,
            "metadata": {"location": agent.host.name, **metadata},
        }
        self._status = status
        self._clock = clock
        self._server = server
        self._trust = trust
        self._witness = witness
        self._conditions = conditions
        self._watch = watch
        self.figures: Callable[[], MemoryFigures | None] = lambda: None  # of its memory, which a heartbeat reports too
        self.settle: Callable[[], None] = lambda: None  # called before a revision of the folder is reported
        self._set_clock = SetClock(clock)
        self._clock_report: ClockReport | None = None  # of the last heartbeat
        self._trust_revision: str | None = None  # of the folder
        self._name = agent.name
        self.heartbeat_s = heartbeat_s
        self._max_payload_bytes = max_payload_bytes
        queue = queue if queue is not None else DeliveryQueue()
        self._samples = _SampleReports(agent.host.name, queue, clock)
        self._sender = Sender(queue, clock)
        self._registered = False
        self._registration: object = None  # the digest of this agent's own record at mainpc
        # Whether all agents may send this heartbeat at one moment: after a start, a reconnect, or a change of keys. The
        # wait after it is random (jitter), else they would stay synchronised.
        self._synchronised = True
        self.fault: str | None = "not registered yet"  # why it is not connected to mainpc; None while it is
        self._said: set[str] = set()  # causes that were logged since it was connected
        self._refused_until = 0.0  # by the monotonic clock: how long a refusal counts as the cause
        self._attention_due = 0.0
        self._heartbeat_due = False  # before its time
        self._signal = threading.Event()  # something to send, or a heartbeat is due, or the thread must end
        self.follower = Subscriber(feed, [TRUST_TOPIC], lambda _: self.wake()) if trust and feed else None
        self._checked_session = 0  # of the follower: whether mainpc grants what it subscribed to
        self._not_followed: str | None = None
        queue.on_put = self._signal.set

    def warnings(self) -> list[str]:
        """Return a sentence where mainpc's feed does not announce changes of the list of keys to this agent."""
        if self._not_followed is None:
            return []
        return [
            f"a key that is revoked on mainpc is refused here up to {self.heartbeat_s:g} s later, after the next "
            f"heartbeat, because mainpc's event feed does not announce it: {self._not_followed}"
        ]

    def report(self, sample: HostSample) -> None:
        """Send a measurement to mainpc, now or once it is reachable; from any thread."""
        self._samples.add(sample)
        self._signal.set()

    def wake(self) -> None:
        """Send the next heartbeat now: something at mainpc has changed."""
        self._heartbeat_due = True
        self._signal.set()

    def _interrupt(self) -> None:
        self._signal.set()

    def _run(self) -> None:
        with Client(self._server, max_payload_bytes=self._max_payload_bytes) as client:
            while not self.stopping:
                self._heartbeat_due = False
                self._send_until(client, self._clock.monotonic() + self._turn(client))
            self._say_goodbye(client)

    def _send_until(self, client: Client, next_heartbeat: float) -> None:
        """Send measurements and the outbox until the next heartbeat is due, or until another thread wakes this one."""
        while (left_s := next_heartbeat - self._clock.monotonic()) > 0:
            self._signal.clear()  # before it looks: what comes after that sets it again
            if self._heartbeat_due or self.stopping:
                return
            if self.fault is not None:
                self._samples.store_all()
                self._signal.wait(left_s)
                continue
            try:
                sent = self._samples.send_one(client) or self._sender.send_one(client)
            except ConnectionRefused:
                return  # the next heartbeat reports what is wrong with the link
            if not sent:
                self._signal.wait(min(left_s, self._sender.backoff_s()))

    def _turn(self, client: Client) -> float:
        """Register or send a heartbeat; return how many seconds to wait until the next one."""
        try:
            again = self._send_heartbeat(client) if self._registered else self._register(client)
        except NotFound:  # mainpc lost its registry, or an operator removed this agent
            self._registered = False
            return 0
        except (ConnectionRefused, RequestError) as error:
            self._note_failure(error, client)
            self._synchronised = True
            self._samples.store_all()  # here too: if the call timed out, the next heartbeat is due already
            return _RETRY_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        if again:
            return 0
        if self.fault is not None:
            _log.info("mainpc_connected", server=self._server.address)
            self._sender.reconnected()
        self.fault, self._said = None, set()
        share = random.random() if self._synchronised else 1.0  # noqa: S311 - jitter, not a secret
        self._synchronised = False
        return self.heartbeat_s * share

    def _note_failure(self, error: ConnectionRefused | RequestError, client: Client) -> None:
        """Log each cause once until it is connected again; a refusal is not replaced by the silence that follows it."""
        cause, now = type(error).__name__, self._clock.monotonic()
        if self._watch is not None:
            if isinstance(error, RequestError):
                self._watch.answered(error)
                self._follow_attention(client, None)
            else:
                self._watch.failed(error)
        if not isinstance(error, ServerUnreachable):
            self._refused_until = now + _REFUSAL_LASTS_S
        elif now < self._refused_until:
            return
        if cause not in self._said:
            _log.warning("mainpc_disconnected", cause=cause, reason=str(error))
            self._said.add(cause)
        self.fault = f"{cause}: {error}"

    def _follow_attention(self, client: Client, revision: object) -> None:
        """Fetch mainpc's attention list if it has changed, or while mainpc refuses what would say so."""
        if self._watch is None or not (revision is None or self._watch.lacks(revision)):
            return
        now = self._clock.monotonic()
        if now < self._attention_due:
            return
        self._attention_due = now + _ATTENTION_EVERY_S
        try:
            reply = client.call("get_attention", deadline_s=CALL_DEADLINE_S)
        except (NotGranted, UnknownAction) as error:  # each attempt would be a line in mainpc's audit log
            _log.warning("attention_not_granted", reason=str(error))
            self._attention_due = now + _REFUSED_ATTENTION_S
        except (ConnectionRefused, RequestError) as error:
            _log.info("attention_not_fetched", cause=type(error).__name__)
        else:
            self._watch.take(str(revision or ""), reply)

    def _register(self, client: Client) -> bool:
        """Register; return True: a heartbeat follows at once."""
        reply = client.call("register_agent", deadline_s=CALL_DEADLINE_S, registration_data=self._registration_data)
        self._registered, self._registration = True, reply.get("registration")
        _log.info("registered", server=self._server.address)
        return True

    def _send_heartbeat(self, client: Client) -> bool:
        """Send a heartbeat; return whether another one, or a registration, is to follow at once."""
        asked, fields = self._witness.question() if self._witness else (None, {})
        if conditions := bounded(self._conditions()):
            fields["conditions"] = msgspec.to_builtins(conditions)
        if (figures := self.figures()) is not None:
            fields["memory"] = msgspec.to_builtins(figures)
        if self._clock_report is not None:
            fields["clock"] = msgspec.to_builtins(self._clock_report)
        sent, started = self._clock.time(), self._clock.monotonic()
        reply = client.call(
            "heartbeat",
            deadline_s=CALL_DEADLINE_S,
            agent_name=self._name,
            status=self._status(),
            trust_revision=self._trust_revision,
            **fields,
        )
        self._measure_clock(sent, self._clock.monotonic() - started, reply.get("timestamp"))
        if self._watch is not None:
            self._watch.answered()
        if self._witness is not None:
            self._witness.take(asked, reply)
        if (revision := reply.get("attention_revision")) is not None:
            self._follow_attention(client, revision)
        if reply.get("registration") != self._registration:
            _log.warning("registration_changed", effect="this agent registers again")
            self._registered = False
            return True
        if self._follow_trust(client, reply.get("trust_revision")):
            self._synchronised = True
            return True  # the next heartbeat acknowledges the revision
        self._check_subscription(client)
        return False

    def _measure_clock(self, sent: float, took_s: float, answered: object) -> None:
        """Note how this host's clock differs from mainpc's, for the next heartbeat."""
        try:
            time = parse_time(str(answered)).timestamp()
        except ValueError:
            self._clock_report = None
        else:
            self._clock_report = report_of(sent, took_s, time, self._set_clock.set_by_s)

    def _say_goodbye(self, client: Client) -> None:
        """Tell mainpc that this agent stops; else it would count as alive until its TTL is over."""
        if self.fault is not None:
            return
        try:
            client.call(
                "heartbeat",
                deadline_s=_GOODBYE_S,
                agent_name=self._name,
                trust_revision=self._trust_revision,
                stopping=True,
            )
        except (ConnectionRefused, RequestError) as error:
            _log.info("goodbye_not_taken", cause=type(error).__name__)

    def _check_subscription(self, client: Client) -> None:
        """Learn whether the feed refuses the subscription; once a session, since it ends those whose grants change."""
        session = self.follower.session if self.follower is not None else 0
        if session in {0, self._checked_session}:
            return
        self._not_followed = None
        try:
            client.call(CHECK_SUBSCRIPTION, deadline_s=CALL_DEADLINE_S, topics=[TRUST_TOPIC.decode()])
        except NotGranted as error:
            self._not_followed = str(error)
        except UnknownAction:  # an older mainpc, whose feed closes the connection instead
            pass
        self._checked_session = session

    def _follow_trust(self, client: Client, revision: object) -> bool:
        """Apply mainpc's list of keys if it has changed; return whether it had."""
        if self._trust is None or revision in (None, self._trust_revision):
            return False
        document = self._trust.document()
        if document.revision != revision:  # after a restart they may be equal
            document = self._trust.follow(partial(client.call, "get_trust", deadline_s=CALL_DEADLINE_S), document)
        self.settle()  # whoever takes over from this agent refuses what mainpc is told that it refuses
        self._trust_revision = document.revision
        return True


class _SampleReports:
    """Measurements for mainpc: the newest is sent, older ones go to the outbox. `add` is for any thread."""

    def __init__(self, host: str, queue: DeliveryQueue, clock: Clock = SYSTEM_CLOCK) -> None:
        self._host = host
        self._clock = clock
        self._queue = queue
        self._samples: deque[HostSample] = deque(maxlen=_MAX_SAMPLES)
        self._error_code: str | None = None

    def add(self, sample: HostSample) -> None:
        self._samples.append(sample)

    def store_all(self) -> None:
        """Move the measurements to the outbox: mainpc is unreachable and gets them later."""
        while self._samples:
            self._store(self._samples.popleft())

    def send_one(self, client: Client) -> bool:
        """Send the newest measurement and store those before it; return whether there was one.

        Raises:
            ConnectionRefused: mainpc is unreachable; the measurement was stored, since it may not have arrived.
        """
        if not self._samples:
            return False
        *older, newest = [self._samples.popleft() for _ in range(len(self._samples))]  # not those added meanwhile
        for sample in older:
            self._store(sample)
        try:
            started = self._clock.monotonic()
            client.call("ping", deadline_s=CALL_DEADLINE_S)
            newest = msgspec.structs.replace(newest, latency_ms=1_000 * (self._clock.monotonic() - started))
            client.call("report_metrics", deadline_s=CALL_DEADLINE_S, **self._fields(newest))
        except (ConnectionRefused, *TRANSIENT) as error:
            self._store(newest)
            if isinstance(error, ConnectionRefused):
                raise
        except RequestError as error:  # an agent without the grant for metrics still registers
            if self._error_code != error.code:
                _log.warning("metrics_not_taken", code=error.code, reason=str(error))
            self._error_code = error.code
        else:
            self._error_code = None
        return True

    def _store(self, sample: HostSample) -> None:
        history_only = msgspec.structs.replace(sample, gpus=())  # mainpc shows no late sample as the current one
        self._queue.defer(Kind.SAMPLE, "report_metrics", self._fields(history_only))

    def _fields(self, sample: HostSample) -> dict[str, Any]:
        return {**msgspec.to_builtins(sample), "host": self._host}


HEADS_FILE = "audit-heads.json"  # after the agent's name, in its state folder
ATTENTION_FILE = "attention.json"  # likewise
_OWN_KINDS = {name: kind for name, kind in KINDS.items() if kind is not None}  # this host has no detectors
_STATUSES: Mapping[str, str] = {"ok": "HEALTHY", "degraded": "DEGRADED", "error": "ERROR"}  # in the registry's words
_NORMAL_PRIORITY = 5


@dataclass(frozen=True, slots=True)
class Description:
    """What an agent registers as."""

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
        self._witness = AuditWitness(settings.state / f"{settings.agent.name}.{HEADS_FILE}", foundation.clock)
        self._settings = settings
        host = settings.agent.host.name

        def conditions() -> Iterable[Condition]:
            return health.conditions(without=(LINK_CHECK,))

        def own_troubles() -> Iterable[Trouble]:
            yield from troubles_of(host, conditions(), _OWN_KINDS)
            yield from log_troubles(foundation.log, settings.config)

        self.watch = MainpcWatch(
            settings.state / f"{settings.agent.name}.{ATTENTION_FILE}",
            settings.agent,
            mainpc_agent,
            own_troubles,
            lambda: settings.config.limits.registration_ttl_s,
            foundation.clock,
            secure=settings.secure,
        )
        self._link = link = MainpcLink(
            mainpc,
            settings.agent,
            limits.heartbeat_s,
            limits.max_payload_bytes,
            trust,
            self.outbox.queue,
            lambda: registry_status(health),
            description,
            self._witness if settings.secure else None,
            conditions,
            self.watch,
            settings.metadata,
            feed,
            foundation.clock,
        )
        link.settle = foundation.keys.settle
        sampler = SamplerThread.of(foundation, link.report)
        addresses = find_addresses(settings, foundation.keys)
        self._coordinator = Coordinator(mainpc, addresses, limits.max_payload_bytes, foundation.clock)
        followers = [link.follower] if link.follower is not None else []
        self.companions: list[Companion] = [link, sampler, self._coordinator, *followers]
        health.add(LINK_CHECK, lambda: link.fault, essential=False)
        health.add(WITNESS_CHECK, lambda: self._witness.fault, essential=False)
        health.warn("outbox", self.outbox.queue.warnings)
        health.warn(AUDIT_RESTORED, self._witness.warnings)
        health.warn("revocations_late", link.warnings)
        foundation.telemetry.register(lambda: outbox_metrics(self.outbox.queue.counts()))
        self.on_refusal = FaultReports(self.outbox).on_refusal
        with foundation.database.transaction():
            self.publish("agent_started", {"host": settings.agent.host.name})

    def actions(self, success: Literal["ok", "success"]) -> list[Action[Any]]:
        """Return the actions on what this host knows of mainpc: its audit log, and its attention list."""
        return [*WitnessActions(self._witness, success).actions(), *WatchActions(self.watch, success).actions()]

    def tell(self, figures: Callable[[], MemoryFigures | None]) -> None:
        """Have the heartbeats say how much is in the memory; the function is called on another thread."""
        self._link.figures = figures

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
        """Write to disk what was delivered, and what other threads added; follow the configuration."""
        self._link.heartbeat_s = self._settings.config.limits.heartbeat_s
        self.outbox.tick()


class FaultReports:
    """Reports requests that failed because of a bug to mainpc's operators, each action's at a limited rate."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._budget = LogBudget(outbox.clock.monotonic)  # by action

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
    """Return an agent's status in the registry's terms, without the link's check: mainpc knows who is connected."""
    return _STATUSES[health.status(without=(LINK_CHECK,))]
