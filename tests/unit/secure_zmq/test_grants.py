"""Who may ask for what."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.callers import TOPICS, UNAUTHENTICATED, Caller, Grants
from twinhost.secure_zmq.errors import NotGranted
from twinhost.system_digital_twin.__main__ import FEED

ROLES = st.sampled_from(["agent", "operator", "auditor", "invitation", "candidate", "unauthenticated", "*"])
ACTIONS = st.sampled_from(["ping", "enrol", "confirm_key", "reset", "*"])


def caller(*roles: str, name: str = "somebody") -> Caller:
    return Caller(name, "pc2", frozenset(roles), "SHA256:x")


def test_what_no_role_is_granted_is_refused() -> None:
    """The sentence says who, as what, and what to do; no grant at all is the default."""
    grants = Grants({"agent": {"ping"}})
    assert grants.allows(caller("agent"), "ping")
    with pytest.raises(NotGranted, match=r"reset is not granted to somebody \(role agent\); .*network_config\.yaml"):
        grants.require(caller("agent"), "reset")
    with pytest.raises(NotGranted, match="role nobody"):
        Grants({}).require(caller("nobody"), "ping")


def test_several_roles_add_up() -> None:
    """And `*` of one of them is everything."""
    grants = Grants({"agent": {"ping"}, "auditor": {"get_audit"}, "operator": {"*"}, "nothing": set()})
    both = caller("agent", "auditor", "unknown", "nothing")
    assert [grants.allows(both, action) for action in ("ping", "get_audit", "reset")] == [True, True, False]
    assert grants.allows(caller("agent", "operator"), "reset")


def test_a_name_a_host_or_a_role_called_star_gives_nothing() -> None:
    """Only what the configuration grants to a role that the key has."""
    grants = Grants({"agent": {"ping"}, "operator": {"*"}})
    for somebody in (caller("*"), caller(name="operator"), caller(), caller("Operator"), caller("operators")):
        assert not grants.allows(somebody, "ping")


def test_a_limited_caller_is_made_once() -> None:
    """And not for every request, which it would cost more than the grant itself."""
    grants, somebody = Grants({"agent": {"update_twin:own"}}), caller("agent")
    limited = grants.require(somebody, "update_twin")
    assert limited.own_only
    assert not somebody.own_only
    assert grants.require(somebody, "update_twin") is limited


def test_whoever_is_not_authenticated_has_one_role() -> None:
    """Whatever else it claims; and a key can have no part of it but by that name."""
    grants = Grants({"unauthenticated": {"ping"}, "operator": {"*"}})
    claimed = Caller("operator", "mainpc", frozenset({"operator"}), None)
    for nobody in (UNAUTHENTICATED, claimed):
        assert grants.allows(nobody, "ping")
        assert not grants.allows(nobody, "reset")
    assert not grants.allows(caller(), "ping")


def test_a_replacement_holds_at_once() -> None:
    """What was worked out from the grants before does not live on; the answer says whether anything changed."""
    grants = Grants({"agent": {"ping"}})
    assert grants.allows(caller("agent"), "ping")
    assert grants.replace({"agent": {"reset"}})
    assert not grants.allows(caller("agent"), "ping")
    assert grants.allows(caller("agent"), "reset")
    held = grants.held
    assert not grants.replace({"agent": frozenset({"reset"})})
    assert grants.held is held, "each caller would keep another copy"
    assert not grants.replace({"agent": {"reset"}, "candidate": {"*"}})


def test_replacing_a_client_amid_a_call_leaves_nothing() -> None:
    """The watch's thread replaces while the server's asks: the older answer must not be remembered as the newer."""
    by_role: dict[str, set[str]] = {}
    grants = Grants(by_role)

    class Slow(set[str]):
        """Grants during whose reading others come into force."""

        def __iter__(self) -> Iterator[str]:
            grants.replace({"agent": set()})
            return super().__iter__()

    grants.replace({"agent": Slow({"reset"})})
    grants.allows(caller("agent"), "reset")
    assert not grants.allows(caller("agent"), "reset")


TOPIC_CASES = [
    (b"EVENT:", True), (b"EVENT:more", True), (b"EVENT", True), (b"ERROR:", True), (b"E", True),
    (b"", False), (b"A", False), (b"AGENT:", False), (b"TRUST:", False), (b"NEWS:", False), (b"EVENTS:", False),
    (b"event:", False), (b"\xff", False),
]  # fmt: skip


@pytest.mark.parametrize(("prefix", "allowed"), TOPIC_CASES)
def test_a_grant_of_topics_covers_these_alone(prefix: bytes, allowed: bool) -> None:
    """A prefix is allowed where all that it means are granted; of a topic that nobody knows that can't be said."""
    grants = Grants(
        {"agent": {"subscribe:EVENT", "subscribe:ERROR"}, "all": {"subscribe"}, "operator": {"*"}, "none": {"ping"}}
    )
    assert grants.allows_topic(caller("agent"), prefix) is allowed
    assert not grants.allows(caller("agent"), "subscribe")
    assert grants.allows_topic(caller("all"), prefix)
    assert grants.allows_topic(caller("operator"), prefix)
    assert not grants.allows_topic(caller("none"), prefix)
    assert not grants.allows_topic(UNAUTHENTICATED, prefix)


@pytest.mark.sdt_security
def test_a_check_names_the_topics_that_are_refused() -> None:
    """Whoever has a grant of the feed may ask; the answer is the feed's."""
    grants = Grants({"agent": {"subscribe:EVENT"}, "all": {"subscribe"}, "none": {"ping"}})
    grants.require(caller("agent"), "check_subscription")
    grants.require_topics(caller("agent"), ["EVENT:", "EVENT:more"])
    grants.require_topics(caller("all"), ["EVENT:", "TRUST:", ""])
    with pytest.raises(
        NotGranted, match=r"^subscribe to TRUST:, every topic is not granted to somebody \(role agent\)"
    ):
        grants.require_topics(caller("agent"), ["EVENT:", "TRUST:", ""])
    for nobody in (caller("none"), caller("invitation"), UNAUTHENTICATED):
        with pytest.raises(NotGranted, match="subscribe to EVENT: is not granted"):
            grants.require_topics(nobody, ["EVENT:"])


def test_topics_of_several_roles_add_up() -> None:
    grants = Grants({role: {f"subscribe:{role}"} for role in TOPICS})
    assert grants.allows_topic(caller(*TOPICS), b"")
    assert not grants.allows_topic(caller(*TOPICS[1:]), b"")
    assert grants.allows_topic(caller("EVENT", "ERROR"), b"E")


def test_every_topic_of_the_feed_can_be_granted() -> None:
    """And no other."""
    assert {f"{topic}:" for topic in TOPICS} == set(FEED)


@given(st.dictionaries(ROLES, st.frozensets(ACTIONS)), st.frozensets(ROLES), ACTIONS)
def test_roles_give_grants_and_reserved_ones_stay_narrow(
    by_role: dict[str, frozenset[str]], roles: frozenset[str], action: str
) -> None:
    """The rule itself, for any configuration."""
    effective = {**by_role, "invitation": {"enrol"}, "candidate": {"confirm_key"}}
    expected = any({action, "*"} & set(effective.get(role, ())) for role in roles)
    assert Grants(by_role).allows(caller(*roles), action) is expected


def test_the_shipped_grants_are_sane() -> None:
    """An agent does its own things and reads; an operator may do all; nobody of an open link is an operator."""
    grants = Grants(load_network_config(DEFAULT_PATH, {}).grants)
    for action in ("ping", "heartbeat:own", "get_trust", "propose_key", "retire_keys", "update_twin"):
        assert grants.allows(caller("agent"), action)
    for action in ("get_peers", "get_audit", "enrol", "anything_new"):
        assert not grants.allows(caller("agent"), action)
        assert not grants.allows(UNAUTHENTICATED, action)
        assert grants.allows(caller("operator"), action)
    for action in ("get_trust", "propose_key", "confirm_key", "retire_keys"):
        assert not grants.allows(UNAUTHENTICATED, action)


def test_other_grants_are_announced_once_they_are_in_effect() -> None:
    """The feed then closes subscriptions that are no longer granted; the same grants again change nothing."""
    grants = Grants({"agent": {"ping"}})
    seen: list[bool] = []
    grants.on_change = lambda: seen.append(grants.allows(caller("agent"), "reset"))
    for actions in ({"ping"}, {"reset"}, {"reset"}, {"ping"}):
        grants.replace({"agent": actions})
    assert seen == [True, False]
