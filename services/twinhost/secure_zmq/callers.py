"""Callers, as their keys prove them, and grants: the actions of each role. An action that no role has is refused.

`subscribe` grants every topic of the event feed, and `subscribe:EVENT` that topic alone; `check_subscription` needs the
grants of the topics that it is asked about. Each action of `OWNED` is granted for every record, such as `update_twin`,
or for the caller's own, such as `update_twin:own`.

A forwarded request needs the grants of both its original caller and its forwarder. So a caller can't gain rights
through a forwarder, and a forwarder that names a false caller gains no rights either. Only actions that are marked as
forwardable can be forwarded.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace

from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.keys import UNLIMITED, Validity

OPERATOR_ROLE = "operator"
INVITATION_ROLE = "invitation"  # of a one-time key that may enrol its owner
CANDIDATE_ROLE = "candidate"  # of a key that is proposed, and proves by its handshake that its holder has the secret
IDENTITY_PROPERTY = b"Peer-Identity"  # FINGERPRINT NAME: the ZAP handler sets it and User-Id for every session

EVERY_ACTION = "*"
UNAUTHENTICATED_ROLE = "unauthenticated"  # of every caller on an open link
_UNAUTHENTICATED_ROLES = frozenset({UNAUTHENTICATED_ROLE})
SUBSCRIBE = "subscribe"  # to the event feed
CHECK_SUBSCRIPTION = "check_subscription"
TOPICS = ("AGENT", "ERROR", "EVENT", "TRUST")  # of the feed; on the wire a colon follows each
OWNED = ("update_twin", "patch_twin", "delete_twin", "clear_context")  # a grant may limit these
OWN, ANY = "own", "any"
ENROL = "enrol"
CONFIRM_KEY = "confirm_key"
RESERVED_GRANTS: Mapping[str, Set[str]] = {
    INVITATION_ROLE: frozenset({ENROL}),
    CANDIDATE_ROLE: frozenset({CONFIRM_KEY}),
}  # of keys that are not enrolled yet; the configuration can't extend them


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: proven by its connection, never read from the body; unproven without a fingerprint."""

    name: str
    host: str
    roles: frozenset[str]
    fingerprint: str | None
    via: str | None = None  # who forwarded the request, where it was not the caller itself
    own_only: bool = False  # the current action is granted only for what the caller owns

    @property
    def authenticated(self) -> bool:
        return self.fingerprint is not None

    @property
    def operator(self) -> bool:
        return OPERATOR_ROLE in self.roles


@dataclass(frozen=True, slots=True)
class Peer(Caller):
    """A caller that is proven by a key listed on this host."""

    fingerprint: str
    validity: Validity = UNLIMITED


UNAUTHENTICATED = Caller("unauthenticated", "Unknown", frozenset(), None)

CallerNamed = Callable[[str], Caller | None]  # an identity that is live here, by its name

_Held = tuple[Mapping[str, Set[str]], dict[frozenset[str], frozenset[str]]]  # by role; a cache by a caller's roles


class Grants:
    """The grants in effect; `replace()` swaps them in one step, from any thread."""

    def __init__(self, by_role: Mapping[str, Set[str]]) -> None:
        self.on_change: Callable[[], None] = lambda: None  # called once other grants are in effect, on that thread
        self._held: _Held = ({}, {})
        self.replace(by_role)

    def replace(self, by_role: Mapping[str, Set[str]]) -> bool:
        """Put other grants into effect; return whether they differ."""
        complete = {**by_role, **RESERVED_GRANTS}
        if complete == self._held[0]:
            return False
        self._held = complete, {}
        self.on_change()
        return True

    @property
    def held(self) -> object:
        """The grants in effect, of which another object replaces this one when they change."""
        return self._held

    def allows(self, caller: Caller, action: str) -> bool:
        """Return whether a caller may ask for an action on any record."""
        roles = caller.roles if caller.fingerprint is not None else _UNAUTHENTICATED_ROLES
        by_role, by_roles = self._held  # both at once: the cache must not outlive its grants
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

    def require(self, caller: Caller, action: str) -> Caller:
        """Return the caller, with `own_only` set if the action is granted only for what it owns.

        Raises:
            NotGranted: it may not ask for the action at all.
        """
        granted = self._held[1].get(caller.roles if caller.fingerprint is not None else _UNAUTHENTICATED_ROLES)
        if (granted is None or action not in granted) and not self.allows(caller, action):
            if action in OWNED and self.allows(caller, own_grant(action)):
                return replace(caller, own_only=True)
            if action == CHECK_SUBSCRIPTION:  # the handler judges each topic, by the grants of the feed
                return caller
            raise NotGranted(
                f"{action} is not granted to {caller.name} (role {_roles_of(caller)}); "
                "an operator may ask for it, or grant it in network_config.yaml"
            )
        return caller

    def require_topics(self, caller: Caller, prefixes: Iterable[str]) -> None:
        """Raise NotGranted unless a caller may subscribe to all of these prefixes of topics; each is judged alone."""
        refused = [prefix or "every topic" for prefix in prefixes if not self.allows_topic(caller, prefix.encode())]
        if refused:
            raise NotGranted(
                f"{SUBSCRIBE} to {', '.join(refused)} is not granted to {caller.name} (role {_roles_of(caller)}); "
                f"leave that out, or grant it `{SUBSCRIBE}` for these topics in network_config.yaml"
            )

    def original_caller(
        self, name: str, forwarder: Caller, action: str, forwardable: bool, caller_named: CallerNamed
    ) -> Caller:
        """Return the original caller of a forwarded request, with the roles that both it and its forwarder have.

        The forwarder's own grant was checked before.

        Raises:
            NotGranted: the action can't be forwarded, no peer of that name is live here, or it may not ask for it.
        """
        if not forwardable:
            raise NotGranted(
                f"{action} can't be forwarded on behalf of {name[:64]}; that caller must ask for it itself"
            )
        original = caller_named(name) if forwarder.authenticated else None
        if original is None:
            raise NotGranted(f"{name[:64]!r} is not known here; name an authorised peer (./twinhost keys list)")
        original = self.require(original, action)
        return replace(
            original,
            roles=original.roles & forwarder.roles,
            via=forwarder.name,
            own_only=original.own_only or forwarder.own_only,
        )


def topic_grant(topic: str) -> str:
    """Return the name of the grant of one topic."""
    return f"{SUBSCRIBE}:{topic}"


def own_grant(action: str) -> str:
    """Return the name of the grant of an action on what the caller owns."""
    return f"{action}:{OWN}"


def no_caller_named(_: str) -> Caller | None:
    """Know no identity, as on an open link."""
    return None


def _roles_of(caller: Caller) -> str:
    return " ".join(sorted(caller.roles)) or UNAUTHENTICATED_ROLE


def _meet(prefix: bytes, topic: bytes) -> bool:
    return topic.startswith(prefix) or prefix.startswith(topic)
