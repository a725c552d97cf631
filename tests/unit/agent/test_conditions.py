"""What an agent says of itself fits into a heartbeat, and becomes troubles of its own host alone."""

import msgspec

from twinhost.agent.conditions import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_CONDITIONS,
    MAX_NAME,
    Condition,
    bounded,
    troubles_of,
)
from twinhost.agent.disk import budget_warnings
from twinhost.agent.health import Health
from twinhost.agent.refusals import Refused
from twinhost.agent.refused_connections import conditions
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble
from twinhost.secure_zmq.budgets import Used
from twinhost.secure_zmq.peers import Outcome


def only(*conditions: Condition) -> Trouble:
    (trouble,) = troubles_of("pc2", conditions)
    return trouble


def test_checks_and_warnings_are_named_and_graded() -> None:
    health = Health("Agent", secure=True)
    health.add("store", lambda: "it can't be written", essential=True)
    health.add("metrics", lambda: "no thread", essential=False, command="docker compose restart pc2")
    health.add("link", lambda: "down", essential=False)
    health.add("well", lambda: None, essential=True)
    health.warn("outbox", lambda: ["4 requests dropped"], "./twinhost doctor")
    assert [*health.conditions(without=("link",))] == [
        Condition(name="store", what="it can't be written", level="error"),
        Condition(name="metrics", what="no thread", level="degraded", command="docker compose restart pc2"),
        Condition(name="outbox", what="4 requests dropped", command="./twinhost doctor"),
    ]
    assert health.document()["warnings"] == ["4 requests dropped; run: ./twinhost doctor"]


def test_a_condition_becomes_a_trouble_of_its_host() -> None:
    error = only(Condition(name="store", what="it can't be written", level="error"))
    assert (error.id, error.level, error.host) == ("check_failed:pc2/store", Level.BROKEN, "pc2")
    assert error.what == "pc2: it can't be written"
    assert error.remedies == (Remedy("pc2", "docker compose logs pc2", "shows since when"),)
    warning = only(Condition(name="outbox", what="4 dropped", command="./twinhost doctor"))
    assert (warning.id, warning.level) == ("warning:pc2/outbox", Level.ATTENTION)
    assert warning.remedies == (Remedy("pc2", "./twinhost doctor"),)


def test_several_of_one_name_are_one_trouble() -> None:
    """Another file is a new member; another figure is not."""
    two = [Condition(name="key_files", what=f"{name} is malformed") for name in ("abc", "xyz")]
    trouble = only(*two)
    assert trouble.what == "pc2: abc is malformed; and 1 more"
    assert (len(trouble.members), len(trouble.evidence)) == (2, 2)
    before, after = (only(Condition(name="outbox", what=f"{count} dropped")) for count in (4, 5))
    assert before.members == after.members


def test_a_name_may_have_a_kind_or_a_detector_of_its_own() -> None:
    full = Condition(name="disk", what="0 bytes are free", level="degraded")
    (trouble,) = troubles_of("pc2", [full], {"disk": Kind.DISK_FULL})
    assert trouble.id == "disk_full:pc2"
    assert [*troubles_of("pc2", [full], {"disk": None})] == []


def test_each_writer_of_a_host_has_a_trouble_of_its_own() -> None:
    """As on mainpc: the subject is the writer, at the host."""
    rows = [Used("bob", "names", 90, 100), Used("alice", "stored_bytes", 85, 100), Used("bob", "stored_bytes", 80, 100)]
    bob, alice = troubles_of("pc2", bounded(budget_warnings(rows, "Keeper")))
    assert (bob.id, alice.id) == ("budget_nearly_used:pc2/bob", "budget_nearly_used:pc2/alice")
    assert (len(bob.evidence), len(alice.evidence)) == (2, 1)
    shown = Remedy("mainpc", "./twinhost call Keeper health", "shows who uses how much of which budget")
    assert (bob.remedies, alice.remedies) == ((shown,), (shown,))


def test_two_agents_of_a_host_say_what_is_wrong_with_each() -> None:
    """The one that pc2 has for itself, and one of the user."""
    broken = [Condition(name="store", what="it can't be written", level="error")]
    (own,), (other,) = troubles_of("pc2", broken), troubles_of("pc2", broken, agent="greeter")
    assert (own.id, other.id) == ("check_failed:pc2/store", "check_failed:pc2/greeter/store")
    assert (other.what, other.host) == ("greeter: it can't be written", "pc2")
    assert other.remedies == (Remedy("pc2", "", "the log of greeter shows since when"),)


def test_a_host_names_whom_it_refused_by_cause_and_address() -> None:
    rows = [
        Refused(cause=cause, address="192.0.2.9", peer=peer, fingerprint="SHA256:x", count=count, first=0.0, last=60.0)
        for cause, peer, count in (
            (Outcome.KEY_NOT_AUTHORIZED, "", 250),
            (Outcome.NOT_ZMTP, "", 40),
            (Outcome.MECHANISM_MISMATCH, "", 30),
            (Outcome.KEY_REVOKED, "Camera", 1),
        )
    ]
    said = bounded(conditions("pc2", rows, lambda _: False))
    found = {trouble.id: trouble for trouble in troubles_of("pc2", said)}
    assert set(found) == {"refusals:pc2", "refusals:pc2/unencrypted", "refusals:pc2/key_revoked/Camera"}
    strangers = found["refusals:pc2"]
    sentence = "refused 250 connections from 192.0.2.9: the key is not authorised; 250.0 a minute from 192.0.2.9"
    assert strangers.what.startswith(f"pc2: {sentence}, the last 1970-01-01T00:01:00")
    assert [what.partition(":")[0] for _, what in strangers.evidence] == [
        "refused 250 connections from 192.0.2.9",
        "refused 40 connections from 192.0.2.9",
    ]
    assert [(remedy.on, remedy.command) for remedy in strangers.remedies] == [("mainpc", "./twinhost keys list")]
    more = bounded(conditions("pc2", [msgspec.structs.replace(rows[0], count=300, last=90.0), rows[1]], lambda _: True))
    assert [trouble.members for trouble in troubles_of("pc2", more)] == [strangers.members], "a figure is no news"


def test_what_a_host_claims_explains_nothing() -> None:
    """Else it could hide what is wrong with another one."""
    assert only(Condition(name="x", what="host_silent:*", command="x")).explains == ()


def test_what_is_sent_is_limited_in_number_and_size() -> None:
    many = [Condition(name=f"n{number}", what="x") for number in range(100)]
    assert len(bounded(many)) == MAX_CONDITIONS
    (cut,) = bounded([Condition(name="n" * 300, what="x" * 10_000)])
    assert (len(cut.name), len(cut.what)) == (MAX_NAME, MAX_CHARACTERS)
    large = bounded(Condition(name=f"n{number}", what="é" * MAX_CHARACTERS) for number in range(30))
    assert 0 < len(msgspec.json.encode(large)) <= MAX_BYTES + MAX_CONDITIONS + 2
