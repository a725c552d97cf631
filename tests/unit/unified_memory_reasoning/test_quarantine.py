"""The quarantine: a hidden writer's rows are not returned, none is lost, and it can be ended."""

from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of
from tests.unit.unified_memory_reasoning.safety_bench import ADA, BOB, NOBODY, OPERATOR, REVOKED, SafetyBench
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import LimitReached
from twinhost.unified_memory_reasoning.provenance import quarantine as quarantine_module

bench = bench_of(SafetyBench)


def test_a_hidden_writers_rows_are_recalled_by_nobody(bench: SafetyBench) -> None:
    """A twin, a session's interactions, and an error's solution; those of others stay."""
    bench.update_twin("u", {"of": "revoked"}, REVOKED)
    bench.update_twin("v", {"of": "ada"}, ADA)
    bench.say("s", "planted", REVOKED)
    bench.say("s", "honest", ADA)
    with bench.database.transaction():
        bench.patterns.add("planted", "disk .* is full", REVOKED.name, solution="rm -rf /")
    assert bench.ask("quarantine_memory", name=REVOKED.name) == {"status": "ok", "name": REVOKED.name, "new": True}
    assert bench.ask("get_twin", ADA, user_id="u") == {"status": "ok", "twin": {}, "revision": 0}
    assert bench.twin("v") == {"of": "ada"}
    assert [turn.content for turn in bench.turns("s")] == ["honest"]
    assert bench.patterns.match("disk /dev/sda is full").known is None
    assert list(bench.patterns.newest(None, 10)) == []


def test_a_release_shows_all_of_it_again_as_it_was(bench: SafetyBench) -> None:
    """Over a restart, too."""
    bench.update_twin("u", {"a": 1}, REVOKED)
    bench.say("s", "words", REVOKED)
    before = (bench.ask("get_twin", ADA, user_id="u"), bench.turns("s"))
    bench.ask("quarantine_memory", name=REVOKED.name)
    bench.reopen()
    assert (bench.twin("u"), bench.turns("s")) == ({}, [])
    assert bench.ask("release_memory", name=REVOKED.name) == {"status": "ok", "name": REVOKED.name}
    assert (bench.ask("get_twin", ADA, user_id="u"), bench.turns("s")) == before


def test_what_a_hidden_writer_writes_later_is_hidden_too(bench: SafetyBench) -> None:
    """A key may be revoked on one host before the other is notified."""
    bench.ask("quarantine_memory", name=REVOKED.name)
    assert bench.update_twin("u", {"a": 1}, REVOKED)["status"] == "ok"
    assert bench.twin("u") == {}


@pytest.mark.parametrize("action", ["update_twin", "delete_twin"])
def test_a_hidden_writer_takes_no_twin_away(bench: SafetyBench, action: str) -> None:
    """One that is returned stays as it is; its own writer, and the operator, change it as before."""
    bench.update_twin("u", {"of": "ada"}, ADA)
    bench.ask("quarantine_memory", name=REVOKED.name)
    fields: dict[str, Any] = {"twin_data": {}} if action == "update_twin" else {}
    reply = bench.ask(action, REVOKED, user_id="u", **fields)
    assert (reply["code"], "./twinhost memory release" in reply["error"]) == ("not_granted", True)
    assert (bench.twin("u"), bench.twins.count) == ({"of": "ada"}, 1)
    assert bench.ask("delete_twin", REVOKED, user_id="nobody")["code"] == "not_found"
    assert bench.ask(action, ADA, user_id="u", **fields)["status"] == "ok"
    bench.ask("release_memory", name=REVOKED.name)
    assert bench.update_twin("u", {"of": "revoked"}, REVOKED)["status"] == "ok"


def test_a_hidden_twin_is_not_deleted_by_who_can_not_see_it(bench: SafetyBench) -> None:
    bench.update_twin("u", {"a": 1}, REVOKED)
    bench.ask("quarantine_memory", name=REVOKED.name)
    assert bench.ask("delete_twin", ADA, user_id="u")["code"] == "not_found"
    bench.ask("release_memory", name=REVOKED.name)
    assert bench.twin("u") == {"a": 1}


def test_an_honest_update_takes_a_hidden_twins_place(bench: SafetyBench) -> None:
    """A user must not be without a twin for as long as somebody else is hidden."""
    bench.update_twin("u", {"a": 1}, REVOKED)
    bench.ask("quarantine_memory", name=REVOKED.name)
    assert bench.update_twin("u", {"b": 2}, ADA)["revision"] == 2
    assert bench.twin("u") == {"b": 2}


def test_the_list_names_writer_time_operator_and_reason(bench: SafetyBench) -> None:
    """Newest first; a second time keeps the first moment, and takes over a new reason."""
    bench.ask("quarantine_memory", name="one", reason="its key was stolen")
    bench.ask("quarantine_memory", name="two")
    first = bench.ask("list_quarantine")["quarantined"]
    assert [(each["name"], each["quarantined_by"], each["reason"]) for each in first] == [
        ("two", OPERATOR.name, ""),
        ("one", OPERATOR.name, "its key was stolen"),
    ]
    assert bench.ask("quarantine_memory", name="one")["new"] is False
    assert bench.ask("list_quarantine")["quarantined"] == first
    assert bench.ask("quarantine_memory", name="one", reason="found out")["new"] is False
    assert bench.ask("list_quarantine")["quarantined"][1] == {**first[1], "reason": "found out"}
    bench.ask("release_memory", name="one")
    bench.ask("quarantine_memory", name="one")
    assert bench.ask("list_quarantine")["quarantined"][0]["reason"] == ""


def test_who_is_not_hidden_can_not_be_released(bench: SafetyBench) -> None:
    reply = bench.ask("release_memory", name=REVOKED.name)
    assert reply["code"] == "not_found"
    assert reply["error"] == "'revoked' is not quarantined; `list_quarantine` lists the quarantined callers"


@pytest.mark.parametrize("action", ["quarantine_memory", "release_memory", "list_quarantine", "memory_by"])
@pytest.mark.parametrize("caller", [ADA, REVOKED, NOBODY])
def test_they_are_an_operators_actions(bench: SafetyBench, action: str, caller: Caller) -> None:
    """A writer does not lift its own quarantine, nor hide another."""
    bench.update_twin("u", {"a": 1}, REVOKED)
    bench.ask("quarantine_memory", name=BOB.name)
    assert bench.ask(action, caller, name=REVOKED.name)["code"] == "not_granted"
    assert [each["name"] for each in bench.ask("list_quarantine")["quarantined"]] == [BOB.name]


@pytest.mark.parametrize("action", ["quarantine_memory", "release_memory"])
@pytest.mark.parametrize(
    ("fields", "path"),
    [({}, "`name`"), ({"name": ""}, "$.name"), ({"name": 5}, "$.name"), ({"name": "x" * 257}, "$.name")],
)
def test_a_bad_name_is_refused_with_its_path(
    bench: SafetyBench, action: str, fields: dict[str, Any], path: str
) -> None:
    reply = bench.ask(action, **fields)
    assert (reply["code"], path in reply["error"]) == ("malformed_request", True)


def test_a_bad_reason_is_refused_with_its_path(bench: SafetyBench) -> None:
    for reason in (5, "x" * 257, None):
        reply = bench.ask("quarantine_memory", name="x", reason=reason)
        assert (reply["code"], "$.reason" in reply["error"]) == ("malformed_request", True)
    assert bench.ask("list_quarantine")["quarantined"] == []


def test_a_retry_is_answered_and_not_executed_again(bench: SafetyBench) -> None:
    first = bench.ask("quarantine_memory", name="x", request_id="r1")
    assert bench.ask("quarantine_memory", name="x", request_id="r1") == first
    assert first["new"] is True


def test_there_are_as_many_names_as_fit_one_reply(bench: SafetyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer in quarantine already may get a reason all the same."""
    monkeypatch.setattr(quarantine_module, "MOST", 2)
    for name in ("one", "two"):
        assert bench.ask("quarantine_memory", name=name)["status"] == "ok"
    assert bench.ask("quarantine_memory", name="three")["code"] == LimitReached.code
    assert bench.ask("quarantine_memory", name="two", reason="why")["status"] == "ok"


def test_the_views_are_not_in_the_file(bench: SafetyBench) -> None:
    """Each connection has its own: a volume's schema, and its version, are those of the migrations."""
    (views,) = bench.database.execute("SELECT count(*) FROM sqlite_temp_schema WHERE type = 'view'").fetchone()
    (stored,) = bench.database.execute("SELECT count(*) FROM main.sqlite_schema WHERE type = 'view'").fetchone()
    (version,) = bench.database.execute("PRAGMA user_version").fetchone()
    assert (views > 0, stored, version) == (True, 0, len(bench.database.migrations))
