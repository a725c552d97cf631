"""The twins: stored per user, signed by the caller, counted, and there after a restart."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.bench import MIGRATIONS
from tests.unit.unified_memory_reasoning.memory import NOBODY, OPERATOR, SDT, assembled
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.twins.twins import Change, Twins

pytestmark = pytest.mark.unified_memory_agent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def total(agent: Assembled) -> int:
    """Return the number of twins as the health document has it."""
    return int(agent.ask("health", SDT)["total_twins"])


def test_a_twin_is_given_back_as_it_was_stored(agent: Assembled) -> None:
    """With its revision, the caller who wrote it, and when."""
    assert agent.ask("update_twin", SDT, user_id="ada", twin_data={"mood": "curious", "n": [1, 2.5, None]}) == {
        "status": "ok",
        "user_id": "ada",
        "revision": 1,
    }
    twin = agent.ask("get_twin", SDT, user_id="ada")
    assert twin.pop("updated")
    assert twin == {
        "status": "ok",
        "twin": {"mood": "curious", "n": [1, 2.5, None]},
        "revision": 1,
        "written_by": SDT.name,
    }


def test_an_update_replaces_the_twin_and_counts(agent: Assembled) -> None:
    """Nothing of the older one lives on; the revision says how often the twin was written."""
    agent.ask("update_twin", SDT, user_id="ada", twin_data={"old": 1})
    assert agent.ask("update_twin", OPERATOR, user_id="ada", twin_data={"new": 2})["revision"] == 2
    twin = agent.ask("get_twin", SDT, user_id="ada")
    assert (twin["twin"], twin["revision"], twin["written_by"]) == ({"new": 2}, 2, OPERATOR.name)
    assert total(agent) == 1


@pytest.mark.parametrize("caller", [SDT, OPERATOR, NOBODY])
def test_the_writer_is_the_proven_caller(agent: Assembled, caller: Caller) -> None:
    """Whatever the body claims: `written_by` comes from the connection, `unauthenticated` where it proves nothing."""
    agent.ask("update_twin", caller, twin_data={}, written_by="root", source_agent="root")
    assert agent.ask("get_twin", SDT)["written_by"] == caller.name


def test_a_user_without_a_twin_has_an_empty_one(agent: Assembled) -> None:
    """`{}`, revision 0, and no row is made by asking."""
    assert agent.ask("get_twin", SDT, user_id="nobody") == {"status": "ok", "twin": {}, "revision": 0}
    assert total(agent) == 0


def test_the_user_is_default_where_none_is_named(agent: Assembled) -> None:
    """All three actions mean the same user then."""
    assert agent.ask("update_twin", SDT, twin_data={"a": 1})["user_id"] == "default"
    assert agent.ask("get_twin", SDT, user_id="default")["twin"] == agent.ask("get_twin", SDT)["twin"] == {"a": 1}
    assert agent.ask("delete_twin", SDT) == {"status": "ok", "user_id": "default", "revision": 2}
    assert agent.ask("get_twin", SDT, user_id="default")["twin"] == {}


def test_revisions_continue_after_a_deletion(agent: Assembled) -> None:
    """Deleting again is `not_found`; a later twin of the user has no revision that an earlier one had."""
    agent.ask("update_twin", SDT, user_id="ada", twin_data={"a": 1})
    agent.ask("update_twin", SDT, user_id="ada", twin_data={"a": 2})
    assert agent.ask("delete_twin", SDT, user_id="ada")["status"] == "ok"
    gone = agent.ask("delete_twin", SDT, user_id="ada")
    assert (gone["status"], gone["code"]) == ("error", "not_found")
    assert gone["error"] == "there is no twin of 'ada'; `update_twin` stores one"
    assert agent.ask("get_twin", SDT, user_id="ada") == {"status": "ok", "twin": {}, "revision": 0}
    assert agent.ask("update_twin", SDT, user_id="ada", twin_data={})["revision"] == 4


def test_twins_survive_a_restart(tmp_path: Path) -> None:
    """Data, revision, writer, time, and the count."""
    with assembled(tmp_path) as agent:
        for user in ("ada", "bob", "ada"):
            agent.ask("update_twin", SDT, user_id=user, twin_data={"of": user})
        before = [agent.ask("get_twin", SDT, user_id=user) for user in ("ada", "bob")]
    with assembled(tmp_path) as agent:
        assert [agent.ask("get_twin", SDT, user_id=user) for user in ("ada", "bob")] == before
        assert total(agent) == 2


def test_the_count_follows_every_change(agent: Assembled) -> None:
    """Stored, updated, deleted, refused."""
    counts = []
    changes: list[tuple[str, dict[str, Any]]] = [
        ("update_twin", {"user_id": "ada", "twin_data": {}}),
        ("update_twin", {"user_id": "ada", "twin_data": {}}),
        ("update_twin", {"user_id": "bob", "twin_data": {}}),
        ("delete_twin", {"user_id": "carl"}),
        ("delete_twin", {"user_id": "ada"}),
        ("update_twin", {"user_id": "ada", "twin_data": {}}),
    ]
    for action, fields in changes:
        agent.ask(action, SDT, **fields)
        counts.append(total(agent))
    assert counts == [1, 1, 2, 2, 1, 2]


@pytest.mark.parametrize("change", ["store", "update", "delete", "delete and store", "refused"])
def test_a_rolled_back_change_leaves_data_and_count(tmp_path: Path, change: str) -> None:
    """Whatever a transaction did, its failure takes back, in memory and in the file."""
    database = Database(tmp_path / "db", MIGRATIONS)
    twins = Twins(database)
    with database.transaction():
        twins.put(Change("ada", SDT), {"a": 1})

    def failing() -> None:
        with database.transaction():
            if "delete" in change:
                twins.remove(Change("ada", SDT))
            if change == "refused":
                twins.remove(Change("nobody", SDT))
            if change != "delete":
                twins.put(Change("bob" if change == "store" else "ada", OPERATOR), {"b": 2})
            raise KeyError("a fault of the program")

    with pytest.raises(NotFound if change == "refused" else KeyError):
        failing()
    ada = twins.find("ada")
    assert ada is not None
    assert (ada["twin"], ada["revision"], ada["written_by"], twins.find("bob")) == ({"a": 1}, 1, SDT.name, None)
    assert twins.count == Twins(database).count == 1
    database.close()


def test_a_retry_is_answered_and_not_executed_again(agent: Assembled) -> None:
    """The stored reply, and one revision; another body under the same id is an error."""
    first = agent.ask("update_twin", SDT, user_id="ada", twin_data={"a": 1}, request_id="r1")
    assert agent.ask("update_twin", SDT, user_id="ada", twin_data={"a": 1}, request_id="r1") == first
    assert agent.ask("update_twin", SDT, user_id="ada", twin_data={"a": 2}, request_id="r1")["code"] == (
        "request_id_reused"
    )
    assert agent.ask("update_twin", OPERATOR, user_id="ada", twin_data={"a": 1}, request_id="r1")["revision"] == 2
    assert agent.ask("get_twin", SDT, user_id="ada")["written_by"] == OPERATOR.name


@pytest.mark.parametrize("over", [0, 1])
def test_a_twin_has_256_kib_of_json_at_most(agent: Assembled, over: int) -> None:
    """One byte more is refused with its path and its size, and nothing is stored."""
    agent._dispatcher._reader._decoder._max_payload_bytes = agent._dispatcher.max_payload_bytes = 4_194_304
    data = {"text": "x" * (262_144 - len('{"text":""}') + over)}
    reply = agent.ask("update_twin", SDT, user_id="ada", twin_data=data)
    if not over:
        assert (reply["status"], agent.ask("get_twin", SDT, user_id="ada")["twin"]) == ("ok", data)
        return
    assert (reply["code"], total(agent)) == ("malformed_request", 0)
    assert "at most 262144 bytes of JSON, got 262145; leave some out - at `$.twin_data`" in reply["error"]


@settings(max_examples=100)
@given(user=st.text(min_size=1, max_size=256), data=st.dictionaries(st.text(), JSON, max_size=4))
def test_any_json_comes_back_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, user: str, data: dict[str, Any]
) -> None:
    """Any user and any object that an update was answered `ok` for, after a restart too."""
    path = tmp_path_factory.mktemp("twins") / "db"
    for written in (True, False):
        database = Database(path, MIGRATIONS)
        twins = Twins(database)
        if written:
            with database.transaction():
                twins.put(Change(user, SDT), data)
        found = twins.find(user)
        assert found is not None
        assert found["twin"] == data
        database.close()
