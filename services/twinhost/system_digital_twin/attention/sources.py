"""Where the detectors get what they judge: the state of mainpc's agent, read anew for each look."""

from collections.abc import Iterable

from twinhost.agent.assembly import Foundation
from twinhost.agent.troubles import Trouble
from twinhost.system_digital_twin.attention import conditions, errors, refusals, silence
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.machines import Machines
from twinhost.system_digital_twin.attention.silence import SeenAgent
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.registry.registry import OK_STATUSES, Registry
from twinhost.system_digital_twin.trust.trust import KeysAndAudit


def watch_all(attention: Attention, foundation: Foundation, registry: Registry, machines: Machines) -> None:
    """Have the list watch everything."""
    settings, health = foundation.settings, foundation.health
    here = settings.agent.host.name

    def seen() -> list[SeenAgent]:
        return seen_agents({agent.name: agent.host.name for agent in settings.config.agents.values()}, registry)

    attention.watch("silent_hosts", lambda: silence.silent_hosts(seen()))
    attention.watch("silent_agents", lambda: silence.silent_agents(seen()))
    attention.watch("unhealthy_agents", lambda: silence.unhealthy_agents(seen(), OK_STATUSES))
    attention.watch("checks", lambda: conditions.failed_checks(here, health.failed()))
    attention.watch("warnings", lambda: conditions.warnings(here, health.warned()))
    machines.watch(attention)


def watch_records(attention: Attention, foundation: Foundation, events: Events, security: KeysAndAudit) -> None:
    """Have the list watch what is recorded: reported errors and refused connections."""
    here = foundation.settings.agent.host.name

    def refused() -> Iterable[Trouble]:
        return refusals.refused_connections(here, security.refusals.recent(), foundation.is_live)

    attention.watch("errors", errors.ReportedErrors(events))
    attention.watch("refusals", refused)


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
