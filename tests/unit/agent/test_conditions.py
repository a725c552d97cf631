"""What an agent says of itself fits into a heartbeat, and becomes troubles of its own host alone."""

import msgspec

from twinhost.agent.conditions import MAX_BYTES, MAX_CHARACTERS, MAX_CONDITIONS, Condition, bounded, troubles_of
from twinhost.agent.health import Health
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble


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


def test_what_a_host_claims_explains_nothing() -> None:
    """Else it could hide what is wrong with another one."""
    assert only(Condition(name="x", what="host_silent:*", command="x")).explains == ()


def test_what_is_sent_is_limited_in_number_and_size() -> None:
    many = [Condition(name=f"n{number}", what="x") for number in range(100)]
    assert len(bounded(many)) == MAX_CONDITIONS
    (cut,) = bounded([Condition(name="n", what="x" * 10_000)])
    assert len(cut.what) == MAX_CHARACTERS
    large = bounded(Condition(name=f"n{number}", what="é" * MAX_CHARACTERS) for number in range(30))
    assert 0 < len(msgspec.json.encode(large)) <= MAX_BYTES + MAX_CONDITIONS + 2
