"""Callers, as their keys prove them, and grants: the actions of each role. An action that no role has is refused.

`subscribe` grants every topic of the event feed, and `subscribe:EVENT` that topic alone; `check_subscription` needs the
grants of the topics that it is asked about. Each action of `OWNED` is granted for every record, such as `update_twin`,
or for the caller's own, such as `update_twin:own`.

Who owns what is decided here alone: `Caller.owns`, and what stands on it. Each action that
changes rows is in `OWNED`, or says in its declaration (`unowned`) why it reaches nothing that another has written.

A forwarded request needs the grants of both its original caller and its forwarder. So a caller can't gain rights
through a forwarder, and a forwarder that names a false caller gains no rights either. Only actions that are marked as
forwardable can be forwarded.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property

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
ALWAYS_OWN = (  # with either grant: only an operator's key changes what another wrote
    "delete_interactions",
    "delete_memory",
    "restore_memory",
    "delete_error_pattern",
    "commit_lease",
    "release_lease",
    "register_agent",
    "heartbeat",
    "unregister",
)
OWNED = (  # a grant may limit these
    "update_twin",
    "patch_twin",
    "delete_twin",
    "clear_context",
    "store_memory",  # what it supersedes; a memory itself is changed by its writer alone
    "reinforce_memory",
    "sync_memories",
    "add_error_pattern",  # the proposals that it settles
    "dismiss_pattern_proposal",
    "resolve_conflict",
    *ALWAYS_OWN,
)
OWN, ANY = "own", "any"
ENROL = "enrol"
CONFIRM_KEY = "confirm_key"
RESERVED_GRANTS: Mapping[str, Set[str]] = {
    INVITATION_ROLE: frozenset({ENROL}),
    CANDIDATE_ROLE: frozenset({CONFIRM_KEY}),
}  # of keys that are not enrolled yet; the configuration can't extend them


@dataclass(frozen=True)  # without slots, for `limited`
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

    @cached_property  # a copy for each request takes 2 µs
    def limited(self) -> "Caller":
        """It, for an action that is granted only for what it owns."""
        return replace(self, own_only=True)

    def owns(self, *writers: str) -> bool:
        """Return whether it may change what one of these has written: its own, and an operator everything."""
        return self.name in writers or self.operator

    def may_change(self, *writers: str) -> bool:
        """Return whether the current action may change what one of these has written, as it is granted."""
        return not self.own_only or self.owns(*writers)

    def require_own(self, what: str, *writers: str, instead: str = "") -> None:
        """Raise NotGranted unless it owns what one of these has written; the last one is called the owner."""
        if not self.owns(*writers):
            raise _not_own(self, what, writers[-1], instead)

    def require_change(self, what: str, *writers: str) -> None:
        """Raise NotGranted unless it may change what one of these has written, as the current action is granted."""
        if not self.may_change(*writers):
            raise _not_own(self, what, writers[-1])


@dataclass(frozen=True, slots=True)
class Peer(Caller):
    """A caller that is proven by a key listed on this host."""

    fingerprint: str
    validity: Validity = UNLIMITED


def name_of(caller: Caller | None) -> str:
    """Return the identity that a request counts for; all without a caller are one."""
    return caller.name if caller is not None else ""


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
        granted = self._granted(caller)
        return action in granted or EVERY_ACTION in granted

    def _granted(self, caller: Caller) -> frozenset[str]:
        roles = caller.roles if caller.fingerprint is not None else _UNAUTHENTICATED_ROLES
        by_role, by_roles = self._held  # both at once: the cache must not outlive its grants
        granted = by_roles.get(roles)
        if granted is None:
            granted = frozenset(action for role in roles for action in by_role.get(role, ()))
            by_roles[roles] = granted
        return granted

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
        granted = self._granted(caller)
        if action in granted or EVERY_ACTION in granted:
            return caller
        if own_grant(action) in granted:  # which the configuration gives for the actions of `OWNED` alone
            return caller.limited
        if action == CHECK_SUBSCRIPTION:  # the handler judges each topic, by the grants of the feed
            return caller
        raise NotGranted(
            f"{action} is not granted to {caller.name} (role {_roles_of(caller)}); "
            "an operator may ask for it, or grant it in network_config.yaml"
        )

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


def _not_own(caller: Caller, what: str, owner: str, instead: str = "") -> NotGranted:
    instead = instead or f"ask {owner[:64]} or an operator to change it"
    limited = ", or grant the action without `own` in network_config.yaml" if caller.own_only else ""
    return NotGranted(f"{what} belongs to {owner[:64]}, and not to {caller.name[:64]}; {instead}{limited}")


def _roles_of(caller: Caller) -> str:
    return " ".join(sorted(caller.roles)) or UNAUTHENTICATED_ROLE


def _meet(prefix: bytes, topic: bytes) -> bool:
    return topic.startswith(prefix) or prefix.startswith(topic)
