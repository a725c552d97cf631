"""Where the detectors get what they judge: the state of mainpc's agent, read anew for each look."""

from collections.abc import Iterable

from twinhost.agent.assembly import Foundation
from twinhost.agent.backups import BackupRecord, old_backup
from twinhost.agent.conditions import KINDS, troubles_of
from twinhost.agent.telemetry import BackupCollector
from twinhost.agent.troubles import Trouble
from twinhost.system_digital_twin.attention import audit, budgets, errors, refusals, silence
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.machines import Machines
from twinhost.system_digital_twin.attention.silence import SeenAgent
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.registry.registry import OK_STATUSES, Registry
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.system_digital_twin.trust.trust import KeysAndAudit

_BACK_UP = "(umask 077; docker compose run --rm -T archive backup - > mainpc.backup)"
# Of mainpc's own conditions, detectors here say more about these.
OWN_KINDS = {**KINDS, audit.WITNESS_CHECK: None, "budgets": None}


def watch_all(attention: Attention, foundation: Foundation, registry: Registry, machines: Machines) -> None:
    """Have the list watch everything."""
    settings, health = foundation.settings, foundation.health
    here = settings.agent.host.name

    def seen() -> list[SeenAgent]:
        return seen_agents({agent.name: agent.host.name for agent in settings.config.agents.values()}, registry)

    attention.watch("silent_hosts", lambda: silence.silent_hosts(seen()))
    attention.watch("silent_agents", lambda: silence.silent_agents(seen()))
    attention.watch("unhealthy_agents", lambda: silence.unhealthy_agents(seen(), OK_STATUSES))
    attention.watch("conditions", lambda: troubles_of(here, health.conditions(), OWN_KINDS))
    machines.watch(attention)


def watch_records(attention: Attention, foundation: Foundation, events: Events, security: KeysAndAudit) -> None:
    """Have the list watch what is recorded: errors, refusals, and the audit log."""
    settings, here = foundation.settings, foundation.settings.agent.host.name

    def host_of() -> dict[str, str]:
        return {agent.name: agent.host.name for agent in settings.config.agents.values()}

    def refused() -> Iterable[Trouble]:
        return refusals.refused_connections(here, security.refusals.recent(), foundation.is_live)

    attention.watch("errors", errors.ReportedErrors(events))
    attention.watch("refusals", refused)
    folder, witnesses = settings.state / AUDIT_FOLDER, security.witnesses
    record = BackupRecord(settings.state, settings.agent.name, foundation.clock)
    record.begin()
    foundation.telemetry.register(BackupCollector(record.newest_backup))
    attention.watch("backups", lambda: old_backup(here, record.newest(), foundation.clock.time(), _BACK_UP))
    attention.watch("budgets", lambda: budgets.nearly_used(here, foundation.usage.newest))
    attention.watch("audit_files", lambda: audit.changed_files(here, folder, security.inspector.broken))
    attention.watch("audit_witness", lambda: audit.contradicting_witnesses(here, witnesses.faults, host_of()))
    attention.watch("restored", lambda: audit.restored_log(here, witnesses.restored(), host_of()))


def seen_agents(host_of: dict[str, str], registry: Registry) -> list[SeenAgent]:
    """Return every agent that is registered, or is to be: a host's own one by `host_of`."""
    known = [
        SeenAgent(
            name=record.name,
            status=registry.status(record),
            last_seen=registry.last_seen(record.name),
            location=record.location,
            host=host_of.get(record.name),
            stopped=registry.has_stopped(record.name),
            sends_heartbeats=registry.sends_heartbeats(record),
        )
        for record in registry.all()
    ]
    missing = host_of.keys() - {agent.name for agent in known}
    return known + [SeenAgent(name, NOT_REGISTERED, None, host_of[name], host_of[name]) for name in sorted(missing)]


NOT_REGISTERED = "unknown"
