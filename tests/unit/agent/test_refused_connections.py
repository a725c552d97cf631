"""The detector of refused connections: who, from where, how often, why; and what is too little to tell."""

from twinhost.agent.refusals import OTHERS, UNKNOWN, Refused
from twinhost.agent.refused_connections import FEW, WORDS, refused_connections, subject_of_peer
from twinhost.agent.troubles import Trouble, by_cause
from twinhost.secure_zmq.peers import Outcome

T = 1_800_000_000.0
ATTACKER, SCANNER = "192.0.2.9", "192.0.2.10"


def refused(cause: Outcome, count: int, address: str = ATTACKER, peer: str = "", lasted_s: float = 120.0) -> Refused:
    return Refused(
        cause=cause, address=address, peer=peer, fingerprint="SHA256:x", count=count, first=T, last=T + lasted_s
    )


def found(*rows: Refused, live: bool = True) -> dict[str, Trouble]:
    return {trouble.subject: trouble for trouble in refused_connections("mainpc", rows, lambda _: live)}


def test_each_cause_has_words() -> None:
    assert set(WORDS) == set(Outcome) - {Outcome.ACCEPTED}


def test_brute_force_is_named_with_its_address_and_rate() -> None:
    trouble = found(refused(Outcome.KEY_NOT_AUTHORIZED, 250))["mainpc"]
    assert trouble.what == f"mainpc refused 250 connections from {ATTACKER}: the key is not authorised"
    assert trouble.cause == f"125.0 a minute from {ATTACKER}, the last 2027-01-15T08:02:00.000+00:00"
    assert (trouble.since, trouble.members) == (T, (f"key_not_authorized@{ATTACKER}",))
    ((name, value),) = trouble.evidence
    assert name == f"key_not_authorized from {ATTACKER}"
    assert value == (
        "250 times, 125.0 a minute, first 2027-01-15T08:00:00.000+00:00, last 2027-01-15T08:02:00.000+00:00, "
        "key SHA256:x"
    )


def test_a_few_refusals_of_strangers_are_no_trouble() -> None:
    few = [refused(cause, FEW - 1) for cause in WORDS]
    assert found(*few) == {}


def test_a_few_of_another_cause_make_nothing_worse() -> None:
    """An acknowledged brute force would come back for one handshake that took too long."""
    rows = [refused(Outcome.KEY_NOT_AUTHORIZED, 250), refused(Outcome.MECHANISM_MISMATCH, FEW)]
    few = [refused(cause, 1, SCANNER) for cause in (Outcome.TIMED_OUT, Outcome.NOT_ZMTP, Outcome.BROKEN_OFF)]
    assert found(*rows, *few) == found(*rows)
    assert found(*rows, refused(Outcome.KEY_NOT_AUTHORIZED, 1, SCANNER)) != found(*rows)


def test_many_addresses_with_few_each_are_one() -> None:
    rows = [refused(Outcome.KEY_NOT_AUTHORIZED, 1, f"10.0.0.{number}") for number in range(FEW)]
    trouble = found(*rows)["mainpc"]
    assert trouble.what == (
        "mainpc refused 10 connections from 10 addresses, 1 of them from 10.0.0.0: the key is not authorised"
    )
    assert len(trouble.members) == FEW


def test_a_flood_from_many_addresses_is_told_once() -> None:
    flood = [refused(Outcome.KEY_NOT_AUTHORIZED, 1, f"10.0.0.{number}") for number in range(100)]
    before = found(*flood)["mainpc"]
    after = found(*flood, refused(Outcome.KEY_NOT_AUTHORIZED, 400, OTHERS))["mainpc"]
    assert before.members == after.members == ("key_not_authorized@*",)
    assert after.what == "mainpc refused 500 connections from many addresses: the key is not authorised"
    assert len(before.evidence) == 21
    few = found(refused(Outcome.KEY_NOT_AUTHORIZED, 400, OTHERS))["mainpc"]
    assert few.members == before.members, "also once those addresses are forgotten"


def test_a_rate_is_that_of_a_minute_to_a_day() -> None:
    for count, lasted_s, rate in ((30, 1.0, "30.0"), (30, 120.0, "15.0"), (2_880, 2 * 86_400.0, "2.0")):
        trouble = found(refused(Outcome.KEY_NOT_AUTHORIZED, count, lasted_s=lasted_s))["mainpc"]
        assert str(trouble.cause).startswith(f"{rate} a minute from "), "what is counted is that of a day"


def test_connections_that_ended_unseen_are_told_as_such() -> None:
    trouble = found(refused(Outcome.NOT_ZMTP, 12, UNKNOWN))["mainpc"]
    assert trouble.what == "mainpc refused 12 connections from an unknown address: not ZeroMQ"


def test_a_revoked_key_of_a_peer_without_another_counts_at_once() -> None:
    trouble = found(refused(Outcome.KEY_REVOKED, 1, "192.0.2.3", "Camera"), live=False)["mainpc/key_revoked/Camera"]
    assert trouble.what == "mainpc refused Camera once: the key is revoked"
    assert trouble.cause == "it still uses the key SHA256:x"
    assert trouble.remedies[0].command == "docker compose run --rm certs-init replace Camera"


def test_an_old_key_during_a_rotation_is_no_trouble() -> None:
    old = refused(Outcome.KEY_REVOKED, FEW - 1, "192.0.2.3", "Camera")
    assert found(old) == {}
    assert found(refused(Outcome.TOO_MANY_SESSIONS, 1, "192.0.2.3", "Camera"), live=False) == {}
    assert list(found(refused(Outcome.KEY_REVOKED, FEW, "192.0.2.3", "Camera"))) == ["mainpc/key_revoked/Camera"]


def test_a_peer_s_refusals_hide_no_stranger_s() -> None:
    peer = refused(Outcome.KEY_EXPIRED, 500, "192.0.2.3", "Camera")
    both = found(peer, refused(Outcome.KEY_NOT_AUTHORIZED, 250), live=False)
    assert list(both) == [subject_of_peer("mainpc", "Camera", Outcome.KEY_EXPIRED), "mainpc"]


def test_clients_without_curve_are_a_trouble_of_their_own() -> None:
    plain = refused(Outcome.BROKEN_OFF, 300, SCANNER)
    assert list(found(plain)) == ["mainpc/unencrypted"]
    attack = [refused(Outcome.KEY_NOT_AUTHORIZED, 250), refused(Outcome.BROKEN_OFF, 40)]
    ((root, explained),) = by_cause(found(*attack).values())
    assert (root.subject, [other.subject for other in explained]) == ("mainpc", ["mainpc/unencrypted"])
    assert len(by_cause(found(*attack, plain).values())) == 2
