"""`keys list`: every key that an agent knows, how long it is valid, and who uses it now; and what changes keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from twinhost.certificates.acknowledgement import Follower, followers
from twinhost.certificates.layout import described
from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.key_changes import add_changes
from twinhost.cli.output import Failure, ListedPeers, days, duration, not_seen, read, seconds_between
from twinhost.cli.status import own_sockets
from twinhost.clients.system_replies import PeerDocument
from twinhost.deployment import Settings, load_settings
from twinhost.secure_zmq.callers import INVITATION_ROLE
from twinhost.secure_zmq.errors import NotGranted, TwinhostError
from twinhost.secure_zmq.keys import DAY_S, WARN_BEFORE_S

keys = typer.Typer(help="The keys that the agents know. To change them, this machine must run mainpc.")
NOT_LISTED, REVOKED, LIVE = "not listed", "revoked", "live"
_UNLIMITED = "no expiry"
_OF_PEER = ("name", "host", "roles", "fingerprint", "not_before", "not_after")  # as `get_peers` has them
_NO_KEYS = Failure("open_link", "SECURE_ZMQ=0: nobody is authenticated, so the agents use no keys")


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What one host's agent answered, and its clock at that time."""

    host: str
    peers: ListedPeers
    now: str


@dataclass(slots=True)
class Key:
    """One key; sessions, standing, and when it was last seen (seconds ago, and the time) are by host."""

    peer: PeerDocument
    age_s: float | None
    left_s: float | None
    sessions: dict[str, int] = field(default_factory=dict)
    last_seen: dict[str, tuple[float, str]] = field(default_factory=dict)
    standing: dict[str, str] = field(default_factory=dict)

    @property
    def invitation(self) -> bool:
        return INVITATION_ROLE in self.peer.roles

    @property
    def seen_s(self) -> float | None:
        """Seconds since any agent saw it."""
        return min((ago for ago, _ in self.last_seen.values()), default=None)

    def as_document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            **{name: getattr(self.peer, name) for name in _OF_PEER},
            "age_days": None if self.age_s is None else round(self.age_s / DAY_S, 1),
            "days_left": None if self.left_s is None else round(self.left_s / DAY_S, 1),
            "sessions": self.sessions,
            "last_seen": {host: moment for host, (_, moment) in self.last_seen.items()},
            "standing": self.standing,
        }


@dataclass(frozen=True, slots=True)
class Unacknowledged:
    """An agent that may accept keys which mainpc has revoked; `revoked` is None if it is unknown which."""

    agent: str
    host: str
    revoked: tuple[str, ...] | None


@keys.command("list")
def list_keys(as_json: AsJson = False) -> int:
    """List every key that an agent knows, with an operator's key.

    Exit status 1 if an agent can't be asked, so that the list may be incomplete.
    """
    settings = load_settings()
    by_agent, failures = _ask(settings) if settings.secure else ({}, [_NO_KEYS])
    reports = list(by_agent.values())
    listed = merge(reports)
    behind = _ask_for_unacknowledged(settings, by_agent, failures)
    if as_json:
        output.show_value(_document(listed, reports, behind, failures), as_json=True)
    elif reports:
        output.show(*_view(listed, reports, behind))
    for failure in failures:
        output.say("warning", output.WARN, f"[{failure.code}]: {failure.sentence}")
    return 1 if failures else 0


def merge(reports: Sequence[KeyReport]) -> list[Key]:
    """Return one entry for each fingerprint that any agent lists, sorted by name."""
    listed: dict[str, Key] = {}
    for report in reports:
        for peer in report.peers.peers:
            ended_s = seconds_between(peer.not_after, report.now)
            left_s = None if ended_s is None else -ended_s
            age_s = seconds_between(peer.not_before, report.now)
            key = listed.setdefault(peer.fingerprint, Key(peer, age_s, left_s))
            if peer.sessions:
                key.sessions[report.host] = peer.sessions
            ago = seconds_between(peer.last_seen, report.now)
            if ago is not None and peer.last_seen is not None:
                key.last_seen[report.host] = (max(0.0, ago), peer.last_seen)
    for fingerprint, key in listed.items():
        key.standing = {report.host: _standing(fingerprint, report.peers) for report in reports}
        if key.invitation:  # only mainpc lists them
            key.standing = {host: standing for host, standing in key.standing.items() if standing != NOT_LISTED}
    return sorted(listed.values(), key=lambda key: (key.peer.name, key.peer.fingerprint))


def unacknowledged(
    mainpc: KeyReport, others: Mapping[str, KeyReport], following: Sequence[Follower], revision: str
) -> list[Unacknowledged]:
    """Return which agents have not acknowledged every revocation.

    `others` has what the other agents answered, by name; those that were not asked are judged by the revision that they
    reported to mainpc.
    """
    behind_mainpc = []
    for name, report in others.items():
        missing = sorted(set(mainpc.peers.revoked) - set(report.peers.revoked))
        if missing:
            behind_mainpc.append(Unacknowledged(name, report.host, tuple(missing)))
    behind = [follower for follower in following if follower.name not in others and follower.follows != revision]
    return [*behind_mainpc, *(Unacknowledged(follower.name, follower.host, None) for follower in behind)]


def standing_words(standing: Mapping[str, str]) -> Iterable[str]:
    """Return one word if all hosts agree, else a phrase for each host."""
    words = set(standing.values())
    return words if len(words) == 1 else [f"{word} on {host}" for host, word in standing.items()]


def _standing(fingerprint: str, peers: ListedPeers) -> str:
    if fingerprint in peers.revoked:
        return REVOKED
    standing = next((peer.standing for peer in peers.peers if peer.fingerprint == fingerprint), NOT_LISTED)
    return standing.replace("_", " ")


class PingReply(msgspec.Struct):
    """What the replies to a ping of all agents have in common; one replies with its health."""

    timestamp: str


def _ask(settings: Settings) -> tuple[dict[str, KeyReport], list[Failure]]:
    """Return every agent's answer by its name, and a failure for each that can't be asked."""
    reports, failures, makers = {}, [], own_sockets(settings)
    for agent in settings.config.agents.values():
        if agent.name in makers:
            output.say("note:", output.FAINT, f"{agent.name} makes its own sockets and can't be asked")
            continue
        try:
            with settings.client(agent) as client:
                peers = read(client.call("get_peers"), ListedPeers)
                now = read(client.call("ping"), PingReply).timestamp
                reports[agent.name] = KeyReport(agent.host.name, peers, now)
        except NotGranted as error:
            if (needed := _operator_needed(settings, error)) not in failures:  # the other agents refuse it as well
                failures.append(needed)
        except TwinhostError as error:
            failures.append(Failure.of(error).about(agent.name))
    return reports, failures


def _operator_needed(settings: Settings, error: NotGranted) -> Failure:
    assert settings.certificates is not None
    folder, owner = settings.certificates.folder, settings.certificates.own_keys.certificate.owner
    return Failure(
        error.code,
        f"keys list needs an operator's key, and {folder} has the key of {described(owner)}; "
        "in the checkout on mainpc's machine, run: ./twinhost keys list",
    )


def _ask_for_unacknowledged(
    settings: Settings, by_agent: Mapping[str, KeyReport], failures: list[Failure]
) -> list[Unacknowledged]:
    """Return the agents that have not acknowledged a revocation; if mainpc can't be asked, add a failure."""
    registry = settings.registry_agent
    mainpc = by_agent.get(registry.name)
    if mainpc is None or not mainpc.peers.revoked:
        return []
    others = {name: report for name, report in by_agent.items() if name != registry.name}
    try:
        with settings.client(registry) as client:
            trust = client.call("get_trust")
            agents = client.call("get_registered_agents")["agents"]
        return unacknowledged(mainpc, others, followers(trust, agents, settings.config), trust["revision"])
    except TwinhostError as error:
        failures.append(Failure.of(error).about(registry.name))
        return unacknowledged(mainpc, others, [], "")


def _document(
    listed: Sequence[Key],
    reports: Sequence[KeyReport],
    behind: Sequence[Unacknowledged],
    failures: Sequence[Failure],
) -> dict[str, Any]:
    return {
        **output.status_of(failures),
        "keys": [key.as_document() for key in listed if not key.invitation],
        "invitations": [key.as_document() for key in listed if key.invitation],
        "revoked": {report.host: list(report.peers.revoked) for report in reports},
        "seen_since": {report.host: report.peers.seen_since for report in reports},
        "unacknowledged": [asdict(agent) for agent in behind],
    }


def _view(
    listed: Sequence[Key], reports: Sequence[KeyReport], behind: Sequence[Unacknowledged]
) -> list[RenderableType]:
    recorded_s = output.recorded_s((report.peers, report.now) for report in reports)
    rows = [_row(key, recorded_s) for key in listed if not key.invitation]
    columns = ("name", "age", "left", "sessions", "last seen", "standing")
    parts = [output.records(f"Keys ({len(rows)})", columns, rows)]
    invitations: list[list[output.Cell]] = [
        [key.peer.name.partition(":")[2], key.peer.host, _left(key), key.peer.fingerprint]
        for key in listed
        if key.invitation
    ]
    if invitations:
        title = f"Open invitations ({len(invitations)})"
        parts.append(output.table(title, ("for", "host", "left", "one-time key"), invitations, whole=("one-time key",)))
    revoked = {fingerprint for report in reports for fingerprint in report.peers.revoked}
    parts.append(output.words("Revoked permanently:", str(len(revoked)), "keys" if len(revoked) != 1 else "key"))
    for agent in behind:
        which = "the newest" if agent.revoked is None else f"{len(agent.revoked)} of them"
        sentence = f"Not acknowledged on {agent.host} by {agent.agent}: {which}; it may accept what mainpc has revoked"
        parts.append(output.styled(sentence, output.BAD))
    return parts


def _row(key: Key, recorded_s: float | None) -> tuple[list[output.Cell], output.Cell]:
    """Return the cells, and the line below them: fingerprint, roles, and host."""
    peer = key.peer
    sessions = [f"{count} on {host}" for host, count in key.sessions.items()] or ["none"]
    standing = [
        output.styled(word, output.GOOD if word == LIVE else output.BAD) for word in standing_words(key.standing)
    ]
    cells: list[output.Cell] = [
        peer.name,
        "-" if key.age_s is None else f"{int(max(0.0, key.age_s) // DAY_S)} d",
        _left(key),
        output.lines(*sessions),
        not_seen(key.age_s, recorded_s) if key.seen_s is None else f"{duration(key.seen_s)} ago",
        output.lines(*standing),
    ]
    return cells, output.styled(f"{peer.fingerprint}  {', '.join(peer.roles)} on {peer.host}", output.FAINT)


def _left(key: Key) -> Text:
    if key.left_s is None:
        return Text(_UNLIMITED)
    if key.left_s <= 0:
        return output.styled("expired", output.BAD)
    soon = key.left_s < WARN_BEFORE_S and not key.invitation  # an invitation is meant to be short
    return output.styled(days(key.left_s), output.WARN if soon else "")


add_changes(keys)
