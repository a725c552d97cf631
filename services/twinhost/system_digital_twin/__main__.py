"""`python -m twinhost.system_digital_twin`: the agent on mainpc."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from twinhost.agent.assembly import MAX_PAGE_BYTES, Assembly, Followed, Foundation
from twinhost.agent.dialects import Command, commands, first_of, raw_strings
from twinhost.agent.health import GetHealth, HealthActions, OperatorActions
from twinhost.agent.host_sampler import SamplerThread
from twinhost.agent.process import run_agent
from twinhost.agent.schema import SchemaActions
from twinhost.agent.settings import Settings
from twinhost.agent.state_folder import assets_folder
from twinhost.agent.subscriptions import SubscriptionActions
from twinhost.agent.troubles import Kind
from twinhost.agent.trust import TRUST_TOPIC
from twinhost.network_config import is_local_only
from twinhost.secure_zmq import wire
from twinhost.secure_zmq.actions import Feature
from twinhost.secure_zmq.callers import UNAUTHENTICATED
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.audit_log.copies import copied_log
from twinhost.store.audit_log.followed import FollowedFiles
from twinhost.system_digital_twin import ITSELF, SUCCESS
from twinhost.system_digital_twin.attention.actions import AttentionActions
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.gauges import attention_metrics
from twinhost.system_digital_twin.attention.hosts import Hosts
from twinhost.system_digital_twin.attention.machines import Machines
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.attention.sources import watch_all
from twinhost.system_digital_twin.capacity.actions import LoadActions
from twinhost.system_digital_twin.capacity.leases import Leases
from twinhost.system_digital_twin.capacity.reservations import Reservations
from twinhost.system_digital_twin.capacity.time_to_full import ForecastActions, Forecasts
from twinhost.system_digital_twin.events.actions import EventActions, PublishedError, PublishedEvent
from twinhost.system_digital_twin.events.events import Events, Topic
from twinhost.system_digital_twin.gauges import agent_states, clocks_ahead, system_metrics
from twinhost.system_digital_twin.http.audit import AuditRoute
from twinhost.system_digital_twin.http.history import HistoryRoute
from twinhost.system_digital_twin.http.page import Stream, page_routes
from twinhost.system_digital_twin.http.questions import Questions
from twinhost.system_digital_twin.http.records import RecordRoutes
from twinhost.system_digital_twin.http.state import RECENT_S, StateBoard
from twinhost.system_digital_twin.metrics.actions import MetricsActions
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.metrics.of_standbys import MetricsOfStandbys
from twinhost.system_digital_twin.metrics.vram_reports import VramReports
from twinhost.system_digital_twin.registry.actions import (
    PORT,
    GetAgentInfo,
    GetAllAgents,
    RegisterAgent,
    RegistrationData,
    RegistryActions,
)
from twinhost.system_digital_twin.registry.registry import AGENT_TOPIC, HEALTHY, AgentEvent, AgentRecord, Registry
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER, MIGRATIONS
from twinhost.system_digital_twin.takeovers import Takeovers
from twinhost.system_digital_twin.trust.actions import KeyActions, TrustEvent
from twinhost.system_digital_twin.trust.audit import AuditActions
from twinhost.system_digital_twin.trust.retirements import RETIREMENTS_FILE
from twinhost.system_digital_twin.trust.trust import KeysAndAudit

# REGISTER and DISCOVER, the requests of clients that are older than actions, translated into today's.


class _Register(msgspec.Struct):
    name: wire.NAME
    location: wire.NAME | None = None
    ip: wire.NAME | None = None
    port: PORT | None = None
    health_check_port: PORT | None = None
    agent_type: wire.NAME = "agent"
    capabilities: list[wire.NAME] = []
    dependencies: list[wire.NAME] = []


class _Discover(msgspec.Struct):
    name: wire.NAME


def _register(payload: dict[str, Any]) -> RegisterAgent:
    old = msgspec.convert(payload, _Register)
    if old.ip is None or old.port is None:
        return RegisterAgent(agent_name=old.name, status=HEALTHY, location=old.location)
    return RegisterAgent(
        registration_data=RegistrationData(
            agent_id=old.name,
            agent_type=old.agent_type,
            host=old.ip,
            port=old.port,
            health_check_port=old.health_check_port,
            capabilities=old.capabilities,
            dependencies=old.dependencies,
            metadata={"location": old.location} if old.location is not None else {},
        )
    )


def _found(reply: wire.Answer) -> wire.Answer:
    info = reply["agent_info"]
    return {"payload": {**info, "ip": info["host"]}}


COMMANDS = {
    "REGISTER": Command(_register, lambda reply: {"message": reply["message"]}),
    "DISCOVER": Command(lambda payload: GetAgentInfo(agent_name=msgspec.convert(payload, _Discover).name), _found),
}


NAME = ITSELF
FEATURES = (
    HealthActions,
    OperatorActions,
    SchemaActions,
    RegistryActions,
    MetricsActions,
    LoadActions,
    ForecastActions,
    EventActions,
    SubscriptionActions,
    KeyActions,
    AuditActions,
    AttentionActions,
)
FEED: Mapping[str, type] = {  # the events by their topic
    Topic.EVENT.value: PublishedEvent,
    Topic.ERROR.value: PublishedError,
    AGENT_TOPIC.decode(): AgentEvent,
    TRUST_TOPIC.decode(): TrustEvent,
}


def assemble(foundation: Foundation) -> Assembly:
    """Build the agent's features on its database and its keys."""
    settings, database, publish = foundation.settings, foundation.database, foundation.publisher.publish
    limits = settings.config.limits
    registry = Registry(database, limits.registration_ttl_s, publish)
    with database.transaction():
        registry.put(_itself(foundation))
    security = KeysAndAudit(foundation, registry.note_applied)
    metrics = Metrics(database, limits.metrics_interval_s, settings.agent.host.name, list(settings.config.hosts))
    of_standbys = MetricsOfStandbys(foundation, metrics)
    sampler = SamplerThread.of(foundation, metrics.queue)
    reports, events = VramReports(database), Events(database, publish)
    leases = Leases(database, reports.lease_ended)
    forecasts = Forecasts(database, metrics, events)
    reservations = Reservations(database, metrics, reports, leases, events, registry.has_died, foundation.is_live)
    registry.on_remove = reservations.end_all_of
    foundation.usage.register("lease_share", reservations.shares)
    attention = Attention(database, events, grace_s=2 * limits.registration_ttl_s)
    said = Reports(lambda: settings.config.agents, foundation.clock)
    watched = Hosts(foundation, registry, said, security)
    machines = Machines(foundation, registry, metrics, reservations, forecasts)
    watch_all(attention, foundation, watched, machines, events, security)
    takeovers = Takeovers(foundation, events)
    state = StateBoard(
        foundation, registry, metrics, leases, events, forecasts, reservations, attention, said, takeovers
    )
    features: tuple[Feature, ...] = (
        RegistryActions(
            registry,
            foundation.keys.peers.public_key_of,
            security.trust_revision,
            security.witnesses.answer,
            _may_be_local(settings),
            said.take,
            lambda: attention.revision,
        ),
        *security.features,
        MetricsActions(metrics, reports, leases.host_of, foundation.budgets, lambda: settings.config.agents),
        LoadActions(reservations, leases, foundation.budgets),
        ForecastActions(forecasts, metrics),
        EventActions(events, min(MAX_PAGE_BYTES, limits.max_payload_bytes), security.audit.record, foundation.budgets),
        AttentionActions(attention),
    )
    foundation.usage.register("events", lambda: events.kept(Topic.EVENT))
    foundation.usage.register("errors", lambda: events.kept(Topic.ERROR))

    follow_config = _config_follower(settings, registry, metrics, security)
    questions = Questions(foundation.telemetry.readers)

    def on_tick() -> None:
        questions.on_tick()  # first: what fails below must not stop it
        follow_config()
        registry.keep_alive(NAME)
        state.on_tick()
        try:
            for part in (of_standbys, metrics, reservations, events, security, forecasts, takeovers):
                part.on_tick()
        finally:  # what can't be stored is a trouble
            attention.on_tick()

    gathered = foundation.telemetry.gathered()

    def on_collect() -> None:
        gathered.gather(
            [
                *attention_metrics(attention.document()),
                *system_metrics(
                    agent_states(registry),
                    events.count_severe_since(foundation.clock.time() - RECENT_S),
                    attention.members(Kind.REVOCATION_PENDING),
                    clocks_ahead(registry, said, settings.config),
                    reservations.waiting(),
                    audit_intact=security.inspector.intact,
                ),
            ]
        )
        state.draw()

    def on_stop() -> None:
        with contextlib.suppress(StoreUnavailable):  # the current minute is lost, and the agent stops nevertheless
            metrics.close()
        security.close()

    return Assembly(
        actions=[action for feature in features for action in feature.actions()],
        success=SUCCESS,
        translate=first_of(
            raw_strings(
                {b"ping": (GetHealth(), None), b"GET_ALL_STATUS": (GetAllAgents(), lambda reply: reply["agents"])}
            ),
            commands(COMMANDS),
        ),
        on_tick=on_tick,
        on_collect=on_collect,
        on_refusal=security.on_refusal,
        on_grants=security.on_grants,
        on_stop=on_stop,
        companions=[sampler],
        routes=[
            *Stream(lambda: state.snapshot, foundation.telemetry.readers, foundation.clock).routes(),
            *HistoryRoute(metrics, questions).routes(),
            *RecordRoutes(events, questions).routes(),
            *AuditRoute(security.audit, security.inspector).routes(),
            *page_routes(assets_folder()),
        ],
    )


def _config_follower(
    settings: Settings, registry: Registry, metrics: Metrics, security: KeysAndAudit
) -> Callable[[], None]:
    """Return a function for the tick: it applies a changed configuration."""
    followed = settings.config

    def follow() -> None:
        nonlocal followed
        if (config := settings.config) is not followed:
            followed = config
            registry.ttl_s = config.limits.registration_ttl_s
            metrics.expect(list(config.hosts))
            security.follow(config)

    return follow


def _may_be_local(settings: Settings) -> Callable[[str], bool]:
    """Return a test: whether agents at a location may register a loopback or link-local address."""
    here = settings.agent.host.name.lower(), UNAUTHENTICATED.host.lower()

    def may_be_local(location: str) -> bool:
        config = settings.config
        host = config.hosts.get(location.lower())
        return location.lower() in here or config.on_loopback or (host is not None and is_local_only(host.address))

    return may_be_local


def _itself(foundation: Foundation) -> AgentRecord:
    agent = foundation.settings.agent
    return AgentRecord(
        name=NAME,
        status=HEALTHY,
        location=agent.host.name,
        registered_by=NAME,
        last_updated=foundation.clock.time(),
        host=agent.host.address,
        port=agent.zmq_port,
        health_check_port=agent.http_port,
        agent_type="system_twin",
        capabilities=("registry", "discovery"),
        metadata={
            **({} if agent.events_port is None else {"events_port": agent.events_port}),
            **foundation.settings.metadata,
        },
    )


if __name__ == "__main__":
    followed = Followed(
        files=lambda state: FollowedFiles(state / AUDIT_FOLDER).write,
        beside=lambda state, copy: copied_log(state / AUDIT_FOLDER, copy / AUDIT_FOLDER, copy / f"{NAME}.sqlite3"),
        state_files=[RETIREMENTS_FILE],
    )
    sys.exit(run_agent(NAME, MIGRATIONS, assemble, followed=followed))
