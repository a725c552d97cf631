"""Changes of twins: patches, expected revisions, histories, and which twins a caller may change."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unified_memory_reasoning.bench import bench_of, migrations_before
from tests.unit.unified_memory_reasoning.safety_bench import ADA, BOB, OPERATOR, REVOKED, SafetyBench
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.twins import twins as store
from twinhost.unified_memory_reasoning.twins.actions import TwinActions
from twinhost.unified_memory_reasoning.twins.twins import HISTORY_MIGRATION, MAX_TWIN_BYTES, merge_patch

bench = bench_of(SafetyBench)


def patch(bench: SafetyBench, data: dict[str, Any], caller: Caller = ADA, **fields: Any) -> dict[str, Any]:
    return bench.ask("patch_twin", caller, user_id="u", patch=data, **fields)


def history(bench: SafetyBench, **fields: Any) -> list[tuple[int, str, Any, str]]:
    """Return each change's revision, kind, data, and writer."""
    reply = bench.ask("get_twin_history", ADA, user_id="u", **fields)
    return [
        (change["revision"], change["change"], change.get("data"), change["written_by"]) for change in reply["changes"]
    ]


@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_does_what_rfc_7396_shows(target: Any, change: Any, result: Any) -> None:
    """The test cases of its appendix A."""
    assert merge_patch(target, change) == result


def test_a_patch_changes_its_fields_and_leaves_the_others(bench: SafetyBench) -> None:
    """A user without a twin gets one; a retry gets the stored reply and is not executed again."""
    assert patch(bench, {"a": 1, "gone": None}, request_id="r1") == {
        "status": "ok", "user_id": "u", "revision": 1, "request_id": "r1"
    }  # fmt: skip
    assert patch(bench, {"deep": {"x": 1, "y": 2}}, BOB)["revision"] == 2
    assert patch(bench, {"a": None, "deep": {"y": 3}})["revision"] == 3
    assert patch(bench, {"a": 1, "gone": None}, request_id="r1")["revision"] == 1
    assert bench.twin("u") == {"deep": {"x": 1, "y": 3}}
    assert bench.twins.count == 1


@pytest.mark.parametrize("over", [0, 1])
def test_a_patched_twin_has_256_kib_at_most(bench: SafetyBench, over: int) -> None:
    """Two patches within the limit may make a twin above it; a patch itself has a limit too."""
    half = MAX_TWIN_BYTES // 2
    patch(bench, {"a": "x" * (half - len('{"a":"",'))})
    reply = patch(bench, {"b": "x" * (half - len('"b":""}') + over)})
    assert reply["status"] == ("error" if over else "ok")
    assert "b" in bench.twin("u") or "got 262145; leave some out - at `$.patch`" in reply["error"]
    large = patch(bench, {"c": "x" * MAX_TWIN_BYTES})
    assert (large["code"], "at `$.patch`" in large["error"]) == ("malformed_request", True)


@pytest.mark.parametrize("change", ["update_twin", "patch_twin"])
def test_a_patch_of_any_depth_is_answered(bench: SafetyBench, change: str) -> None:
    """Also on a twin of any depth: it is stored, or refused as malformed; the recursion limit is no internal error."""
    codes = []
    field = "twin_data" if change == "update_twin" else "patch"
    for depth in range(900, 1_010):  # sys.getrecursionlimit() is 1,000
        text = f'{{"action": "{change}", "user_id": "u", "{field}": ' + '{"a":' * depth + "{}" + "}" * (depth + 1)
        (reply,) = bench._dispatcher.answer([Inbound(text.encode(), ADA)])
        codes += [json.loads(reply).get("code"), patch(bench, {"b": 1}).get("code")]  # with less of the stack left
    assert set(codes) == {None, "malformed_request"}


@pytest.mark.parametrize("action", ["update_twin", "patch_twin", "delete_twin"])
def test_a_change_of_another_revision_is_a_conflict(bench: SafetyBench, action: str) -> None:
    """The reply has the current revision, the twin is unchanged, and the same change with that revision succeeds."""
    fields = {"update_twin": {"twin_data": {"b": 1}}, "patch_twin": {"patch": {"b": 1}}, "delete_twin": {}}[action]
    bench.update_twin("u", {"a": 1}, ADA)
    patch(bench, {"a": 2}, BOB)
    reply = bench.ask(action, ADA, user_id="u", if_revision=1, **fields)
    assert (reply["status"], reply["code"], reply["revision"]) == ("error", "conflict", 2)
    assert "the twin of 'u' has revision 2, and not 1; read it (`get_twin`)" in reply["error"]
    assert bench.twin("u") == {"a": 2}
    assert bench.ask(action, ADA, user_id="u", if_revision=reply["revision"], **fields)["revision"] == 3


def test_a_stale_revision_is_never_valid_again(bench: SafetyBench) -> None:
    """After a deletion, a new twin, an erased history, and a restart; 0 stands for no twin."""
    assert bench.update_twin("u", {}, ADA, if_revision=0)["revision"] == 1
    assert bench.ask("delete_twin", ADA, user_id="u", if_revision=1)["revision"] == 2
    assert bench.update_twin("u", {}, ADA, if_revision=1)["code"] == "conflict"
    assert bench.update_twin("u", {}, ADA, if_revision=2)["revision"] == 3  # nothing has changed since the deletion
    assert bench.ask("delete_twin", OPERATOR, user_id="u", erase=True)["revision"] == 4
    bench.reopen()
    assert [bench.update_twin("u", {}, ADA, if_revision=old)["code"] for old in (1, 2, 3)] == ["conflict"] * 3
    assert bench.update_twin("u", {}, ADA, if_revision=0)["revision"] == 5


@pytest.mark.parametrize("field", ["if_revision", "before"])
@pytest.mark.parametrize("wrong", [-1, 2**63, "1", 1.5])
def test_an_invalid_revision_is_refused_with_its_path(bench: SafetyBench, field: str, wrong: Any) -> None:
    action = "delete_twin" if field == "if_revision" else "get_twin_history"
    reply = bench.ask(action, ADA, **{field: wrong})
    assert (reply["code"], f"`$.{field}`" in reply["error"]) == ("malformed_request", True)


def test_a_history_lists_who_changed_what(bench: SafetyBench) -> None:
    """Newest first, in pages, over a deletion, with the time of each change."""
    bench.update_twin("u", {"a": 1}, ADA)
    patch(bench, {"b": 2}, BOB)
    bench.ask("delete_twin", ADA, user_id="u")
    bench.update_twin("other", {}, ADA)
    changes = [(3, "delete", None, "ada"), (2, "patch", {"b": 2}, "bob"), (1, "update", {"a": 1}, "ada")]
    assert history(bench) == changes
    page = bench.ask("get_twin_history", ADA, user_id="u", limit=2)
    assert (len(page["changes"]), page["more"], page["next_before"]) == (2, True, 2)
    assert page["changes"][0]["updated"].endswith("+00:00")
    assert history(bench, before=page["next_before"]) == changes[2:]
    assert bench.ask("get_twin_history", ADA, user_id="nobody")["changes"] == []


def test_a_page_of_a_history_is_bounded(bench: SafetyBench) -> None:
    """A page has at least one change, so that a reader can continue."""
    bench.serve(TwinActions(bench.twins, page_bytes=1_000).actions())
    for number in range(3):
        bench.update_twin("u", {"n": number, "text": "x" * 2_000}, ADA)
    pages: list[list[int]] = []
    before: dict[str, int] = {}
    while True:
        page = bench.ask("get_twin_history", ADA, user_id="u", **before)
        pages.append([change["revision"] for change in page["changes"]])
        if not page["more"]:
            break
        before = {"before": page["next_before"]}
    assert pages == [[3], [2], [1]]


def test_only_an_operator_erases_a_history(bench: SafetyBench) -> None:
    """Even after the twin's deletion; only the revision of the deletion stays."""
    bench.update_twin("u", {"secret": 1}, ADA)
    refused = bench.ask("delete_twin", ADA, user_id="u", erase=True)
    assert (refused["code"], bench.twin("u")) == ("not_granted", {"secret": 1})
    bench.ask("delete_twin", ADA, user_id="u")
    assert bench.ask("delete_twin", OPERATOR, user_id="u", erase=True)["revision"] == 3
    assert history(bench) == [(3, "delete", None, "operator")]
    assert bench.ask("delete_twin", OPERATOR, user_id="nobody", erase=True)["code"] == "not_found"


@pytest.mark.parametrize("planted", ["update_twin", "patch_twin", "delete_twin"])
def test_a_hidden_writers_change_is_hidden(bench: SafetyBench, planted: str) -> None:
    """The previous value is returned, a release shows the change again, and both survive restarts."""
    fields = {"update_twin": {"twin_data": {"b": 1}}, "patch_twin": {"patch": {"b": 1}}, "delete_twin": {}}[planted]
    bench.update_twin("u", {"a": 1}, ADA)
    bench.ask(planted, REVOKED, user_id="u", **fields)
    after = bench.ask("get_twin", ADA, user_id="u")
    bench.ask("quarantine_memory", name=REVOKED.name)
    bench.reopen()
    found = bench.ask("get_twin", ADA, user_id="u")
    assert (found["twin"], found["revision"], found["written_by"]) == ({"a": 1}, 1, "ada")
    assert history(bench) == [(1, "update", {"a": 1}, "ada")]
    bench.ask("release_memory", name=REVOKED.name)
    bench.reopen()
    assert bench.ask("get_twin", ADA, user_id="u") == after


def test_only_the_hidden_writers_fields_are_hidden(bench: SafetyBench) -> None:
    """Others' patches before, during, and after the quarantine stay, and don't keep the hidden writer's fields."""
    bench.update_twin("u", {"a": 1}, ADA)
    patch(bench, {"planted": 1, "a": "wrong"}, REVOKED)
    patch(bench, {"b": 1}, BOB)
    bench.ask("quarantine_memory", name=REVOKED.name)
    assert bench.twin("u") == {"a": 1, "b": 1}
    assert patch(bench, {"c": 1}, if_revision=3)["revision"] == 4
    assert bench.twin("u") == {"a": 1, "b": 1, "c": 1}
    bench.ask("release_memory", name=REVOKED.name)
    assert bench.twin("u") == {"a": "wrong", "planted": 1, "b": 1, "c": 1}


def test_a_writer_evicts_no_twin_of_another(bench: SafetyBench) -> None:
    """After any number of changes: the history is bounded, and under quarantine the earlier twin is returned again."""
    patch(bench, {"of": "ada", "old": 1})
    patch(bench, {"of": "revoked", "stolen": 1}, REVOKED)
    patch(bench, {"later": 1})
    for number in range(2 * store.MAX_CHANGES):
        assert patch(bench, {f"n{number}": number}, REVOKED)["status"] == "ok"
    whole = bench.twin("u")
    assert bench.rows("twin_changes") == store.MAX_CHANGES
    bench.ask("quarantine_memory", name=REVOKED.name)
    assert bench.twin("u") == {"of": "ada", "old": 1, "later": 1}
    bench.ask("release_memory", name=REVOKED.name)
    assert bench.twin("u") == whole
    assert len(whole) == 4 + 2 * store.MAX_CHANGES


def test_an_old_change_is_hidden_in_a_long_history(bench: SafetyBench) -> None:
    """The frequent writer's changes are merged, and none of its fields is lost when another writer is hidden."""
    bench.update_twin("u", {"a": 0}, ADA)
    patch(bench, {"planted": 1}, REVOKED)
    for number in range(2 * store.MAX_CHANGES):
        patch(bench, {f"n{number}": number})
    bench.ask("quarantine_memory", name=REVOKED.name)
    assert bench.twin("u") == {"a": 0, **{f"n{number}": number for number in range(2 * store.MAX_CHANGES)}}


def test_a_history_of_large_twins_is_bounded_in_bytes(bench: SafetyBench) -> None:
    for number in range(20):
        assert bench.update_twin("u", {"n": number, "text": "x" * (MAX_TWIN_BYTES - 50)}, ADA)["status"] == "ok"
    assert bench.database.value("SELECT sum(length(data)) FROM twin_changes") <= store.MAX_HISTORY_BYTES
    assert [each[0] for each in history(bench, limit=1)] == [20]


OWN = Grants({"agent": frozenset({"update_twin:own", "patch_twin:own", "delete_twin:own", "get_twin"}),
              "operator": frozenset({"*"}), "editor": frozenset({"update_twin", "patch_twin"})})  # fmt: skip


@pytest.fixture
def own(bench: SafetyBench) -> SafetyBench:
    """Agents may change their own twins only."""
    bench.serve(bench.make(), OWN)
    return bench


@pytest.mark.parametrize("action", ["update_twin", "patch_twin", "delete_twin"])
def test_own_twins_have_the_callers_name_or_were_stored_first(own: SafetyBench, action: str) -> None:
    """Another caller's change by a wider grant keeps the owner; anybody may store a deleted twin again."""
    fields = {"update_twin": {"twin_data": {"b": 1}}, "patch_twin": {"patch": {"b": 1}}, "delete_twin": {}}[action]
    own.update_twin("u", {"a": 1}, ADA)
    refused = own.ask(action, BOB, user_id="u", **fields)
    assert refused["code"] == "not_granted"
    assert "the twin of 'u' belongs to ada, and not to bob; ask ada or an operator" in refused["error"]
    assert own.update_twin("u", {"a": 2}, OPERATOR)["status"] == "ok"
    assert own.ask(action, BOB, user_id="u", **fields)["code"] == "not_granted"
    assert own.ask(action, ADA, user_id="u", **fields)["status"] == "ok"
    own.update_twin("bob", {}, ADA)
    assert own.ask(action, BOB, user_id="bob", **fields)["status"] == "ok"
    own.ask("delete_twin", OPERATOR, user_id="u")
    assert own.update_twin("u", {"of": "bob"}, BOB)["status"] == "ok"
    assert own.ask(action, ADA, user_id="u", **fields)["code"] == "not_granted"


def test_a_wider_role_of_the_same_key_counts(own: SafetyBench) -> None:
    """The grants of all roles of a key count."""
    own.update_twin("u", {"a": 1}, ADA)
    editor = replace(BOB, roles=frozenset({"agent", "editor"}))
    assert patch(own, {"b": 1}, editor)["status"] == "ok"
    assert own.ask("delete_twin", editor, user_id="u")["code"] == "not_granted"


def test_twins_of_the_previous_version_have_a_history(tmp_path: Path) -> None:
    """One change each: the present twin, by its last writer, with its revision."""
    with closing(Database(tmp_path / "db", migrations_before(HISTORY_MIGRATION))) as older:
        older.execute("INSERT INTO twins VALUES ('u', CAST('{\"a\":1}' AS BLOB), 7, 'ada', 1.5)")
    with SafetyBench(tmp_path / "db") as bench:
        assert history(bench) == [(7, "update", {"a": 1}, "ada")]
        assert patch(bench, {"b": 2}, REVOKED, if_revision=7)["revision"] == 8
        bench.ask("quarantine_memory", name=REVOKED.name)
        assert bench.ask("get_twin", ADA, user_id="u")["updated"] == "1970-01-01T00:00:01.500+00:00"
        assert bench.twin("u") == {"a": 1}


@pytest.mark.parametrize("action", ["update_twin", "patch_twin"])
@pytest.mark.parametrize("opening", ['{"a":', '{"a":['])
def test_no_twin_is_too_deep_for_its_readers(bench: SafetyBench, action: str, opening: str) -> None:
    """A Python program has 1,000 calls for its own and the decoder's; anybody may change a shared twin."""
    closing = {'{"a":': "}", '{"a":[': "]}"}[opening]
    field = {"update_twin": "twin_data", "patch_twin": "patch"}[action]
    levels = len(closing)

    def stored(deep: int) -> dict[str, Any]:
        data = json.loads(opening * (deep // levels) + "1" + closing * (deep // levels))
        return bench.ask(action, ADA, user_id="u", **{field: data})

    assert stored(store.MAX_DEPTH)["status"] == "ok"
    refused = stored(store.MAX_DEPTH + levels)
    assert (refused["code"], "nested at most 128 deep" in refused["error"]) == ("malformed_request", True), refused
