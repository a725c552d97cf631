"""Where the detectors get what they judge: the state of mainpc's agent, read anew for each look."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from twinhost.agent.assembly import Foundation
from twinhost.agent.backups import BackupRecord, old_backup
from twinhost.agent.conditions import KINDS, troubles_of
from twinhost.agent.telemetry import BackupCollector
from twinhost.agent.troubles import Trouble
from twinhost.deployment import hosts_own
from twinhost.moments import Clock
from twinhost.network_config import Agent
from twinhost.system_digital_twin.attention import audit, budgets, clocks, errors, keys, links, refusals, silence
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.machines import Machines
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.attention.silence import SeenAgent
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.registry.registry import NO_RESPONSE, OK_STATUSES, Registry
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.system_digital_twin.trust.trust import KeysAndAudit

_BACK_UP = "(umask 077; docker compose run --rm -T archive backup - > mainpc.backup)"
# Of mainpc's own conditions, detectors here say more about these.
OWN_KINDS = {**KINDS, audit.WITNESS_CHECK: None, "budgets": None}
_PATIENCE_HEARTBEATS = 3  # for a new list of keys: each of them fetches it


def watch_all(
    attention: Attention,
    foundation: Foundation,
    registry: Registry,
    machines: Machines,
    reports: Reports,
    security: KeysAndAudit,
) -> None:
    """Have the list watch everything."""
    settings, health = foundation.settings, foundation.health
    here = settings.agent.host.name
    hosts = _Hosts(foundation, registry, reports, security)

    attention.watch("silent_hosts", lambda: silence.silent_hosts(hosts.agents()))
    attention.watch("silent_agents", lambda: silence.silent_agents(hosts.agents()))
    attention.watch("unhealthy_agents", lambda: silence.unhealthy_agents(hosts.agents(), OK_STATUSES))
    attention.watch("conditions", lambda: troubles_of(here, health.conditions(), OWN_KINDS))
    attention.watch("conditions_of_hosts", hosts.conditions)
    attention.watch("clocks", hosts.clocks)
    attention.watch("links", hosts.links)
    if settings.secure:
        attention.watch("ending_keys", hosts.ending_keys)
        attention.watch("revoked_agents", hosts.revoked_agents)
        attention.watch("retiring_keys", hosts.retiring_keys)
        attention.watch("pending_revocations", hosts.pending_revocations)
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


class _Hosts:
    """The hosts of the configuration, their agents, and their keys."""

    def __init__(self, foundation: Foundation, registry: Registry, reports: Reports, security: KeysAndAudit) -> None:
        self._foundation, self._registry, self._reports, self._security = foundation, registry, reports, security
        self._settings, self._peers, self._clock = foundation.settings, foundation.keys.peers, foundation.clock
        self._handshakes = links.OtherKind(self._clock.monotonic)
        self._addresses = links.Addresses(self._clock.monotonic)
        self._list = _Changed(self._clock)
        self._here = self._settings.agent.host.name
        foundation.handshakes.listen(self._handshakes.observe)

    @property
    def host_of(self) -> dict[str, str]:
        """The host by the name of its agent."""
        return {agent.name: agent.host.name for agent in self._settings.config.agents.values()}

    def agents(self) -> list[SeenAgent]:
        return seen_agents(hosts_own(self._settings.config), self._registry, self._reports)

    def _others(self) -> Iterator[tuple[Agent, bool, bool]]:
        """Yield the other hosts' agents: whether each is silent, or has said that it stops."""
        for agent in self._settings.config.agents.values():
            if agent.name != self._settings.agent.name:
                record = self._registry.find(agent.name)
                silent = record is None or self._registry.status(record) == NO_RESPONSE
                yield agent, silent, record is not None and self._registry.has_stopped(agent.name)

    def conditions(self) -> Iterator[Trouble]:
        """Yield what the other hosts say of themselves, while they can."""
        for agent, silent, _ in self._others():
            if not silent:
                yield from troubles_of(agent.host.name, self._reports.conditions(agent.name))

    def clocks(self) -> Iterable[Trouble]:
        own_set_by_s, seen = self._reports.own.set_by_s, []
        for agent, silent, stopped in self._others():
            heard = self._reports.clock(agent.name)
            if heard is not None and not stopped:
                clock = clocks.SeenClock(agent.host.name, heard.report, heard.own_set_by_s, silent)
                if ahead := clocks.ahead_s(clock, own_set_by_s):
                    seen.append(replace(clock, refused=self._refused_by(ahead)))
        return clocks.differing_clocks(self._here, seen, own_set_by_s)

    def _refused_by(self, ahead_s: float) -> tuple[str, ...]:
        """Return the owners of keys of which one is valid here and none by a clock that is so far ahead."""
        now, valid, there = self._clock.time(), set(), set()
        for key in self._peers.all():
            valid |= {key.name} if key.validity.holds(now) else set()
            there |= {key.name} if key.validity.holds(now + ahead_s) else set()
        return tuple(sorted(name for name in valid - there if ":" not in name))

    def links(self) -> Iterable[Trouble]:
        """Yield the open links; a silent host is recognised by its address, and by where it connected from last."""
        well, mismatched = [], []
        for agent, silent, stopped in self._others():
            if not silent:
                well.append(agent.host.name)
            elif not stopped and self._handshakes.sends(
                {*self._addresses.of(agent.host.address), self._handshakes.address_of.get(agent.name, "")}
            ):
                mismatched.append(agent.host.name)
        return links.open_links(self._here, secure=self._settings.secure, others=well, mismatched=mismatched)

    def ending_keys(self) -> Iterable[Trouble]:
        host_of = self.host_of
        listed = (
            keys.ListedKey(
                peer.name,
                peer.host,
                tuple(sorted(peer.roles)),
                peer.fingerprint,
                peer.validity,
                host_of.get(peer.name),
            )
            for peer in self._peers.all()
            if ":" not in peer.name  # an invitation, or a candidate
        )
        return keys.ending_keys(self._here, listed, self._clock.time())

    def revoked_agents(self) -> Iterable[Trouble]:
        return keys.revoked_agents(
            self._here, self.host_of, self._security.revoked, (peer.name for peer in self._peers.all())
        )

    def retiring_keys(self) -> Iterable[Trouble]:
        retiring = (
            keys.Retiring(self._peers.name_of(older), older, each.newer, each.asked or 0.0, each.due)
            for older, each in self._security.contested()
        )
        return keys.retiring_keys(retiring, self.host_of)

    def pending_revocations(self) -> Iterable[Trouble]:
        revision, config = self._security.trust_revision(), self._settings.config
        if revision is None or self._list.unchanged_s(revision) < _PATIENCE_HEARTBEATS * config.limits.heartbeat_s:
            return ()
        following = (
            keys.Following(record.name, record.location, applied)
            for record in self._registry.all()
            if ((applied := self._registry.trust_revision(record.name)) or self._reports.has_reported(record.name))
            and self._registry.status(record) != NO_RESPONSE
            and self._peers.keys_of(record.name)  # else it is refused, and can't be told
        )
        return keys.pending_revocations(following, revision)


class _Changed:
    """For how long a value has been what it is."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._value, self._since = clock, "", 0.0

    def unchanged_s(self, value: str) -> float:
        now = self._clock.monotonic()
        if value != self._value:
            self._value, self._since = value, now
        return now - self._since


def seen_agents(host_of: dict[str, str], registry: Registry, reports: Reports) -> list[SeenAgent]:
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
            said=tuple(condition.what for condition in reports.conditions(record.name)),
            has_port=record.port is not None,
        )
        for record in registry.all()
    ]
    missing = host_of.keys() - {agent.name for agent in known}
    return known + [SeenAgent(name, NOT_REGISTERED, None, host_of[name], host_of[name]) for name in sorted(missing)]


NOT_REGISTERED = "unknown"
