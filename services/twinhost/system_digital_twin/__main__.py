"""`python -m twinhost.system_digital_twin`: the agent on mainpc."""

import sys
import time
from collections.abc import Callable

from twinhost.agent.assembly import MAX_PAGE_BYTES, Assembly, Foundation
from twinhost.agent.common_actions import GetHealth, HealthActions, OperatorActions
from twinhost.agent.dialects import all_status, commands, first_of, raw_strings
from twinhost.agent.process import run_agent
from twinhost.agent.settings import Settings
from twinhost.agent.state_folder import assets_folder
from twinhost.network_config import is_local_only
from twinhost.secure_zmq.callers import UNAUTHENTICATED
from twinhost.store.audit_log.ledger import MIGRATION as LEDGER_MIGRATION
from twinhost.store.audit_log.ledger import MIGRATION_RESTORES as LEDGER_MIGRATION_RESTORES
from twinhost.system_digital_twin.capacity.actions import LoadActions
from twinhost.system_digital_twin.deduplication import MIGRATION as EVENTS_MIGRATION_IDS
from twinhost.system_digital_twin.dialect import COMMANDS
from twinhost.system_digital_twin.events.actions import EventActions
from twinhost.system_digital_twin.events.events import MIGRATION as EVENTS_MIGRATION
from twinhost.system_digital_twin.events.events import MIGRATION_SEVERE as EVENTS_MIGRATION_SEVERE
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.http.page import Stream, page_routes
from twinhost.system_digital_twin.http.state import StateBoard
from twinhost.system_digital_twin.metrics.actions import MetricsActions
from twinhost.system_digital_twin.metrics_and_leases import MIGRATIONS as METRICS_MIGRATIONS
from twinhost.system_digital_twin.metrics_and_leases import MetricsAndLeases
from twinhost.system_digital_twin.registry.actions import ITSELF, SUCCESS, GetAllAgents, Handlers
from twinhost.system_digital_twin.registry.registry import HEALTHY, MIGRATION, AgentRecord, Registry
from twinhost.system_digital_twin.trust.actions import KeyActions
from twinhost.system_digital_twin.trust.audit import MIGRATION as KEY_AUDIT_MIGRATION
from twinhost.system_digital_twin.trust.audit import AuditActions, KeysAndAudit

NAME = ITSELF
MIGRATIONS = [
    MIGRATION,
    LEDGER_MIGRATION,
    KEY_AUDIT_MIGRATION,
    *METRICS_MIGRATIONS,
    EVENTS_MIGRATION,
    EVENTS_MIGRATION_IDS,
    LEDGER_MIGRATION_RESTORES,
    EVENTS_MIGRATION_SEVERE,
]  # in the order they came about
FEATURES = (
    HealthActions,
    OperatorActions,
    Handlers,
    MetricsActions,
    LoadActions,
    EventActions,
    KeyActions,
    AuditActions,
)


def assemble(foundation: Foundation) -> Assembly:
    """Build the agent's actions on its registry."""
    settings = foundation.settings
    registry = Registry(foundation.database, settings.config.limits.registration_ttl_s, foundation.publisher.publish)
    with foundation.database.transaction():
        registry.put(_itself(foundation))
    peers = foundation.keys.peers
    security = KeysAndAudit(foundation)
    hosts = MetricsAndLeases(foundation)
    events = Events(foundation.database, foundation.publisher.publish)
    handlers = Handlers(
        registry,
        peers.public_key_of,
        security.trust_revision,
        security.witnesses.answer,
        _may_be_local(settings),
    )
    state = StateBoard(foundation, registry, hosts.metrics, hosts.leases, events)

    def on_tick() -> None:
        registry.keep_alive(NAME)
        state.on_tick()
        hosts.on_tick()
        events.on_tick()
        security.on_tick()

    def on_stop() -> None:
        hosts.close()
        security.close()

    return Assembly(
        actions=[
            *handlers.actions(),
            *security.actions(),
            *hosts.actions(),
            *EventActions(events, min(MAX_PAGE_BYTES, settings.config.limits.max_payload_bytes)).actions(),
        ],
        success=SUCCESS,
        translate=first_of(
            raw_strings({b"ping": (GetHealth(), None), b"GET_ALL_STATUS": (GetAllAgents(), all_status)}),
            commands(COMMANDS),
        ),
        on_tick=on_tick,
        on_refusal=security.on_refusal,
        on_grants=security.on_grants,
        on_stop=on_stop,
        companions=[hosts.sampler],
        routes=[*Stream(state.board).routes(), *page_routes(assets_folder())],
    )


def _may_be_local(settings: Settings) -> Callable[[str], bool]:
    """Return whether agents at a location may have an address of loopback or the link: on this host, or all are one."""
    config, here = settings.config, (settings.agent.host.name.lower(), UNAUTHENTICATED.host.lower())

    def may_be_local(location: str) -> bool:
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
        last_updated=time.time(),
        host=agent.host.address,
        port=agent.zmq_port,
        health_check_port=agent.http_port,
        agent_type="system_twin",
        capabilities=("registry", "discovery"),
    )


if __name__ == "__main__":
    sys.exit(run_agent(NAME, MIGRATIONS, assemble))
