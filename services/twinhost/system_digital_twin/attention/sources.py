"""The table of the detectors: each is a pure function, of what is read anew for each look."""

from collections.abc import Iterator
from functools import partial

from twinhost.agent.assembly import Foundation
from twinhost.agent.backups import BackupRecord, old_backup
from twinhost.agent.conditions import BUDGETS, KEY_RETIRES, KINDS, WITNESS_CHECK, troubles_of
from twinhost.agent.log_troubles import log_troubles
from twinhost.agent.open_links import open_links
from twinhost.agent.refused_connections import refused_connections
from twinhost.agent.telemetry import backup_metrics
from twinhost.agent.troubles import Detector, Kind, Trouble
from twinhost.system_digital_twin.attention import (
    audit,
    budgets,
    clocks,
    errors,
    keys,
    resources,
    silence,
)
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.hosts import Hosts
from twinhost.system_digital_twin.attention.machines import Machines
from twinhost.system_digital_twin.attention.places import operated_from, place_of, said_at
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.system_digital_twin.trust.trust import KeysAndAudit

_BACK_UP = "(umask 077; docker compose run --rm -T archive backup - > mainpc.backup)"
# Of mainpc's own conditions, detectors here say more about these.
OWN_KINDS = {**KINDS, WITNESS_CHECK: None, BUDGETS: None, KEY_RETIRES: None}


def watch_all(
    attention: Attention,
    foundation: Foundation,
    hosts: Hosts,
    machines: Machines,
    events: Events,
    security: KeysAndAudit,
) -> None:
    """Have the list ask every detector."""
    settings, health, clock = foundation.settings, foundation.health, foundation.clock
    here, host_of, before = settings.agent.host.name, hosts.by_agent, attention.ids
    audit_folder, witnesses = settings.state / AUDIT_FOLDER, security.witnesses
    backups = BackupRecord(settings.state, settings.agent.name, clock)
    backups.begin()
    foundation.telemetry.register(lambda: backup_metrics(backups.newest_backup()))

    of_hosts: dict[str, Detector] = {
        "silent_hosts": lambda: silence.silent_hosts(here, hosts.agents()),
        "silent_agents": lambda: silence.silent_agents(hosts.agents()),
        "unhealthy_agents": lambda: silence.unhealthy_agents(hosts.agents()),
        "conditions": lambda: (
            said_at(one, settings.agent, settings.place) for one in troubles_of(here, health.conditions(), OWN_KINDS)
        ),
        "conditions_of_hosts": lambda: (
            said_at(one, agent, place_of(agent, foundation))
            for agent, name, said in hosts.conditions()
            for one in troubles_of(agent.host.name, said, agent=name)
        ),
        "clocks": lambda: clocks.differing_clocks(
            here, hosts.clocks(), hosts.own_clock_set_by_s(), hosts.valid_only_here
        ),
        "links": lambda: open_links(
            here, secure=settings.secure, others=hosts.answering(), mismatched=hosts.of_another_kind()
        ),
    }
    of_keys: dict[str, Detector] = {
        "ending_keys": lambda: keys.ending_keys(here, hosts.listed_keys(), host_of(), hosts.own(), clock.time()),
        "revoked_agents": lambda: keys.revoked_agents(
            here, host_of(), hosts.own(), security.revoked, (key.name for key in hosts.listed_keys())
        ),
        "retiring_keys": lambda: keys.retiring_keys(security.contested(), foundation.keys.peers.name_of, host_of()),
        "pending_revocations": lambda: keys.pending_revocations(hosts.following(), hosts.keys_revision()),
    }
    of_machines: dict[str, Detector] = {
        "full_disks": lambda: resources.full_disks(machines.volumes(), before),
        "failing_disks": lambda: resources.failing_disks(machines.disk_faults(), machines.cannot_write()),
        "full_ram": lambda: resources.full_ram(machines.memories(), before),
        "cards": lambda: resources.worn_cards(machines.cards(), before),
        "filling": lambda: resources.filling(machines.filling()),
        "missing_metrics": lambda: resources.missing_metrics(machines.unmeasured()),
        "waiting_leases": lambda: resources.waiting_leases(machines.long_waits(), clock.time()),
    }
    of_records: dict[str, Detector] = {
        "errors": errors.ReportedErrors(events),
        "refusals": lambda: refused_connections(here, security.refusals.recent(), foundation.is_live),
        "backups": lambda: old_backup(here, backups.newest(), clock.time(), _BACK_UP),
        "budgets": lambda: budgets.nearly_used(here, foundation.usage.newest),
        "audit_log": lambda: audit.changed_log(
            here,
            audit_folder,
            security.inspector,
            security.audit.contradiction,
            attention.unacknowledged(f"{Kind.AUDIT_TAMPERED}:{here}"),
        ),
        "audit_witness": lambda: audit.contradicting_witnesses(here, witnesses.faults, host_of()),
        "restored": lambda: audit.restored_log(here, witnesses.restored(), host_of()),
    }
    detectors = of_hosts | (of_keys if settings.secure else {}) | of_machines | of_records
    if foundation.log is not None:
        detectors |= {"log": lambda: log_troubles(foundation.log, settings.config)}
    for name, detector in detectors.items():
        attention.watch(name, partial(_found, detector, here, settings.place))


def _found(detector: Detector, home: str, place: str) -> Iterator[Trouble]:
    return (operated_from(trouble, home, place) for trouble in detector())
