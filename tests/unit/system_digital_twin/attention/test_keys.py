"""Keys that end, are revoked, or are replaced are listed with the commands for their owner; and who is late."""

from collections.abc import Iterable

import pytest

from twinhost.agent.troubles import Level, Trouble
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.keys import DAY_S, Validity
from twinhost.system_digital_twin.attention.keys import (
    Following,
    ending_keys,
    pending_revocations,
    retiring_keys,
    revoked_agents,
)
from twinhost.system_digital_twin.trust.retirements import Retirement

NOW = 1_700_000_000.0
SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
HOST_OF = {SDT: "mainpc", UMRA: "pc2", "greeter": "pc2"}
OWN = {SDT: "mainpc", UMRA: "pc2"}
RUN = "docker compose run --rm certs-init"


def key(name: str, left_days: float, *, host: str = "pc2") -> Peer:
    validity = Validity(int(NOW - 400 * DAY_S), int(NOW + left_days * DAY_S))
    return Peer(name, host, frozenset({"agent"}), f"SHA256:{name}{left_days}", validity=validity)


def ending(*keys: Peer) -> list[Trouble]:
    return [*ending_keys("mainpc", keys, HOST_OF, OWN, NOW)]


def only(troubles: Iterable[Trouble]) -> Trouble:
    (trouble,) = troubles
    return trouble


def commands(trouble: Trouble) -> list[tuple[str, str]]:
    return [(remedy.on, remedy.command) for remedy in trouble.remedies]


@pytest.mark.parametrize(("left_days", "said"), [(13.9, "in 14 days"), (2.0, "in 2 days"), (0.2, "within a day")])
def test_a_key_that_ends_soon_is_rotated_where_it_is(left_days: float, said: str) -> None:
    trouble = only(ending(key(UMRA, left_days)))
    assert (trouble.id, trouble.level) == (f"key_expires:{UMRA}", Level.ATTENTION)
    assert trouble.what == f"the key of {UMRA} on pc2 expires {said}"
    assert commands(trouble) == [("pc2", f"{RUN} rotate client {UMRA}")]
    assert trouble.explains == ()


def test_a_key_that_has_ended_says_so_and_never_soon() -> None:
    trouble = only(ending(key(UMRA, -2)))
    assert (trouble.id, trouble.level) == (f"key_expired:{UMRA}", Level.BROKEN)
    assert trouble.what == f"the key of {UMRA} on pc2 expired 2023-11-12T22:13Z and is refused"
    assert trouble.since == NOW - 2 * DAY_S
    refused = tuple(f"refusals:{host}/key_expired/{UMRA}" for host in ("mainpc", "pc2"))
    assert trouble.explains == (*refused, "host_silent:pc2")
    assert commands(trouble)[:2] == [("mainpc", f"{RUN} revoke {UMRA}"), ("mainpc", f"{RUN} replace {UMRA}")]
    server = only(ending(key(SDT, -2, host="mainpc")))
    assert commands(server) == [("mainpc", f"{RUN} rotate server")]


def test_an_expired_key_of_the_operator_is_replaced_on_mainpc() -> None:
    """It is no program's; its secret is in the tree there, so there is one way."""
    trouble = only(ending(key("operator", -2, host="mainpc")))
    assert (trouble.id, trouble.level) == ("key_expired:operator", Level.BROKEN)
    assert commands(trouble) == [("mainpc", f"{RUN} revoke operator"), ("mainpc", f"{RUN} replace operator")]


@pytest.mark.parametrize("other_days", [300, 15])
def test_an_older_key_beside_a_lasting_one_is_no_trouble(other_days: float) -> None:
    """Of a rotation that is under way, or was left half done."""
    assert ending(key(UMRA, -2), key(UMRA, other_days)) == []
    assert ending(key(UMRA, 15)) == []


def test_the_keys_of_programs_are_one_trouble() -> None:
    """300 of them were made on one day; a program's key is not rotated, but replaced."""
    trouble = only(ending(*(key(f"agent-{number}", 5 + number / 1_000, host="pc3") for number in range(300))))
    assert trouble.what.startswith("the keys of agent-0, agent-1, agent-10 and 297 more expire, the first one 2023-11-")
    assert (trouble.id, len(trouble.members)) == ("key_expires", 300)
    assert commands(trouble) == [
        ("mainpc", f"{RUN} revoke agent-0"),
        ("mainpc", f"{RUN} invite agent-0 --host pc3 --role agent"),
    ]
    expired = only(ending(key("agent-1", -5, host="pc3")))
    assert expired.what.startswith("the key of agent-1 expired 2023-11-09")
    assert (expired.level, expired.explains[0]) == (Level.ATTENTION, "refusals:mainpc/key_expired/agent-1")
    many = only(ending(*(key(f"agent-{number}", -5, host="pc3") for number in range(300))))
    assert (len(many.members), len(many.explains)) == (300, 2 * 50)


def test_an_agent_whose_last_key_is_revoked_is_broken() -> None:
    hosts, revoked = {UMRA: "pc2", SDT: "mainpc"}, {UMRA: "SHA256:x", "agent-1": "SHA256:y"}
    trouble = only(revoked_agents("mainpc", hosts, OWN, revoked, [SDT]))
    assert (trouble.id, trouble.level) == (f"key_revoked:{UMRA}", Level.BROKEN)
    refused = tuple(f"refusals:{host}/key_revoked/{UMRA}" for host in ("mainpc", "pc2"))
    assert trouble.explains == (*refused, "host_silent:pc2")
    assert commands(trouble) == [
        ("mainpc", f"{RUN} replace {UMRA}"),
        ("mainpc", f"{RUN} invite {UMRA} --host pc2 --role agent"),
    ]
    assert [*revoked_agents("mainpc", hosts, OWN, revoked, [SDT, UMRA])] == [], "a rotation revokes the older key"
    assert [*revoked_agents("mainpc", hosts, OWN, {}, [SDT])] == [], (
        "a host that never had a key has not been set up yet"
    )


def test_another_agents_key_does_not_explain_a_silent_host() -> None:
    """Else it would hide it: an agent of one's own on pc2 is not what pc2 lives by."""
    (expired,) = ending(key("greeter", -2))
    (revoked,) = revoked_agents("mainpc", HOST_OF, OWN, {"greeter": "SHA256:x"}, [SDT, UMRA])
    assert (expired.id, revoked.id) == ("key_expired:greeter", "key_revoked:greeter")
    assert "host_silent:pc2" not in {*expired.explains, *revoked.explains}


def test_a_key_that_a_newer_one_retires_is_named() -> None:
    contested = [("SHA256:old", Retirement("SHA256:new", asked=NOW))]
    trouble = only(retiring_keys(contested, lambda _: "agent-1", {}))
    assert trouble.what.startswith("the key of agent-1 will be revoked 2023-11-15T22:13Z, because a newer key")
    assert commands(trouble) == [("mainpc", f"{RUN} revoke SHA256:new")]
    assert (trouble.id, trouble.since) == ("key_retires:agent-1", NOW)


def test_who_has_not_applied_the_newest_list_is_named() -> None:
    agents = [Following("a", "pc2", "r1"), Following("b", "pc3", "r2"), Following("c", "pc3", None)]
    trouble = only(pending_revocations(agents, "r2"))
    assert trouble.what == "a and c have not applied the newest list of keys, and may accept a revoked key"
    assert (trouble.id, trouble.members) == ("revocation_pending", ("a", "c"))
    assert [*pending_revocations(agents[1:2], "r2")] == []
    assert [*pending_revocations(agents, None)] == [], "not all had the time yet"
