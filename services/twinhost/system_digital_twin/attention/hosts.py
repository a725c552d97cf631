"""What the detectors of hosts, agents, links and keys judge: read anew for each look."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from twinhost.agent.assembly import Foundation
from twinhost.agent.conditions import Condition
from twinhost.deployment import NO_RESPONSE, hosts_own
from twinhost.network_config import Agent
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.silence import Silence, known_since
from twinhost.system_digital_twin.attention.clocks import SeenClock
from twinhost.system_digital_twin.attention.keys import Following
from twinhost.system_digital_twin.attention.links import Addresses, OtherKind
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.attention.silence import SeenAgent
from twinhost.system_digital_twin.registry.registry import Registry
from twinhost.system_digital_twin.trust.trust import KeysAndAudit

NOT_REGISTERED = "unknown"
_PATIENCE_HEARTBEATS = 3  # for a new list of keys: each of them fetches it


class Hosts:
    """The hosts of the configuration, the agents, and their keys, as of now."""

    def __init__(self, foundation: Foundation, registry: Registry, reports: Reports, security: KeysAndAudit) -> None:
        self._registry, self._reports, self._security = registry, reports, security
        self._settings, self._peers, self._clock = foundation.settings, foundation.keys.peers, foundation.clock
        self._handshakes = OtherKind(self._clock.monotonic)
        self._addresses = Addresses(self._clock.monotonic)
        self._silences: dict[str, Silence] = {}  # of the agents that are silent, what is known of why
        self._keys_revision: str | None = None
        self._keys_revised_at = 0.0  # monotonic
        foundation.handshakes.listen(self._handshakes.observe)

    def by_agent(self) -> dict[str, str]:
        """Return the host by the name of its agent."""
        return {agent.name: agent.host.name for agent in self._settings.config.agents.values()}

    def agents(self) -> list[SeenAgent]:
        seen = seen_agents(self.own(), self._registry, self._reports)
        silent = {agent.name for agent in seen if agent.status == NO_RESPONSE}
        shown = self._peers.silences(silent) if silent else {}
        known = {name: known_since(self._silences.get(name), shown.get(name)) for name in silent}
        self._silences = {name: silence for name, silence in known.items() if silence is not None}
        return [replace(agent, silence=known.get(agent.name)) for agent in seen]

    def own(self) -> dict[str, str]:
        """Return the same of the one agent that each host has for itself."""
        return hosts_own(self._settings.config)

    def conditions(self) -> Iterator[tuple[Agent, str, Sequence[Condition]]]:
        """Yield what the other agents say of themselves, while they can; with a name, if their host has another one."""
        own = self.own()
        for agent in self._settings.config.agents.values():
            if agent.name != self._settings.agent.name and not self._silent(agent):
                name = "" if agent.name in own else agent.name
                yield agent, name, self._reports.conditions(agent.name)

    def clocks(self) -> Iterator[SeenClock]:
        for agent in self._others():
            heard = self._reports.clock(agent.name)
            if heard is not None and not self._stopped(agent):
                yield SeenClock(agent.host.name, heard.report, heard.own_set_by_s, self._silent(agent))

    def own_clock_set_by_s(self) -> float:
        return self._reports.own.set_by_s

    def valid_only_here(self, ahead_s: float) -> tuple[str, ...]:
        """Return the owners of keys of which one is valid here, and none by a clock that is so far ahead."""
        now, keys = self._clock.time(), self.listed_keys()
        there = {key.name for key in keys if key.validity.holds(now + ahead_s)}
        return tuple(sorted({key.name for key in keys if key.validity.holds(now)} - there))

    def answering(self) -> Iterator[str]:
        return (agent.host.name for agent in self._others() if not self._silent(agent))

    def of_another_kind(self) -> Iterator[str]:
        """Yield the silent hosts from whose addresses handshakes of the other kind come."""
        for agent in self._others():
            if self._silent(agent):
                last = self._handshakes.address_of.get(agent.name, "")
                if self._handshakes.sends({*self._addresses.of(agent.host.address), last}):
                    yield agent.host.name

    def listed_keys(self) -> list[Peer]:
        """Return the keys that are listed, but for invitations and candidates."""
        return [peer for peer in self._peers.all() if ":" not in peer.name]

    def following(self) -> Iterator[Following]:
        """Yield the live agents that could apply a list of keys."""
        for record in self._registry.all():
            applied = self._registry.trust_revision(record.name)
            if (
                (applied or self._reports.has_reported(record.name))
                and self._registry.status(record) != NO_RESPONSE
                and self._peers.keys_of(record.name)  # else it is refused, and can't be told
            ):
                yield Following(record.name, record.location, applied)

    def keys_revision(self) -> str | None:
        """Return the revision of the list of keys, once all had the time to apply it."""
        now, revision = self._clock.monotonic(), self._security.trust_revision()
        if revision != self._keys_revision:
            self._keys_revision, self._keys_revised_at = revision, now
        patience_s = _PATIENCE_HEARTBEATS * self._settings.config.limits.heartbeat_s
        return revision if now - self._keys_revised_at >= patience_s else None

    def _others(self) -> list[Agent]:
        """Return the agents that the other hosts have for themselves: one for each."""
        here, agents = self._settings.agent.name, self._settings.config.agents
        return [agents[name] for name in self.own() if name != here]

    def _silent(self, agent: Agent) -> bool:
        record = self._registry.find(agent.name)
        return record is None or self._registry.status(record) == NO_RESPONSE

    def _stopped(self, agent: Agent) -> bool:
        return self._registry.find(agent.name) is not None and self._registry.has_stopped(agent.name)


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
