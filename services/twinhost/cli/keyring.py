"""Every key that any agent knows, as one list: what both say of it, side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twinhost.certificates.acknowledgement import Follower
from twinhost.cli.documents import Peer, Peers, seconds_between
from twinhost.secure_zmq.callers import INVITATION_ROLE
from twinhost.secure_zmq.keys import DAY_S

NOT_LISTED = "not listed"
REVOKED = "revoked"
LIVE = "live"


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What one host's agent said, and its clock when it did."""

    host: str
    peers: Peers
    now: str


@dataclass(slots=True)
class Key:
    """One key; sessions, standing, and last signs of life (seconds ago) are by host."""

    peer: Peer
    age_s: float | None
    left_s: float | None
    sessions: dict[str, int] = field(default_factory=dict)
    last_seen: dict[str, tuple[float, str]] = field(default_factory=dict)
    standing: dict[str, str] = field(default_factory=dict)

    @property
    def invitation(self) -> bool:
        return INVITATION_ROLE in self.peer.roles

    @property
    def days_left(self) -> float | None:
        return None if self.left_s is None else round(self.left_s / DAY_S, 1)

    @property
    def seen_s(self) -> float | None:
        """Seconds since its owner was heard last by anybody."""
        return min((ago for ago, _ in self.last_seen.values()), default=None)

    def as_document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "name": self.peer.name,
            "host": self.peer.host,
            "roles": list(self.peer.roles),
            "fingerprint": self.peer.fingerprint,
            "not_before": self.peer.not_before,
            "not_after": self.peer.not_after,
            "age_days": None if self.age_s is None else round(self.age_s / DAY_S, 1),
            "days_left": self.days_left,
            "sessions": self.sessions,
            "last_seen": {host: moment for host, (_, moment) in self.last_seen.items()},
            "standing": self.standing,
        }


def merge(reports: Sequence[KeyReport]) -> list[Key]:
    """Return one entry for each fingerprint that anybody lists, in the order of names."""
    keys: dict[str, Key] = {}
    for report in reports:
        for peer in report.peers.peers:
            key = keys.setdefault(
                peer.fingerprint, Key(peer, seconds_between(peer.not_before, report.now), _left(peer, report.now))
            )
            if peer.sessions:
                key.sessions[report.host] = peer.sessions
            ago = seconds_between(peer.last_seen, report.now)
            if ago is not None and peer.last_seen is not None:
                key.last_seen[report.host] = (max(0.0, ago), peer.last_seen)
    for fingerprint, key in keys.items():
        key.standing = {report.host: _standing(fingerprint, report.peers) for report in reports}
        if key.invitation:  # mainpc's alone
            key.standing = {host: standing for host, standing in key.standing.items() if standing != NOT_LISTED}
    return sorted(keys.values(), key=lambda key: (key.peer.name, key.peer.fingerprint))


@dataclass(frozen=True, slots=True)
class Unacknowledged:
    """An agent that may accept keys which mainpc has revoked; `revoked` is None where it is not known which."""

    agent: str
    host: str
    revoked: tuple[str, ...] | None

    def as_document(self) -> dict[str, Any]:
        """Return it for programs."""
        revoked = None if self.revoked is None else list(self.revoked)
        return {"agent": self.agent, "host": self.host, "revoked": revoked}


def unacknowledged(
    mainpc: KeyReport, others: Mapping[str, KeyReport], following: Sequence[Follower], revision: str
) -> list[Unacknowledged]:
    """Return who has not acknowledged every revocation.

    Args:
        mainpc: what mainpc's agent said.
        others: what others said, by the agent's name: these say themselves what they have as revoked.
        following: who follows mainpc's list; of those that were not asked, their last heartbeat told the revision.
        revision: of mainpc's list.
    """
    found = []
    for name, report in others.items():
        missing = sorted(set(mainpc.peers.revoked) - set(report.peers.revoked))
        if missing:
            found.append(Unacknowledged(name, report.host, tuple(missing)))
    behind = [one for one in following if one.name not in others and one.follows != revision]
    return [*found, *(Unacknowledged(one.name, one.host, None) for one in behind)]


def told_standing(standing: Mapping[str, str]) -> Iterable[str]:
    """Return one word where all agree, else a phrase for each host."""
    words = set(standing.values())
    return words if len(words) == 1 else [f"{word} on {host}" for host, word in standing.items()]


def _left(peer: Peer, now: str) -> float | None:
    passed = seconds_between(peer.not_after, now)
    return None if passed is None else -passed


def _standing(fingerprint: str, peers: Peers) -> str:
    if fingerprint in peers.revoked:
        return REVOKED
    found = next((peer.standing for peer in peers.peers if peer.fingerprint == fingerprint), NOT_LISTED)
    return found.replace("_", " ")
