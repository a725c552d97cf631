"""Which hosts acknowledged a revocation, by the trust revision that they reported with their last heartbeat."""

import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinhost.certificates.admission import server_folder
from twinhost.certificates.layout import OPERATOR, SERVER, Layout
from twinhost.certificates.running_agents import client_of
from twinhost.certificates.tree import is_revoked, live_keys
from twinhost.deployment import NO_RESPONSE
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Agent, NetworkConfig
from twinhost.secure_zmq.certificates import pins_of
from twinhost.secure_zmq.errors import ServerUnreachable, TwinhostError
from twinhost.secure_zmq.keys import Certificate, KeyPair, load_key_pair, parse_certificate
from twinhost.secure_zmq.server_address import SECURE_ZMQ_VARIABLE, is_secure_zmq_enabled

WITHIN_S = 5.0  # for every host to acknowledge: an agent that is connected to mainpc takes about 0.2 s
_FIRST_CALL_S = 0.5  # the first call's deadline, then the port is probed; also the shortest of any later call
_CALL_S = 2.0  # a later call's, so that an agent that is restarting is asked again
_PROBE_S = 1.0
_STEP_S, _LONGEST_STEP_S = 0.1, 1.0  # each try is a connection, and a line in mainpc's audit log
_NEXT_START = "the revocation is in its folder here and applies from its next start"


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """What is known of one agent's host; `missing` where it may still accept a revoked key."""

    host: str
    sentence: str
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Follower:
    """An agent that follows mainpc's list of keys: the revision that it reported last, and whether it is silent."""

    name: str
    host: str
    follows: str | None
    registered: bool
    silent: bool


def followers(trust: Mapping[str, Any], agents: Sequence[Mapping[str, Any]], config: NetworkConfig) -> list[Follower]:
    """Return the agents that have to acknowledge a revocation: those with a key of their own that serve.

    `trust` and `agents` are mainpc's answers to `get_trust` and `get_registered_agents`; the configuration's agents
    serve whether or not they have registered.
    """
    texts = (*trust["current"], *trust["next"])
    hosts = {key.owner.name: key.owner.host for key in (parse_certificate(text, "mainpc's answer") for text in texts)}
    registered = {str(agent["name"]): agent for agent in agents}
    following = []
    for name in sorted(hosts):
        record: Mapping[str, Any] = registered.get(name, {})
        if name != SERVER and (name in config.agents or record.get("port") is not None):
            silent = record.get("status") == NO_RESPONSE
            following.append(Follower(name, hosts[name], record.get("trust_revision"), bool(record), silent))
    return following


def wait_until_acknowledged(
    layout: Layout, config: NetworkConfig, fingerprints: Collection[str], revoked: Collection[Certificate]
) -> list[HostAnswer]:
    """Wait, for WITHIN_S and a last look, until mainpc and its followers refuse keys; return each host's answer.

    The keys are revoked in mainpc's tree; `revoked` has their certificates, as far as they are known.
    """
    server = config.agent(SERVER)
    if not is_secure_zmq_enabled():
        sentence = f"{SECURE_ZMQ_VARIABLE}=0, so no agent checks keys; set it to 1 in .env on every host"
        return [HostAnswer(server.host.name, sentence, missing=True)]
    folder = server_folder(layout, "revoke")
    until = layout.clock.monotonic() + WITHIN_S
    return _Wait(layout, config, folder, server, frozenset(fingerprints), list(revoked), until, layout.clock).answers()


@dataclass(slots=True)
class _Wait:
    layout: Layout
    config: NetworkConfig
    folder: Path  # SystemDigitalTwin's
    server: Agent
    fingerprints: frozenset[str]
    revoked: Sequence[Certificate]
    until: float  # by the monotonic clock
    clock: Clock = SYSTEM_CLOCK
    revisions: set[str] = field(default_factory=set)  # of mainpc's lists that revoke the keys
    stopped: dict[str, bool] = field(default_factory=dict)  # by name: whether nothing listened

    def answers(self) -> list[HostAnswer]:
        """Ask until nothing is missing, or the deadline has passed."""
        answers: list[HostAnswer] = []
        step_s = _STEP_S
        while True:
            try:
                answers = self._asked()
            except TwinhostError as error:
                missing = HostAnswer(self.server.host.name, f"{SERVER} did not answer ({error})", missing=True)
                answers = [missing, *self._unasked()]
            left_s = self.until - self.clock.monotonic()
            if left_s <= 0 or not any(answer.missing for answer in answers):
                return answers
            time.sleep(min(step_s, left_s))
            step_s = min(2 * step_s, _LONGEST_STEP_S)

    def _asked(self) -> list[HostAnswer]:
        """Return what mainpc knows of the hosts, or what is known without it where it does not run."""
        refused: TwinhostError = ServerUnreachable("this tree has no valid operator key")
        for pair in [] if self.server.standby is None and _has_no_address(self.server) else self._pairs():
            try:
                with client_of(self.server, pair, pins_of(self.folder, SERVER)) as client:
                    trust = client.call("get_trust", deadline_s=self._deadline_s())
                    agents = client.call("get_registered_agents", deadline_s=self._deadline_s())["agents"]
                    return [*self._judged(trust, followers(trust, agents, self.config))]
            except ServerUnreachable as error:
                refused = error
                break
            except TwinhostError as error:  # this key is not authorised, or has no grant; the next one may have
                refused = error
        if not self._is_stopped(self.server, again=True):
            raise refused
        return [HostAnswer(self.server.host.name, f"{SERVER} does not run; {_NEXT_START}"), *self._unasked()]

    def _judged(self, trust: Mapping[str, Any], following: Sequence[Follower]) -> Iterator[HostAnswer]:
        if self.fingerprints <= set(trust["revoked"]):
            self.revisions.add(trust["revision"])
            yield HostAnswer(self.server.host.name, f"acknowledged by {SERVER}")
        else:
            unread = f"{SERVER} has not read the revocation yet; run: ./twinhost status"
            yield HostAnswer(self.server.host.name, unread, missing=True)
        for follower in following:
            if follower.follows in self.revisions:
                yield HostAnswer(follower.host, f"acknowledged by {follower.name}")
            elif (follower.silent or not follower.registered) and self._is_here(follower.name):
                yield self._local(self.config.agents[follower.name], _why(follower))
            else:
                yield HostAnswer(follower.host, f"{follower.name} {_why(follower)}", missing=True)
        yield from self._without_key({follower.name for follower in following})

    def _unasked(self) -> Iterator[HostAnswer]:
        """Return an answer for each configured agent that has a key, where mainpc can't be asked."""
        with_key = {agent.name for agent in self.config.agents.values() if live_keys(self.layout, agent.name)}
        for agent in self.config.agents.values():
            if agent.name in with_key - {SERVER}:
                yield self._local(agent, f"is notified by {SERVER}, and may accept the key until then")
        yield from self._without_key(with_key)

    def _without_key(self, with_key: Collection[str]) -> Iterator[HostAnswer]:
        """Return an answer for each configured agent whose last key is revoked: mainpc can no longer notify it."""
        owners = {certificate.owner.name for certificate in self.revoked} - {SERVER}
        for name in sorted(owners.intersection(self.config.agents).difference(with_key)):
            agent = self.config.agents[name]
            if self._is_here(name):
                yield self._local(agent, "no longer has a key and has not read the revocation; see its log, or stop it")
            else:
                why = "mainpc can't notify it, and it may accept the key itself; stop it, or give it a new key"
                yield HostAnswer(agent.host.name, f"{name} no longer has a key, so {why}")

    def _local(self, agent: Agent, otherwise: str) -> HostAnswer:
        """Return the answer of an agent that mainpc can't reach, and that may read its keys from this tree."""
        if self._is_here(agent.name):
            if self._is_stopped(agent):
                return HostAnswer(agent.host.name, f"{agent.name} does not run; {_NEXT_START}")
            if self._acknowledges(agent):
                return HostAnswer(agent.host.name, f"acknowledged by {agent.name}, which was asked directly")
        return HostAnswer(agent.host.name, f"{agent.name} {otherwise}", missing=True)

    def _acknowledges(self, agent: Agent) -> bool:
        """Return whether an agent, asked with the operator's key, has the keys as revoked; one may be its own."""
        pins = [
            key.public for key in (*live_keys(self.layout, agent.name), *self.revoked) if key.owner.name == agent.name
        ]
        pair = next(self._pairs(), None)
        if pair is None or not pins:
            return False
        try:
            with client_of(agent, pair, pins) as client:
                return self.fingerprints <= set(client.call("get_peers", deadline_s=self._deadline_s())["revoked"])
        except TwinhostError:
            return False

    def _pairs(self) -> Iterator[KeyPair]:
        """Return the pairs to ask with: the operator's, and SystemDigitalTwin's own where that one is revoked."""
        for name in (OPERATOR, SERVER):
            place = self.layout.identity_of(name)
            if place is not None and self.layout.secret_file(place).exists():
                pair = load_key_pair(self.layout.secret_file(place))
                if not is_revoked(self.layout, pair.certificate):
                    yield pair

    def _is_here(self, name: str) -> bool:
        """Return whether a configured agent reads its keys from a folder of this tree."""
        return any(identity.owner.name == name for identity in self.layout.local)

    def _is_stopped(self, agent: Agent, *, again: bool = False) -> bool:
        if agent.standby is not None:  # it may become active, and have no key of this tree
            return False
        if again or agent.name not in self.stopped:
            self.stopped[agent.name] = _nothing_listens(agent)
        return self.stopped[agent.name]

    def _deadline_s(self) -> float:
        """Return a call's deadline in seconds; the last look, which begins at the end, has time to connect too."""
        known = self.server.name in self.stopped or self.server.standby is not None
        longest_s = _CALL_S if known else _FIRST_CALL_S
        return max(_FIRST_CALL_S, min(longest_s, self.until - self.clock.monotonic()))


def _why(follower: Follower) -> str:
    """Return why an agent has not acknowledged, and what to do."""
    if follower.silent:
        return "is not connected to mainpc; it is notified when it reconnects, and may accept the key until then"
    if not follower.registered:
        return "has not registered with mainpc, and may accept the key until it does"
    if follower.follows is None:
        return "does not follow mainpc's list; remove the public key from its folder by hand"
    return "has not applied the revocation; run: ./twinhost status"


def _has_no_address(agent: Agent) -> bool:
    """Return whether an agent's host name has no address, as that of a container that does not run."""
    try:
        socket.getaddrinfo(agent.host.address, agent.zmq_port)
    except OSError:
        return True
    return False


def _nothing_listens(agent: Agent) -> bool:
    """Return whether nothing listens where an agent would: its host has no address, or refuses the connection."""
    if _has_no_address(agent):
        return True
    try:
        socket.create_connection((agent.host.address, agent.zmq_port), timeout=_PROBE_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # unreachable: something may run there
        return False
    return False
