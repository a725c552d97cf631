"""Who may ask for what: actions by role; what no role of a caller is granted is refused.

`subscribe` is every topic of the event feed, and `subscribe:EVENT` that topic alone.
"""

from collections.abc import Mapping, Set

from twinhost.secure_zmq.callers import CANDIDATE_ROLE, INVITATION_ROLE, Caller
from twinhost.secure_zmq.errors import NotGranted

EVERY_ACTION = "*"
UNAUTHENTICATED_ROLE = "unauthenticated"  # whoever comes over an open link
SUBSCRIBE = "subscribe"  # to the event feed
TOPICS = ("AGENT", "ERROR", "EVENT", "TRUST")  # of the feed; on the wire each has a colon behind it
ENROL = "enrol"
CONFIRM_KEY = "confirm_key"
RESERVED_GRANTS: Mapping[str, Set[str]] = {
    INVITATION_ROLE: frozenset({ENROL}),
    CANDIDATE_ROLE: frozenset({CONFIRM_KEY}),
}  # of keys that act for nobody yet; no configuration widens them


_Held = tuple[Mapping[str, Set[str]], dict[frozenset[str], frozenset[str]]]  # by role; by all of a caller's, as asked


class Grants:
    """The grants that hold at this moment; `replace()` swaps them in one step, from any thread."""

    def __init__(self, by_role: Mapping[str, Set[str]]) -> None:
        self._held: _Held = ({}, {})
        self.replace(by_role)

    def replace(self, by_role: Mapping[str, Set[str]]) -> bool:
        """Let other grants hold from now on; return whether they differ."""
        complete = {**by_role, **RESERVED_GRANTS}
        changed = complete != self._held[0]
        self._held = complete, {}
        return changed

    def allows(self, caller: Caller, action: str) -> bool:
        """Return whether a caller may ask for an action."""
        roles = caller.roles if caller.authenticated else frozenset({UNAUTHENTICATED_ROLE})
        by_role, by_roles = self._held  # together: what is worked out from older grants must not outlive them
        granted = by_roles.get(roles)
        if granted is None:
            granted = frozenset(action for role in roles for action in by_role.get(role, ()))
            by_roles[roles] = granted
        return action in granted or EVERY_ACTION in granted

    def allows_topic(self, caller: Caller, prefix: bytes) -> bool:
        """Return whether a caller may subscribe to all topics that begin with a prefix."""
        if self.allows(caller, SUBSCRIBE):
            return True
        meant = [topic for topic in TOPICS if _meet(prefix, topic.encode() + b":")]
        return bool(meant) and all(self.allows(caller, topic_grant(topic)) for topic in meant)

    def require(self, caller: Caller, action: str) -> None:
        """Raise NotGranted where a caller may not ask for an action."""
        if not self.allows(caller, action):
            roles = " ".join(sorted(caller.roles)) or UNAUTHENTICATED_ROLE
            raise NotGranted(
                f"{action} is not granted to {caller.name} (role {roles}); "
                "an operator may ask for it, or grant it in network_config.yaml"
            )


def topic_grant(topic: str) -> str:
    """Return what the grant of one topic is called."""
    return f"{SUBSCRIBE}:{topic}"


def _meet(prefix: bytes, topic: bytes) -> bool:
    return topic.startswith(prefix) or prefix.startswith(topic)
